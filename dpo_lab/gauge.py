"""Where a policy stands in a world: exact quantities instead of estimates."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpo_lab.errors import Refused
from dpo_lab.options import signature
from dpo_lab.policy import Policy
from dpo_lab.references import Changing, LeafTable, Reference, Table, Uniform
from dpo_lab.worlds import Frontier, World, exact
from dpo_lab.worlds.closed_form import closed_form, moving
from dpo_lab.worlds.enumeration import leaf_logps
from dpo_lab.worlds.worth import top_gains

# A tree of more leaves than this a prompt is left to its metrics.
MOST_LEAVES = 200_000


class Gauge:
    """Exact metrics against the start, whose log-probabilities it keeps.

    - `beta`: that of pi*, in units of the labels; see `worth.exact`.
    - `optimum`: (P, n) the closed form of the loss, or why there is none.
    """

    def __init__(
        self, world: World, start: np.ndarray, beta: float | None, optimum: np.ndarray | str
    ):
        self.world = world
        self.start = start
        self.beta = beta
        self.optimum = optimum
        self.seen: np.ndarray | None = None  # (P, n) of the policy, when it was last asked for

    @classmethod
    def of(
        cls, world: World, start: np.ndarray, loss: dict[str, Any], reference: Reference | None
    ) -> Gauge:
        """A gauge for a run that begins at `start`, (P, n) log-probabilities.

        pi* is that of the loss's `beta`, for losses that have one and compare with a reference,
        and tilts the start, whatever the reference is. For the others no distance to it is given.
        """
        inputs = signature(loss["_target_"]).inputs
        beta = loss.get("beta") if "reference" in inputs else None
        if beta is not None and "Leaves" in inputs["policy"]:  # which sees rewards, not labels
            temperature = world.recipe.temperature
            beta = beta / temperature if temperature else None
        try:
            optimum = _optimum(world, loss, reference, start)
        except Refused as reason:
            return cls(world, start, beta, str(reason))
        return cls(world, start, beta, optimum)

    def __call__(self, policy: Policy, at_start: bool = False) -> dict[str, float]:
        """The `world/` metrics of the policy as it is now; with `world/kl_to_closed_form`,
        KL(policy || closed form of the loss), where there is one.

        - `at_start`: before the first step, where it is known already.
        """
        logps = self.seen = self.start if at_start else leaf_logps(policy, self.world)
        metrics = exact(self.world, logps, self.start, self.beta)
        if not isinstance(self.optimum, str):
            kl = (np.exp(logps) * (logps - self.optimum)).sum(1).mean()
            metrics["world/kl_to_closed_form"] = float(kl)
        return metrics

    def facts(self) -> dict[str, Any]:
        """What is known before the first step, for the run's record.

        - `frontier`: the best reward at each KL to the start.
        - `closed_form`: the `world/` metrics of what the loss leads to, given endless pairs and a
          policy that may say anything; or under `refused` why they are not known.
        """
        return {"frontier": self._frontier(), "closed_form": self._closed_form()}

    def _frontier(self) -> dict[str, list[float]]:
        curve = Frontier(self.world, self.start)
        points = [curve.at_beta(beta) for beta in np.geomspace(50, 0.05, 60)]
        return {"kl": [point.kl for point in points], "reward": [point.reward for point in points]}

    def _closed_form(self) -> dict[str, Any]:
        if isinstance(self.optimum, str):
            return {"refused": self.optimum}
        return dict(exact(self.world, self.optimum, self.start, self.beta))

    def gains(self, policy: Policy) -> dict[str, Any]:
        """Under `gains`: the responses that gained most probability since the start. The policy has
        not moved since it was last measured, if it was."""
        logps = leaf_logps(policy, self.world) if self.seen is None else self.seen
        return {"gains": top_gains(self.world, logps, self.start)}


def _optimum(
    world: World, loss: dict[str, Any], reference: Reference | None, start: np.ndarray
) -> np.ndarray:
    if world.tree.num_leaves > MOST_LEAVES:
        raise Refused(f"closed forms are drawn for at most {MOST_LEAVES:,} responses a prompt")
    if isinstance(reference, Changing) and "reference" in signature(loss["_target_"]).inputs:
        return moving()
    leaves = None
    if isinstance(reference, LeafTable):
        leaves = reference.totals.cpu().numpy()
    elif isinstance(reference, Uniform):
        leaves = np.zeros_like(start)
    elif isinstance(reference, Table):
        leaves = start if reference.is_start else reference.leaves
    return closed_form(world, loss, leaves)
