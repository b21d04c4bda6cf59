"""`dpo-lab report`: run folders -> report.html, runs.csv and figures. Reads nothing else."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from dpo_lab import bands, charts, drawing, page
from dpo_lab.comparison import Comparison, compare
from dpo_lab.diagnostics import diagnose
from dpo_lab.errors import Refused
from dpo_lab.grid import grids
from dpo_lab.printing import text
from dpo_lab.results import Run, find

_FIGURES = ("curves", "heatmap", "tradeoff", "pairs")


def report(folders: Sequence[Path], out: Path | None = None, metric: str | None = None) -> Path:
    """Write `report.html`, `runs.csv` and `figures/` and return the path of the page.

    - `folders`: run folders, folders of runs, or folders of those, in any mixture.
    - `out`: where to write; None: into the folder, or into `report` where several are given.
    - `metric`: what ranks the runs; None: `world/optimal_share`, else the held-out accuracy.

    Unfinished, failed and damaged runs are part of the report, with the reason. Raises `Refused`
    where there is no run, no such metric, or no way to write.
    """
    runs = gather(folders)
    comparison = compare(runs, metric)
    place = out or (folders[0] if len(folders) == 1 else Path("report"))
    place = place.expanduser()
    if place.suffix == ".html" or place.is_file():
        raise Refused(
            f"out={place}: expected a folder, which report.html, runs.csv and figures go to"
        )
    try:
        (place / "figures").mkdir(parents=True, exist_ok=True)
        title = ", ".join(dict.fromkeys(folder.resolve().name for folder in folders))
        content = _drawn(title, comparison, place / "figures")
        _write_csv(comparison, place / "runs.csv")
        (place / "report.html").write_text(content, encoding="utf-8")
    except OSError as error:
        raise Refused(f"cannot write to {place}: {error.strerror}") from None
    return place / "report.html"


def gather(folders: Sequence[Path]) -> list[Run]:
    """Every run at or below some folders, each once. Raises `Refused` where there is none."""
    if not folders:
        raise Refused("report needs a folder with runs in it\ntype dpo-lab report outputs")
    found = {run.folder.resolve(): run for folder in reversed(folders) for run in find(folder)}
    if not found:
        raise Refused(
            f"there is no run in {', '.join(map(str, folders))}; a run has a status.json\n"
            "type dpo-lab report outputs, or make a run first: dpo-lab loss.beta=0.5"
        )
    return sorted(found.values(), key=lambda run: run.folder)


def _drawn(title: str, comparison: Comparison, folder: Path) -> str:
    """Save the figures and return the page."""
    look = bands.styles(comparison)
    found = {run: one for run in comparison.runs if (one := diagnose(run)) is not None}
    rows = [
        (group, [found[run] for run in group.counted if run in found])
        for group in comparison.settled
    ]
    rows = [(group, ones) for group, ones in rows if any(one.margin for one in ones)]
    cells = grids(comparison)
    tradeoff = charts.tradeoff(comparison, look)
    figures = page.Figures(
        curves=bands.panels(comparison),
        heatmaps=charts.heatmaps(cells, comparison.metric or "", comparison.lower),
        tradeoff=[tradeoff] if tradeoff else [],
        spreads=charts.spreads(rows),
        more_heatmaps=max(0, len(cells) - charts.MOST_GRIDS),
        more_pairs=max(0, len(rows) - charts.MOST_ROWS),
        frontiers=len(charts.frontiers([run for group in look for run in group.counted])),
    )
    for name in _FIGURES:  # what an earlier report drew may not be there any more
        for kind in ("png", "svg"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    if figures.curves:
        key = bands.legend(look)
        shown = [*figures.curves[:2], key, *figures.curves[2:]]
        drawing.save(drawing.together(shown, 3), folder / "curves")
    if figures.heatmaps:
        drawing.save(drawing.together(figures.heatmaps, 3), folder / "heatmap")
    if tradeoff:
        key = bands.legend(look, lines=False)
        drawing.save(drawing.together([tradeoff, key], 2), folder / "tradeoff")
    if figures.spreads:
        drawing.save(drawing.together(figures.spreads, 3), folder / "pairs")
    return page.render(title, comparison, look, found, figures)


def _write_csv(comparison: Comparison, path: Path) -> None:
    """One row a run: what differs, choices, state, last metrics, folder."""
    names = comparison.differing
    choices = {name: None for run in comparison.runs for name in run.choices if name not in names}
    metrics = {name: None for run in comparison.runs for name in run.metrics}
    with path.open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow([*names, *choices, "state", "reason", *metrics, "folder"])
        for run in comparison.runs:
            values = comparison.options[run]
            rows.writerow(
                [
                    *(text(values[name]) if name in values else "" for name in names),
                    *(run.choices.get(name, "") for name in choices),
                    run.state,
                    run.reason,
                    *(run.metrics.get(name, "") for name in metrics),
                    run.folder,
                ]
            )
