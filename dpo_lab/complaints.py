"""At most three lines from what Hydra and OmegaConf say over many."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from dpo_lab import options
from dpo_lab.config import CLOSED, NODES
from dpo_lab.spelling import did_you_mean

Calls = Mapping[str, Mapping[str, str]]


def explain(error: Exception, overrides: Sequence[str], calls: Calls) -> str:
    """What was wrong with the overrides, and what to type instead.

    `calls`: group -> option -> target of every yaml.
    """
    text, cause = str(error), error.__cause__
    for override in overrides:
        name, _, value = override.partition("=")
        if name in {*calls, "preset"} and (value.startswith(("[", "{")) or value in ("null", "")):
            return f"{override}: {name} takes one option, {name}=NAME"
    missing = re.search(r"Could not find '([\w/]+)/([^'/]+)'", text)
    if missing:
        group, option = missing[1], missing[2]
        near = did_you_mean(option, calls.get(group, {}), f"{group}=")
        listed = f"\nthere is {', '.join(calls.get(group, {}))}" if "mean" in near else ""
        return f"there is no {group}={option}{near}{listed}"
    key = re.search(r"(?:override|Error merging override) '?([^'\s.]+(?:\.[^'\s=]+)*)", text)
    full = getattr(cause, "full_key", None) or getattr(error, "full_key", None)
    invalid = cause is not None and "ValidationError" in type(cause).__name__
    if invalid or "not convert" in text or "Invalid value" in text:
        return _wrong_type(str(full or (key[1] if key else "")), cause or error, calls)
    if key:
        name = key[1].split("=")[0].lstrip("+~")
        return f"unknown option {name}{_near(name, overrides, calls)}"
    return first_line(cause or error)


def first_line(error: BaseException) -> str:
    """The first line of a message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _wrong_type(key: str, error: BaseException, calls: Calls) -> str:
    knob = _knob(key, calls)
    if knob is None:
        return f"{key}: {first_line(error)}"
    came = re.search(r"[Vv]alue '(.*?)'( of type|,|$)", str(error).split("\n")[0])
    allowed = f"one of {', '.join(knob.choices)}" if knob.choices else knob.text
    if knob.choices and knob.optional:
        allowed += " or null"
    return f"{key} must be {allowed}, got {came[1] if came else 'null'}"


def _knob(key: str, calls: Calls) -> options.Knob | None:
    """The knob that a dotted key names, in whichever option of its group has one of that name."""
    head, _, name = key.rpartition(".")
    return next(
        (
            knob
            for target in _targets(head or "root", calls)
            if (knob := options.signature(target).knobs.get(name)) is not None
        ),
        None,
    )


def _near(key: str, overrides: Sequence[str], calls: Calls) -> str:
    """A suggestion for an unknown dotted key, from the signatures of what was chosen."""
    head, _, rest = key.partition(".")
    known = [*_names("root", calls), *CLOSED, *calls]
    if not rest or head not in known:
        return did_you_mean(head, known)
    chosen = [text.partition("=")[2] for text in overrides if text.partition("=")[0] == head]
    return did_you_mean(rest, _names(head, calls, chosen), f"{head}.")


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
