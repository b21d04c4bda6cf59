"""Training curves of many runs side by side: one line a configuration, a band over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dpo_lab.comparison import Comparison, Configuration
from dpo_lab.drawing import COLOURS, GREY, MARKERS, OTHERS, Panel, Style, drawable
from dpo_lab.results import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 200  # a curve is drawn with at most so many points, each a mean over its stretch

_RATIOS = ("logratios/chosen", "logratios/rejected")
_REWARDS = ("rewards/chosen", "rewards/rejected")


class Quantity(NamedTuple):
    """One metric over the steps: title and unit, a level to compare with, what shares its scale."""

    metric: str
    title: str
    unit: str
    level: float | None
    scale: tuple[str, ...]


COMPARED = (
    Quantity("loss", "Loss", "mean over pairs", None, ()),
    Quantity("rewards/accuracies", "Accuracy of implicit rewards", "share of pairs", 0.5, ()),
    Quantity("logratios/chosen", "Log-ratio, chosen", "nats a response", 0, _RATIOS),
    Quantity("logratios/rejected", "Log-ratio, rejected", "nats a response", 0, _RATIOS),
    Quantity("logratios/margins", "Log-ratio margin", "nats", 0, ()),
    Quantity("rewards/chosen", "Implicit reward, chosen", "reward", 0, _REWARDS),
    Quantity("rewards/rejected", "Implicit reward, rejected", "reward", 0, _REWARDS),
    Quantity("rewards/margins", "Reward margin", "reward", 0, ()),
)


class Band(NamedTuple):
    """A metric at the steps that all seeds have: mean, least and largest over seeds, (S,) each."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def styles(comparison: Comparison) -> dict[Configuration, Style]:
    """A colour and a marker for every configuration; where there are too many, for the best."""
    named = comparison.configurations
    if len(named) > len(COLOURS):
        best = comparison.ranked[: len(COLOURS)]
        named = [group for group in named if group in best]
    own = zip(named, COLOURS, MARKERS, strict=False)
    found = {group: Style(colour, marker, True) for group, colour, marker in own}
    return {group: found.get(group, OTHERS) for group in comparison.configurations}


def panels(comparison: Comparison) -> list[Panel]:
    """One panel a quantity that some run has: held out with markers, training thin."""
    look = styles(comparison)
    made = []
    for quantity in COMPARED:
        held_out = bands(comparison, f"eval/{quantity.metric}")
        training = bands(comparison, f"train/{quantity.metric}")
        if not held_out and not training:
            continue
        limits = None
        if quantity.scale:
            limits = _limits(comparison, quantity.scale)
        last = held_out or training
        where = "held-out pairs" if held_out else "training pairs"
        ends = [f"{group.label}: {band.mean[-1]:.4g}" for group, band in last.items()][:8]
        alt = f"{quantity.title} over the steps. Last values on {where}: {'; '.join(ends)}."
        draw_it = partial(_compare, quantity, held_out, training, look, limits)
        made.append(Panel(quantity.title, alt, draw_it))
    return made


def bands(comparison: Comparison, metric: str) -> dict[Configuration, Band]:
    """The metric over the steps, of every configuration that has it."""
    found = {group: across(group.counted, metric) for group in comparison.configurations}
    return {group: band for group, band in found.items() if band is not None}


def across(runs: Sequence[Run], metric: str) -> Band | None:
    """Mean and range over runs, at the steps that all of those have that have the metric at all."""
    series = [dict(zip(*run.series(metric), strict=True)) for run in runs]
    series = [values for values in series if values]
    shared = sorted(set.intersection(*map(set, series))) if series else []
    if not shared:
        return None
    values = drawable(np.array([[one[step] for step in shared] for one in series], dtype=float))
    columns = np.array(shared, dtype=float), values.mean(0), values.min(0), values.max(0)
    return Band(*(_thinned(column) for column in columns))


def legend(look: dict[Configuration, Style], lines: bool = True) -> Panel:
    """The key to the colours, as a panel of its own; `lines`: to thin and marked lines too."""

    def draw_it(axes: Axes) -> None:
        axes.set_axis_off()
        for group, style in look.items():
            if style.named:
                axes.plot([], [], color=style.colour, marker=style.marker, label=group.label)
        others = sum(not style.named for style in look.values())
        if others:
            axes.plot([], [], color=OTHERS.colour, label=f"{others} others")
        if lines:
            axes.plot([], [], color=GREY, linewidth=0.8, alpha=0.6, label="thin: training")
            axes.plot([], [], color=GREY, marker="o", label="with markers: held out")
        axes.legend(loc="center left", markerscale=0.8, fontsize=8.5)

    return Panel("", "", draw_it, width=4.2 if lines else 2.8)


def _compare(
    quantity: Quantity,
    held_out: dict[Configuration, Band],
    training: dict[Configuration, Band],
    look: dict[Configuration, Style],
    limits: tuple[float, float] | None,
    axes: Axes,
) -> None:
    if quantity.level is not None:
        axes.axhline(quantity.level, color="#aaaaaa", linewidth=0.8)
    for group, style in sorted(look.items(), key=lambda item: item[1].named):
        if group in training and (style.named or group not in held_out):
            band = training[group]
            axes.plot(band.steps, band.mean, color=style.colour, linewidth=0.8, alpha=0.4)
        if group not in held_out:
            continue
        band = held_out[group]
        few = style.named and len(band.steps) <= 40
        axes.plot(
            band.steps,
            band.mean,
            color=style.colour,
            linewidth=1.5 if style.named else 0.8,
            marker=style.marker if few else "",
            markersize=3.8,
        )
        if style.named and (band.high > band.low).any():
            axes.fill_between(band.steps, band.low, band.high, color=style.colour, alpha=0.13, lw=0)
    if limits is not None:
        axes.set_ylim(*limits)
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="step", ylabel=quantity.unit)


def _limits(comparison: Comparison, metrics: Sequence[str]) -> tuple[float, float] | None:
    """One range of values for several panels, with a little air."""
    found = [
        edge
        for metric in metrics
        for part in ("train", "eval")
        for band in bands(comparison, f"{part}/{metric}").values()
        for edge in (band.low.min(), band.high.max())
        if np.isfinite(edge)
    ]
    if not found or min(found) == max(found):
        return None
    air = 0.04 * (max(found) - min(found))
    return min(found) - air, max(found) + air


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most `POINTS` values, each the mean of a stretch."""
    if len(values) <= POINTS:
        return values
    return np.array([stretch.mean() for stretch in np.array_split(values, POINTS)])
