"""The tree of everything that can be said: all responses of up to T words over V words.

A response of l < T words ends with EOS, which is scored; one of T words is cut there and has no
EOS. So the leaves are a complete prefix-free code, and the leaf probabilities of any causal
language model over these V + 1 tokens sum to one exactly.

Leaves are numbered level by level (by words), in lexicographic order within a level: leaf
`offsets[l] + rank`, where `rank` is the response read as a number of l digits in base V.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Tree:
    """Responses of at most `depth` (T) words out of `num_words` (V); n leaves."""

    num_words: int
    depth: int

    @cached_property
    def offsets(self) -> np.ndarray:
        """(T + 2,) number of the first leaf of each level; the last entry is n."""
        sizes = [self.num_words**level for level in range(self.depth + 1)]
        return np.concatenate([[0], np.cumsum(sizes)])

    @property
    def num_leaves(self) -> int:
        """The number n of leaves: sum of V**l over l = 0..T."""
        return int(self.offsets[-1])

    @cached_property
    def tokens(self) -> np.ndarray:
        """(n,) scored tokens of each leaf: its words, and EOS unless it is cut at T words."""
        lengths = [min(level + 1, self.depth) for level in range(self.depth + 1)]
        return np.repeat(lengths, np.diff(self.offsets))

    def words(self, leaves: np.ndarray) -> np.ndarray:
        """Number of words of each leaf; any shape."""
        return np.searchsorted(self.offsets, leaves, side="right") - 1

    def ends(self, leaves: np.ndarray) -> np.ndarray:
        """Whether each leaf ends with EOS; the others are cut at T words."""
        return leaves < self.offsets[-2]

    def digits(self, leaves: np.ndarray) -> np.ndarray:
        """(N, T) the words of N leaves as numbers below V, and -1 after the last word."""
        level = self.words(leaves)
        rank = leaves - self.offsets[level]
        out = np.full((len(leaves), self.depth), -1)
        for position in range(self.depth):
            after = np.maximum(level - 1 - position, 0)
            digit = rank // self.num_words**after % self.num_words
            out[:, position] = np.where(position < level, digit, -1)
        return out

    def leaf(self, digits: Sequence[int]) -> int:
        """The leaf that consists of these words (numbers below V, at most T of them)."""
        rank = 0
        for digit in digits:
            rank = rank * self.num_words + digit
        return int(self.offsets[len(digits)]) + rank

    def fold(self, conditionals: Sequence[np.ndarray]) -> np.ndarray:
        """Log-probabilities (P, n) of all leaves from those of each next token.

        `conditionals[l]`, l = 0..T-1, is (P, V**l, V + 1): after each prefix of l words, the
        log-probability of EOS (column 0) and of each word (columns 1..V).
        """
        prefix = np.zeros((len(conditionals[0]), 1))
        parts = []
        for level in conditionals:
            parts.append(prefix + level[:, :, 0])
            prefix = (prefix[:, :, None] + level[:, :, 1:]).reshape(len(prefix), -1)
        return np.concatenate([*parts, prefix], axis=1)

    def gather(
        self, conditionals: Sequence[np.ndarray], prompts: np.ndarray, leaves: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Per-token log-probabilities of N responses, looked up in `conditionals` (see `fold`).

        - `prompts`, `leaves`: (N,) which prompt, which leaf.

        Returns (N, T) log-probabilities, 0 after the last scored token, and (N,) scored tokens.
        """
        level = self.words(leaves)
        rank = leaves - self.offsets[level]
        digits = self.digits(leaves)
        out = np.zeros((len(leaves), self.depth))
        for position, table in enumerate(conditionals):
            rows = np.flatnonzero(level >= position)
            node = rank[rows] // self.num_words ** (level[rows] - position)
            # A word that is not there has digit -1, so column 0: the EOS.
            out[rows, position] = table[prompts[rows], node, digits[rows, position] + 1]
        return out, self.tokens[leaves]
