"""Numbers and option values as text for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any


def text(value: Any) -> str:
    """A config value as one types it: 1e-6, true, null, a word."""
    if isinstance(value, float):
        return repr(value).replace("e-0", "e-").replace("e+", "e")
    return value if isinstance(value, str) else json.dumps(value, default=str)


def decimals(values: Iterable[float]) -> int:
    """How many decimals a column takes, so that a typical value has four digits: 0 to 4."""
    sizes = sorted(abs(value) for value in values if math.isfinite(value) and value)
    if not sizes:
        return 0
    return min(4, max(0, 3 - math.floor(math.log10(sizes[len(sizes) // 2]))))


def fixed(value: float, places: int) -> str:
    """A number with so many decimals; what is too large or too small for that, with an exponent."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e7 or 0 < abs(value) < 0.5 * 10**-places:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.{places}f}"


def some(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
