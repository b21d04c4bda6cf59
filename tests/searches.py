"""A launcher whose runs are a formula, so that a search takes as long as its own part of it."""

import json
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sweeps import NANO

from dpo_lab import launchers
from dpo_lab.__main__ import main
from dpo_lab.config import Config
from dpo_lab.folder import write_json
from dpo_lab.launchers.job import Job

STEPS, EVERY = 40, 10
SPACE = ["loss.beta=tag(log,interval(0.1,10))", "optimizer.lr=tag(log,interval(1e-5,1e-1))"]
SHARE = ["sweeper=optuna", "sweeper.maximize=[world/optimal_share]", "eval.every=10"]


def measure(config: Config, step: int) -> dict[str, float]:
    """Best at beta 1 and rate 1e-3; a smaller beta goes further from the start."""
    beta, rate = config.nodes["loss"]["beta"], config.nodes["optimizer"]["lr"]
    share = 1 - math.log10(beta) ** 2 - (math.log10(rate) + 3) ** 2 / 4
    return {"world/optimal_share": share * step / STEPS, "world/kl": step / STEPS / beta}


class Formula:
    """Runs that make one evaluation each time they are looked at.

    - `fails`: whether a run of this config fails.
    - `dies`: polls until Ctrl-C comes; 0: it does not.
    """

    def __init__(
        self,
        config: Config,
        most: int,
        *,
        jobs: int | None = None,
        measured: Callable[[Config, int], Mapping[str, float]] = measure,
        fails: Callable[[Config], bool] = lambda config: False,
        dies: int = 0,
        room: int | None = None,
        **knobs: Any,
    ):
        self.size = room or min(most, jobs or 1)
        self.measured = measured
        self.fails = fails
        self.dies = dies
        self.steps: dict[int, int] = {}
        self.jobs: list[Job] = []
        self.asked: dict[int, str] = {}
        self.polls = 0

    def free(self) -> int:
        return self.size - len(self.jobs)

    def running(self) -> list[Job]:
        return list(self.jobs)

    def start(self, jobs) -> None:
        for job in jobs:
            job.state, job.began = "running", time.time()
            write_json(job.folder / "record.json", {"identity": job.identity})
            self._status(job, "running", steps=STEPS)
            (job.folder / "metrics.jsonl").write_text("")
            self.steps[job.number] = 0
            self._evaluate(job)
        self.jobs += jobs

    def poll(self, seconds: float) -> list[Job]:
        self.polls += 1
        if self.polls == self.dies:
            raise KeyboardInterrupt
        for job in self.running():
            if job.number in self.asked:
                self._end(job, "stopped", self.asked[job.number])
            elif self.fails(job.config):
                self._end(job, "failed", "ArithmeticError: no")
            else:
                self.steps[job.number] += EVERY
                self._evaluate(job)
                if self.steps[job.number] == STEPS:
                    self._end(job, "done", step=STEPS)
        ended = [job for job in self.jobs if job.state != "running"]
        self.jobs = [job for job in self.jobs if job.state == "running"]
        return ended

    def stop(self, job: Job, reason: str) -> None:
        self.asked[job.number] = reason

    def close(self) -> None:
        pass

    def _evaluate(self, job: Job) -> None:
        step = self.steps[job.number]
        event = {"event": "eval", "step": step, "time": time.time(), "eval/loss": 0.5}
        with (job.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(event | self.measured(job.config, step)) + "\n")

    def _status(self, job: Job, state: str, **more: Any) -> None:
        write_json(job.folder / "status.json", {"state": state, **more})

    def _end(self, job: Job, state: Any, reason: str = "", **more: Any) -> None:
        job.state, job.reason, job.ended = state, reason, time.time()
        self._status(job, state, reason=reason, **more)


def searcher(root, monkeypatch, capsys):
    """Returns what does a search over formulas in the folder `root`: its words, and options of
    `Formula`, to its exit status, what it found, and what it said.
    """

    def do(*words: str, **how):
        monkeypatch.setattr(launchers, "local", partial(Formula, **how))
        space = [] if any("loss.beta" in word for word in words) else SPACE
        status = main(["-m", *NANO, *SHARE, *space, f"outputs_dir={root}", *words])
        out, err = capsys.readouterr()
        written = sorted(root.glob("*/search-*/search.json"), key=lambda p: p.stat().st_mtime)
        return status, json.loads(written[-1].read_text()) if written else {}, out, err

    return do
