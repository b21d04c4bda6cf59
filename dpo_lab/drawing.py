"""How every figure of the lab looks, and how it becomes a file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow: told apart by everybody, and seen on white
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#777777"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"  # one a colour, so that no line is known by its colour alone

_STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # a dollar sign in a path is a dollar sign
    "svg.hashsalt": "dpo_lab",  # the same figure is the same bytes
    "figure.facecolor": "white",
}


class Style(NamedTuple):
    """How one configuration is drawn; `named` where it has a colour of its own."""

    colour: str
    marker: str
    named: bool


OTHERS = Style("#bbbbbb", ".", False)


@dataclass(frozen=True)
class Panel:
    """One plot that can stand alone or beside others. Sizes are in inches."""

    title: str
    alt: str
    draw: Callable[[Axes], None]
    width: float = 4.2
    height: float = 3.1


def together(panels: Sequence[Panel], columns: int) -> Figure:
    """All panels in one figure, row by row."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    widths = [max(panel.width for panel in panels[place::columns]) for place in range(columns)]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(sum(widths), sum(heights)), layout="constrained")
        FigureCanvasAgg(figure)
        shape = len(rows), columns
        grid = figure.add_gridspec(*shape, width_ratios=widths, height_ratios=heights)
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(grid[place // columns, place % columns])
            panel.draw(axes)
            axes.set_title(panel.title)
    return figure


def drawable(values: np.ndarray) -> np.ndarray:
    """The values, with NaN (a gap) for what no axis can hold."""
    return np.where(np.abs(values) < 1e100, values, np.nan)


def save(figure: Figure, stem: Path) -> None:
    """Write STEM.png and STEM.svg."""
    stem.with_suffix(".png").write_bytes(_bytes(figure, "png", dpi=160))
    figure.set_layout_engine("none")  # everything has found its place
    stem.with_suffix(".svg").write_bytes(_bytes(figure, "svg"))


def svg(panel: Panel) -> bytes:
    """One panel as SVG without a background."""
    return _bytes(together([panel], 1), "svg", transparent=True)


def _bytes(figure: Figure, kind: str, **more: Any) -> bytes:
    import matplotlib

    target = io.BytesIO()
    undated: dict[str, Any] = {"Date": None} if kind == "svg" else {}
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as a box
        figure.savefig(target, format=kind, metadata=undated, **more)
    return target.getvalue()
