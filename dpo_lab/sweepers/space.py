"""What is searched: overrides in Hydra's sweep syntax, as the dimensions of a space.

`choice(a,b)` or `a,b`; `range(1,10,3)`; `interval(0.05,2)`, whole numbers where the option is an
int; `tag(log, interval(1e-5,1e-2))`. Other overrides are the same in every run. An option that only
some of several searched losses have (`loss=dpo,ipo` with `loss.beta`) is searched for those.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpo_lab.compose import calls, groups
from dpo_lab.config import CLOSED, NODES, Config
from dpo_lab.errors import Refused
from dpo_lab.options import signature
from dpo_lab.overrides import Override, parse, values
from dpo_lab.spelling import shown


@dataclass(frozen=True, slots=True)
class Dimension:
    """The values of one option.

    - `words`: the values of a choice or a range, as a grid would type them; empty for an interval.
    - `low`, `high`: of a range or an interval, both included; None for a choice.
    - `step`: between the values of a range.
    - `log`: whether each factor counts the same, instead of each difference.
    - `whole`: whether the values are whole numbers.
    """

    key: str
    words: tuple[str, ...] = ()
    low: float | None = None
    high: float = 0.0
    step: float = 1.0
    log: bool = False
    whole: bool = False

    def ends(self) -> tuple[str, ...]:
        """The values that are checked before anything is started."""
        if self.low is None:
            return self.words
        if self.words:
            return self.words[0], self.words[-1]
        return f"{self.low:.15g}", f"{self.high:.15g}"

    def text(self, value: Any) -> str:
        """A suggested value as it is typed: four digits of it, for one between two others."""
        if self.low is None:
            return str(value)
        if self.words:
            return self.words[round((value - self.low) / self.step)]
        if self.whole:
            return str(int(value))
        short = f"{value:.4g}"
        return short if self.low <= float(short) <= self.high else repr(float(value))


@dataclass(frozen=True)
class Space:
    """The overrides of a search, in order: texts, and dimensions in their places.

    - `having`: of a dimension whose group is searched too and has options without it (`loss.beta`
      with `loss=dpo,ipo`): the targets of those that have it, by option. Other runs go without it.
    """

    slots: tuple[str | Dimension, ...]
    groups: frozenset[str]
    having: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, overrides: Sequence[str], config_dir: str | None = None) -> Space:
        """Read the overrides of a search. Raises `Refused` for a range that cannot be searched."""
        known = groups(config_dir)
        slots: list[str | Dimension] = []
        for item in parse(overrides, known):
            if not item.is_sweep_override():
                slots.append(str(item.input_line))
                continue
            dimension = _dimension(item, known)
            if dimension.key in [slot.key for slot in slots if isinstance(slot, Dimension)]:
                raise Refused(f"{shown(item.input_line)}: {dimension.key} is searched already")
            slots.append(dimension)
        searched = {slot.key: slot.words for slot in slots if isinstance(slot, Dimension)}
        space = cls(tuple(slots), frozenset(known), _having(searched, calls(config_dir)))
        if not space.dimensions:
            raise Refused(
                "there is nothing to search: no option is given several values\n"
                "type for example 'loss.beta=interval(0.05,2)' or loss=dpo,hinge"
            )
        return space

    @property
    def dimensions(self) -> list[Dimension]:
        """What is searched: groups first, since what they take decides what else there is."""
        found = [slot for slot in self.slots if isinstance(slot, Dimension)]
        return sorted(found, key=lambda one: one.key not in self.groups)

    def applies(self, one: Dimension, params: Mapping[str, Any]) -> bool:
        """Whether a run has this option. `params`: by key, those of groups at least."""
        group = one.key.rpartition(".")[0]
        return one.key not in self.having or params[group] in self.having[one.key]

    def typed(self, params: Mapping[str, Any]) -> list[str]:
        """The searched overrides of one run, in the order typed. `params`: values by key."""
        slots = [slot for slot in self.slots if isinstance(slot, Dimension)]
        return [f"{one.key}={one.text(params[one.key])}" for one in slots if one.key in params]

    def fill(self, words: Sequence[str]) -> list[str]:
        """All overrides of one run. `words`: those that are searched."""
        by_key = {word.partition("=")[0]: word for word in words}
        found = [slot if isinstance(slot, str) else by_key.get(slot.key) for slot in self.slots]
        return [word for word in found if word is not None]

    def corners(self) -> list[list[str]]:
        """Overrides that hold every choice and both ends of every range, with each combination of
        options of groups; for what only two other values together would do wrong, too few.
        """
        chosen = [one for one in self.dimensions if one.key in self.groups]
        others = [one for one in self.dimensions if one.key not in self.groups]
        most = max((len(one.ends()) for one in others), default=1)
        found = []
        for options in itertools.product(*(one.ends() for one in chosen)):
            value = dict(zip((one.key for one in chosen), options, strict=True))
            here = [one for one in others if self.applies(one, value)]
            for turn in range(most):
                value |= {one.key: one.ends()[min(turn, len(one.ends()) - 1)] for one in here}
                found.append(self.fill([f"{key}={word}" for key, word in value.items()]))
        return found

    def settled(self, config: Config) -> Space:
        """The same where intervals of options that are whole numbers hold whole numbers only."""
        return replace(
            self,
            slots=tuple(
                replace(slot, whole=True)
                if isinstance(slot, Dimension) and self._is_int(slot.key, config)
                else slot
                for slot in self.slots
            ),
        )

    def _is_int(self, key: str, config: Config) -> bool:
        """Whether the option `key` (`train.batch_size`) takes whole numbers."""
        head, _, name = key.lstrip("+").rpartition(".")
        if key in self.having:
            target = next(iter(self.having[key].values()))
        elif head in CLOSED or not head:
            target = f"dpo_lab.config.{NODES[head or 'root'].__name__}"
        else:
            target = config.nodes.get(head, {}).get("_target_")
        knob = signature(target).knobs.get(name) if target else None
        return knob is not None and knob.text.split(" ")[0] == "int"


def _having(
    searched: Mapping[str, Sequence[str]], targets: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """`Space.having`. `searched`: key -> values. An option that none has stays, to be refused."""
    found = {}
    for key in searched:
        group, _, name = key.rpartition(".")
        if group in searched and group in targets:
            there = targets[group]
            options = {word: there[word] for word in searched[group] if word in there}
            having = {word: call for word, call in options.items() if name in signature(call).knobs}
            if 0 < len(having) < len(options):
                found[key] = having
    return found


def first(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """Of several values that an override gives, the first; for what is the same in all runs."""
    known = groups(config_dir)
    given: dict[str, list[str]] = {}
    found: list[tuple[str, str]] = []
    for item in parse(overrides, known):
        key, text = item.get_key_element(), str(item.input_line)
        if item.is_interval_sweep():
            given[key] = list(_dimension(item, known).ends())
        elif item.is_sweep_override():
            given[key] = values(item, known)
        found.append((key, f"{key}={given[key][0]}" if key in given else text))
    having = _having(given, calls(config_dir))
    left_out = {key for key in having if given[key.rpartition(".")[0]][0] not in having[key]}
    return [text for key, text in found if key not in left_out]


def _dimension(item: Override, known: Mapping[str, Sequence[str]]) -> Dimension:
    key, given, text = item.get_key_element(), item.value(), shown(item.input_line)
    sweep: Any = given
    if key.split(".")[0].lstrip("+") in ("sweeper", "launcher"):
        raise Refused(f"{text}: a sweep has one sweeper and one launcher; give each one value")
    tags = set(getattr(sweep, "tags", ()))
    if tags - {"log"}:
        raise Refused(f"{text}: the only tag is log, as in {key}=tag(log,interval(1e-5,1e-2))")
    if getattr(sweep, "shuffle", False):
        raise Refused(f"{text}: a search has an order of its own; leave shuffle out")
    if item.is_interval_sweep():
        whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
        dimension = Dimension(key, (), sweep.start, sweep.end, log=bool(tags), whole=whole)
        if not sweep.start < sweep.end:
            raise Refused(f"{text}: an interval runs from a smaller number to a larger one")
    elif item.is_range_sweep():
        words = sorted(values(item, known), key=float)
        low, high, step = float(words[0]), float(words[-1]), abs(float(sweep.step))
        whole = all(word.lstrip("-").isdecimal() for word in words)
        dimension = Dimension(key, tuple(words), low, high, step, bool(tags), whole)
        if tags and not (whole and step == 1):
            raise Refused(f"{text}: log does not go with steps; type tag(log,interval(FROM,TO))")
    else:
        if tags:
            raise Refused(f"{text}: log is for an interval; the values of a choice have no order")
        return Dimension(key, tuple(values(item, known)))
    if dimension.log and dimension.low is not None and dimension.low <= 0:
        raise Refused(f"{text}: a log interval holds numbers > 0 only")
    return dimension
