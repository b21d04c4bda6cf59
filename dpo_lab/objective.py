"""Scoring, reference and loss in one call: a batch in, everything one may want to know out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpo_lab.batch import Batch, Logps, Outcome, Prompts, Scores
from dpo_lab.policy import Policy
from dpo_lab.references import Reference
from dpo_lab.scoring import logps


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss with what it needs.

    - `loss`: a function of `dpo_lab.losses` with its knobs bound.
    - `pairs`: whether it compares two responses; else it sees the chosen one only, and its unit is
      the token instead of the pair.
    - `takes_reference`: whether it is called with the reference's log-probabilities.
    """

    loss: Callable[..., Scores]
    pairs: bool
    takes_reference: bool
    reference: Reference | None = None
    start: Reference | None = None

    def __call__(self, policy: Policy, batch: Batch | Prompts) -> Outcome:
        """Score the batch with the policy and apply the loss, unreduced."""
        return self.judge(logps(policy, batch), batch)

    def judge(self, scored: Any, batch: Batch | Prompts) -> Outcome:
        """Apply the loss to log-probabilities of the batch that are already known: a `Pair` of
        `Logps`, or `Logps`."""
        reference = self.reference.logps(batch) if self.reference else None
        start = self.start.logps(batch) if self.start else None
        seen = scored if self.pairs or isinstance(scored, Logps) else scored.chosen
        scores = self.loss(seen, reference) if self.takes_reference else self.loss(seen)
        return Outcome(scores, scored, reference, start)

    def units(self, batch: Batch | Prompts) -> float:
        """What the batch counts for when losses are averaged: its pairs, or its chosen tokens."""
        if self.pairs:
            return len(batch.rows)
        return int(batch.tokens[: len(batch.rows)].sum())
