"""Responses to one prompt as a tree: what several of them begin with is computed once.

In a world of few prompts and words, or where a prompt has many answers, most tokens of a batch are
the beginning of more than one response. A token's hidden state depends on what stands before it
alone, so one copy serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpo_lab.segments import Together, attend_together, block

LARGEST = 512  # tokens of one tree: of more, the padding and the masks cost more than they save
WORTH = 0.5  # of tokens, and of prompts: what may be left of them at most, or masks cost more


@dataclass(frozen=True)
class Trees:
    """The trees of one row of T tokens, in order; every token sees itself and what leads to it.

    - `sizes`: tokens of each tree.
    - `parents`: (T,) which token of its tree stands before a token; itself for the first one.
    - `places`: (T,) how many tokens do.
    - `longest`: tokens of the longest sequence, the last one of a response included.
    """

    sizes: np.ndarray
    parents: np.ndarray
    places: np.ndarray
    longest: int
    _kept: dict[torch.device, Together] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def tokens(self) -> int:
        """T, the tokens of the row."""
        return len(self.parents)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None
    ) -> Tensor:
        """All at once: they are small."""
        return attend_together(query, key, value, self.together(query.device), dropout, scale)

    def together(self, device: torch.device) -> Together:
        """Indices and mask for computing all trees at once."""
        if device not in self._kept:
            seen = torch.from_numpy(self._seen()).to(device)
            self._kept[device] = block(self.sizes, seen)
        return self._kept[device]

    def _seen(self) -> np.ndarray:
        """(S, L, L) who sees whom. One step for each place: a token sees what its parent sees."""
        seen = np.zeros((len(self.sizes), self.sizes.max(), self.sizes.max()), bool)
        tree = np.repeat(np.arange(len(self.sizes)), self.sizes)
        own = np.arange(self.tokens) - np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)
        seen[tree, own, own] = True
        for place in range(1, self.places.max() + 1):
            at = np.flatnonzero(self.places == place)
            seen[tree[at], own[at]] |= seen[tree[at], self.parents[at]]
        return seen


class Grown(NamedTuple):
    """Trees with their tokens.

    - `ids`: (T,) token ids.
    - `positions`: for each response, the tokens that predict its tokens.
    """

    trees: Trees
    ids: np.ndarray
    positions: np.ndarray


class _Tree:
    """One prompt, and what its responses begin with."""

    def __init__(self, prompt: Sequence[int]):
        self.ids = list(prompt)
        self.places = list(range(len(prompt)))
        self.parents = [0, *range(len(prompt) - 1)]
        self.root = len(prompt) - 1
        self.after: dict[tuple[int, int], int] = {}
        self.paths: dict[tuple[int, ...], list[int]] = {}

    def path(self, response: Sequence[int]) -> list[int]:
        """The tokens that predict those of the response; the last of it nobody needs to see."""
        seen = tuple(response[:-1])
        if (path := self.paths.get(seen)) is not None:
            return path
        at = self.root
        path = self.paths[seen] = [at]
        for token in seen:
            below = self.after.get((at, token))
            if below is None:
                below = self.after[at, token] = len(self.ids)
                self.ids.append(token)
                self.parents.append(at)
                self.places.append(self.places[at] + 1)
            at = below
            path.append(at)
        return path


def grow(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Grown | None:
    """Trees of the responses, response i of prompt i modulo their number; None where trees are not
    worth it: few prompts come twice, little is saved, or a tree is too large."""
    names = [tuple(prompt) for prompt in prompts]
    distinct = dict.fromkeys(names)
    sides = len(responses) // len(names)
    before = np.array([len(name) for name in names] * sides)
    lengths = np.fromiter(map(len, responses), np.int64, len(responses))
    longest = int((before + lengths).max())
    if longest > LARGEST or len(distinct) > WORTH * len(names):
        return None
    trees = {name: _Tree(name) for name in distinct}
    own = [trees[name] for name in names] * sides
    paths = [tree.path(response) for tree, response in zip(own, responses, strict=True)]
    sizes = np.array([len(tree.ids) for tree in trees.values()])
    if sizes.max() > LARGEST or sizes.sum() > WORTH * (before.sum() // sides + lengths.sum()):
        return None
    starts = dict(zip(trees, (np.cumsum(sizes) - sizes).tolist(), strict=True))
    positions = np.repeat([starts[name] for name in names] * sides, lengths)
    positions += np.array(list(chain.from_iterable(paths)))
    ids, parents, places = (
        np.array(list(chain.from_iterable(getattr(tree, part) for tree in trees.values())))
        for part in ("ids", "parents", "places")
    )
    return Grown(Trees(sizes, parents, places, longest), ids, positions)
