"""What the figures of experiments are made of: points over seeds, and optima beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpo_lab.drawing import COLOURS, GREY, MARKERS, Style
from dpo_lab.evidence import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


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


def legend_below(axes: Axes) -> None:
    """A small legend under the axis, where it hides nothing."""
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)


def logarithmic(axes: Axes, side: str, ticks: Sequence[float] = ()) -> None:
    """Make the axis `x` or `y` logarithmic, with plain numbers at `ticks`, or at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator

    axis = axes.xaxis if side == "x" else axes.yaxis
    (axes.set_xscale if side == "x" else axes.set_yscale)("log")
    if len(ticks):
        axis.set_ticks(ticks)
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain(axis)


def plain(axis: Axis) -> None:
    """Label an axis that is not linear with plain numbers, and its minor ticks not at all."""
    axis.set_major_formatter(lambda value, place: f"{value:,.6g}")
    axis.set_minor_formatter("")


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
