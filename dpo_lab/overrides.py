"""What a user types after `dpo-lab`, taken apart, and refused where no config could take it.

The grammar is Hydra's. What Hydra would take and the lab cannot is refused here, in words of the
lab: options of a group that do not exist, whole nodes, `_target_`, removals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType
from hydra.errors import HydraException

from dpo_lab.config import CLOSED
from dpo_lab.errors import Refused
from dpo_lab.spelling import did_you_mean, shown

Groups = Mapping[str, Sequence[str]]

LONGEST = 100_000  # characters; no value of an option is nearly as long


def parse(texts: Sequence[str], groups: Groups) -> list[Override]:
    """Take overrides apart. `groups`: group -> its options. Raises `Refused`."""
    parser = OverridesParser.create()
    parsed = []
    for text in texts:
        _refuse_what_is_not_for_here(text)
        try:
            parsed.append(parser.parse_override(text))
        except (HydraException, ValueError, RecursionError) as error:
            raise Refused(_unreadable(text, error)) from None
    for item in parsed:
        _check(item, groups)
    return parsed


def values(item: Override, groups: Groups) -> list[str]:
    """The values of one swept override, as they would be typed. Raises `Refused`."""
    text = shown(item.input_line or "")
    if not item.is_discrete_sweep():
        raise Refused(f"{text}: a range is for a search: add sweeper=optuna, or list values")
    given: Any = item.value()
    if isinstance(given, Glob):
        if item.key_or_group not in groups:
            raise Refused(f"{text}: glob is for groups such as loss; list the values")
        found = given.filter(list(groups[item.key_or_group]))
    else:
        try:
            found = list(item.sweep_string_iterator())
        except (HydraException, ValueError) as error:
            raise Refused(f"{text}: {str(error).splitlines()[0]}") from None
    if not found:
        raise Refused(f"{text} gives no value at all, so there is nothing to run")
    return found


def _refuse_what_is_not_for_here(text: str) -> None:
    name = shown(text)
    if not re.match(r"\s*[+~]*[^+~=\s]", text):
        raise Refused(f"{name} sets nothing; an override is written NAME=VALUE")
    if len(text) > LONGEST:
        raise Refused(f"{name} has {len(text):,} characters; no option is as long")
    if re.match(r"[~+]*[\w.@/]*_target_", text):
        raise Refused(
            f"{name}: what a yaml calls is not for the command line; choose another option"
        )
    if text.startswith("~"):
        raise Refused(f"{name} removes an option, and every option needs a value; set it instead")
    if re.match(r"[+]*hydra[./@]", text):
        raise Refused(f"{name}: Hydra's own options are set by the lab, so this would do nothing")


def _unreadable(text: str, error: Exception) -> str:
    """What the parser tripped over, and the same override as it might have been meant."""
    key, _, value = text.partition("=")
    if key != key.strip() or value[:1] == "=":
        reason = "write NAME=VALUE, with one = and no blanks around it"
    elif not re.fullmatch(r"\+*\w+([.@/]\w+)*", key, re.ASCII):
        reason = "a name is written in letters, digits, . and _"
    elif "'" not in value and len(value) <= 60 and value.isprintable():
        reason = f"if this is meant as it stands, quote it twice: \"{key}='{value}'\""
    else:
        reason = "quote a value with blanks, commas or signs twice: \"NAME='a, b'\""
    near = re.search(r"token recognition error at: '(.*)'|(?:input|alternative at input) '(.*?)'",
                     str(error).split("\n")[0])  # fmt: skip
    stuck = (near[1] or near[2] or "") if near else ""
    where = "" if not stuck else " at its end" if stuck == "<EOF>" else f" at {shown(stuck)}"
    return f"cannot read {shown(text)}{where}\n{reason}"


def _check(item: Override, groups: Groups) -> None:
    name, text = item.key_or_group, shown(item.input_line or "")
    value: Any = item.value()
    if "_target_" in _keys(value):
        raise Refused(
            f"{text}: what a yaml calls is not for the command line; choose another option"
        )
    if len(name) > 200:
        raise Refused(f"unknown option {shown(name)}")
    if item.package is not None and not re.fullmatch(r"data\.\w+\.\w+", item.package):
        raise Refused(
            f"{text}: @ is for the sources of a mixture, +data@data.sources.NAME=file; "
            f"type {name}={shown(value)}"
        )
    if name in CLOSED:
        raise Refused(f"{text}: {name} was removed or replaced; set its options, {name}.NAME=VALUE")
    if name not in groups or item.is_sweep_override():
        return
    if not isinstance(value, str) or not value:
        raise Refused(f"{text}: {name} takes one option, {name}=NAME")
    options = sorted(groups[name])
    if value not in options:
        near = did_you_mean(value, options, f"{name}=")
        listed = f"\nthere is {', '.join(options)}" if "mean" in near else ""
        raise Refused(f"there is no {name}={shown(value)}{near}{listed}")
    if item.package is None and item.type is not OverrideType.CHANGE:
        raise Refused(f"{text}: every run has one {name} already; type {name}={value}")


def _keys(value: Any) -> set[str]:
    """All keys of the dicts in a value."""
    if isinstance(value, dict):
        return {str(key) for key in value}.union(*map(_keys, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_keys, value))
    return set()
