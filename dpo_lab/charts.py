"""Charts of finished runs: heat-maps, reward against KL, and diagnostics of held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dpo_lab.comparison import Comparison, Configuration
from dpo_lab.diagnostics import Diagnostics
from dpo_lab.drawing import BLUE, GREY, ORANGE, Panel, Style, drawable
from dpo_lab.grid import Grid
from dpo_lab.printing import decimals, fixed, some, text
from dpo_lab.results import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASHES = ("-", "--", ":", "-.")
MOST_ROWS = 24  # configurations in the charts of diagnostics; of more, the best
MOST_GRIDS = 6


# ------------------------------------------------------------------------------------- heat-maps


def heatmaps(grids: Sequence[Grid], metric: str, lower: bool) -> list[Panel]:
    """Annotated cells, on one scale of colours over all grids; brighter is better."""
    if not grids:
        return []
    known = np.concatenate([grid.means[np.isfinite(grid.means)] for grid in grids])
    scale = (float(known.min()), float(known.max()))
    made = []
    for grid in grids[:MOST_GRIDS]:
        rows, columns = grid.means.shape
        finite = grid.means[np.isfinite(grid.means)]
        best = finite.min() if lower else finite.max()
        row, column = np.argwhere(grid.means == best)[0]
        alt = (
            f"Heat-map of {metric}, {grid.y} ({rows} values) by {grid.x} ({columns} values). "
            f"Best: {best:.4g} at {grid.x}={text(grid.xs[column])}, {grid.y}={text(grid.ys[row])}."
        )
        made.append(
            Panel(
                grid.title or metric,
                alt,
                partial(_heatmap, grid, metric, scale, lower),
                width=max(3.8, 1.9 + 0.62 * columns),
                height=max(2.4, 1.1 + 0.42 * rows),
            )
        )
    return made


def _heatmap(grid: Grid, metric: str, scale: tuple[float, float], lower: bool, axes: Axes) -> None:
    image = axes.imshow(
        grid.means,
        cmap="cividis_r" if lower else "cividis",
        vmin=scale[0],
        vmax=scale[1],
        origin="lower",
        aspect="auto",
    )
    places = min(3, decimals([*scale]))
    for (row, column), value in np.ndenumerate(grid.means):
        if not np.isfinite(value):
            axes.text(column, row, "–", ha="center", va="center", color=GREY)
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        colour = "white" if dark else "black"
        axes.text(column, row, fixed(value, places), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(grid.xs)), [text(value) for value in grid.xs])
    axes.set_yticks(range(len(grid.ys)), [text(value) for value in grid.ys])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xlabel=grid.x, ylabel=grid.y)
    bar = axes.figure.colorbar(image, ax=axes, label=metric, fraction=0.06)
    bar.outline.set_visible(False)


# ------------------------------------------------------------------------------ reward against KL


def tradeoff(comparison: Comparison, look: dict[Configuration, Style]) -> Panel | None:
    """Every run's way through KL and reward, its end marked, below the best that any policy can do;
    None where no world was enumerated.
    """
    traces = {}
    for group in comparison.configurations:
        for run in group.counted:
            if len(points := _trace(run)):
                traces[run] = (group, points)
    if not traces:
        return None
    curves = frontiers(list(traces))
    ends = [
        f"{group.label}: KL {points[-1, 0]:.3g}, reward {points[-1, 1]:.3g}"
        for group, points in list(traces.values())[:8]
    ]
    alt = (
        f"Exact reward against KL to the start, {len(traces)} runs, with {len(curves)} optimal "
        f"frontier{'s' * (len(curves) != 1)}. End points: {'; '.join(ends)}."
    )
    draw_it = partial(_tradeoff, list(traces.values()), curves, look)
    return Panel("Exact reward against KL to the start", alt, draw_it, width=5.4, height=3.8)


def frontiers(runs: Sequence[Run]) -> list[tuple[np.ndarray, int]]:
    """Each distinct optimal frontier, (F, 2) of KL and reward, and how many runs have it."""
    found: dict[tuple[float, ...], tuple[np.ndarray, int]] = {}
    for run in runs:
        curve: Any = run.record.get("frontier")
        try:
            points = np.array([curve["kl"], curve["reward"]], dtype=float).T
        except (KeyError, TypeError, ValueError):  # none, or not a curve
            continue
        if points.ndim != 2 or not np.isfinite(drawable(points)).any():
            continue
        key = tuple(np.round(points, 6).ravel().tolist())
        found[key] = points, found.get(key, (points, 0))[1] + 1
    return list(found.values())


def _trace(run: Run) -> np.ndarray:
    """(E, 2): KL and reward at each evaluation that has both."""
    kl, reward = (dict(zip(*run.series(f"world/{name}"), strict=True)) for name in ("kl", "reward"))
    points = [(kl[step], reward[step]) for step in kl if step in reward]
    return drawable(np.array(points, dtype=float).reshape(-1, 2))


def _tradeoff(
    traces: list[tuple[Configuration, np.ndarray]],
    curves: list[tuple[np.ndarray, int]],
    look: dict[Configuration, Style],
    axes: Axes,
) -> None:
    for place, (points, count) in enumerate(curves):
        name = (
            "optimum" if len(curves) == 1 else f"optimum, start {place + 1} ({some(count, 'run')})"
        )
        dash = _DASHES[place % len(_DASHES)]
        axes.plot(*points.T, color=GREY, linewidth=1.3, linestyle=dash, label=name)
    for group, points in sorted(traces, key=lambda trace: look[trace[0]].named):
        style = look[group]
        axes.plot(*points.T, color=style.colour, linewidth=0.9, alpha=0.6)
        axes.plot(*points[-1:].T, color=style.colour, marker=style.marker, markersize=5.5)
    reached = np.concatenate([points for _, points in traces])
    reached = reached[np.isfinite(reached).all(1)]
    if len(reached):
        right = max(reached[:, 0].max(), 0.05) * 1.15
        below = [points[points[:, 0] <= right, 1] for points, _ in curves]
        values = np.concatenate([reached[:, 1], *below])
        air = 0.05 * max(float(np.ptp(values)), 0.1)
        axes.set_xlim(-0.03 * right, right)
        axes.set_ylim(values.min() - air, values.max() + air)
    axes.set(xlabel="KL to the start, nats", ylabel="expected true reward")
    if curves and len(curves) <= 6:
        axes.legend(loc="lower right")


# ------------------------------------------------------------------------------------ diagnostics

Means = dict[str, float | None]


def spreads(rows: Sequence[tuple[Configuration, list[Diagnostics]]]) -> list[Panel]:
    """Margins, shares and accuracies, one row a configuration, each a mean over its seeds."""
    if not rows:
        return []
    shown = [(group.label, _means(found)) for group, found in rows[:MOST_ROWS]]
    labels = [name.replace(", ", "\n") if len(name) > 24 else name for name, _ in shown]
    lines = sum(name.count("\n") + 1 for name in labels)
    height = 1.25 + 0.2 * max(lines, 1.4 * len(labels))
    made: list[tuple[str, str, Callable[[Axes, list[Means]], None]]] = [
        ("Reward margin: 5%, median, 95%", "reward", _margins),
        ("Displacement and saturation", "share of pairs", _shares),
        ("Accuracy by the longer answer", "share of pairs", _accuracies),
    ]
    panels = []
    for title, unit, draw_it in made:
        whole = partial(_rows, labels, [means for _, means in shown], unit, draw_it)
        alt = f"{title}, for {len(labels)} configurations; the table has the numbers of each run."
        panels.append(Panel(title, alt, whole, width=4.4, height=height))
    return panels


def _means(found: list[Diagnostics]) -> Means:
    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    margins = [one.margin or (None, None, None) for one in found]
    accuracy = {
        side: mean([one.accuracy[side].value for one in found if one.accuracy])
        for side in ("chosen", "rejected")
    }
    return {
        "low": mean([margin[0] for margin in margins]),
        "middle": mean([margin[1] for margin in margins]),
        "high": mean([margin[2] for margin in margins]),
        "below": mean([one.below_start for one in found]),
        "saturated": mean([one.saturated for one in found]),
        **accuracy,
    }


def _rows(
    labels: list[str],
    rows: list[Means],
    unit: str,
    draw_it: Callable[[Axes, list[Means]], None],
    axes: Axes,
) -> None:
    draw_it(axes, rows)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) + 0.2, -0.6)  # the last row is for a legend
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlabel(unit)


def _margins(axes: Axes, rows: list[Means]) -> None:
    axes.axvline(0, color="#aaaaaa", linewidth=0.8)
    for place, row in enumerate(rows):
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=BLUE, linewidth=1.4)
            axes.plot([row["middle"]], [place], color=BLUE, marker="o", markersize=5)


def _shares(axes: Axes, rows: list[Means]) -> None:
    _dots(axes, rows, "below", "o", BLUE, "chosen below its start")
    _dots(axes, rows, "saturated", "s", ORANGE, "weight below 0.1")
    axes.set_xlim(-0.03, 1.03)
    axes.legend(loc="lower center", ncols=2)


def _accuracies(axes: Axes, rows: list[Means]) -> None:
    axes.axvline(0.5, color="#aaaaaa", linewidth=0.8)
    _dots(axes, rows, "chosen", "o", BLUE, "chosen longer")
    _dots(axes, rows, "rejected", "s", ORANGE, "rejected longer")
    axes.set_xlim(-0.03, 1.03)
    axes.legend(loc="lower center", ncols=2)


def _dots(axes: Axes, rows: list[Means], name: str, marker: str, colour: str, label: str) -> None:
    known = [(row[name], place) for place, row in enumerate(rows) if row[name] is not None]
    fill = "full" if marker == "o" else "none"  # both are seen where they coincide
    values, places = zip(*known, strict=True) if known else ((), ())
    axes.plot(
        values, places, color=colour, marker=marker, linestyle="", fillstyle=fill, label=label
    )
