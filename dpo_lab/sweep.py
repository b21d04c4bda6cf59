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

from dpo_lab.compose import compose
from dpo_lab.jobs import Desk, claim, make_parent
from dpo_lab.launchers.job import Job, Launcher, told
from dpo_lab.live import View, clock
from dpo_lab.options import bind
from dpo_lab.signals import STATUS, noted
from dpo_lab.sweepers.grid import Grid
from dpo_lab.sweepers.space import first
from dpo_lab.sweepers.sweeper import Sweeper

# what the summary says of the shared work: counter of the cache -> words
_COUNTED = {
    "rows_tokenised": "rows tokenised",
    "starts_trained": "starts trained",
    "reference_rows_computed": "reference rows computed",
}

# of a job with one of these states nothing is missing
ENDED_WELL = ("done", "finished", "pruned")


def sweep(overrides: Sequence[str], config_dir: str | None = None) -> int:
    """Do every missing run of a sweep and say what became of all.

    Returns the exit status: 0 where every run is done, 1 where one is not, 130 or 143 on a signal.
    Raises `Refused` for config or data that are not acceptable, before anything is started.
    """
    began, desk = time.time(), Desk()
    sweeper = bind(compose(first(overrides, config_dir), config_dir).nodes["sweeper"])
    return _conduct(sweeper(overrides, config_dir, desk), desk, began)


def complete(typed: Sequence[Job], desk: Desk) -> int:
    """Do every missing one of these jobs and say what became of all; as `sweep`.

    Afterwards each of `typed` has its identity, and the first of each identity its folder.
    """
    began = time.time()
    jobs = desk.identify(typed)
    return _conduct(Grid(jobs, len(typed) - len(jobs)), desk, began)


def _conduct(sweeper: Sweeper, desk: Desk, began: float) -> int:
    """Do what is missing of a sweep, print what came of it, and return the exit status."""
    pressed: list[signal.Signals] = []
    with closing(sweeper):
        if sweeper.ready:
            pressed = _run(sweeper, desk)
        if sweeper.jobs:
            print(summary(sweeper.jobs, sweeper.same, desk.counts, time.time() - began))
        for line in sweeper.words():
            print(line)
    if pressed:
        return STATUS[pressed[0]]
    return int(any(job.state not in ENDED_WELL for job in sweeper.jobs))


def _run(sweeper: Sweeper, desk: Desk) -> list[signal.Signals]:
    """Do the missing jobs; returns the signals that came meanwhile."""
    config = sweeper.ready[0].config
    for job in sweeper.ready:
        make_parent(job.config)
    launcher: Launcher = bind(config.nodes["launcher"])(config, sweeper.most)
    with closing(launcher), View(sweeper.jobs, most=sweeper.most) as view:
        desk.encode(sweeper.ready)  # while the launcher warms up
        with noted() as pressed:
            drive(sweeper, launcher, view, pressed)
    return pressed


def drive(
    sweeper: Sweeper, launcher: Launcher, view: View, pressed: Sequence[signal.Signals]
) -> None:
    """Start jobs as the launcher has room for them, until all have ended or a signal came."""
    stopping = False
    while True:
        if pressed and not stopping:
            stopping = True
            view.say(f"{pressed[0].name}: the jobs save and end; Ctrl-C (again) ends them now")
            for job in launcher.running():
                launcher.stop(job, f"the sweep was ended by {pressed[0].name}")
        now = [] if stopping else sweeper.more(launcher.free())
        if not now and not launcher.running():
            return
        ready = []
        for job in now:
            if job.state == "waiting" and claim(job):
                ready.append(job)
            else:
                sweeper.ended(job)
                view.ended(job)
        if ready:
            launcher.start(ready)
        for job in ready:
            view.started(job)
        for job in launcher.poll(0.1):
            sweeper.ended(job)
            view.ended(job)
        for job, reason in [] if stopping else sweeper.unwanted():
            launcher.stop(job, reason)
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
            counts.update(told(job.folder / "record.json").get("cache", {}))
    words = {
        "finished": "were done before",
        "done": "done now",
        "pruned": "pruned",
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
    if any(job.state not in ENDED_WELL for job in jobs):
        lines.append("the same command again runs what is missing")
    return "\n".join(lines)
