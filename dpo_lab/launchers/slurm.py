"""Jobs on a SLURM cluster, through submitit: one job array, each element a run in its folder.

A job that SLURM is about to end (its time is up, or another job wants the node) saves after its
step, goes back into the queue and continues from there. With `cluster=local` submitit runs the same
code as plain processes on this machine.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from dpo_lab.allocator import keep_freed_memory
from dpo_lab.config import Config
from dpo_lab.errors import InUse, Refused, Stopped
from dpo_lab.folder import LOOKED_AT, RunFolder
from dpo_lab.launchers.job import Job, Launcher, Order, Verdict, settle, told
from dpo_lab.ranges import Count, NonNegative, Positive

if TYPE_CHECKING:
    import submitit

QUEUED = "waiting in the queue"


def slurm(
    config: Config,
    most: int,
    *,
    cluster: Literal["slurm", "local"] = "slurm",
    partition: str | None = None,
    minutes: Annotated[int, Count] = 240,
    cpus: Annotated[int, Count] = 4,
    gpus: Annotated[int, NonNegative] = 0,
    memory_gb: Annotated[float | None, Positive] = None,
    parallel: Annotated[int, Count] = 64,
    notice: Annotated[int, Count] = 90,
    requeues: Annotated[int, NonNegative] = 10,
    setup: list[str] = [],  # noqa: B006  (read as a literal, never changed)
    options: dict[str, str] | None = None,
) -> Launcher:
    """Run jobs on a cluster.

    - `config`, `most`: of one of the jobs, and the number of jobs in the sweep.
    - `cluster`: local runs them with submitit on this machine, to try things out.
    - `partition`, `minutes`, `cpus`, `gpus`, `memory_gb`: what to ask for, for each job.
    - `parallel`: jobs at once.
    - `notice`: seconds before its time is up at which a job is told to save.
    - `requeues`: how often a job may run out of time and go back into the queue.
    - `setup`: shell lines before Python, such as `module load cuda`.
    - `options`: anything else for sbatch, such as `{account: mine, constraint: a100}`.

    Raises `Refused` where submitit is not installed or SLURM is not there.
    """
    try:
        import submitit
    except ImportError:
        raise Refused("launcher=slurm needs submitit; type pip install 'dpo-lab[slurm]'") from None
    folder = Path(config.outputs_dir).expanduser().absolute() / ".submitit" / "%j"
    try:
        executor = submitit.AutoExecutor(
            folder,
            cluster=cluster,
            slurm_max_num_timeout=requeues,
            local_max_num_timeout=requeues,
        )
    except RuntimeError as error:
        raise Refused(
            f"launcher.cluster={cluster}: {error}\nlauncher.cluster=local needs no SLURM"
        ) from None
    executor.update_parameters(
        name=config.name,
        timeout_min=minutes,
        cpus_per_task=cpus,
        gpus_per_node=gpus,
        mem_gb=memory_gb,
        slurm_partition=partition,
        slurm_array_parallelism=parallel,
        slurm_signal_delay_s=notice,
        slurm_setup=list(setup),
        slurm_additional_parameters=dict(options or {}),
        local_setup=list(setup),
    )
    return Slurm(executor, None if config.train.threads else cpus, notice)


class Slurm:
    """The jobs of `launcher=slurm`. The queue decides how many run at once."""

    def __init__(self, executor: submitit.Executor, threads: int | None, notice: int):
        self.executor = executor
        self.threads = threads
        self.notice = notice
        self.handles: dict[int, tuple[Job, submitit.Job[int]]] = {}
        self.verdicts: dict[int, Verdict] = {}
        self.ended: list[Job] = []  # those that did not come as far as the queue

    def free(self) -> int:
        """All there are: they go into the queue together."""
        return sys.maxsize

    def running(self) -> list[Job]:
        """The jobs that were submitted and have not ended."""
        return [job for job, _ in self.handles.values()]

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit these jobs as one array."""
        tasks, queued = [], []
        for job in jobs:
            if not self._queue(job):
                self.ended.append(job)
                continue
            order = Order(
                number=job.number,
                folder=job.folder.absolute(),
                config=job.config,
                identity=job.identity,
                threads=self.threads,
                argv=sys.argv,
                path=sys.path,
            )
            tasks.append(Task(order, self.notice))
            queued.append(job)
        try:
            handles = self.executor.submit_array(tasks) if tasks else []
        except (RuntimeError, OSError) as error:  # sbatch did not take them
            verdict = Verdict("failed", f"not submitted: {' '.join(str(error).split())}")
            for job in queued:
                settle(job, "", None, verdict)
            self.ended += queued
            return
        for job, handle in zip(queued, handles, strict=True):
            self.handles[job.number] = job, handle

    def _queue(self, job: Job) -> bool:
        """Say in the folder that the job waits; False where another process has the folder."""
        job.began = time.time()
        try:
            with closing(RunFolder.existing(job.folder, LOOKED_AT)) as held:
                if told(job.folder / "status.json").get("state") == "done":  # meanwhile
                    job.state = "finished"
                    return False
                held.status("running", reason=QUEUED)
        except InUse as refused:
            job.state, job.reason = "in use", str(refused)
            return False
        except (Refused, OSError) as error:
            job.state, job.reason = "failed", str(error)
            return False
        job.state = "running"
        return True

    def stop(self, job: Job, reason: str) -> None:
        """Take a job out of the queue, or off its node."""
        self.verdicts[job.number] = Verdict("stopped", reason)
        self.handles[job.number][1].cancel()

    def poll(self, seconds: float) -> list[Job]:
        """The jobs that have ended since the last call; waits for `seconds`."""
        ended, self.ended = self.ended, []
        if not ended:
            time.sleep(seconds)
        for number, (job, handle) in list(self.handles.items()):
            if handle.done():
                ending = f"{handle.state.lower()} before it was done, see {handle.paths.stderr}"
                settle(job, ending, None, self.verdicts.get(number))
                del self.handles[number]
                ended.append(job)
        return ended

    def close(self) -> None:
        """Cancel whatever is left."""
        for job in self.running():
            self.stop(job, "the sweep was ended")
        until = time.monotonic() + 10
        while self.handles and time.monotonic() < until:
            self.poll(0.1)


