"""A job of a sweep: one run, where it goes, and what became of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from dpo_lab.config import Config
from dpo_lab.errors import InUse, Refused
from dpo_lab.folder import LOOKED_AT, RunFolder, read_json

# what the process of a job printed, on both streams; the lab's own lines are in train.log
PRINTED = "stderr.log"

State = Literal["waiting", "running", "done", "failed", "stopped", "pruned", "finished", "in use"]


@dataclass(slots=True)
class Job:
    """One run of a sweep.

    - `number`: its place in the sweep, from 1; `label`: what differs from the others.
    - `state`: as in `status.json`, and besides: `waiting`; `finished` where it was done before the
      sweep came to it; `in use` where another process works in its folder; `pruned` where a search
      has stopped it.
    - `reason`: why it is not done.
    - `began`, `ended`: by the clock `time.time()`.
    - `earlier`: what an earlier process has left in the folder: when it wrote `status.json` (ns),
      and how many bytes it printed. Process numbers come again; these tell its words from ours.
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
    earlier: tuple[int, int] = (0, 0)

    def words(self) -> tuple[int, int]:
        """When `status.json` was written, ns, and the bytes printed; 0 for what is not there."""
        status, printed = _stat(self.folder / "status.json"), _stat(self.folder / PRINTED)
        return status.st_mtime_ns if status else 0, printed.st_size if printed else 0


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
    - `pid`: its number, to tell its words from those of another process; None where any will do.
    - `verdict`: for a job that was told to end.
    """
    job.ended = time.time()
    status = told(job.folder / "status.json")
    own = status.get("pid") == pid or pid is None
    own = own and job.words()[0] != job.earlier[0]
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
        words = last_line(job.folder / PRINTED, job.earlier[1])
        job.state, job.reason = "failed", f"{ending}: {words}" if words else ending
    if own and (state, reason) == (job.state, job.reason):
        return
    try:
        with closing(RunFolder.existing(job.folder, LOOKED_AT)) as held:
            if told(job.folder / "status.json").get("state") == "done":  # by another, meanwhile
                job.state, job.reason = "finished", ""
            else:
                held.status(job.state, reason=job.reason)
    except InUse as refused:  # it never had the folder: another process has
        job.state, job.reason = "in use", str(refused)
    except (Refused, OSError) as error:  # damage, a full disk: the other jobs go on
        job.reason += f" (and its folder cannot say so: {' '.join(str(error).split())})"


def told(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an empty one where there is none or it cannot be read."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def ending_of(status: int) -> str:
    """A wait status in words."""
    if not os.WIFSIGNALED(status):
        return f"ended with status {os.waitstatus_to_exitcode(status)} before it was done"
    name = signal.Signals(os.WTERMSIG(status)).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def last_line(path: Path, start: int = 0) -> str:
    """The last words of a log after its first `start` bytes; empty where there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
