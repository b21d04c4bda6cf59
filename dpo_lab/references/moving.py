"""References that follow the policy, and the one that knows nothing."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from dpo_lab.batch import Batch, Leaves, Logps, Pair, Prompts
from dpo_lab.policy import Policy
from dpo_lab.ranges import Count, Range
from dpo_lab.references.reference import Reference, Stage
from dpo_lab.scoring import logps


def ema(
    stage: Stage, *, decay: Annotated[float, Range(ge=0, lt=1)], every: Annotated[int, Count]
) -> Reference:
    """A copy of the start that moves towards the policy: TR-DPO, arXiv 2404.09656.

    After every `every` updates, reference = decay reference + (1 - decay) policy, weight by weight.
    In the paper's names `decay` is 1 - alpha and `every` is tau: soft updates have decay > 0, hard
    ones (the reference becomes the policy) have decay = 0. Before the first of them it is the
    start, so that the first loss is the loss's initial value.

    - `decay`: share of the reference that each move keeps, in [0, 1).
    - `every`: updates between two moves, at least 1.

    Rewards are against the reference as it is now; log-ratios and the KL of a world stay against
    the start. It costs one more forward pass of every batch, and memory for one more copy of the
    trained weights (with an adapter, of the adapter alone).
    """
    return Moving(stage.start, decay, every)


def uniform(stage: Stage) -> Reference:
    """Log-probability 0 for every complete response, whatever its length.

    A loss of log-ratios is then one of log-probabilities: `dpo` becomes `reference_free_dpo`.
    Uniform over next tokens would be something else, a price for each token.
    """
    return Uniform()


class Moving:
    """The exponential moving average of a policy's trainable weights, as a reference."""

    is_start = True

    def __init__(self, start: Policy, decay: float, every: int):
        self.digest = start.digest()
        self.decay = decay
        self.every = every
        self.copy = start.twin()
        own = dict(self.copy.model.named_parameters())
        self._weights = {name: own[name] for name, _ in start.trainable()}

    def logps(self, batch: Batch | Prompts) -> Pair[Logps] | Logps | Leaves:
        """Log-probabilities under the copy, in eval mode, in the layout of the policy."""
        with torch.no_grad(), self.copy.autocast():
            return logps(self.copy, batch)

    def after_step(self, policy: Policy, step: int) -> None:
        """Move towards the policy after updates `every`, 2 `every`, ..."""
        if step % self.every:
            return
        with torch.no_grad():
            for name, weight in policy.trainable():
                self._weights[name].lerp_(weight, 1 - self.decay)

    def state(self) -> dict[str, Tensor]:
        """The weights of the copy by name: what a resumed run needs. The live tensors."""
        return {name: weight.detach() for name, weight in self._weights.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave; the names must be the same."""
        assert state.keys() == self._weights.keys()
        for name, weight in state.items():
            self._weights[name].copy_(weight)


class Uniform:
    """Zero for every response."""

    is_start = False
    digest = "uniform"

    def logps(self, batch: Batch | Prompts) -> Pair[Logps] | Logps | Leaves:
        """Zeros."""
        if isinstance(batch, Prompts):
            return batch.leaves(torch.zeros_like(batch.reward))
        size = len(batch.rows)
        sides = [
            Logps(torch.zeros(len(tokens), device=tokens.device), tokens)
            for tokens in (batch.tokens[:size], batch.tokens[size:])
        ]
        return Pair(*sides) if batch.paired else sides[0]

    def after_step(self, policy: Policy, step: int) -> None:
        """Nothing."""
