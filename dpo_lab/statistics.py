"""Means over seeds and how far they can be trusted: Student's t, computed exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """A mean over `n` values, and half the width of its interval (None for a single value)."""

    mean: float
    half: float | None
    n: int


def estimate(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of at least one value, with the two-sided Student-t interval of that mean.

    The interval is `mean ± t s / sqrt(n)`, s the standard deviation with n - 1 in the denominator.
    A value that is not finite, or of 1e100 and more, leaves no interval but NaN.
    """
    n = len(values)
    tame = all(abs(value) < 1e100 for value in values)  # their squares can be added
    mean = math.fsum(values) / n if tame else sum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    if not tame:
        return Estimate(mean, math.nan, n)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, student_t(n - 1, level) * math.sqrt(variance / n), n)


def student_t(freedom: int, level: float = 0.95) -> float:
    """The t with P(|T| <= t) = `level`, T of Student's distribution with `freedom` degrees.

    Bisection on the angle arctan(t / sqrt(freedom)), which is all of (0, pi/2) for all t > 0.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halves pi/2 down to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(angle: float, freedom: int) -> float:
    """P(|T| <= sqrt(freedom) tan(angle)): the finite series of Abramowitz and Stegun 26.7.3-4."""
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if freedom > 1 else 0.0))
