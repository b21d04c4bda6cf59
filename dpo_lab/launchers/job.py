"""A job of a sweep: one run, where it goes, and what became of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from dpo_lab.config import Config
from dpo_lab.errors import Refused
from dpo_lab.folder import RunFolder, read_json

# what the process of a job printed, on both streams; the lab's own lines are in train.log
PRINTED = "stderr.log"

State = Literal["waiting", "running", "done", "failed", "stopped", "finished", "in use"]


@dataclass(slots=True)
class Job:
    """One run of a sweep.

    - `number`: its place in the sweep, from 1; `label`: what differs from the others.
    - `state`: as in `status.json`, and besides: `waiting`; `finished` where it was done before the
      sweep came to it; `in use` where another process works in its folder.
    - `reason`: why it is not done.
    - `began`, `ended`: by the clock `time.time()`.
    """

    number: int
    label: str
    config: Config
    identity: str = ""
    folder: Path = Path()
    state: State = "waiting"
    reason: str = ""
    began: float = 0.0
    ended: float = 0.0


class Launcher(Protocol):
    """Runs jobs, each in a process of its own. An option of the group `launcher` returns one."""

    def free(self) -> int:
        """How many more jobs may be started now."""

    def start(self, jobs: Sequence[Job]) -> None:
        """Start these jobs, whose folders are there."""

    def running(self) -> list[Job]:
        """The jobs that were started and have not ended."""

    def poll(self, seconds: float) -> list[Job]:
        """The jobs that have ended since the last call; waits for one for at most `seconds`."""

    def stop(self, job: Job, reason: str) -> None:
        """Ask a job to save and end; where it does not, end it."""

    def close(self) -> None:
        """End at once whatever still runs."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a process needs to know to do a job.

    - `identity`: what the data had when the sweep looked at them.
    - `threads`: CPU threads where the config does not say.
    - `accelerator`: the only one it may see (`CUDA_VISIBLE_DEVICES`); None: all.
    - `memory_mb`: most address space, MiB; None: no limit.
    - `argv`, `path`: of the sweep, for the record and for the user's own modules.
    """

    number: int
    folder: Path
    config: Config
    identity: str
    threads: int | None = None
    accelerator: str | None = None
    memory_mb: int | None = None
    argv: list[str] = field(default_factory=list)
    path: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a job is called that did not end by itself."""

    state: Literal["failed", "stopped"]
    reason: str


def settle(job: Job, ending: str, pid: int | None, verdict: Verdict | None = None) -> None:
    """Find out what became of a job whose process has ended, and see that its folder says so.

    - `ending`: how the process ended, for one that could not say so itself.
    - `pid`: its number, to tell its words from those of an earlier process; None where any will do.
    - `verdict`: for a job that was told to end.
    """
    job.ended = time.time()
    status = read_json(job.folder / "status.json")
    own = pid is None or status.get("pid") == pid
    state, reason = status.get("state"), str(status.get("reason", ""))
    if state == "done":
        job.state = "done" if own else "finished"
        return
    if own and state == "failed" and (verdict is None or verdict.state == "stopped"):
        job.state, job.reason = "failed", reason
    elif verdict is not None:
        job.state, job.reason = verdict.state, verdict.reason
    elif own and state == "stopped":
        job.state, job.reason = "stopped", reason
    else:
        words = last_line(job.folder / PRINTED)
        job.state, job.reason = "failed", f"{ending}: {words}" if words else ending
    if own and (state, reason) == (job.state, job.reason):
        return
    try:
        held = RunFolder.existing(job.folder)
    except Refused as refused:  # it never had the folder: another process has
        job.state, job.reason = "in use", str(refused)
        return
    held.status(job.state, reason=job.reason)
    held.close()


def ending_of(status: int) -> str:
    """A wait status in words."""
    if not os.WIFSIGNALED(status):
        return f"ended with status {os.waitstatus_to_exitcode(status)} before it was done"
    name = signal.Signals(os.WTERMSIG(status)).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def last_line(path: Path) -> str:
    """The last words of a log; empty where there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]
