"""The tables of a report: runs, means over seeds, and diagnostics, as cells of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dpo_lab.comparison import Comparison, short
from dpo_lab.diagnostics import Diagnostics, Share
from dpo_lab.printing import decimals, fixed, some, text
from dpo_lab.results import Run

STATES = {"done": "finished"}  # what a state is called, where not by its own name
NONE = "–"

# what a table of runs shows, of what there is: name -> heading, meaning
METRICS = {
    "world/optimal_share": (
        "optimal share",
        "gain in true reward, as a share of the most that any policy gains at this KL",
    ),
    "world/reward": ("reward", "expected true reward, exact"),
    "world/kl": ("KL", "KL divergence to the start, exact, nats"),
    "world/win_rate": ("win rate", "against the start by true reward, exact"),
    "eval/loss": ("loss", "mean over held-out pairs"),
    "eval/rewards/accuracies": (
        "accuracy",
        "share of held-out pairs whose chosen answer has the larger implicit reward, ties one half",
    ),
    "eval/rewards/margins": ("margin", "implicit reward, chosen minus rejected, held-out mean"),
    "eval/logratios/chosen": ("log-ratio, chosen", "to the start, held-out mean, nats"),
    "eval/logratios/rejected": ("log-ratio, rejected", "to the start, held-out mean, nats"),
}
_TRAINING = {
    "train/loss": ("training loss", "mean over the last logged updates"),
    "train/rewards/accuracies": ("training accuracy", "mean over the last logged updates"),
}


class Cell(NamedTuple):
    """What is printed, what it sorts by (None: as text), and a second line in small print."""

    text: str
    value: float | None = None
    small: str = ""


class Column(NamedTuple):
    """A heading, whether numbers stand under it, and what it means."""

    heading: str
    numeric: bool = True
    meaning: str = ""


class Row(NamedTuple):
    """Cells, the number of the run that they are about (0: of no single run), words to find it."""

    cells: list[Cell]
    run: int = 0
    words: str = ""


@dataclass(frozen=True)
class Table:
    """Columns and rows; the first column names the row."""

    caption: str
    columns: list[Column]
    rows: list[Row]


def state(run: Run) -> str:
    """What the state of a run is called."""
    return STATES.get(run.state, run.state)


def shown_metrics(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Metrics for a table: the ranking one first, then the usual ones that some run has."""
    there = {name for run in comparison.runs for name in run.metrics}
    usual = {name: said for name, said in METRICS.items() if name in there}
    usual = usual or {name: said for name, said in _TRAINING.items() if name in there}
    if comparison.metric is None:
        return usual
    own = usual.get(comparison.metric, (comparison.metric, "chosen for this report"))
    return {comparison.metric: own} | usual


def runs(comparison: Comparison) -> Table:
    """One row a run: state, what tells it apart, last metrics, and what differs beside that."""
    metrics = shown_metrics(comparison)
    names = comparison.differing
    first = [name for name in names if name in comparison.told_by or name == "seed"]
    rest = [name for name in names if name not in first]
    numbers = {name: _format(run.metrics.get(name) for run in comparison.runs) for name in metrics}

    def cell(values: dict[str, object], name: str) -> Cell:
        return _option(values[name]) if name in values else Cell(NONE)

    def column(name: str) -> Column:
        return Column(short(name, names), _numeric(comparison, name), name)

    rows = []
    for number, run in enumerate(comparison.runs, 1):
        values = comparison.options[run]
        cells = [Cell(str(number), number), Cell(state(run))]
        cells += [cell(values, name) for name in first]
        cells += [_metric(run.metrics.get(name), numbers[name]) for name in metrics]
        cells += [*(cell(values, name) for name in rest), Cell(run.folder.name)]
        words = [state(run), str(run.folder)]
        words += [f"{name}={text(values[name])}" for name in names if name in values]
        rows.append(Row(cells, number, " ".join(words).lower()))
    columns = [Column("run", True), Column("state", False)]
    columns += [column(name) for name in first]
    columns += [Column(heading, True, f"{n}: {said}") for n, (heading, said) in metrics.items()]
    columns += [*(column(name) for name in rest), Column("folder", False)]
    return Table("Runs, what differs between them, and their last metrics", columns, rows)


