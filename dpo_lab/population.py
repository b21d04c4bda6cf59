"""Training without rows: the loss over everything that a world's policy may say.

An update looks at prompts in place of pairs. For each of them the loss is an exact expectation over
all n**2 labelled pairs of responses, every pair with the probability that the world's recipe gives
it; or, for a loss of `Leaves`, whatever it makes of the n responses. Losses and loop know nothing
of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpo_lab.batch import Batch, Encoded, Leaves, Logps, Outcome, Pair, Prompts
from dpo_lab.errors import Refused
from dpo_lab.objective import Objective
from dpo_lab.worlds.pairs import MOST_PAIRS, check_pairs, pair_mass, win_probability
from dpo_lab.worlds.truth import World

PAIRS_AT_ONCE = 2**17  # some dozens of MB


class Enumerated(list[Encoded]):
    """The prompts of a world as the rows of a run: those with training pairs first, then all.

    - `numbers`: the prompt that each row is.
    - `pairs`: whether a loss looks at all pairs of responses.
    """

    def __init__(self, world: World, pairs: bool):
        every = range(len(world.prompts))
        self.world = world
        self.pairs = pairs
        self.train = range(len(every) - len(world.recipe.held_out))
        self.eval = range(len(self.train), len(self.train) + len(every))
        self.numbers = [n for n in every if n not in world.recipe.held_out] + list(every)
        super().__init__(Encoded(world.prompt_ids[n].tolist(), [], None) for n in self.numbers)
        self.names = [world.prompts[n] for n in self.numbers]
        # a tree's prefixes: what a network computes for one prompt
        self.prefixes = sum(world.tree.num_words**level for level in range(world.tree.depth))

    def batches(
        self, indices: Sequence[int], micro_tokens: int, device: torch.device
    ) -> list[Prompts]:
        """The rows `indices`, as many at once as have at most `micro_tokens` prefixes in all, or
        `PAIRS_AT_ONCE` pairs."""
        pairs = self.world.tree.num_leaves**2
        size = PAIRS_AT_ONCE // pairs if self.pairs else micro_tokens // self.prefixes
        size = max(1, size)
        parts = [list(indices[at : at + size]) for at in range(0, len(indices), size)]
        return [self._batch(part, device) for part in parts]

    def _batch(self, rows: list[int], device: torch.device) -> Prompts:
        numbers = [self.numbers[row] for row in rows]
        return Prompts(
            rows,
            self.world,
            numbers,
            torch.as_tensor(self.world.reward[numbers], device=device),
            torch.as_tensor(self.world.tree.tokens, device=device),
            torch.full((len(rows),), self.prefixes),
        )


@dataclass(frozen=True)
class Population(Objective):
    """An objective of `Prompts`: a loss with what it needs, of all responses.

    - `pairs`: whether a unit of the loss is a prompt; else the token of an expected chosen answer.
    - `reference`, `start`: give `Leaves` of `Prompts`.
    - `sees`: what the loss is called with: "leaves"; every "pair" of responses of a prompt; or
      every response as the "chosen" one of its prompt, for losses of a single response.

    Raises `Refused` where there are too many pairs to sum over.
    """

    world: World = field(kw_only=True)
    sees: str = field(kw_only=True)
    _weights: dict[int, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.sees == "pair":
            check_pairs(self.world)

    def judge(self, scored: Any, batch: Batch | Prompts) -> Outcome:
        """Apply the loss to `Leaves` that are already known."""
        assert isinstance(batch, Prompts)
        reference = self.reference.logps(batch) if self.reference else None
        start = self.start.logps(batch) if self.start else None
        if self.sees == "leaves":
            scores = self.loss(scored, reference) if self.takes_reference else self.loss(scored)
            return Outcome(scores, None, None, None)
        weights = torch.cat([self._weights_of(number) for number in batch.numbers])
        ours, theirs, first = (
            None if leaves is None else self._rows(leaves) for leaves in (scored, reference, start)
        )
        scores = self.loss(ours, theirs) if self.takes_reference else self.loss(ours)
        return Outcome(scores, ours, theirs, first, weights.to(scored.total.device))

    def units(self, batch: Batch | Prompts) -> float:
        """What the batch counts for when losses are averaged: prompts, or expected tokens."""
        assert isinstance(batch, Prompts)
        if self.sees != "chosen":
            return len(batch.rows)
        tokens = batch.leaf_tokens.to(dtype=torch.float64, device="cpu")
        return sum(float(self._weights_of(number) @ tokens) for number in batch.numbers)

    def _rows(self, leaves: Leaves) -> Pair[Logps] | Logps:
        """The responses one by one, or all pairs of them: the chosen one varies slowest."""
        prompts, num = leaves.total.shape
        if self.sees == "chosen":
            return Logps(leaves.total.flatten(), leaves.tokens.repeat(prompts))
        chosen = leaves.total[:, :, None].expand(-1, -1, num).flatten()
        rejected = leaves.total[:, None, :].expand(-1, num, -1).flatten()
        return Pair(
            Logps(chosen, leaves.tokens.repeat_interleave(num).repeat(prompts)),
            Logps(rejected, leaves.tokens.repeat(prompts * num)),
        )

    def _weights_of(self, number: int) -> Tensor:
        """Probability of every pair (n * n,), or of every response as a chosen one (n,)."""
        if number not in self._weights:
            if self.sees == "chosen":
                mass = self._chosen[number]
            else:
                mass = pair_mass(self.world, number).ravel()
            self._weights[number] = torch.from_numpy(np.ascontiguousarray(mass))
        return self._weights[number]

    @cached_property
    def _chosen(self) -> np.ndarray:
        """(P, n) probability that a training pair has this response as the chosen one."""
        world = self.world
        if world.tree.num_leaves**2 <= MOST_PAIRS:
            return np.stack([pair_mass(world, n).sum(1) for n in range(len(world.prompts))])
        if world.recipe.near_duplicates:
            raise Refused(
                "model=tabular cannot sum over near-duplicates of so many responses\n"
                "type data=world_nano, or data.near_duplicates=0"
            )
        assert world.source is not None
        return 2 * np.exp(world.source) * win_probability(world)
