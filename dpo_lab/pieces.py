"""What the figures of experiments are made of: points over seeds, and optima beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpo_lab.drawing import COLOURS, GREY, MARKERS, Style
from dpo_lab.evidence import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 3.3  # inches: one column of a paper
HEIGHT = 2.7


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A colour and a marker for each name, in order."""
    return {
        name: Style(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], True)
        for place, name in enumerate(names)
    }


def line(
    axes: Axes,
    xs: Sequence[float],
    groups: Sequence[Sequence[float]],
    style: Style,
    label: str,
    **more: Any,
) -> None:
    """A line through the means of `groups`, one group an x; bars are 95% bootstrap intervals."""
    means = [_mean(values) for values in groups]
    axes.plot(
        xs,
        means,
        color=style.colour,
        marker=style.marker,
        markersize=4,
        linewidth=1.2,
        label=label,
        **more,
    )
    _bars(axes, xs, means, groups, style, vertical=True)


def path(
    axes: Axes,
    xs: Sequence[Sequence[float]],
    ys: Sequence[Sequence[float]],
    style: Style,
    label: str,
    **more: Any,
) -> None:
    """A line through points that both coordinates of vary over seeds; bars both ways."""
    across, up = ([_mean(values) for values in side] for side in (xs, ys))
    axes.plot(
        across,
        up,
        color=style.colour,
        marker=style.marker,
        markersize=4,
        linewidth=1.0,
        label=label,
        **more,
    )
    _bars(axes, across, up, ys, style, vertical=True)
    _bars(axes, across, up, xs, style, vertical=False)


def optimum(axes: Axes, points: np.ndarray, label: str = "optimum", dash: str = "-") -> None:
    """A curve (F, 2) that is known exactly: grey and without markers."""
    axes.plot(*points.T, color=GREY, linewidth=1.3, linestyle=dash, label=label, zorder=1)


def legend(axes: Axes, **more: Any) -> None:
    """A small legend where there is room."""
    axes.legend(**{"fontsize": 6.5, "handlelength": 1.6, "labelspacing": 0.25, **more})


def ranked(table: Mapping[str, Mapping[Any, float]]) -> list[str]:
    """Names by the mean of their values, the highest first."""
    return sorted(table, key=lambda name: -float(np.mean([*table[name].values()])))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else np.nan  # a gap in the line


def _bars(
    axes: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    groups: Sequence[Sequence[float]],
    style: Style,
    *,
    vertical: bool,
) -> None:
    for x, y, values in zip(xs, ys, groups, strict=True):
        if len(values) < 2:
            continue
        low, high = interval(values)
        ends = ([x, x], [low, high]) if vertical else ([low, high], [y, y])
        axes.plot(*ends, color=style.colour, linewidth=0.9, alpha=0.8)
