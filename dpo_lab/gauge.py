"""Where a policy stands in a world: exact quantities instead of estimates."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpo_lab.options import signature
from dpo_lab.policy import Policy
from dpo_lab.worlds import Frontier, World, exact
from dpo_lab.worlds.enumeration import leaf_logps


class Gauge:
    """Exact metrics against the start, whose log-probabilities it keeps."""

    def __init__(self, world: World, start: np.ndarray, beta: float | None):
        self.world = world
        self.start = start
        self.beta = beta

    @classmethod
    def of(cls, world: World | None, policy: Policy, loss: dict[str, Any]) -> Gauge | None:
        """A gauge for this run; None where there is no world to enumerate.

        The optimum pi* is that of the loss's `beta`, for losses that have one and compare with a
        reference; for the others no distance to an optimum is given.
        """
        if world is None:
            return None
        compares = "reference" in signature(loss["_target_"]).inputs
        return cls(world, leaf_logps(policy, world), loss.get("beta") if compares else None)

    def __call__(self, policy: Policy) -> dict[str, float]:
        """The `world/` metrics of the policy as it is now."""
        return exact(self.world, leaf_logps(policy, self.world), self.start, self.beta)

    def frontier(self) -> dict[str, list[float]]:
        """The best reward at each KL to the start, for drawing."""
        curve = Frontier(self.world, self.start)
        points = [curve.at_beta(beta) for beta in np.geomspace(50, 0.05, 60)]
        return {"kl": [point.kl for point in points], "reward": [point.reward for point in points]}
