"""experiments/README.md: every experiment with its picture and verdict, from what was found.

`dpo-lab reproduce --gallery` takes the newest findings from the outputs, keeps a small picture and
the numbers of the verdict beside the experiments, and writes the page from those alone.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpo_lab import experiment as experiments
from dpo_lab.compose import compose
from dpo_lab.errors import Refused
from dpo_lab.live import clock

WIDE = 660  # pixels of a small picture

_HEAD = """\
# What was found

Written by `dpo-lab reproduce --gallery` from finished runs; change an experiment, not this page.
Where no data are named, a claim is tested in the built-in world, whose rewards, KL and optima are
exact, with a small network: that a claim holds or fails here says what the losses do, not what a
large model would. A verdict of the quick form, or of fewer than five seeds, is an indication.

| experiment | claim | verdict | runs, about how long on one core |
|---|---|---|---|
"""


def gallery(overrides: Sequence[str] = (), config_dir: str | None = None) -> Path:
    """Write README.md and `gallery/` of the experiments' folder; returns the path of the page.

    Raises `Refused` where that folder is part of an installed package.
    """
    place = experiments.experiments_dir()
    if config_dir is not None and (Path(config_dir) / "experiments").is_dir():
        place = Path(config_dir) / "experiments"
    if place.parent == Path(__file__).resolve().parent:
        raise Refused(
            f"{place} belongs to the installed lab; make the gallery in a checkout, or of your own "
            "experiments with --config-dir DIR"
        )
    outputs = Path(compose(overrides, config_dir).outputs_dir).expanduser()
    found = [
        (experiments.load(path.stem, config_dir), kept(path.stem, outputs, place / "gallery"))
        for path in sorted(place.glob("*.yaml"))
    ]
    page = place / "README.md"
    page.write_text(render(found), encoding="utf-8")
    return page


def kept(name: str, outputs: Path, folder: Path) -> dict[str, Any] | None:
    """The finding of one experiment, its picture made small; None where there is none yet.

    One of the full form counts more than one of the quick form, and one with overrides of the
    user's does not count at all.
    """
    for stem in (outputs / name / name, outputs / name / f"{name}-quick"):
        try:
            found = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if found["overrides"]:
            continue
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.png").write_bytes(small(stem.with_suffix(".png")))
        shutil.copy(stem.with_suffix(".json"), folder / f"{name}.json")
        return found
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def small(picture: Path) -> bytes:
    """A picture of at most `WIDE` pixels and 64 colours."""
    from PIL import Image

    with Image.open(picture) as image:
        image = image.convert("RGB")
        if image.width > WIDE:
            size = WIDE, round(image.height * WIDE / image.width)
            image = image.resize(size, Image.Resampling.LANCZOS)
        target = io.BytesIO()
        image.quantize(64).save(target, "png", optimize=True)
    return target.getvalue()


def render(found: Sequence[tuple[experiments.Experiment, dict[str, Any] | None]]) -> str:
    """The page."""
    rows, parts = [], []
    for one, finding in found:
        verdict = "not run yet" if finding is None else finding["verdict"]
        runs = 0 if finding is None else finding["runs"]
        cost = f"{runs}, {clock(runs * one.seconds)}" if runs else "none"
        link = f"[{one.name}](#{one.name})"
        said = finding or {"claim": one.claim}
        rows.append(f"| {link} | {_line(said['claim'])} | {verdict} | {cost} |")
        if finding is None:
            continue
        command = f"dpo-lab reproduce {one.name}"
        command += " --quick" if finding["form"] == "quick" else ""
        checks = [
            f"- {'yes' if check['holds'] else '**no**'}: {_line(check['expected'])}: "
            f"{_line(check['came'])}"
            for check in finding["checks"]
        ]
        parts += [
            f"## {one.name}",
            f"{one.title}. {one.paper}, {one.figure}.",
            f"![{_line(' '.join(finding['alt']))}](gallery/{one.name}.png)",
            f"**{finding['verdict'].capitalize()}**, in the {finding['form']} form. "
            f"{_line(finding['came'])}",
            f"Expected: {_line(finding['expect'])}",
            "\n".join(checks),
            f"`{command}`",
        ]
    return _HEAD + "\n".join(rows) + "\n\n" + "\n\n".join(parts) + "\n"


def _line(text: str) -> str:
    return re.sub(r"([|*_])", r"\\\1", " ".join(text.split()))
