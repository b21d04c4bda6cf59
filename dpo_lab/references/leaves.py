"""Log-probabilities of everything that can be said, under one fixed policy."""

from __future__ import annotations

from torch import Tensor

from dpo_lab.batch import Leaves, Prompts


class LeafTable:
    """Log-probabilities `totals` (P, n) of every response of a world, float64, in nats."""

    def __init__(self, totals: Tensor, digest: str, is_start: bool = False):
        self.totals = totals
        self.digest = digest
        self.is_start = is_start

    def logps(self, batch: Prompts) -> Leaves:
        """Those of the batch's prompts."""
        return batch.leaves(self.totals[batch.numbers])

    def after_step(self, policy: object, step: int) -> None:
        """Nothing: the table is of a policy that does not change."""
