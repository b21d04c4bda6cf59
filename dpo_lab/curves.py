"""The training curves of one run, drawn from its folder."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_lab.drawing import BLUE, GREEN, GREY, ORANGE
from dpo_lab.results import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS: tuple[tuple[str, str, tuple[tuple[str, str, str], ...]], ...] = (
    ("Loss", "nats a pair", (("loss", "", BLUE),)),
    ("Accuracy of implicit rewards", "share of pairs", (("rewards/accuracies", "", BLUE),)),
    (
        "Log-ratio to the start",
        "nats a response",
        (("logratios/chosen", "chosen", BLUE), ("logratios/rejected", "rejected", ORANGE)),
    ),
    (
        "Implicit reward",
        "reward",
        (
            ("rewards/chosen", "chosen", BLUE),
            ("rewards/rejected", "rejected", ORANGE),
            ("rewards/margins", "margin", GREEN),
        ),
    ),
)


def draw(run: Run) -> Figure:
    """Four panels over the steps, and for a world reward against KL with the optimal frontier."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [
        panel
        for panel in _PANELS
        if any(
            run.series(f"{part}/{name}")[0] for part in ("train", "eval") for name, _, _ in panel[2]
        )
    ]
    steps, _ = run.series("world/kl")
    count = len(panels) + bool(steps)
    wide = 3 if count > 4 else 2
    high = -(-count // wide)
    figure = Figure(figsize=(4.2 * wide, 3.1 * high))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        **_sides("left", "right", "wspace", 4.2 * wide, wide, (0.75, 0.15, 0.8)),
        **_sides("bottom", "top", "hspace", 3.1 * high, high, (0.5, 0.7, 0.8)),
    )
    for place, (title, unit, lines) in enumerate(panels):
        axes = figure.add_subplot(high, wide, place + 1)
        _curves(axes, run, title, unit, lines)
    if steps:
        _world(figure.add_subplot(high, wide, count), run)
    choices = run.choices
    figure.suptitle(
        f"{choices.get('loss', '')} on {choices.get('data', '')}, seed {run.config['seed']}"
    )
    return figure


def _sides(
    low: str, high: str, between: str, size: float, count: int, inches: tuple[float, float, float]
) -> dict[str, float]:
    """Margins and gaps that hold our labels. (A layout that measures them draws everything thrice,
    a good part of what a small run costs.)"""
    before, after, gap = inches
    each = (size - before - after - gap * (count - 1)) / count
    return {low: before / size, high: 1 - after / size, between: gap / each}


def save(run: Run) -> Path:
    """Draw into `curves.png` of the run folder."""
    path = run.folder / "curves.png"
    _write(draw(run), path)
    return path


def rehearse() -> None:
    """Draw next to nothing: the first figure of a process takes longer than those after it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 2))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], marker="o", label="0123456789")
    axes.set(title="title", xlabel="step", ylabel="nats")
    axes.legend(fontsize=8)
    _write(figure, BytesIO())


def _write(figure: Figure, place: Path | BytesIO) -> None:
    """As PNG; little compressed, since that takes a good part of the time."""
    figure.savefig(place, format="png", dpi=150, pil_kwargs={"compress_level": 1})


def _curves(
    axes: Axes, run: Run, title: str, unit: str, lines: tuple[tuple[str, str, str], ...]
) -> None:
    for name, label, colour in lines:
        steps, values = run.series(f"train/{name}")
        axes.plot(steps, values, color=colour, linewidth=1.0, alpha=0.55)
        steps, values = run.series(f"eval/{name}")
        axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=4, label=label)
    axes.plot([], [], color=GREY, linewidth=1.0, alpha=0.55, label="training")
    axes.plot([], [], color=GREY, linewidth=1.6, marker="o", markersize=4, label="held out")
    axes.set(title=title, xlabel="step", ylabel=unit)
    axes.locator_params(nbins=5)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _world(axes: Axes, run: Run) -> None:
    _, kl = run.series("world/kl")
    _, reward = run.series("world/reward")
    frontier = run.record.get("frontier", {})
    axes.plot(
        frontier.get("kl", []),
        frontier.get("reward", []),
        color=GREY,
        linewidth=1.4,
        label="optimum",
    )
    axes.plot(kl, reward, color=BLUE, linewidth=1.2, marker="o", markersize=4, label="this run")
    axes.annotate(
        "start", (kl[0], reward[0]), textcoords="offset points", xytext=(7, 3), fontsize=8
    )
    axes.set_xlim(left=-0.05 * max(kl[-1], 0.1), right=1.6 * max(*kl, 0.1))
    axes.set(title="Exact reward against KL", xlabel="KL to the start, nats", ylabel="E[r*]")
    axes.locator_params(nbins=5)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
