"""The process that starts the jobs of a sweep: `python -m dpo_lab.launchers.server FD warm|cold`.

It imports what a run needs, once, and forks one process for each job; so a job starts at once, and
yet nothing of it, be it a crash, a leak or a changed global, reaches another. It runs no tensor
operation itself and so has one thread, which is what makes the fork safe.

Over the socket FD come orders, each answered with (number, pid, None) at the start of its process
and (number, pid, wait status) at its end; and (number, signal), to be passed on. The socket breaks
when the sweep has gone, even by SIGKILL; then the jobs are told to save, and soon after are killed.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import NoReturn

from dpo_lab.allocator import keep_freed_memory
from dpo_lab.launchers.job import Order

READY = 0  # instead of a job's number, in the first message

# What a run imports by the way, when it first needs it. Not pyarrow, which starts a thread.
PRELOAD = (
    "dpo_lab.launchers.worker",
    "dpo_lab.losses",
    "dpo_lab.references",
    "dpo_lab.schedules",
    "dpo_lab.start",
    "dpo_lab.worlds.enumeration",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "transformers.models.llama.modeling_llama",
)

# how long jobs may save once the sweep has gone, seconds
LAST_WORDS = 5.0


class Server:
    """Starts, signals and reaps. `children`: job number -> pid."""

    def __init__(self, pipe: Connection, warm: bool):
        self.pipe = pipe
        self.warm = warm
        self.children: dict[int, int] = {}
        self.life, self.own_life = os.pipe()  # the second end is open as long as this process lives

    def serve(self) -> None:
        """Until the sweep closes its end."""
        ended, wake = os.pipe()
        os.set_blocking(ended, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.pipe.send((READY, os.getpid(), None))
        while True:
            ready = wait([self.pipe, ended])
            if ended in ready:
                os.read(ended, 4096)
                self.reap()
            if self.pipe in ready:
                try:
                    message = self.pipe.recv()
                except (EOFError, OSError):
                    break
                if isinstance(message, Order):
                    self.start(message)
                else:
                    self.pass_on(*message)
        self.end()

    def start(self, order: Order) -> None:
        """A new process for this job, in a process group of its own."""
        pid = os.fork()
        if pid == 0:
            try:
                self._become(order)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        with suppress(OSError):  # the child does it, too: whoever comes first
            os.setpgid(pid, pid)
        self.children[order.number] = pid
        self._tell(order.number, pid, None)

    def _become(self, order: Order) -> NoReturn:
        """In the new process."""
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(self.own_life)
        self.pipe.close()
        if self.warm:
            from dpo_lab.launchers.worker import child

            os._exit(child(order, self.life))
        orders = tempfile.TemporaryFile()  # noqa: SIM115  (the new program reads and closes it)
        pickle.dump(order, orders)
        orders.seek(0)
        for end in (orders.fileno(), self.life):
            os.set_inheritable(end, True)
        words = ["-P", "-m", "dpo_lab.launchers.worker", str(orders.fileno()), str(self.life)]
        os.execv(sys.executable, [sys.executable, *words])

    def pass_on(self, number: int, sign: int) -> None:
        """Pass a signal on; SIGKILL also to what the job itself has started."""
        pid = self.children.get(number)
        if pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                (os.killpg if sign == signal.SIGKILL else os.kill)(pid, sign)

    def reap(self) -> None:
        """Tell of every child that has ended, and end what it has left behind."""
        for number, pid in list(self.children.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # as long as nobody else can have the number
                _, status = os.waitpid(pid, 0)
                del self.children[number]
                self._tell(number, pid, status)

    def end(self) -> None:
        """No job outlives the sweep."""
        for number in self.children:
            self.pass_on(number, signal.SIGTERM)
        until = time.monotonic() + LAST_WORDS
        while self.children and time.monotonic() < until:
            time.sleep(0.05)
            self.reap()
        for number in self.children:
            self.pass_on(number, signal.SIGKILL)

    def _tell(self, number: int, pid: int, status: int | None) -> None:
        with suppress(OSError):  # where the sweep has gone, nobody listens; `serve` will notice
            self.pipe.send((number, pid, status))


def preload() -> None:
    """Import what a run needs."""
    keep_freed_memory()
    for name in PRELOAD:
        importlib.import_module(name)
    importlib.import_module("dpo_lab.curves").rehearse()
    gc.freeze()  # what is here now stays: the collector of a child need not look at it, nor copy it


def main(fd: int, warm: bool) -> None:
    """Serve on the socket `fd`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which tells us
    sweep = os.getppid()
    if warm:
        preload()
    if os.getppid() != sweep:  # it has gone meanwhile; what it has ordered nobody wants any more
        return
    Server(Connection(fd), warm).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "warm")
    os._exit(0)  # nothing to clean up, and a lot that could be taken down in the wrong order
