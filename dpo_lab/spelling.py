"""Near names, for messages: what somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, names: Iterable[str], prefix: str = "") -> str:
    """`; did you mean loss.beta?` where a name is near, else `; there is a, b, c`."""
    names = [str(name) for name in names]
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {prefix}{near[0]}?"
    return f"; there is {', '.join(names)}" if names else ""
