"""A sweep: many runs, of which only those are done that are missing.

All jobs are composed and checked, and all data read, before the first begins. A job that fails
leaves the others alone. The same command again does what is still missing, and nothing else.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

from dpo_lab.folder import read_json
from dpo_lab.jobs import Desk, claim, expand
from dpo_lab.launchers.job import Job, Launcher
from dpo_lab.live import View, clock
from dpo_lab.options import bind
from dpo_lab.signals import STATUS, noted

# what the summary says of the shared work: counter of the cache -> words
_COUNTED = {
    "rows_tokenised": "rows tokenised",
    "starts_trained": "starts trained",
    "reference_rows_computed": "reference rows computed",
}


def sweep(overrides: Sequence[str], config_dir: str | None = None) -> int:
    """Do every missing run of a sweep and say what became of all.

    Returns the exit status: 0 where every run is done, 1 where one is not, 130 or 143 on a signal.
    Raises `Refused` for config or data that are not acceptable, before anything is started.
    """
    return complete(expand(overrides, config_dir), Desk())


def complete(typed: Sequence[Job], desk: Desk) -> int:
    """Do every missing one of these jobs and say what became of all; as `sweep`.

    Afterwards each of `typed` has its identity, and the first of each identity its folder.
    """
    began = time.time()
    jobs = desk.identify(typed)
    missing = [job for job in jobs if job.state == "waiting"]
    pressed: list[signal.Signals] = []
    if missing:
        pressed = _run(jobs, missing, desk)
    print(summary(jobs, len(typed) - len(jobs), desk.counts, time.time() - began))
    if pressed:
        return STATUS[pressed[0]]
    return int(any(job.state not in ("done", "finished") for job in jobs))


def _run(jobs: Sequence[Job], missing: Sequence[Job], desk: Desk) -> list[signal.Signals]:
    """Do the missing jobs; returns the signals that came meanwhile."""
    first = missing[0].config
    launcher: Launcher = bind(first.nodes["launcher"])(first, len(jobs))
    with closing(launcher), View(jobs) as view:
        desk.encode(missing)  # while the launcher warms up
        with noted() as pressed:
            drive(missing, launcher, view, pressed)
    return pressed


def drive(
    missing: Sequence[Job], launcher: Launcher, view: View, pressed: Sequence[signal.Signals]
) -> None:
    """Start jobs as the launcher has room for them, until all have ended or a signal came."""
    waiting = list(missing)
    stopping = False
    while waiting or launcher.running():
        if pressed and not stopping:
            stopping = True
            waiting.clear()
            view.say(f"{pressed[0].name}: the jobs save and end; once more ends them now")
            for job in launcher.running():
                launcher.stop(job, f"the sweep was ended by {pressed[0].name}")
        now, waiting = waiting[: launcher.free()], waiting[launcher.free() :]
        ready = []
        for job in now:
            if claim(job):
                ready.append(job)
            else:
                view.ended(job)
        if ready:
            launcher.start(ready)
        for job in ready:
            view.started(job)
        for job in launcher.poll(0.1):
            view.ended(job)
        view.tick()


def summary(jobs: Sequence[Job], same: int, encoded: dict[str, int], seconds: float) -> str:
    """What became of the jobs, what was computed for them, and which failed and why.

    - `same`: how many more were typed that are the same runs.
    - `encoded`: what the sweep itself had to tokenise.
    """
    states = Counter[str](job.state for job in jobs)
    counts = Counter(encoded)
    for job in jobs:
        if job.began:
            counts.update(read_json(job.folder / "record.json").get("cache", {}))
    words = {
        "finished": "were done before",
        "done": "done now",
        "failed": "failed",
        "in use": "in use by another process",
        "stopped": "stopped",
        "waiting": "not begun",
    }
    parts = [f"{states[state]} {text}" for state, text in words.items() if states[state]]
    lines = [f"{len(jobs)} runs in {clock(seconds)}: {', '.join(parts)}"]
    if same:
        lines[0] += f" ({same} more are the same runs)"
    if any(job.began for job in jobs):
        lines.append(", ".join(f"{counts[name]} {text}" for name, text in _COUNTED.items()))
    folders = sorted({str(job.folder.parent) for job in jobs})
    lines.append("\n".join(f"{folder}/" for folder in folders))
    for state in ("failed", "in use"):
        for job in jobs:
            if job.state == state:
                lines.append(f"{state}: {job.label}\n  {job.reason}\n  {job.folder}/")
    if any(job.state not in ("done", "finished") for job in jobs):
        lines.append("the same command again runs what is missing")
    return "\n".join(lines)
