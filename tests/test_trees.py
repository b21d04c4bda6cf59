from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from networks import Tokens, gradients, in_double, one_by_one, tiny

from dpo_lab import trees
from dpo_lab.adapters import lora
from dpo_lab.batch import Encoded
from dpo_lab.layouts import lay_out
from dpo_lab.policy import Policy
from dpo_lab.scoring import token_logps
from dpo_lab.segments import Segments
from dpo_lab.trees import Trees, grow

EXACT = {"rtol": 0, "atol": 1e-10}
CPU = torch.device("cpu")


def crowded(seed: int, number: int, prompts: int = 3, words: int = 3) -> list[Encoded]:
    """Rows of few prompts and short responses of few words, some of them equal."""
    draw = random.Random(seed)
    texts = [[7, *draw.choices(range(10, 30), k=draw.randint(0, 5))] for _ in range(prompts)]

    def response() -> list[int]:
        return [*draw.choices(range(2, 2 + words), k=draw.randint(0, 4)), 1]

    return [Encoded(list(draw.choice(texts)), response(), response()) for _ in range(number)]


def test_a_tree_by_hand():
    # after 1 2: 3 4 then 5, 6 or 9, where 9 may end or go on with 8; 7 8; and 4. The last token of
    # a response is predicted and seen by nobody, so it is not computed.
    rows = [
        Encoded([1, 2], [3, 4, 5], [3, 4, 6]),
        Encoded([1, 2], [7, 8], [3, 4, 9, 8]),
        Encoded([1, 2], [3, 4, 9], [4]),
    ]
    batch = lay_out(rows, [0, 1, 2], "shared", pad_id=0, paired=True)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 7, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 4]]
    assert batch.targets.tolist() == [3, 4, 5, 7, 8, 3, 4, 9, 3, 4, 6, 3, 4, 9, 8, 4]
    assert batch.positions.tolist() == [1, 2, 3, 1, 4, 1, 2, 3, 1, 2, 3, 1, 2, 3, 5, 1]
    assert batch.tokens.tolist() == [3, 2, 3, 3, 4, 1]
    assert isinstance(batch.segments, Trees)
    assert (batch.segments.tokens, batch.segments.longest) == (6, 6)
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 1, 1, 0, 1],
    ]
    assert batch.segments.together(CPU).mask[0, 0].int().tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_a_token_sees_its_ancestors_and_nothing_else(seed):
    rows = crowded(seed, 40)
    grown = grow([row.prompt for row in rows], [row.chosen for row in rows])
    assert grown is not None
    plan = grown.trees.together(CPU)
    taken, length = plan.block.view(len(grown.trees.sizes), -1), plan.mask.shape[-1]
    starts = np.cumsum(grown.trees.sizes) - grown.trees.sizes
    for tree, size in enumerate(grown.trees.sizes):
        above: list[set[int]] = []
        for own in range(size):
            parent = int(grown.trees.parents[starts[tree] + own])
            above.append({own} if parent == own else above[parent] | {own})
            seen = plan.mask[tree, 0, own].nonzero()[:, 0].tolist()
            assert seen == sorted(above[own])
            assert len(seen) == grown.trees.places[starts[tree] + own] + 1
        assert taken[tree, :size].tolist() == list(range(starts[tree], starts[tree] + size))
        padding = plan.mask[tree, 0, size:, :]
        assert torch.equal(padding, torch.eye(length, dtype=torch.bool)[size:])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen2", "gemma"])
def test_trees_equal_plain_transformers(kind, adapter, paired):
    model = in_double(tiny(kind))
    if adapter:
        model = lora(model, r=4, alpha=8, target_modules=["all-linear"], modules_to_save=[])
    scored = Policy(model, Tokens(), dtype="float64", gradient_checkpointing=adapter)
    rows = crowded(3, 24)
    batch = lay_out(rows, range(24), "shared", pad_id=0, paired=paired)
    assert isinstance(batch.segments, Trees)
    each = torch.linspace(0.5, 2.0, len(batch.targets), dtype=torch.float64)
    expected = one_by_one(scored.model, rows, paired)
    push = gradients(scored.model, (expected * each).sum())
    values = token_logps(scored, batch)
    torch.testing.assert_close(values, expected, **EXACT)
    ours = gradients(scored.model, (values * each).sum())
    torch.testing.assert_close(ours, push, **EXACT)


def test_targets_are_those_of_the_other_layouts_after_the_same_tokens():
    rows = crowded(5, 60)
    ours = lay_out(rows, range(60), "shared", pad_id=0, paired=True)
    theirs = lay_out(rows, range(60), "padded", pad_id=0, paired=True)
    assert isinstance(ours.segments, Trees)
    for name in ("targets", "owners", "tokens"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    for name in ("input_ids", "position_ids"):
        found = [getattr(batch, name).flatten()[batch.positions] for batch in (ours, theirs)]
        assert torch.equal(*found)


def test_trees_are_grown_only_where_they_pay(monkeypatch):
    def segments(rows: list[Encoded]) -> object:
        return lay_out(rows, range(len(rows)), "shared", pad_id=0, paired=True).segments

    rows = crowded(1, 40)
    assert isinstance(segments(rows), Trees)
    assert isinstance(segments([rows[0]]), Segments)  # no prompt twice
    apart = [Encoded([7], [number, 30 + number, 1], [60 + number, 1]) for number in range(8, 20)]
    assert isinstance(segments(apart), Segments)  # nothing but the prompt in common
    monkeypatch.setattr(trees, "LARGEST", 10)
    assert isinstance(segments(rows), Segments)


def test_a_prompt_that_begins_another_has_a_tree_of_its_own():
    rows = [Encoded([1, 2], [3, 9], [3, 4]), Encoded([1, 2, 3], [4, 9], [4, 5])] * 4
    grown = grow([row.prompt for row in rows], [row.chosen for row in rows])
    assert grown is not None
    assert grown.trees.sizes.tolist() == [3, 4]
    assert grown.ids.tolist() == [1, 2, 3, 1, 2, 3, 4]
