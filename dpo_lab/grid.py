"""Two swept numbers as a grid: the mean of a metric in every cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from dpo_lab.comparison import Comparison, Configuration, label
from dpo_lab.drawing import drawable


@dataclass(frozen=True, eq=False)
class Grid:
    """`means[j, i]`: the metric at `xs[i]`, `ys[j]`, mean over seeds; NaN where there is no run.

    - `x`, `y`: the options, by dotted name; `xs`, `ys`: their values, rising.
    - `title`: what else these runs have in common that others have not.
    """

    x: str
    y: str
    xs: list[float]
    ys: list[float]
    title: str
    means: np.ndarray

    @property
    def cells(self) -> int:
        """How many cells have a finite value."""
        return int(np.isfinite(self.means).sum())


def grids(comparison: Comparison) -> list[Grid]:
    """One grid for each setting of everything else, the fullest first; none where fewer than two
    numbers were swept. Of more than two, those span the grid that fill the most places in it.
    """
    metric = comparison.metric
    groups = [group for group in comparison.settled if metric and group.estimate(metric)]
    pairs = list(combinations(_swept(comparison.differing, groups), 2))
    if metric is None or not pairs:
        return []
    x, y = max(pairs, key=lambda pair: len({_place(group, *pair) for group in groups} - {None}))
    others = [name for name in comparison.told_by if name not in (x, y)]
    facets: dict[str, list[Configuration]] = {}
    for group in groups:
        if _place(group, x, y) is not None:
            rest = repr([group.values.get(name) for name in others])
            facets.setdefault(rest, []).append(group)
    made = []
    for inside in facets.values():
        shared = {name: inside[0].values[name] for name in others if name in inside[0].values}
        made.append(_grid(metric, x, y, label(shared, comparison.differing), inside))
    made = [grid for grid in made if min(grid.means.shape) > 1 and grid.cells]
    return sorted(made, key=lambda grid: -grid.cells)


def _swept(names: Sequence[str], groups: Sequence[Configuration]) -> list[str]:
    """The numbers that differ between configurations, those with the most values first."""
    found: dict[str, int] = {}
    for name in names:
        values = [group.values[name] for group in groups if name in group.values]
        if values and all(map(_is_number, values)) and len(set(values)) > 1:
            found[name] = len(set(values))
    return sorted(found, key=lambda name: -found[name])


def _place(group: Configuration, x: str, y: str) -> tuple[float, float] | None:
    """Where a configuration stands in the grid of two options; None where it lacks one."""
    return (group.values[x], group.values[y]) if {x, y} <= group.values.keys() else None


def _grid(metric: str, x: str, y: str, title: str, groups: list[Configuration]) -> Grid:
    xs = sorted({group.values[x] for group in groups})
    ys = sorted({group.values[y] for group in groups})
    means = np.full((len(ys), len(xs)), np.nan)
    for group in groups:
        found = group.estimate(metric)
        assert found is not None
        means[ys.index(group.values[y]), xs.index(group.values[x])] = found.mean
    return Grid(x, y, xs, ys, title, drawable(means))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
