"""Attention over everything that can be said, against a dense mask."""

from __future__ import annotations

import pytest
import torch

from dpo_lab.whole_tree import WholeTree


def sequences(whole: WholeTree) -> list[tuple[int, ...]]:
    """What each token of the row ends: its prompt and place there, or its prompt and words."""
    prompts = [(b, -1 - i) for b in range(whole.prompts) for i in range(whole.length)]
    rows, level = list(prompts), [(b,) for b in range(whole.prompts)]
    for _ in range(whole.levels):
        level = [(*said, word) for said in level for word in range(whole.words)]
        rows += level
    return rows


def dense(whole: WholeTree) -> torch.Tensor:
    def sees(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        if one[0] != other[0]:
            return False
        if len(other) == 2 and other[1] < 0:  # of the prompt
            return len(one) != 2 or one[1] >= 0 or other[1] >= one[1]
        return one[: len(other)] == other and not (len(one) == 2 and one[1] < 0)

    rows = sequences(whole)
    return torch.tensor([[sees(one, other) for other in rows] for one in rows])


@pytest.mark.parametrize("sizes", [(1, 1, 2, 0), (2, 3, 3, 1), (3, 2, 2, 3), (1, 4, 1, 2)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_every_token_sees_its_beginning(sizes, scale):
    whole = WholeTree(*sizes)
    torch.manual_seed(0)
    parts = [torch.randn(1, 4, whole.tokens, 8).double().requires_grad_() for _ in range(3)]
    query, key, value = parts
    scores = query @ key.mT * (8**-0.5 if scale is None else scale)
    expected = (scores.masked_fill(~dense(whole), -torch.inf).softmax(-1) @ value).transpose(1, 2)
    found = whole.attend(query, key, value, 0.0, scale)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    push = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((out * push).sum(), parts) for out in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_sizes_and_places_by_hand():
    whole = WholeTree(prompts=2, length=3, words=2, levels=2)
    assert whole.sizes == [6, 4, 8] and whole.tokens == 18
    assert whole.places().tolist() == [0, 1, 2] * 2 + [3] * 4 + [4] * 8
    assert whole.longest == 6  # three of the prompt, two words, and what is predicted after them


def test_dropout_drops_what_words_see():
    whole = WholeTree(prompts=1, length=2, words=3, levels=2)
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 2, whole.tokens, 8)
    ones = torch.ones(1, 2, whole.tokens, 8)
    drawn = torch.stack([whole.attend(query, key, ones, 0.5, None) for _ in range(400)])
    words = drawn[:, :, whole.sizes[0] :]
    assert words.std() > 0.1 and abs(words.mean() - 1) < 0.02  # the kept ones are scaled up
    plain = whole.attend(query, key, ones, 0.0, None)
    torch.testing.assert_close(plain, torch.ones_like(plain))
