"""The best that any policy can do: reward against KL, and best-of-N beside it.

KL(policy || reference) and rewards are means over prompts. Among all policies at the same KL, none
has more reward than pi*_beta(y) = ref(y) exp(r(y) / beta) / Z with one beta for all prompts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dpo_lab.worlds.truth import World


class Point(NamedTuple):
    """One policy of the frontier: KL to the reference in nats, expected true reward."""

    beta: float
    kl: float
    reward: float


def normalised(logps: np.ndarray) -> np.ndarray:
    """Log-probabilities (P, n) that sum to one for each prompt."""
    shifted = logps - logps.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def tilt(reference: np.ndarray, reward: np.ndarray, beta: float) -> np.ndarray:
    """pi*_beta (P, n): the reference times exp(reward / beta), normalised for each prompt.

    The optimum of E[reward] - beta KL(policy || reference); arXiv 2305.18290 eq. 4.
    """
    return normalised(reference + reward / beta)


class Frontier:
    """The curve of all pi*_beta of a world and a reference (P, n).

    Sums run over groups of equal reward, so a point costs a fraction of a millisecond.
    """

    def __init__(self, world: World, reference: np.ndarray):
        self._groups = world.groups
        self._mass = world.group_mass(reference)
        starts = self._groups.starts
        self._mass /= np.add.reduceat(self._mass, starts)[self._groups.prompt]
        self._top = np.maximum.reduceat(self._groups.values, starts)
        best = self._groups.values == self._top[self._groups.prompt]
        self.start = float(np.sum(self._mass * self._groups.values)) / len(starts)
        self.max_reward = float(self._top.mean())
        self.max_kl = float(-np.log(self._mass[best]).mean())

    def at_beta(self, beta: float) -> Point:
        """The point of pi*_beta."""
        groups = self._groups
        excess = groups.values - self._top[groups.prompt]  # <= 0: nothing overflows
        weight = self._mass * np.exp(excess / beta)
        total = np.add.reduceat(weight, groups.starts)
        mean = np.add.reduceat(weight * excess, groups.starts) / total
        kl = mean / beta - np.log(total)
        return Point(beta, float(kl.mean()), float((mean + self._top).mean()))

    def at_kl(self, kl: float) -> Point:
        """The point at a given KL, by bisection in log beta (the KL falls as beta rises).

        At KL 0 or below it is the reference (beta infinite); at `max_kl` or above, the best
        responses alone (beta 0).
        """
        if kl <= 0:
            return Point(math.inf, 0.0, self.start)
        if kl >= self.max_kl:
            return Point(0.0, self.max_kl, self.max_reward)
        low = high = 1.0
        while self.at_beta(high).kl > kl and high < 1e9:
            high *= 8
        while self.at_beta(low).kl < kl and low > 1e-9:
            low /= 8
        # The end at the larger KL is kept, so that the answer is never below the true optimum.
        while high / low > 1 + 1e-12:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.at_beta(middle).kl < kl else (middle, high)
        return self.at_beta(low)


def best_of_n(world: World, reference: np.ndarray, num: int) -> np.ndarray:
    """Log-probabilities (P, n) of the best of `num` independent draws from `reference` (P, n).

    Exact order statistics of the true reward; draws of equal reward are equally likely to be taken.
    KL to the reference is at most log N - (N - 1) / N, with equality only without ties.
    """
    groups = world.groups
    mass = world.group_mass(reference)
    below = np.empty_like(mass)
    for start, stop in zip(groups.starts, [*groups.starts[1:], len(mass)], strict=True):
        cumulative = np.cumsum(mass[start:stop])
        below[start:stop] = cumulative / cumulative[-1]
        mass[start:stop] /= cumulative[-1]
    # log of (F^N - (F - q)^N) / q, without cancellation, for a group of mass q; F is the mass at
    # its reward or below.
    with np.errstate(divide="ignore"):
        share = -np.expm1(num * np.log1p(-np.minimum(mass / below, 1.0)))
    lift = num * np.log(below) + np.log(share) - np.log(mass)
    return normalised(reference + lift[groups.of])
