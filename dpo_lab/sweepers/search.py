"""A search: runs are suggested one after the other, and those that fall behind end early.

Ask and tell on Optuna, instead of a plugin for Hydra: those published need an older Optuna and end
at the first failed job. What a trial is, is a run like any other: its folder is found by identity,
so what a grid or another search has done is not done again. Nothing here loads torch or optuna.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dpo_lab.cache import digest
from dpo_lab.errors import Refused
from dpo_lab.folder import RunFolder, write_json
from dpo_lab.jobs import Desk, jobs_of
from dpo_lab.launchers.job import Job
from dpo_lab.live import Tail
from dpo_lab.ranges import Count, NonNegative
from dpo_lab.sweepers.goal import Goal
from dpo_lab.sweepers.outcome import lines, newest_checkpoint, outcome, reached
from dpo_lab.sweepers.space import Space
from dpo_lab.sweepers.study import Study
from dpo_lab.sweepers.sweeper import Sweeper
from dpo_lab.variants import Common

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

# a launcher with room for more jobs at once than this leaves it to a queue how many run
_QUEUE = 10_000


def optuna(
    overrides: Sequence[str],
    config_dir: str | None,
    desk: Desk,
    *,
    trials: Annotated[int, Count] = 20,
    maximize: list[str] = [],  # noqa: B006  (read as a literal, never changed)
    minimize: list[str] = [],  # noqa: B006
    at_most: dict[str, float] | None = None,
    sampler: Literal["tpe", "random"] = "tpe",
    seed: Annotated[int, NonNegative] = 0,
    startup: Annotated[int, NonNegative] = 5,
    pruner: Literal["none", "median", "successive_halving"] = "none",
    warmup: Annotated[int, NonNegative] = 0,
    parallel: Annotated[int | None, Count] = None,
    storage: str | None = None,
) -> Sweeper:
    """Search the ranges that the overrides give.

    - `trials`: runs in all, pruned ones and those of earlier commands included.
    - `maximize`, `minimize`: metrics of the last evaluation; both empty: `eval/loss` is minimised.
    - `at_most`: metric -> what it may be at most in a run that counts as best.
    - `sampler`, `seed`, `startup`: what suggests runs; the first `startup` are random.
    - `pruner`, `warmup`: what ends runs early, after so many training steps.
    - `parallel`: runs at once.
    - `storage`: the SQLite file of the study.

    The study is known by all of these but `trials`, `parallel` and `storage`, by what is searched
    and by what is the same in all runs; so the same command continues it. Raises `Refused` for
    what is not acceptable, where optuna is missing, and where another process is at this search.
    """
    if find_spec("optuna") is None:
        raise Refused("sweeper=optuna needs optuna; type pip install 'dpo-lab[sweep]'")
    goal = Goal.of(maximize, minimize, at_most)
    space = Space.of(overrides, config_dir)
    common: Common = {}
    corners = jobs_of(space.corners(), config_dir, common)
    config = corners[0].config
    if pruner != "none" and len(goal.metrics) > 1:
        raise Refused(
            f"sweeper.pruner={pruner} compares runs by one metric, and there are "
            f"{len(goal.metrics)}\ntype sweeper.pruner=none, or bound the others with at_most"
        )
    if pruner != "none" and config.eval.every is None:
        raise Refused(
            f"sweeper.pruner={pruner} sees a run at its evaluations, and eval.every=null gives it "
            "none before the end\ntype eval.every=STEPS, or sweeper.pruner=none"
        )
    if pruner == "none" and warmup:
        raise Refused(f"sweeper.warmup={warmup} is for a pruner; add sweeper.pruner=median")
    desk.identify(corners)
    space = space.settled(config)
    how = {"sampler": sampler, "seed": seed, "startup": startup, "pruner": pruner, "warmup": warmup}
    parent = Path(config.outputs_dir).expanduser() / config.name
    name = digest(
        how,
        [goal.maximize, goal.minimize, goal.at_most],
        [str(one) for one in space.dimensions],
        [job.identity for job in corners],
        # in a file of the user's own, searches of several folders may meet
        str(parent.absolute()) if storage else None,
    )
    folder = parent / f"search-{name[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = config.outputs_dir
        raise Refused(f"outputs_dir={where}: {error.strerror}: {folder}") from None
    held = RunFolder.existing(folder)
    try:
        path = Path(storage).expanduser() if storage else folder / "study.db"
        study = Study(path.absolute(), f"dpo-lab-{name[:16]}", space, goal, **how)
        return Search(desk, space, goal, study, held, corners, common, trials, parallel)
    except BaseException:
        held.close()
        raise


@dataclass(slots=True)
class Pending:
    """A job and its trials: one, or more that are the same run.

    - `begun`: training steps that were done in its folder before.
    - `seen`: the step of the newest evaluation that the study was told of, `before` what it said.
    - `why`: the reason for which it was ended early.
    """

    job: Job
    trials: list[Trial]
    begun: int
    tail: Tail
    seen: int = -1
    before: dict[str, float] = field(default_factory=dict)
    why: str = ""


class Search:
    """The runs of `sweeper=optuna`."""

    def __init__(
        self,
        desk: Desk,
        space: Space,
        goal: Goal,
        study: Study,
        held: RunFolder,
        corners: Sequence[Job],
        common: Common,
        trials: int,
        parallel: int | None,
    ):
        self.desk = desk
        self.space = space
        self.goal = goal
        self.study = study
        self.held = held
        self.parallel = parallel
        self.config = corners[0].config
        self.common = common
        study.retry({trial.number: _lost(trial) for trial in study.trials()})
        self.most = max(0, trials - study.over())
        self.left = self.most
        self.jobs: list[Job] = []
        self.ready = list(corners) if self.left else []
        self.same = 0
        self.pending: dict[int, Pending] = {}

    def more(self, room: int) -> list[Job]:
        """New suggestions, as many as there is room for."""
        if room > _QUEUE and self.parallel is None:
            raise Refused(
                "this launcher takes all jobs at once, and a search learns from those that have "
                "ended\ntype for example sweeper.parallel=4"
            )
        room = min(room, (self.parallel or room) - len(self.pending))
        jobs: list[Job] = []
        while self.left and len(jobs) < room:
            self.left -= 1
            job = self._ask()
            if job is not None:
                self.jobs.append(job)
                jobs.append(job)
        return jobs

    def ended(self, job: Job) -> None:
        """Tell the study what came of a job. One that was only stopped goes on with the next
        command: to the study it still runs.
        """
        one = self.pending.pop(job.number, None)
        if one is None:
            return
        one.tail.read()
        self._take(one)
        if job.state == "stopped" and one.why:
            job.state = "pruned"
        if job.state == "stopped":
            return
        last = one.tail.evaluations.get(max(one.tail.evaluations, default=0), {})
        measured = self.goal.measured(last)
        ending = {"done": "done", "finished": "done", "pruned": "pruned"}.get(job.state, "failed")
        if ending == "done" and not all(name in measured for name in self.goal.metrics):
            ending = "no value"
            job.reason = f"ended without {' and '.join(self.goal.metrics)}"
        steps = 0 if job.state == "finished" else max(0, reached(job.folder) - one.begun)
        for trial in one.trials:
            self.study.tell(trial, ending, measured, job.reason, steps)
            steps = 0  # once for all that are the same run
        self._write()

    def unwanted(self) -> list[tuple[Job, str]]:
        """Read what the running jobs have measured, and name those that have fallen behind."""
        found = []
        for one in self.pending.values():
            if one.job.state == "running" and not one.why:
                one.tail.read()
                one.why = self._take(one)
                if one.why:
                    found.append((one.job, one.why))
        return found

    def words(self) -> list[str]:
        """What was found, and where it is written."""
        return [*lines(self._write(), self.goal), str(self.held.path / "search.json")]

    def close(self) -> None:
        """Let another process continue this search."""
        self.held.close()

    def _ask(self) -> Job | None:
        """A job for the next trial; None where a job that runs is the same. It is not `waiting`
        where the trial has ended already.
        """
        trial = self.study.ask()
        words = self.space.typed(trial.params)
        number, label = len(self.jobs) + 1, ",".join(words)
        try:
            (job,) = jobs_of([self.space.fill(words)], self.config.config_dir, self.common)
            job.number, job.label = number, label
            self.desk.identify([job])
        except Refused as refused:
            job = Job(number, label, self.config, folder=self.held.path, state="failed")
            job.reason = " ".join(str(refused).split())
            self.study.note(trial, words, "", self.held.path, 0)
            self.study.tell(trial, "failed", {}, job.reason, 0)
            return job
        begun = newest_checkpoint(job.folder)
        self.study.note(trial, words, job.identity, job.folder, begun)
        for one in self.pending.values():
            if one.job.identity == job.identity:
                one.trials.append(trial)
                return None
        before = self.study.same(job.identity)
        if before is not None:
            self.study.repeat(trial, before)
            job.state = "pruned" if before.user_attrs["end"]["ending"] == "pruned" else "finished"
            job.reason = f"the same run as trial {before.number}"
            return job
        self.pending[number] = Pending(job, [trial], begun, Tail(job.folder, 0.0))
        if job.state != "waiting":
            self.ended(job)
        return job

    def _take(self, one: Pending) -> str:
        """Tell the study of new evaluations; returns why the job need not go on, or nothing."""
        why = ""
        for step in sorted(step for step in one.tail.evaluations if step > one.seen):
            event = one.tail.evaluations[step]
            if step:
                self.goal.check(event)
            measured = self.goal.measured(event)
            noted = [self.study.report(trial, step, measured) for trial in one.trials]
            if not why and step != one.tail.steps:
                why = self._verdict(one, step, measured, noted[0])
            one.seen, one.before = step, measured
        return why

    def _verdict(self, one: Pending, step: int, measured: dict[str, float], noted: bool) -> str:
        if noted and self.study.behind(one.trials[0], step):
            return f"pruned at step {step}: behind with {self.goal.words(measured)}"
        if self.study.prunes and step >= self.study.warmup:
            name = self.goal.receding(one.before, measured)
            if name:
                limit = self.goal.at_most[name]
                return (
                    f"pruned at step {step}: {name} {measured[name]:.4g} > {limit:g}, not falling"
                )
        return ""

    def _write(self) -> dict[str, Any]:
        found = outcome(self.study.trials(), self.space, self.goal, self.config.config_dir)
        write_json(self.held.path / "search.json", found)
        return found


def _lost(trial: FrozenTrial) -> int:
    """Training steps of a trial whose sweep was killed."""
    run = trial.user_attrs.get("run")
    if run is None or "end" in trial.user_attrs:
        return 0
    return max(0, reached(Path(run["folder"])) - run["begun"])
