"""Near names, for messages: what somebody may have meant; and what somebody typed, made short."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, names: Iterable[str], count: int = 1) -> list[str]:
    """The names most like `word`, at most `count`; upper and lower case are alike."""
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(str(name).casefold(), str(name))
    near = get_close_matches(word.casefold()[:200], folded, n=count, cutoff=0.6)
    return [folded[name] for name in near]


def did_you_mean(word: str, names: Iterable[str], prefix: str = "") -> str:
    """`; did you mean loss.beta?` where a name is near, else `; there is a, b, c`."""
    names = [str(name) for name in names]
    near = nearest(word, names)
    if near and near[0] != word:
        return f"; did you mean {prefix}{near[0]}?"
    return f"; there is {', '.join(names)}" if names else ""


def shown(typed: object, limit: int = 80) -> str:
    """What somebody typed, on one line, printable, cut to `limit` characters."""
    text = str(typed)
    cut = text if len(text) <= limit else f"{text[: limit - 3]}..."
    if text.strip() and cut.isprintable():
        return cut
    return ascii(cut)