class Task:
    """What runs on the node: the job, and its way back into the queue."""

    def __init__(self, order: Order, notice: int):
        self.order = order
        self.notice = notice

    def __call__(self) -> int:
        """Do the job. Raises `Stopped` where it failed, so that the cluster's books say so too."""
        keep_freed_memory()
        from dpo_lab.launchers.worker import work

        theirs: Any = signal.getsignal(signal.SIGUSR2)  # what submitit does when time is up
        idle = signal.getsignal(signal.SIGTERM)
        called: list[int] = []

        def requeue(number: int, frame: FrameType | None) -> NoReturn:
            try:
                theirs(number, frame)
            except SystemExit as end:  # the run must not take it for a failure of its own
                os._exit(int(end.code or 0) & 0xFF)
            raise AssertionError("submitit ends a job that it has put back into the queue")

        def save_first(number: int, frame: FrameType | None) -> None:
            called.append(number)
            if signal.getsignal(signal.SIGTERM) == idle:  # the run has not begun
                requeue(number, frame)
            signal.alarm(max(1, self.notice * 2 // 3))  # so long it may take to save
            signal.raise_signal(signal.SIGTERM)

        def save_no_more(number: int, frame: FrameType | None) -> None:
            requeue(signal.SIGUSR2, frame)

        signal.signal(signal.SIGUSR2, save_first)
        signal.signal(signal.SIGALRM, save_no_more)
        status = work(self.order)
        signal.alarm(0)
        if status == 143 and called:
            requeue(called[0], None)
        if status != 0:
            reason = told(self.order.folder / "status.json").get("reason")
            raise Stopped(f"{self.order.folder}: {reason}")
        return status

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """The same again: it continues where the folder's last checkpoint was made."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
