"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dpo_lab.launchers.job import Job, last_line, told

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

SHOWN = {"loss": "loss", "accuracy": "rewards/accuracies", "margin": "rewards/margins"}
STYLES = {
    "running": "bold",
    "done": "green",
    "finished": "green dim",
    "pruned": "cyan",
    "failed": "red",
    "in use": "red",
    "stopped": "yellow",
    "waiting": "dim",
}
# who is shown first where there are more jobs than lines
_ORDER = ["failed", "in use", "stopped", "running", "done", "pruned", "waiting", "finished"]


class Tail:
    """A run's `metrics.jsonl`, read as it grows. It is at `step` of `steps` (None: not known).

    `evaluations`: by step.
    """

    def __init__(self, folder: Path, since: float):
        self.folder = folder
        self.since = since
        self.step = 0
        self.steps: int | None = None
        self.values: dict[str, float] = {}
        self.evaluations: dict[int, dict[str, Any]] = {}
        self._offset = 0
        self._first: tuple[int, float] | None = None
        self._last = (0, since)

    def read(self) -> None:
        """Take in what was written since the last call."""
        if self.steps is None:
            self.steps = told(self.folder / "status.json").get("steps")
        try:
            with (self.folder / "metrics.jsonl").open("rb") as file:
                if file.seek(0, 2) < self._offset:  # cut back to a checkpoint
                    self._offset = 0
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return
        if whole:
            self._offset += len(whole) + 1
            for line in whole.split(b"\n"):
                self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        self.step = event["step"]
        if event["event"] == "eval":
            self.evaluations[event["step"]] = event
        for name, metric in SHOWN.items():
            for part in ("train", "eval"):
                if f"{part}/{metric}" in event:
                    self.values[name] = event[f"{part}/{metric}"]
        if event["time"] >= self.since:  # not of an earlier process
            self._first = self._first or (event["step"], event["time"])
            self._last = event["step"], event["time"]

    def left(self) -> float | None:
        """Seconds until the run is done, at the speed so far."""
        if self._first is None or self.steps is None or self._last[0] == self._first[0]:
            return None
        speed = (self._last[0] - self._first[0]) / max(self._last[1] - self._first[1], 1e-3)
        return max(0.0, (self.steps - self._last[0]) / speed - (time.time() - self._last[1]))


class View:
    """Shows the jobs of a sweep, on standard error. Use as a context.

    - `jobs`: those known so far; `most`: how many there may be, where that list grows.
    """

    def __init__(self, jobs: Sequence[Job], live: bool | None = None, most: int = 0):
        self.jobs = jobs
        self.most = most
        self.wanted = sys.stderr.isatty() if live is None else live
        self.live: Live | None = None
        self.tails: dict[int, Tail] = {}
        self.drawn = 0.0
        self.began = time.time()

    def __enter__(self) -> View:
        if self.wanted:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=False)
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live is not None:
            self.live.update(self.table(len(self.jobs)), refresh=True)
            self.live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        if self.live is not None:
            self.live.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def started(self, job: Job) -> None:
        """A job has begun."""
        self.tails[job.number] = Tail(job.folder, job.began)
        if self.live is None:
            self.say(f"{self._place(job)} begins   {job.label}")

    def ended(self, job: Job) -> None:
        """A job has ended, or will not begin."""
        tail = self.tails.get(job.number)
        if tail is not None:
            tail.read()
        if self.live is not None:
            return
        if job.state != "done" or tail is None:
            self.say(f"{self._place(job)} {job.state:<8} {job.label}  {job.reason}".rstrip())
            return
        values = "  ".join(f"{name} {value:.4f}" for name, value in tail.values.items())
        self.say(
            f"{self._place(job)} done     {job.label}  {job.ended - job.began:.1f} s  {values}"
        )

    def tick(self) -> None:
        """Draw again, four times a second at most."""
        if self.live is not None and time.monotonic() > self.drawn + 0.25:
            for job in self.jobs:
                if job.state == "running" and job.number in self.tails:
                    self.tails[job.number].read()
            room = max(3, self.live.console.height - 4)
            self.live.update(self.table(room), refresh=True)
            self.drawn = time.monotonic()

    def table(self, room: int) -> Group:
        """One line a job, `room` of them at most, and the total."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, expand=True)
        for name in ("", "job", "state", "step", *SHOWN, "left"):
            text = name in ("", "job", "state")
            table.add_column(
                name,
                justify="left" if text else "right",
                ratio=1 if name == "job" else None,  # whatever room the others leave
                no_wrap=True,
            )
        chosen = sorted(self.jobs, key=lambda job: (_ORDER.index(job.state), job.number))[:room]
        for job in sorted(chosen, key=lambda job: job.number):
            table.add_row(*self._row(job), style=STYLES[job.state])
        hidden = len(self.jobs) - len(chosen)
        total = self._total() + (f"; {hidden} not shown" if hidden else "")
        return Group(table, Text(total, style="bold"))

    def _row(self, job: Job) -> list[str]:
        tail = self.tails.get(job.number)
        number = str(job.number)
        if tail is None:
            return [number, job.label, job.state]
        step = f"{tail.step}/{tail.steps or '?'}" if tail.values else ""
        values = [f"{tail.values[name]:.4f}" if name in tail.values else "" for name in SHOWN]
        text = job.label
        if job.state == "running" and not tail.values:
            text += "  " + last_line(job.folder / "train.log")[9:]
        elif job.reason:
            text += "  " + job.reason
        left = tail.left() if job.state == "running" else None
        took = f"took {clock(job.ended - job.began)}" if job.ended else clock(left)
        return [number, text, job.state, step, *values, took]

    def _total(self) -> str:
        counts = {state: 0 for state in _ORDER}
        for job in self.jobs:
            counts[job.state] += 1
        over = counts["done"] + counts["finished"]
        parts = [f"{over} of {self._most()} done"]
        parts += [
            f"{counts[state]} {state}"
            for state in ("running", "waiting", "pruned", "failed", "stopped", "in use")
            if counts[state]
        ]
        left = self._left(counts["waiting"] + self._most() - len(self.jobs))
        return ", ".join(parts) + (f"; {clock(left)} left" if left is not None else "")

    def _left(self, waiting: int) -> float | None:
        """Seconds until all is done: what runs, and what waits at the speed of what is done."""
        running = [job for job in self.jobs if job.state == "running"]
        lefts = [self.tails[job.number].left() for job in running if job.number in self.tails]
        ended = [job for job in self.jobs if job.state in ("done", "pruned") and job.began]
        took = [job.ended - job.began for job in ended]
        if not running or None in lefts or (waiting and not took):
            return None
        seconds = sum(left for left in lefts if left is not None)
        return (seconds + waiting * (sum(took) / len(took) if took else 0.0)) / len(running)

    def _place(self, job: Job) -> str:
        most = str(self._most())
        return f"[{job.number:>{len(most)}}/{most}]"

    def _most(self) -> int:
        return max(self.most, len(self.jobs))


def clock(seconds: float | None) -> str:
    """`1:02:03` or `2:03`; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
