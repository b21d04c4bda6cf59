"""Jobs on this machine, each a process of its own, forked by a server that has everything imported.

There is one process model, ours, instead of Hydra's launcher plugins: those compose every job a
second time, run jobs in a process that has run others, and end a sweep at the first one that is
killed. An option of this group is a function like any other, and returns a `Launcher`.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Annotated

from dpo_lab.config import Config
from dpo_lab.errors import Stopped
from dpo_lab.launchers.job import Job, Launcher, Order, Verdict, ending_of, settle
from dpo_lab.launchers.machine import accelerators, cores
from dpo_lab.ranges import Count, NonNegative, Positive

# the threads of a job where neither the number of jobs nor that of threads is given
USUAL_THREADS = 4


def local(
    config: Config,
    most: int,
    *,
    jobs: Annotated[int | None, Count] = None,
    timeout: Annotated[float | None, Positive] = None,
    grace: Annotated[float, NonNegative] = 30.0,
    memory_mb: Annotated[int | None, Count] = None,
    warm: bool | None = None,
) -> Launcher:
    """Run jobs on this machine.

    - `config`: of one of the jobs, for the device and the threads they ask for.
    - `most`: the number of jobs in the sweep.
    - `jobs`: at once; None: one for each accelerator, else as many as the cores have room for.
    - `timeout`: seconds that a job may take; one that takes longer has failed.
    - `grace`: seconds that a job that is told to end may take to save, before it is killed.
    - `memory_mb`: address space that a job may use, MiB.
    - `warm`: fork from a process that has torch imported; None: wherever that is sound, which on
      macOS it is not (Apple's libraries may not be used after a fork).
    """
    there = accelerators(config.train.device)
    threads = config.train.threads
    size = min(most, jobs or len(there) or max(1, cores() // (threads or USUAL_THREADS)))
    return Local(
        size=size,
        threads=None if threads else max(1, cores() // size),
        accelerators=there if len(there) > 1 else [],
        timeout=timeout or math.inf,
        grace=grace,
        memory_mb=memory_mb,
        warm=sys.platform != "darwin" if warm is None else warm,
    )


@dataclass(slots=True)
class _Task:
    """A job that was started. `late` and `over`: when to ask it to end, and when to kill it."""

    job: Job
    slot: int
    pid: int | None = None
    late: float = math.inf
    over: float = math.inf
    verdict: Verdict | None = None


class Local:
    """The jobs of `launcher=local`, and the server that starts them."""

    def __init__(
        self,
        *,
        size: int,
        threads: int | None,
        accelerators: Sequence[str],
        timeout: float,
        grace: float,
        memory_mb: int | None,
        warm: bool,
    ):
        self.threads = threads
        self.accelerators = accelerators
        self.timeout = timeout
        self.grace = grace
        self.memory_mb = memory_mb
        self.warm = warm
        self.slots = list(range(size))
        self.tasks: dict[int, _Task] = {}
        self.ready = False
        self._connect()

    def _connect(self) -> None:
        """Start the server. It is in a process group of its own, so that Ctrl-C is ours alone."""
        self.pipe, theirs = Pipe()
        words = ["-P", "-m", "dpo_lab.launchers.server", str(theirs.fileno())]
        self.server = subprocess.Popen(
            [sys.executable, *words, "warm" if self.warm else "cold"],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,
            # numpy's BLAS starts its threads when it is loaded, and a server has but one
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
        theirs.close()

    def free(self) -> int:
        """How many more jobs may be started now."""
        return len(self.slots)

    def running(self) -> list[Job]:
        """The jobs that were started and have not ended."""
        return [task.job for task in self.tasks.values()]

    def start(self, jobs: Sequence[Job]) -> None:
        """Order a process for each of these jobs."""
        for job in jobs:
            slot = self.slots.pop(0)
            self.tasks[job.number] = _Task(job, slot)
            job.state, job.began = "running", time.time()
            order = Order(
                number=job.number,
                folder=job.folder.absolute(),
                config=job.config,
                identity=job.identity,
                threads=self.threads,
                accelerator=(
                    self.accelerators[slot % len(self.accelerators)] if self.accelerators else None
                ),
                memory_mb=self.memory_mb,
                argv=sys.argv,
                path=sys.path,
            )
            self._send(order)

    def stop(self, job: Job, reason: str) -> None:
        """Ask a job to save and end; after the grace it is killed."""
        self._ask(self.tasks[job.number], Verdict("stopped", reason))

    def poll(self, seconds: float) -> list[Job]:
        """The jobs that have ended since the last call; waits for one for at most `seconds`."""
        now = time.monotonic()
        for task in self.tasks.values():
            if now > task.late and task.verdict is None:
                reason = f"ran longer than launcher.timeout={self.timeout:g} s"
                self._ask(task, Verdict("failed", reason))
            if now > task.over:
                self._send((task.job.number, signal.SIGKILL))
        ended = []
        while self.pipe.poll(0 if ended else seconds):
            try:
                number, pid, status = self.pipe.recv()
            except (EOFError, OSError):
                return ended + self._lost()
            if number not in self.tasks:
                self.ready = True
            elif status is None:
                task = self.tasks[number]
                task.pid, task.job.began = pid, time.time()
                task.late = time.monotonic() + self.timeout
            else:
                ended.append(self._settle(self.tasks[number], ending_of(status)))
        return ended

    def close(self) -> None:
        """End at once whatever still runs, and the server."""
        for number in self.tasks:
            self._send((number, signal.SIGKILL))
        until = time.monotonic() + 10
        while self.ready and self.tasks and time.monotonic() < until:
            self.poll(0.1)
        self.server.kill()  # and with it what is left: see `worker.child`
        self.server.wait()
        self.pipe.close()

    def _ask(self, task: _Task, verdict: Verdict) -> None:
        task.verdict = verdict
        task.over = time.monotonic() + self.grace
        self._send((task.job.number, signal.SIGTERM))

    def _send(self, message: object) -> None:
        with suppress(OSError):  # where the server has gone, `poll` will find out
            self.pipe.send(message)

    def _settle(self, task: _Task, ending: str) -> Job:
        settle(task.job, ending, task.pid, task.verdict)
        del self.tasks[task.job.number]
        self.slots.append(task.slot)
        return task.job

    def _lost(self) -> list[Job]:
        """The server was killed, and its jobs with it; the next ones get a new one."""
        status = self.server.wait()
        if not self.ready:
            raise Stopped(f"the process that starts jobs could not be started (status {status})")
        for task in self.tasks.values():
            _gone(task.pid)
        reason = f"the process that starts jobs was ended (status {status})"
        lost = [self._settle(task, reason) for task in list(self.tasks.values())]
        self.pipe.close()
        self.ready = False
        self._connect()
        return lost


def _gone(pid: int | None) -> None:
    """Wait until a process that is about to end has ended."""
    until = time.monotonic() + 5
    while pid is not None and time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except OSError:  # or it is somebody else's by now
            return
        time.sleep(0.02)
