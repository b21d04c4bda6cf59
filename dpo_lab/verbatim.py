"""A text is what was typed: `name=1.10` names a folder 1.10, and a path may begin with ~.

Hydra reads values before it knows of what type they are: 2024_10 is a number to it, 1e3 is 1000.0,
and `~` is a sign of its own. So what stands for a text is quoted before Hydra sees it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dpo_lab.complaints import Calls, knob_of

# what Hydra would take for a number or a truth value, or could not read
_OTHER = re.compile(
    r"[+-]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)(e[+-]?\d[\d_]*)?|[+-]?(inf|nan)|true|false|~[\w./+@-]*",
    re.IGNORECASE,
)
_PLAIN = r"[\w\s.,:/@~+-]*"  # nothing that is quoted, nested or called already


def verbatim(words: Sequence[str], calls: Calls) -> list[str]:
    """The overrides, with values of text knobs quoted where Hydra would read them otherwise."""
    return [_quoted(word, calls) for word in words]


def _quoted(word: str, calls: Calls) -> str:
    key, equals, value = word.partition("=")
    knob = knob_of(key.lstrip("+"), calls) if equals else None
    kind = knob.plain if knob else ""
    if kind == "str" and re.fullmatch(_PLAIN, value):
        return f"{key}={_each(value)}"
    if kind == "list[str]" and re.fullmatch(rf"\[{_PLAIN}\]", value):
        return f"{key}=[{_each(value[1:-1])}]"
    if kind == "dict[str, str]" and re.fullmatch(rf"\{{{_PLAIN}\}}", value):
        pairs = [part.partition(":") for part in value[1:-1].split(",")]
        return f"{key}={{{','.join(one + sign + _each(text) for one, sign, text in pairs)}}}"
    return word


def _each(values: str) -> str:
    """Every value of a list, quoted where that is needed; blanks around it stay."""
    return ",".join(
        re.sub(r"\S(.*\S)?", lambda found: f"'{found[0]}'", part)
        if _OTHER.fullmatch(part.strip())
        else part
        for part in values.split(",")
    )
