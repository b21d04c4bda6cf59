"""Sweeps small enough for tests, and a loss that can go wrong in every way."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from dpo_lab.folder import read_json
from dpo_lab.jobs import Desk, claim, expand
from dpo_lab.launchers.job import Job
from dpo_lab.live import View
from dpo_lab.sweep import drive
from dpo_lab.sweepers.grid import Grid

NANO = [
    "data=world_nano",
    "data.pairs=200",
    "data.eval_pairs=50",
    "data.sft_rows=200",
    "start.steps=5",
    "start.batch_size=32",
    "train.steps=6",
    "train.batch_size=16",
    "train.threads=1",
    "train.log_every=2",
    "eval.every=null",
    "schedule.warmup_steps=2",
    "logger=none",
]

FAULTY = """
import os, resource, signal, sys, time
from pathlib import Path
from typing import Annotated, Literal

import torch

from dpo_lab.batch import Pair, Scores
from dpo_lab.losses import dpo
from dpo_lab.ranges import Positive

HERE = Path(__file__).parent

def faulty(
    policy: Pair,
    reference: Pair,
    *,
    beta: Annotated[float, Positive],
    how: Literal["raise", "exit", "kill", "memory", "file", "hang", "note"],
    wait: float,
) -> Scores:
    time.sleep(wait)
    if beta > 0.15 and not (HERE / "mended").exists():
        if how == "raise":
            raise ArithmeticError("this loss is broken")
        if how == "exit":
            sys.exit(3)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "memory":
            torch.zeros(2**35)
        if how == "file":
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
            (HERE / "big").write_bytes(bytes(1_000_000))
        if how == "hang":
            time.sleep(300)
        if how == "note":
            seen = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.get_num_threads()
            (HERE / f"seen-{beta}").write_text(repr(seen))
    return dpo(policy, reference, beta=beta)
"""

YAML = """# goes wrong where beta is 0.2, unless there is a file `mended`
defaults: [/schema/loss/faulty@_here_]
_target_: faulty.faulty
beta: 0.1
how: raise
wait: 0.0
"""

# how a job goes wrong -> what the sweep says of it
REASONS = {
    "raise": "ArithmeticError: this loss is broken",
    "exit": "SystemExit: 3",
    "kill": "killed by SIGKILL",
    "memory": "can't allocate memory",
    "file": "File too large",
    "hang": "ran longer than launcher.timeout=",
}


def write_faulty(folder: Path) -> Path:
    """A `--config-dir` with `loss=faulty`."""
    (folder / "loss").mkdir(parents=True)
    (folder / "loss" / "faulty.yaml").write_text(YAML)
    (folder / "faulty.py").write_text(FAULTY)
    return folder


def jobs_of(words: list[str], config_dir: Path | None = None) -> list[Job]:
    """The jobs of a sweep, with their folders."""
    desk = Desk()
    jobs = desk.identify(expand([*NANO, *words], str(config_dir) if config_dir else None))
    desk.encode(jobs)
    for job in jobs:
        assert claim(job)
    return jobs


def do(launcher, words: list[str], config_dir: Path | None = None) -> list[Job]:
    """Run a sweep with a launcher that is there already."""
    jobs = jobs_of(words, config_dir)
    drive(Grid(jobs), launcher, View(jobs, live=False), [])
    return jobs


def command(
    *words: str, config_dir: Path | None = None, usual: list[str] = NANO, **more
) -> subprocess.Popen:
    """`dpo-lab -m` in a process of its own."""
    where = ["--config-dir", str(config_dir)] if config_dir else []
    return subprocess.Popen(
        [sys.executable, "-m", "dpo_lab", "-m", *usual, *words, *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def finish(process: subprocess.Popen, seconds: float = 300) -> tuple[int, str, str]:
    """Its exit status and what it said."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def until(condition, seconds: float = 60):
    """Wait for something to become true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def assembled(folder: Path) -> bool:
    """Whether a run has its objects and comes to its loss now."""
    status = read_json(folder / "status.json")
    return status.get("state") == "running" and "steps" in status


def files(*folders: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and was not yet waited for does not)."""
    with suppress(OSError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children(pid: int) -> list[int]:
    """Every process below this one."""
    found = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = {int(line.split()[0]): int(line.split()[1]) for line in found.splitlines()}
    below, fresh = set(), {pid}
    while fresh:
        fresh = {one for one, parent in parents.items() if parent in fresh} - below
        below |= fresh
    return sorted(below)


def end(pids: list[int]) -> None:
    """Leave nothing behind when a test has failed."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
