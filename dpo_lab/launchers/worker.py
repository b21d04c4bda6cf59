"""What the process of a job does: the run of one folder. Imports everything that a run needs."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import threading
import traceback
from contextlib import closing

import torch

from dpo_lab.cache import Cache
from dpo_lab.errors import Interrupted, Refused, Stopped
from dpo_lab.folder import LOOKED_AT, RunFolder
from dpo_lab.identity import identity
from dpo_lab.intake import prepare, read
from dpo_lab.launchers.job import PRINTED, Order, told
from dpo_lab.run import run


def work(order: Order) -> int:
    """Do the job and return the exit status of its process: 0, 1, 2, 130 or 143, as `dpo-lab` has.

    Whatever happens is told in the folder's `status.json`, by `run` or here.
    """
    sys.argv[:] = order.argv
    sys.path[:] = order.path
    if order.accelerator is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = order.accelerator
    if order.memory_mb is not None:
        resource.setrlimit(resource.RLIMIT_AS, (order.memory_mb << 20, order.memory_mb << 20))
    if order.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(order.threads)
        torch.set_num_threads(order.threads)
    try:
        _run(order)
    except Interrupted as stop:
        return stop.status
    except (Refused, Stopped) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1
    except BaseException:  # the exit of user code is a failure too: the run was not done
        traceback.print_exc()
        return 1
    return 0


def _run(order: Order) -> None:
    config, cache = order.config, Cache(order.config.cache_dir)
    try:
        intake = prepare(config, read(config), cache)
        if identity(config, intake) != order.identity:
            raise Refused("the data or the model's files have changed since the sweep was started")
    except BaseException as error:
        with closing(RunFolder.existing(order.folder, LOOKED_AT)) as held:
            if told(order.folder / "status.json").get("state") != "done":  # by another, meanwhile
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                held.status("failed", reason=reason)
        raise
    run(config, intake, cache, order.folder, quiet=True)


def child(order: Order, life: int) -> int:
    """`work` in a process that the server has just made.

    - `life`: the reading end of a pipe that breaks when the server has gone; then we end.
    """

    def watch() -> None:
        os.read(life, 1)
        os.killpg(0, signal.SIGKILL)

    printed = os.open(order.folder / PRINTED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    threading.Thread(target=watch, daemon=True).start()
    status = work(order)
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":  # a cold start: `python -m dpo_lab.launchers.worker ORDER_FD LIFE_FD`
    with open(int(sys.argv[1]), "rb") as file:
        given = pickle.load(file)
    os._exit(child(given, int(sys.argv[2])))
