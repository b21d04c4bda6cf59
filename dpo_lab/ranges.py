"""Ranges of knobs, written where the knob lives: `beta: Annotated[float, Positive]`.

The lab reads these from the source text of a signature, so a range is either one of the names below
or a literal call such as `Range(ge=0, lt=0.5)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """An interval of numbers; `None` leaves a side open. Never holds NaN, nor infinity."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def holds(self, value: float) -> bool:
        """Whether `value` lies in the interval."""
        return (
            math.isfinite(value)
            and (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def __str__(self) -> str:
        bounds = ((">", self.gt), (">=", self.ge), ("<", self.lt), ("<=", self.le))
        sides = [f"{sign} {_shown(bound)}" for sign, bound in bounds if bound is not None]
        return " and ".join(sides) or "a finite number"


def _shown(bound: float) -> str:
    return "2**63" if bound == 2**63 else f"{bound:g}"


Finite = Range()
Positive = Range(gt=0)
NonNegative = Range(ge=0)
Share = Range(ge=0, le=1)
Dropout = Range(ge=0, lt=1)
Smoothing = Range(ge=0, lt=0.5)
Count = Range(ge=1)
Seed = Range(ge=0, lt=2**63)

NAMED = {
    "Finite": Finite,
    "Positive": Positive,
    "NonNegative": NonNegative,
    "Share": Share,
    "Dropout": Dropout,
    "Smoothing": Smoothing,
    "Count": Count,
    "Seed": Seed,
}


def beyond(number: float, of: Range | None) -> str | None:
    """What a number must be to be of use, where it is not: one can count to it, or float32 holds it
    with all its digits. A whole number that has no range, or is a seed, counts nothing.
    """
    if isinstance(number, int):
        most = 2**63 if of is None or of.lt == 2**63 else 2**31
        return f"below {most:,}" if abs(number) >= most else None
    held = number == 0 or 1.2e-38 <= abs(number) <= 3.4e38
    return None if held else "0, or between 1.2e-38 and 3.4e38 in size"


def exclusive(*names: str):
    """Mark a function whose knobs `names` must not be set together (null means not set).

    Read from the source text before the function is imported; at run time it changes nothing.
    """

    def mark(function):
        return function

    return mark
