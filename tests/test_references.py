"""Reference log-probabilities: a table that the cache fills, and never differently."""

import numpy as np
import pytest
import torch

from dpo_lab.batch import Encoded
from dpo_lab.cache import Cache
from dpo_lab.references.table import Table, fill

ROWS = [
    Encoded([2, 3], [4, 5, 1], [6, 1]),
    Encoded([2, 3], [6, 1], [4, 5, 1]),  # the first with its label flipped
    Encoded([2, 7], [4, 5, 1], [6, 1]),
    Encoded([2, 7], [8, 1], None),
]


class Scorer:
    """Gives each token a number of its own, and counts."""

    def __init__(self):
        self.calls = 0

    def __call__(self, row: Encoded) -> np.ndarray:
        self.calls += 1
        ids = [*row.chosen, *(row.rejected or [])]
        return -np.array(ids, np.float32) - sum(row.prompt) / 100


def expected(row: Encoded) -> list[float]:
    shift = sum(row.prompt) / 100
    return [-sum(side) - shift * len(side) for side in (row.chosen, row.rejected or [])]


def test_sums_come_back_in_the_order_of_the_row(tmp_path):
    totals, _ = fill(ROWS, range(4), Scorer(), Cache(tmp_path), "k")
    np.testing.assert_allclose(totals, [expected(row) for row in ROWS], rtol=1e-6)


def test_a_flipped_label_and_a_second_run_cost_nothing(tmp_path):
    first, again = Scorer(), Scorer()
    cache = Cache(tmp_path)
    totals, sha = fill(ROWS, range(4), first, cache, "k")
    assert first.calls == 3
    repeated, same = fill(ROWS, range(4), again, Cache(tmp_path), "k")
    assert again.calls == 0 and same == sha
    np.testing.assert_array_equal(totals, repeated)
    assert cache.counts["reference_rows_computed"] == 3


def test_only_what_is_wanted_is_scored_and_the_rest_is_not_a_number(tmp_path):
    scorer = Scorer()
    totals, _ = fill(ROWS, [2], scorer, Cache(tmp_path), "k")
    assert scorer.calls == 1
    assert np.isnan(totals[[0, 1, 3]]).all() and np.isfinite(totals[2]).all()
    fill(ROWS, range(4), scorer, Cache(tmp_path), "k")
    assert scorer.calls == 3


def test_other_weights_are_another_key(tmp_path):
    scorer = Scorer()
    fill(ROWS, [0], scorer, Cache(tmp_path), "weights-a")
    fill(ROWS, [0], scorer, Cache(tmp_path), "weights-b")
    assert scorer.calls == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_entry_is_computed_again(tmp_path, damage):
    totals, sha = fill(ROWS, range(4), Scorer(), Cache(tmp_path), "k")
    (file,) = tmp_path.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    file.write_bytes(
        b"" if damage == "empty" else bytes(content[:-5] if damage == "cut" else content)
    )
    scorer = Scorer()
    again, same = fill(ROWS, range(4), scorer, Cache(tmp_path), "k")
    assert scorer.calls == 3 and same == sha
    np.testing.assert_array_equal(totals, again)


def test_a_row_that_was_not_scored_shows_at_once():
    from dpo_lab.layouts import lay_out

    table = Table(torch.tensor([[float("nan")] * 2, [1.0, 2.0]]), "x")
    pair = table.logps(lay_out(ROWS, [1, 0], "padded", pad_id=0, paired=True))
    assert pair.chosen.total[0] == 1 and torch.isnan(pair.rejected.total[1])
    assert pair.rejected.tokens.tolist() == [3, 2]


def test_what_an_interrupted_run_has_scored_is_kept(tmp_path):
    def enough(done, total):
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fill(ROWS, range(4), Scorer(), Cache(tmp_path), "k", enough)
    rest = Scorer()
    fill(ROWS, range(4), rest, Cache(tmp_path), "k")
    assert rest.calls == 1


def test_rows_of_the_same_tokens_cut_elsewhere_are_other_rows(tmp_path):
    rows = [
        Encoded([2, 3], [4, 5, 1], [6, 1]),
        Encoded([2, 3, 4], [5, 1], [6, 1]),
        Encoded([2, 3], [4, 5, 1, 6, 1], None),
    ]
    scorer = Scorer()
    totals, _ = fill(rows, range(3), scorer, Cache(tmp_path), "k")
    assert scorer.calls == 3
    np.testing.assert_allclose(totals, [expected(row) for row in rows], rtol=1e-6)
