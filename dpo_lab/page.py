"""The report as a page: what `page.html` says about a comparison. Opens offline."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

from dpo_lab import tables
from dpo_lab.comparison import Comparison, Configuration
from dpo_lab.diagnostics import Diagnostics
from dpo_lab.drawing import Panel, Style, svg
from dpo_lab.printing import decimals, fixed, some, text
from dpo_lab.results import Run

# the markers of the figures, as paths for the key, in a box from -6 to 6
_MARKS = {
    "o": "M-5,0A5,5 0 1 1 5,0A5,5 0 1 1 -5,0Z",
    "s": "M-4.5,-4.5H4.5V4.5H-4.5Z",
    "D": "M0,-6L6,0L0,6L-6,0Z",
    "^": "M0,-5.5L5.5,5H-5.5Z",
    "v": "M0,5.5L5.5,-5H-5.5Z",
    "P": "M-2,-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "X": "M-5.5,-3L-3,-5.5L0,-2.5L3,-5.5L5.5,-3L2.5,0L5.5,3L3,5.5L0,2.5L-3,5.5L-5.5,3L-2.5,0Z",
}


class Image(NamedTuple):
    """A picture inside the page; sizes in CSS pixels."""

    source: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Figures:
    """The panels of each section; an empty list is a section that is not there."""

    curves: list[Panel]
    heatmaps: list[Panel]
    tradeoff: list[Panel]
    spreads: list[Panel]
    more_heatmaps: int = 0
    more_pairs: int = 0
    frontiers: int = 0


def render(
    title: str,
    comparison: Comparison,
    look: Mapping[Configuration, Style],
    found: Mapping[Run, Diagnostics],
    figures: Figures,
) -> str:
    """The whole page. Every value is escaped; a policy in the page forbids any request."""
    import jinja2
    from markupsafe import Markup

    files = resources.files("dpo_lab")
    template, style, script = (
        (files / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    pairs = tables.pairs(comparison, found) if found else None
    drawn = {
        "curves": [_image(panel) for panel in figures.curves],
        "heatmaps": [_image(panel) for panel in figures.heatmaps],
        "tradeoff": [_image(panel) for panel in figures.tradeoff],
        "spreads": [_image(panel) for panel in figures.spreads],
    }
    return environment.from_string(template).render(
        title=title,
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
        sections=_sections(drawn, bool(pairs)),
        headline=headline(comparison.runs),
        best=_best(comparison),
        differing=_differing(comparison),
        shared=_shared(comparison),
        runs=tables.runs(comparison),
        seeds=tables.seeds(comparison),
        unfinished=not all(group.finished for group in comparison.configurations),
        repeats=some(comparison.repeats, "repeat") if comparison.repeats else "",
        entries=[
            {"label": group.label, "colour": style.colour, "mark": _MARKS[style.marker]}
            for group, style in look.items()
            if style.named
        ],
        others=sum(not style.named for style in look.values()),
        metric=comparison.metric,
        direction=_direction(comparison),
        more_heatmaps=some(figures.more_heatmaps, "more") if figures.more_heatmaps else "",
        more_pairs=figures.more_pairs,
        frontiers=figures.frontiers,
        pairs=pairs,
        problems=[
            {
                "number": number,
                "label": comparison.label(run),
                "state": tables.state(run),
                "reason": run.reason or _unexplained(run),
            }
            for number, run in enumerate(comparison.runs, 1)
            if run.reason or run.state != "done"
        ],
        commands=[
            {
                "number": number,
                "label": comparison.label(run),
                "folder": str(run.folder),
                "command": command(run),
            }
            for number, run in enumerate(comparison.runs, 1)
        ],
        places=" or ".join(_places(comparison.runs)),
        uploads=uploads(comparison.runs),
        provenance=provenance(comparison.runs),
        **drawn,
    )


def headline(runs: Sequence[Run]) -> str:
    """`12 runs: 10 finished, 1 failed, 1 running`."""
    counts = Counter(map(tables.state, runs))
    order = ("finished", "failed", "running", "stopped", "damaged")
    said = ", ".join(f"{counts[name]} {name}" for name in order if counts[name])
    return f"{some(len(runs), 'run')}: {said}"


def command(run: Run) -> str:
    """What one types to make this run again, quoted for a shell; empty where no record tells."""
    if not run.record:
        return ""
    words = ["dpo-lab", *run.overrides]
    if folder := run.record.get("config_dir"):
        words += ["--config-dir", str(folder)]
    return shlex.join(words)


def uploads(runs: Sequence[Run]) -> list[str]:
    """One command for each folder of runs with offline W&B folders in them."""
    offline = [run for run in runs if any(run.folder.glob("wandb/offline-run-*"))]
    parents = sorted({str(run.folder.parent) for run in offline})
    return [f"wandb sync {shlex.quote(parent)}/*/wandb/offline-run-*" for parent in parents]


def provenance(runs: Sequence[Run]) -> str:
    """Which versions made these runs, and when; several of each where they differ."""
    said = []
    records = [run.record for run in runs]
    packages = [_node(record, "packages") for record in records]
    gits = [_node(record, "git") for record in records]
    commits = [
        f"{str(git['commit'])[:9]}{' with changes' if git.get('changed') else ''}"
        for git in gits
        if git.get("commit")
    ]
    for name, values in {
        "dpo_lab": [record.get("dpo_lab") for record in records],
        "torch": [package.get("torch") for package in packages],
        "commit": commits,
        "on": [record.get("platform") for record in records],
    }.items():
        if distinct := sorted({str(value) for value in values if value}):
            said.append(f"{name} {', '.join(distinct)}")
    return "Made with " + "; ".join(said) if said else ""


def _sections(drawn: dict[str, list[Image]], pairs: bool) -> dict[str, str]:
    every = {
        "summary": ("Summary", True),
        "runs": ("Runs", True),
        "seeds": ("Mean over seeds", True),
        "curves": ("Curves", drawn["curves"]),
        "heatmap": ("Heat-map", drawn["heatmaps"]),
        "tradeoff": ("Reward against KL", drawn["tradeoff"]),
        "pairs": ("Length and displacement", pairs),
        "problems": ("Failed, unfinished or damaged", True),
        "commands": ("Commands", True),
    }
    return {name: heading for name, (heading, there) in every.items() if there}


def _best(comparison: Comparison) -> dict[str, Any] | None:
    run, metric = comparison.best, comparison.metric
    if run is None or metric is None:
        return None
    own = comparison.configuration(run)
    assert own is not None
    value = run.metrics[metric]
    places = decimals([value])
    said = ""
    mean = own.estimate(metric)
    if mean is not None and mean.half is not None:
        said = (
            f"Over its {mean.n} seeds: {fixed(mean.mean, places)} ± {fixed(mean.half, places)} "
            "(95% interval of the mean)."
        )
        first = comparison.ranked[0]
        if first is not own and len(first.counted) > 1:
            said += f" By the mean over seeds, {first.label} is the best."
    return {
        "value": fixed(value, places),
        "metric": metric,
        "direction": _direction(comparison),
        "number": comparison.runs.index(run) + 1,
        "label": comparison.label(run),
        "finished": run.state == "done",
        "seeds": said,
        "command": command(run),
    }


def _direction(comparison: Comparison) -> str:
    return "lower is better" if comparison.lower else "higher is better"


def _differing(comparison: Comparison) -> dict[str, str]:
    """Every option that differs and its values, in order, with the number of runs of each."""
    held = [comparison.options[run] for run in comparison.runs if run.config]
    found = {}
    for name in comparison.differing:
        counts = Counter(text(values[name]) if name in values else tables.NONE for values in held)
        known = [f"{value} ({count})" for value, count in counts.items()]
        more = f", and {len(known) - 12} more" if len(known) > 12 else ""
        found[name] = ", ".join(known[:12]) + more
    return found


def _shared(comparison: Comparison) -> list[str]:
    """What was chosen or typed for all runs alike, as one types it."""
    known = [run for run in comparison.runs if run.config]
    if not known:
        return []
    typed = {word.lstrip("+~").partition("=")[0] for run in known for word in run.overrides}
    return [
        f"{name}={text(value)}"
        for name, value in comparison.options[known[0]].items()
        if (name in typed or name in known[0].choices)
        and all(comparison.options[run].get(name) == value for run in known)
    ]


def _unexplained(run: Run) -> str:
    if run.state == "running":
        step = max((event["step"] for event in run.events), default=0)
        return f"at work, step {step:,}"
    return "no reason was written down"


def _places(runs: Sequence[Run]) -> list[str]:
    return sorted({str(run.record["cwd"]) for run in runs if run.record.get("cwd")})


def _image(panel: Panel) -> Image:
    source = "data:image/svg+xml;base64," + base64.b64encode(svg(panel)).decode()
    return Image(source, panel.alt, round(100 * panel.width), round(100 * panel.height))


def _digest(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _node(record: dict[str, Any], name: str) -> dict[str, Any]:
    found = record.get(name)
    return found if isinstance(found, dict) else {}
