from __future__ import annotations

import random

import pytest
import torch
from networks import ROWS

from dpo_lab.batch import Encoded
from dpo_lab.layouts import LAYOUTS, count_tokens, lay_out, split

TWO = [Encoded([1, 2], [3, 4, 5], [6]), Encoded([7], [8], [9, 10])]


def random_rows(seed: int, number: int) -> list[Encoded]:
    draw = random.Random(seed)

    def ids(most: int) -> list[int]:
        return [draw.randrange(2, 50) for _ in range(draw.randint(1, most))]

    return [Encoded(ids(9), ids(7), ids(7)) for _ in range(number)]


def test_shared_by_hand():
    batch = lay_out(TWO, [0, 1], "shared", pad_id=0, paired=True)
    assert batch.rows == [0, 1]
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 2, 0, 1, 1, 2]]
    assert batch.segments.lengths == ((2, 3, 1), (1, 1, 2))
    assert batch.attention_mask is None
    assert batch.targets.tolist() == [3, 4, 5, 8, 6, 9, 10]
    assert batch.positions.tolist() == [1, 2, 3, 6, 1, 6, 8]
    assert batch.owners.tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert batch.tokens.tolist() == [3, 1, 1, 2]


def test_packed_by_hand():
    batch = lay_out(TWO, [0, 1], "packed", pad_id=0, paired=True)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 1, 2, 6, 7, 8, 7, 9, 10]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 0, 1, 2]]
    assert batch.segments.lengths == ((2, 3, 0), (2, 1, 0), (1, 1, 0), (1, 2, 0))
    assert batch.positions.tolist() == [1, 2, 3, 8, 6, 10, 11]


@pytest.mark.parametrize("pad_id", [0, 5])
def test_padded_by_hand(pad_id):
    batch = lay_out(TWO, [0, 1], "padded", pad_id=pad_id, paired=True)
    p = pad_id
    assert batch.input_ids.tolist() == [
        [1, 2, 3, 4, 5],
        [7, 8, p, p, p],
        [1, 2, 6, p, p],
        [7, 9, 10, p, p],
    ]
    assert batch.attention_mask.sum(1).tolist() == [5, 2, 3, 3]
    assert batch.position_ids.tolist()[1] == [0, 1, 1, 1, 1]
    assert batch.positions.tolist() == [1, 2, 3, 5, 11, 15, 16]
    assert batch.segments is None

    left = lay_out(TWO, [0, 1], "padded", pad_id=pad_id, paired=True, pad_side="left")
    assert left.input_ids.tolist() == [
        [1, 2, 3, 4, 5],
        [p, p, p, 7, 8],
        [p, p, 1, 2, 6],
        [p, p, 7, 9, 10],
    ]
    assert left.position_ids.tolist()[1] == [0, 0, 0, 0, 1]
    assert left.positions.tolist() == [1, 2, 3, 8, 13, 17, 18]


def test_rows_are_taken_by_index_and_in_order():
    batch = lay_out(ROWS, [3, 1], "shared", pad_id=0, paired=True)
    assert batch.rows == [3, 1]
    assert batch.targets.tolist() == [
        *ROWS[3].chosen,
        *ROWS[1].chosen,
        *ROWS[3].rejected,
        *ROWS[1].rejected,
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unpaired_lays_out_the_chosen_response_alone(layout):
    rows = [row._replace(rejected=None) for row in TWO]
    for some in (TWO, rows):
        batch = lay_out(some, [0, 1], layout, pad_id=0, paired=False)
        assert not batch.paired
        assert batch.targets.tolist() == [3, 4, 5, 8]
        assert batch.tokens.tolist() == [3, 1]
        assert 6 not in batch.input_ids


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_every_layout_scores_the_same_tokens_after_the_same_ones(seed, paired):
    rows = random_rows(seed, 12)
    batches = {
        (layout, side): lay_out(rows, range(12), layout, pad_id=0, paired=paired, pad_side=side)
        for layout in LAYOUTS
        for side in ("left", "right")
    }
    first = batches["padded", "right"]
    for batch in batches.values():
        for name in ("targets", "owners", "tokens"):
            assert torch.equal(getattr(batch, name), getattr(first, name))
        # the token before each target, and where it stands in its own sequence
        for name in ("input_ids", "position_ids"):
            ours = getattr(batch, name).flatten()[batch.positions]
            theirs = getattr(first, name).flatten()[first.positions]
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("paired", [True, False])
def test_tokens_are_counted_as_they_are_laid_out(layout, paired):
    rows = random_rows(3, 9)
    batch = lay_out(rows, range(9), layout, pad_id=0, paired=paired)
    assert count_tokens(rows, range(9), layout, paired) == batch.input_ids.numel()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("budget", [1, 20, 60, 10_000])
def test_split_keeps_order_and_budget(layout, budget):
    rows = random_rows(4, 30)
    indices = list(range(29, -1, -1))
    parts = split(rows, indices, layout, budget, True)
    assert [i for part in parts for i in part] == indices
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        assert len(part) == 1 or count_tokens(rows, part, layout, True) <= budget
        if following:  # nothing more would have gone in
            assert count_tokens(rows, [*part, following[0]], layout, True) > budget
