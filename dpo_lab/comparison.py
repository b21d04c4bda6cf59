"""Runs side by side: what differs, which differ in seed only, and which is best."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dpo_lab.cache import digest
from dpo_lab.config import HOUSEKEEPING
from dpo_lab.errors import Refused
from dpo_lab.printing import text
from dpo_lab.results import Run, flat
from dpo_lab.spelling import did_you_mean
from dpo_lab.statistics import Estimate, estimate

# the metric that a report ranks by, unless told: the first of these that is there
RANKING = ("world/optimal_share", "eval/rewards/accuracies", "eval/loss", "train/loss")


def lower_is_better(metric: str) -> bool:
    """Losses, divergences, and what a run costs in memory; of all else, more is better."""
    words = metric.replace("/", " ").replace("_", " ").split()
    return not {"loss", "nll", "perplexity", "kl", "memory"}.isdisjoint(words)


def options(run: Run) -> dict[str, Any]:
    """All that may tell this run from another: choices, then options, by dotted name.

    Where files were read, `data.files` is a digest of their contents.
    """
    values = {**run.choices, **flat(run.config)}
    if files := run.record.get("files"):
        values["data.files"] = digest(files)[:8]
    return {
        name: value
        for name, value in values.items()
        if not name.endswith("_target_") and HOUSEKEEPING.isdisjoint({name, name.split(".")[0]})
    }


def differing(runs: Mapping[Run, dict[str, Any]]) -> list[str]:
    """Of the options of some runs those that tell them apart, choices first and `seed` last.

    Runs without a config tell nothing. What somebody typed is named if it varies. What varies
    beside it is named only if it does not follow from that: `loss=simpo` brings options of its own,
    but says so itself.
    """
    known = [(run, values) for run, values in runs.items() if run.config]
    names = dict.fromkeys(name for _, values in known for name in values)
    varying = [name for name in names if len({_key(values, name) for _, values in known}) > 1]
    typed = {_typed(word) for run, _ in known for word in run.overrides}
    shown = [name for name in varying if name in typed]
    for name in varying:
        seen: dict[tuple[str, ...], str] = {}
        for _, values in known:
            value = _key(values, name)
            if seen.setdefault(tuple(_key(values, other) for other in shown), value) != value:
                shown.append(name)
                break
    return sorted(shown, key=lambda name: (name == "seed", varying.index(name)))


@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs that differ in seed only; `values` is what tells them from the other configurations."""

    values: dict[str, Any]
    label: str
    runs: tuple[Run, ...]

    @cached_property
    def counted(self) -> list[Run]:
        """One run a seed, the finished ones; where none has finished, those with metrics.

        Of the same run done twice the later counts.
        """
        runs = [run for run in self.runs if run.state == "done" and run.events]
        runs = runs or [run for run in self.runs if run.events]
        return list({_key(run.config, "seed"): run for run in runs}.values())

    @property
    def finished(self) -> bool:
        """Whether what is counted has finished."""
        return any(run.state == "done" for run in self.counted)

    def estimate(self, metric: str) -> Estimate | None:
        """Mean of a metric's last value over seeds; None where no run has it."""
        values = [run.metrics[metric] for run in self.counted if metric in run.metrics]
        return estimate(values) if values else None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Some runs, in the order of what differs, and the metric that ranks them.

    - `options`: of every run, by dotted name.
    - `told_by`: as few of the `differing` options as tell every two configurations apart.
    """

    runs: list[Run]
    options: dict[Run, dict[str, Any]]
    differing: list[str]
    told_by: list[str]
    configurations: list[Configuration]
    metric: str | None

    @property
    def lower(self) -> bool:
        """Whether less of the metric is better."""
        return self.metric is not None and lower_is_better(self.metric)

    @cached_property
    def best(self) -> Run | None:
        """The best finished run; where none has finished, the best so far."""
        if self.metric is None:
            return None
        counted = [run for group in self.configurations for run in group.counted]
        values = {run: run.metrics.get(self.metric, math.nan) for run in counted}
        known = [run for run in counted if math.isfinite(values[run])]
        known = [run for run in known if run.state == "done"] or known
        return min(known, key=lambda run: self._rank(values[run]), default=None)

    @cached_property
    def ranked(self) -> list[Configuration]:
        """Configurations by mean of the metric, best first; the unfinished after the finished."""

        def rank(group: Configuration) -> tuple[bool, bool, float]:
            found = group.estimate(self.metric) if self.metric else None
            known = found is not None and math.isfinite(found.mean)
            return not known, not group.finished, self._rank(found.mean) if known else 0.0

        return sorted(self.configurations, key=rank)

    @property
    def settled(self) -> list[Configuration]:
        """The finished configurations, the best first; where none is finished, all of them."""
        return [group for group in self.ranked if group.finished] or self.ranked

    @property
    def repeats(self) -> int:
        """How many finished runs were done again and are counted once."""
        done = [run for group in self.configurations for run in group.runs if run.state == "done"]
        return len(done) - sum(
            run.state == "done" for group in self.configurations for run in group.counted
        )

    def configuration(self, run: Run) -> Configuration | None:
        """The one that a run belongs to; None where its config cannot be read."""
        return self._places.get(run)

    def label(self, run: Run) -> str:
        """`beta=0.1, seed=1`, or the name of its folder where its config cannot be read."""
        group = self.configuration(run)
        if group is None:
            return run.folder.name
        seed = {"seed": run.config.get("seed")} if "seed" in self.differing else {}
        return ", ".join([group.label, *([label(seed, [])] if seed else [])])

    @cached_property
    def _places(self) -> dict[Run, Configuration]:
        return {run: group for group in self.configurations for run in group.runs}

    def _rank(self, value: float) -> float:
        return value if self.lower else -value


def compare(runs: Sequence[Run], metric: str | None = None) -> Comparison:
    """Sort runs by what differs, and put those together that differ in seed only.

    `metric`: what ranks them; None: the first of `RANKING` that a run has. Raises `Refused` where
    no run has it.
    """
    there = {name: None for run in runs for name in run.metrics}
    if metric is None:
        metric = next((name for name in (*RANKING, *there) if name in there), None)
    elif metric not in there:
        raise Refused(f"no run has the metric {metric}{did_you_mean(metric, there)}")
    known = {run: options(run) for run in runs}
    names = differing(known)
    whole = [run for run in runs if run.config]
    ordered = sorted(whole, key=lambda run: [_order(known[run], name) for name in names])
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in ordered:
        key = tuple(_key(known[run], name) for name in names if name != "seed")
        groups.setdefault(key, []).append(run)
    told_by = _enough(list(groups), [name for name in names if name != "seed"])
    configurations = []
    for group in groups.values():
        first = known[group[0]]
        values = {name: first[name] for name in names if name != "seed" and name in first}
        said = label({name: values[name] for name in told_by if name in values}, names)
        configurations.append(Configuration(values, said or _plain(group[0]), tuple(group)))
    unknown = [run for run in runs if not run.config]
    return Comparison([*ordered, *unknown], known, names, told_by, configurations, metric)


def short(name: str, names: Sequence[str]) -> str:
    """The last part of a dotted name where that is enough to know it among `names`."""
    last = name.split(".")[-1]
    return last if sum(other.split(".")[-1] == last for other in names) == 1 else name


def label(values: dict[str, Any], names: Sequence[str]) -> str:
    """Return `beta=0.1, lr=1e-6`: the last part of a name where that is unique among `names`."""
    parts = []
    for name, value in values.items():
        said = text(value)
        said = said if len(said) <= 28 else f"{said[:12]}…{said[-13:]}"
        parts.append(f"{short(name, names)}={said}")
    return ", ".join(parts)


def _enough(keys: Sequence[tuple[str, ...]], names: Sequence[str]) -> list[str]:
    """All choices, and as few of the dotted names as tell every two keys apart."""
    kept = list(range(len(names)))
    for place in reversed(range(len(names))):
        rest = [other for other in kept if other != place]
        told = {tuple(key[other] for other in rest) for key in keys}
        if "." in names[place] and len(told) == len(keys):
            kept = rest
    return [names[place] for place in kept]


def _plain(run: Run) -> str:
    loss, data = run.choices.get("loss"), run.choices.get("data")
    return f"{loss} on {data}" if loss and data else run.folder.name


def _typed(word: str) -> str:
    """`+data@x=hh` -> `data`: what an override is about."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def _key(values: dict[str, Any], name: str) -> str:
    return json.dumps(values[name], sort_keys=True, default=str) if name in values else "missing"


def _order(values: dict[str, Any], name: str) -> tuple[int, float, str]:
    """Numbers by size, then words, then what a run does not have."""
    value = values.get(name)
    if isinstance(value, int | float) and not math.isnan(value):
        return 0, value, ""
    return (1, 0.0, text(value)) if name in values else (2, 0.0, "")
