"""Does a claim hold? What seeds say of a difference, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from dpo_lab.results import Run, flat

SEEDS = 5  # fewer give an indication, no verdict on a ranking
LEVEL = 0.05
ABOVE = 1e-6  # of a reward; below that is rounding
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Check:
    """One part of a claim: what was expected, what came, and whether it holds.

    `seeds`: how many it stands on; None where it is no matter of chance.
    """

    expected: str
    came: str
    holds: bool
    seeds: int | None = None


def interval(values: Sequence[float], level: float = 1 - LEVEL) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, 10,000 resamples from a fixed seed.

    One value is its own interval. With five values it is somewhat narrow: a resample has at most
    five different ones.
    """
    data = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).integers(0, len(data), (_RESAMPLES, len(data)))
    low, high = np.quantile(data[draws].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip(differences: Sequence[float]) -> float:
    """One-sided p-value of the paired permutation test, exact: all 2^n signs, n at most 16.

    The share of sign patterns whose mean is at least the one that came. It is never below 2^-n:
    1/32 for five pairs.
    """
    data = np.asarray(differences, dtype=float)
    assert len(data) <= 16
    means = np.array(list(product((1, -1), repeat=len(data)))) @ data / len(data)
    return float((means >= data.mean() - 1e-12 * np.abs(data).max(initial=0)).mean())


def above(
    name: str,
    ours: Mapping[Any, float],
    other: str,
    theirs: Mapping[Any, float],
    *,
    by: float = 0.0,
) -> Check:
    """Is `ours` above `theirs` by more than `by`, seed by seed?

    With five seeds or more both the bootstrap interval of the mean difference has to lie above
    `by` and the permutation test has to have p <= 0.05; with fewer the mean decides.
    """
    seeds = sorted(set(ours) & set(theirs))
    expected = f"{name} above {other}" + (f" by more than {by:g}" if by else "")
    if not seeds:
        return Check(expected, "no seed in common", False, 0)
    differences = [ours[seed] - theirs[seed] - by for seed in seeds]
    mean = float(np.mean(differences))
    low, high = interval(differences)
    came = (
        f"{np.mean([ours[seed] for seed in seeds]):.3f} and "
        f"{np.mean([theirs[seed] for seed in seeds]):.3f}, difference {mean + by:+.3f}"
    )
    holds = mean > 0
    if len(seeds) > 1:
        p = sign_flip(differences)
        came += f" [{low + by:+.3f}, {high + by:+.3f}], p {p:.3f}"
        holds = holds and (len(seeds) < SEEDS or (low > 0 and p <= LEVEL))
    return Check(expected, f"{came}, {_seeds(len(seeds))}", bool(holds), len(seeds))


def within(name: str, values: Mapping[Any, float], low: float, high: float) -> Check:
    """Does the mean over seeds lie between `low` and `high`?"""
    expected = f"{name} between {low:g} and {high:g}"
    if not values:
        return Check(expected, "no seed has it", False, 0)
    mean = float(np.mean([*values.values()]))
    return Check(
        expected,
        f"{mean:.3f}, {_seeds(len(values))}",
        bool(low <= mean <= high),
        len(values),
    )


def below_frontier(runs: Sequence[Run]) -> Check | None:
    """Is no evaluation of any run above the best that is possible at its KL? None: nothing is known
    of it. More than `ABOVE` above it would be a mistake of ours, and no matter of chance.
    """
    over = [
        event["world/reward"] - event["world/optimal_reward"]
        for run in runs
        for event in run.events
        if "world/optimal_reward" in event
    ]
    if not over:
        return None
    came = f"{max(over):+.1e} at most, {len(over)} evaluations of {len(runs)} runs"
    return Check("no reward above the optimum at its KL", came, max(over) <= ABOVE)


def option(run: Run, name: str) -> Any:
    """What a run had for an option, by dotted name, or chose of a group."""
    values = flat(run.config)
    return values[name] if name in values else run.choices.get(name)


def split(runs: Sequence[Run], *by: str) -> dict[Any, list[Run]]:
    """Runs by the values of options, in rising order; a tuple of values where there are several."""
    found: dict[Any, list[Run]] = {}
    for run in runs:
        values = tuple(option(run, name) for name in by)
        found.setdefault(values if len(by) > 1 else values[0], []).append(run)
    return dict(sorted(found.items()))


def per_seed(runs: Sequence[Run], metric: str) -> dict[int, float]:
    """The last value of a metric by seed; the mean where a seed has several runs.

    A seed whose runs do not have it is left out: a run that hardly moved has no optimal share.
    """
    known = [run for run in runs if metric in run.metrics]
    return {
        seed: float(np.mean([run.metrics[metric] for run in some]))
        for seed, some in split(known, "seed").items()
    }


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"
