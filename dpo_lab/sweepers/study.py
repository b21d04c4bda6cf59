"""A study of Optuna in a SQLite file: what was suggested, and what came of it.

The only module that imports optuna, and only when a study is opened. Trials are written when they
are asked for and when they are told, so a study outlives whatever ends the sweep.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_lab.errors import Refused
from dpo_lab.sweepers.goal import Goal
from dpo_lab.sweepers.space import Dimension, Space

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial, Trial


class Study:
    """Trials by number. What the lab notes of each is in its `user_attrs`.

    - `run`: its overrides, identity and folder, and the training steps that were begun in that
      folder before.
    - `end`: how it ended (done, no value, pruned, failed), why, what was measured, and the training
      steps it took.
    - Of one that is tried again: `again`, the number of the trial before it, and `lost`, the steps
      that one took before its sweep was killed.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        space: Space,
        goal: Goal,
        *,
        sampler: str,
        seed: int,
        startup: int,
        pruner: str,
        warmup: int,
    ):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.goal = goal
        self.startup = startup
        self.warmup = warmup
        self.prunes = pruner != "none"
        self.space = space
        try:
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}}
            )
            self._study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=goal.directions,
                pruner=_pruner(pruner, warmup),
                load_if_exists=True,
            )
        except Exception as error:  # of SQLite, SQLAlchemy, Alembic or Optuna
            reason = str(error).splitlines()[0]
            raise Refused(
                f"sweeper.storage={path}: this is no file for a study: {reason}"
            ) from None
        # a sampler that starts with the same seed again would suggest the same again
        seed += sum(trial.state.is_finished() for trial in self.trials())
        self._study.sampler = (
            optuna.samplers.RandomSampler(seed=seed)
            if sampler == "random"
            else optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
        )

    def trials(self) -> list[FrozenTrial]:
        """All trials as they are now, by number."""
        return self._study.get_trials(deepcopy=False)

    def over(self) -> int:
        """How many trials need not be done any more."""
        return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in self.trials())

    def retry(self, steps: Mapping[int, int]) -> None:
        """Put trials that a killed sweep has left, and failed ones, into the queue once more.

        - `steps`: training steps that the former took, by number.
        """
        trials = self.trials()
        again = {trial.user_attrs.get("again") for trial in trials}
        for trial in trials:
            if trial.state.name == "RUNNING":
                self._study.tell(trial.number, state=_state("FAIL"))
            elif trial.state.name != "FAIL":
                continue
            if trial.number not in again and "run" in trial.user_attrs:
                attrs = {"again": trial.number, "lost": steps.get(trial.number, 0)}
                self._study.enqueue_trial(trial.params, user_attrs=attrs)

    def ask(self) -> Trial:
        """The next trial: one from the queue, else a new suggestion."""
        trial = self._study.ask()
        params: dict[str, Any] = {}
        for one in self.space.dimensions:
            if self.space.applies(one, params):
                params[one.key] = _suggest(trial, one)
        return trial

    def note(
        self, trial: Trial, overrides: list[str], identity: str, folder: Path, begun: int
    ) -> None:
        """Which run a trial is."""
        run = {"overrides": overrides, "identity": identity, "folder": str(folder), "begun": begun}
        trial.set_user_attr("run", run)

    def report(self, trial: Trial, step: int, measured: Mapping[str, float]) -> bool:
        """Note an evaluation for the pruner; one beyond a bound is no measure for others.

        Returns whether it was noted.
        """
        (metric, *more) = self.goal.metrics
        if more or metric not in measured or self.goal.broken(measured):
            return False
        trial.report(measured[metric], step)
        return True

    def behind(self, trial: Trial, step: int) -> bool:
        """Whether the pruner would end a trial after its report of this step.

        The pruner is asked in any case: successive halving takes notes of who came by.
        """
        if not self.prunes or step < self.warmup:
            return False
        done = sum(one.state.name == "COMPLETE" for one in self.trials())
        return trial.should_prune() and done >= self.startup

    def tell(
        self, trial: Trial, ending: str, measured: Mapping[str, float], reason: str, steps: int
    ) -> None:
        """The end of a trial: done, no value, pruned or failed."""
        end = {"ending": ending, "reason": reason, "measured": dict(measured), "steps": steps}
        trial.set_user_attr("end", end)
        for name, most in self.goal.at_most.items():
            if name in measured:
                trial.set_constraint(name, measured[name] - most)
        if ending == "done":
            self._study.tell(trial, [measured[name] for name in self.goal.metrics])
        else:  # to a sampler a run without a value is as bad as one that was ended early
            self._study.tell(trial, state=_state("FAIL" if ending == "failed" else "PRUNED"))

    def repeat(self, trial: Trial, of: FrozenTrial) -> None:
        """The end of a trial that is the same run as one that has ended."""
        for step, value in of.intermediate_values.items():
            trial.report(value, step)
        end = of.user_attrs["end"]
        self.tell(trial, end["ending"], end["measured"], end["reason"], 0)

    def same(self, identity: str) -> FrozenTrial | None:
        """A trial that was the same run and has ended, but for one that failed."""
        for trial in self.trials():
            ended = trial.state.name in ("COMPLETE", "PRUNED")
            if ended and trial.user_attrs["run"]["identity"] == identity:
                return trial
        return None


def _suggest(trial: Trial, one: Dimension) -> Any:
    if one.low is None:
        return trial.suggest_categorical(one.key, one.words)
    if one.whole:
        low, high, step = int(one.low), int(one.high), int(one.step)
        return trial.suggest_int(one.key, low, high, step=step, log=one.log)
    step = one.step if one.words else None
    return trial.suggest_float(one.key, one.low, one.high, step=step, log=one.log)


def _pruner(name: str, warmup: int) -> BasePruner:
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=0)
    if name == "successive_halving":
        return pruners.SuccessiveHalvingPruner(min_resource=warmup or "auto")
    return pruners.NopPruner()


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]
