"""What a search is after: metrics of the last evaluation, and what others may be at most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dpo_lab.errors import Refused
from dpo_lab.spelling import did_you_mean, shown

# not defined for a policy that has hardly moved, and so not in every evaluation of a world
_SOMETIMES = "world/optimal_share"


@dataclass(frozen=True, slots=True)
class Goal:
    """Metrics to make large or small within bounds. `events` are lines of `metrics.jsonl`."""

    maximize: tuple[str, ...]
    minimize: tuple[str, ...]
    at_most: Mapping[str, float]

    @classmethod
    def of(cls, maximize: Sequence[str], minimize: Sequence[str], at_most: Any = None) -> Goal:
        """A goal from the options of a sweeper; without any metric it is a small `eval/loss`.

        Raises `Refused` for what no evaluation could answer.
        """
        at_most = {} if at_most is None else at_most
        if not isinstance(at_most, dict):
            raise Refused(f"sweeper.at_most is written {{METRIC: NUMBER}}, got {shown(at_most)}")
        for name, most in at_most.items():
            if isinstance(most, bool) or not isinstance(most, int | float) or most - most != 0:
                raise Refused(f"sweeper.at_most: {name} is at most a number, got {shown(most)}")
        if not maximize and not minimize:
            minimize = ["eval/loss"]
        names = [*maximize, *minimize]
        for name in names:
            if names.count(name) > 1:
                raise Refused(f"{name} is named twice in sweeper.maximize and sweeper.minimize")
        for name in [*names, *at_most]:
            if "/" not in name or name.split("/")[0] in ("train", "perf", "counters"):
                raise Refused(
                    f"{name} is no metric of an evaluation; those are called eval/... and, in a "
                    "world, world/...\ntype for example sweeper.maximize=[world/optimal_share]"
                )
        return cls(tuple(maximize), tuple(minimize), dict(at_most))

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is made large, then what is made small."""
        return (*self.maximize, *self.minimize)

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """For each of `metrics`, as Optuna calls it."""
        return [*("maximize" for _ in self.maximize), *("minimize" for _ in self.minimize)]

    def check(self, event: Mapping[str, Any]) -> None:
        """Refuse a goal that names what an evaluation after the first step does not have."""
        there = [name for name in event if "/" in name]
        for name in [*self.metrics, *self.at_most]:
            if name not in event and name != _SOMETIMES:
                hint = did_you_mean(name, there)
                raise Refused(f"the search asks for {name}, which these runs do not measure{hint}")

    def measured(self, event: Mapping[str, Any]) -> dict[str, float]:
        """What an evaluation says of the goal: finite values only."""
        return {
            name: float(event[name])
            for name in dict.fromkeys([*self.metrics, *self.at_most])
            if math.isfinite(event.get(name, math.nan))
        }

    def broken(self, measured: Mapping[str, float]) -> list[str]:
        """The bounds that are not kept; one that was not measured is not kept."""
        return [name for name, most in self.at_most.items() if measured.get(name, math.inf) > most]

    def receding(self, before: Mapping[str, float], now: Mapping[str, float]) -> str:
        """A bound that is broken at two evaluations, at the second not less; empty for none."""
        both = [name for name in self.broken(before) if name in before and name in now]
        return next((name for name in both if now[name] >= before[name]), "")

    def best(self, measured: Sequence[Mapping[str, float]]) -> list[int]:
        """Of what several runs measured, the places of the best that keep all bounds: with one
        metric the first of the best, with several the Pareto front (those that no other run
        equals or betters in every metric and betters in one).
        """
        kept = [
            place
            for place, run in enumerate(measured)
            if not self.broken(run) and all(name in run for name in self.metrics)
        ]
        front = [
            place
            for place in kept
            if not any(self._betters(measured[other], measured[place]) for other in kept)
        ]
        return front if len(self.metrics) > 1 else front[:1]

    def _betters(self, one: Mapping[str, float], other: Mapping[str, float]) -> bool:
        gains = [one[name] - other[name] for name in self.maximize]
        gains += [other[name] - one[name] for name in self.minimize]
        return min(gains) >= 0 and max(gains) > 0

    def words(self, measured: Mapping[str, float]) -> str:
        """`world/optimal_share 0.9312, world/kl 2.41`."""
        return ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
