"""What an experiment found, and how it is kept: figure, numbers and verdict."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpo_lab import __version__
from dpo_lab.drawing import Panel, save, together
from dpo_lab.evidence import SEEDS, Check
from dpo_lab.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Finding:
    """What `figure(runs)` of an experiment returns.

    - `panels`: the figure, `columns` beside each other.
    - `rows`: its numbers, one row a point, as they go into the CSV.
    - `checks`: the claim, taken apart; it holds where all of them do.
    - `came`: in a sentence or two.
    - `page`: a self-contained HTML page that belongs to it, or nothing.
    """

    panels: Sequence[Panel]
    rows: Sequence[Mapping[str, Any]]
    checks: Sequence[Check]
    came: str
    columns: int = 2
    page: str = ""

    @property
    def holds(self) -> bool:
        """Whether every part of the claim holds."""
        return all(check.holds for check in self.checks)

    @property
    def verdict(self) -> str:
        """`holds` or `does not hold`; an indication where a part stands on too few seeds."""
        word = "holds" if self.holds else "does not hold"
        few = [check.seeds for check in self.checks if check.seeds is not None]
        if few and min(few) < SEEDS:
            word += f" (an indication: {min(few)} of {SEEDS} seeds)"
        return word


def write(finding: Finding, experiment: Experiment, stem: Path, about: dict[str, Any]) -> list[str]:
    """Write STEM.png, .svg, .csv and .json (and .html); returns their names.

    - `about`: the form of the experiment, the user's overrides and the number of runs.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    save(together(finding.panels, finding.columns), stem)
    with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as handle:
        columns = list(dict.fromkeys(name for row in finding.rows for name in row))
        rows = csv.DictWriter(handle, columns)
        rows.writeheader()
        rows.writerows(finding.rows)
    kept = {
        "name": experiment.name,
        **{
            name: getattr(experiment, name)
            for name in ("title", "paper", "figure", "claim", "expect", "seconds")
        },
        **about,
        "verdict": finding.verdict,
        "came": finding.came,
        "checks": [asdict(check) for check in finding.checks],
        "alt": [panel.alt for panel in finding.panels],
        "dpo_lab": __version__,
    }
    stem.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    kinds = ["png", "svg", "csv", "json"]
    if finding.page:
        stem.with_suffix(".html").write_text(finding.page, encoding="utf-8")
        kinds.append("html")
    return [f"{stem.name}.{kind}" for kind in kinds]


def told(finding: Finding, experiment: Experiment) -> str:
    """The claim, what was expected, what came and the verdict, as lines for a person."""
    lines = [
        f"claim     {experiment.claim.strip()}",
        f"expected  {experiment.expect.strip()}",
        f"came      {finding.came.strip()}",
    ]
    for check in finding.checks:
        mark = "yes" if check.holds else " no"
        lines.append(f"     {mark}  {check.expected}: {check.came}")
    return "\n".join([*lines, f"verdict   {finding.verdict}"])
