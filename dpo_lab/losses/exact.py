"""Losses of everything that can be said: exact expectations, where a world can be enumerated."""

from __future__ import annotations

from typing import Annotated

from dpo_lab.batch import Leaves, Scores
from dpo_lab.ranges import Positive


def exact_rl(policy: Leaves, reference: Leaves, *, beta: Annotated[float, Positive]) -> Scores:
    """What RL from the true reward would do with exact gradients: no pairs, samples or baseline.

    `-(E[r] - beta KL(policy || reference))`, the objective of arXiv 2305.18290 eq. 3 with the true
    reward, summed over all n responses. Its optimum is `reference exp(r / beta) / Z`; what a
    network trained this way lacks of that, it lacks as a network, not for its data or its loss.

    - `policy`, `reference`: log-probabilities (B, n) of every response to B prompts, in nats.
    - `beta`: reward for one nat of KL, > 0. DPO aims at the same optimum at `beta` divided by the
      temperature of the labels.

    Returns B losses, one a prompt. There are no pairs, so there are no implicit rewards.
    """
    probability = policy.total.exp()
    value = policy.reward - beta * (policy.total - reference.total)
    return Scores(-(probability * value).sum(1))