def seeds(comparison: Comparison) -> Table | None:
    """One row a configuration: means over seeds; None where no two runs differ in seed only."""
    if all(len(group.counted) < 2 for group in comparison.configurations):
        return None
    metrics = shown_metrics(comparison)
    rows = []
    found = {
        name: [group.estimate(name) for group in comparison.configurations] for name in metrics
    }
    numbers = {
        name: _format(value for one in column if one for value in (one.mean, one.half))
        for name, column in found.items()
    }
    for place, group in enumerate(comparison.configurations):
        n = len(group.counted)
        which = ", ".join(text(run.config.get("seed")) for run in group.counted)
        note = "" if group.finished or not n else "unfinished"
        cells = [Cell(group.label, None, note), Cell(str(n), n, f"seed {which}" if n else "")]
        for name in metrics:
            one = found[name][place]
            if one is None:
                cells.append(Cell(NONE))
                continue
            places = numbers[name]
            half = "n = 1" if one.half is None else f"± {fixed(one.half, places)}"
            half += f" (n = {one.n})" if one.n not in (1, n) else ""
            cells.append(Cell(fixed(one.mean, places), one.mean, half))
        rows.append(Row(cells))
    columns = [Column("configuration", False), Column("n", True, "seeds that count")]
    columns += [Column(heading, True, f"{n}: {said}") for n, (heading, said) in metrics.items()]
    return Table("Mean over seeds, and half the width of its 95% interval", columns, rows)


def pairs(comparison: Comparison, found: Mapping[Run, Diagnostics]) -> Table:
    """One row a run whose last evaluation can be read: displacement, margins, length."""
    margins = _format(value for one in found.values() for value in one.margin or ())
    rows = []
    for number, run in enumerate(comparison.runs, 1):
        if (one := found.get(run)) is None:
            continue
        cells = [
            Cell(str(number), number),
            Cell(comparison.label(run)),
            Cell(f"{one.pairs:,}", one.pairs, f"step {one.step:,}"),
            _share(one.below_start),
            *[_metric(value, margins) for value in one.margin or (None, None, None)],
            _share(one.saturated),
            _metric(one.length_correlation, 2),
            *[_side(one.accuracy.get(side)) for side in ("chosen", "rejected", "neither")],
        ]
        rows.append(Row(cells, number))
    columns = [
        Column("run"),
        Column("what differs", False),
        Column("pairs", True, "held-out pairs, and the step of the evaluation"),
        Column(
            "below start", True, "share of chosen answers less likely than at the start (displaced)"
        ),
        Column("margin 5%", True, "5th percentile of the implicit reward margin"),
        Column("median", True, "of the implicit reward margin"),
        Column("95%", True, "95th percentile of the implicit reward margin"),
        Column(
            "saturated", True, "share of pairs whose weight in DPO, sigmoid(−margin), is below 0.1"
        ),
        Column(
            "length corr.", True, "correlation of margin with tokens of chosen minus of rejected"
        ),
        Column("acc., chosen longer", True, "accuracy where the chosen answer has more tokens"),
        Column("rejected longer", True, "accuracy where the rejected answer has more tokens"),
        Column("same length", True, "accuracy where both have as many"),
    ]
    return Table("Held-out pairs of each run's last evaluation", columns, rows)


def _option(value: object) -> Cell:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(text(value), float(value) if number else None)  # type: ignore[arg-type]


def _numeric(comparison: Comparison, name: str) -> bool:
    values = [group.values[name] for group in comparison.configurations if name in group.values]
    return name == "seed" or all(_option(value).value is not None for value in values)


def _metric(value: float | None, places: int) -> Cell:
    return Cell(NONE) if value is None else Cell(fixed(value, places), value)


def _share(value: float | None) -> Cell:
    return Cell(NONE) if value is None else Cell(f"{100 * value:.0f}%", value)


def _side(share: Share | None) -> Cell:
    if share is None or share.value is None:
        return Cell(NONE)
    return Cell(f"{100 * share.value:.0f}%", share.value, some(share.pairs, "pair"))


def _format(values: Iterable[float | None]) -> int:
    return decimals([value for value in values if value is not None])
