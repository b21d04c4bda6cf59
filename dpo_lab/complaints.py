"""At most three lines from what Hydra and OmegaConf say over many."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dpo_lab import options
from dpo_lab.config import CLOSED, NODES
from dpo_lab.errors import Refused
from dpo_lab.spelling import did_you_mean, shown

Calls = Mapping[str, Mapping[str, str]]


def explain(
    error: Exception, overrides: Sequence[str], calls: Calls, chosen: Mapping[str, str]
) -> str:
    """What was wrong with the overrides, and what to type instead.

    - `calls`: group -> option -> target of every yaml.
    - `chosen`: group -> the option it takes.
    """
    text, cause = str(error), error.__cause__
    missing = re.search(r"Could not find '([\w/]+)/([^'/]+)'", text)
    if missing:  # in a yaml: what is typed has been looked at before
        group, option = missing[1], missing[2]
        return f"there is no {group}={option}{did_you_mean(option, calls.get(group, {}))}"
    there = re.search(r"item is already at '([^']+)'", f"{text} {cause}")
    if there:
        return f"+{there[1]}: there is {there[1]} already; type {there[1]}=VALUE without the +"
    key = re.search(r"(?:override|Error merging override) '?([^'\s.]+(?:\.[^'\s=]+)*)", text)
    full = getattr(cause, "full_key", None) or getattr(error, "full_key", None)
    invalid = cause is not None and "ValidationError" in type(cause).__name__
    if invalid or "not convert" in text or "Invalid value" in text:
        name = str(full or (key[1] if key else ""))
        return _wrong_type(name, cause or error, overrides, calls)
    if key:
        name = key[1].split("=")[0].lstrip("+~")
        return f"unknown option {shown(name)}{_near(name, calls, chosen)}"
    return shown(first_line(cause or error), 300)


def check_switches(parsed: Sequence[Any], calls: Calls) -> None:
    """Refuse numbers but 0 and 1 where true or false is meant: OmegaConf takes 2 for true."""
    for item in parsed:
        value = item.value()
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip()):
            value = int(value)  # quoted, it is a number all the same
        if isinstance(value, int | float) and value not in (0, 1):
            knob = knob_of(item.key_or_group, calls)
            if knob is not None and knob.plain == "bool":
                raise Refused(f"{item.key_or_group} must be {knob.expected}, got {value}")


def first_line(error: BaseException) -> str:
    """The first line of a message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _wrong_type(key: str, error: BaseException, overrides: Sequence[str], calls: Calls) -> str:
    knob = knob_of(key, calls)
    typed = [text.partition("=")[2] for text in overrides if text.partition("=")[0] == key]
    if knob is None:
        above = key.rpartition(".")[0]
        if knob_of(above, calls) is not None:
            return f"unknown option {shown(key)}; did you mean {above}?"
        return f"{shown(key)}: {shown(first_line(error), 200)}"
    came = re.search(r"[Vv]alue '(.*?)'( of type|,|$)", str(error).split("\n")[0])
    got = typed[-1] if typed else came[1] if came else "null"
    return f"{key} must be {knob.expected}, got {shown(got) if got.strip() else 'nothing'}"


def knob_of(key: str, calls: Calls) -> options.Knob | None:
    """The knob that a dotted key names, in whichever option of its group has one of that name."""
    head, _, name = key.rpartition(".")
    for target in _targets(head or "root", calls):
        try:
            knob = options.signature(target).knobs.get(name)
        except Refused:  # a yaml of the user's own that nobody has chosen
            continue
        if knob is not None:
            return knob
    return None


def _near(key: str, calls: Calls, chosen: Mapping[str, str]) -> str:
    """A suggestion for an unknown dotted key, from the signatures of what was chosen."""
    head, _, rest = key.partition(".")
    known = [*_names("root", calls), *CLOSED, *calls]
    if not rest or head not in known:
        return did_you_mean(head, known)
    names = _names(head, calls, [chosen[head]] if head in chosen else [])
    first = rest.partition(".")[0]
    if first in names and first != rest:
        return f"; {head}.{first} is one value: {head}.{first}=VALUE or {{NAME: VALUE}}"
    if first not in names:
        having = [name for name in calls.get(head, {}) if first in _names(head, calls, [name])]
        if having:
            others = ", ".join(f"{head}={name}" for name in sorted(having)[:6])
            return f": {head}={chosen.get(head)} has none; there is one with {others}"
    return did_you_mean(rest, names, f"{head}.")


def _names(head: str, calls: Calls, chosen: Sequence[str] = ()) -> list[str]:
    targets = _targets(head, calls, chosen) or _targets(head, calls)
    return list(
        dict.fromkeys(name for target in targets for name in options.signature(target).knobs)
    )


def _targets(head: str, calls: Calls, chosen: Sequence[str] = ()) -> list[str]:
    """What the yamls of a group call, all or the chosen ones; of a closed node, its dataclass."""
    if head in NODES:
        return [f"dpo_lab.config.{NODES[head].__name__}"]
    found = calls.get(head, {})
    return [found[name] for name in chosen or found if name in found]
