"""One run: config -> objects -> loop -> run folder. The only module that knows all the others."""

from __future__ import annotations

import signal
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dpo_lab import checkpoint, curves, optimizers
from dpo_lab.assembly import Assembly
from dpo_lab.cache import Cache
from dpo_lab.config import Config
from dpo_lab.display import Display
from dpo_lab.errors import Interrupted, Refused
from dpo_lab.evaluation import evaluate, write_rows
from dpo_lab.folder import LOOKED_AT, RunFolder, read_json, write_json
from dpo_lab.gauge import Gauge
from dpo_lab.generators import set_states, states
from dpo_lab.identity import identity
from dpo_lab.intake import Intake
from dpo_lab.loggers import MetricsLog, follow
from dpo_lab.loop import Effects, Plan, State, batches, fit
from dpo_lab.options import bind
from dpo_lab.record import record
from dpo_lab.references import Changing
from dpo_lab.results import Run
from dpo_lab.rows import write_rejects
from dpo_lab.signals import STATUS, noted
from dpo_lab.stepzero import check_step_zero


def run(
    config: Config, intake: Intake, cache: Cache, folder: Path | None = None, quiet: bool = False
) -> Run:
    """Train as the config says and return the finished run.

    - `intake`: the data, read and encoded (`intake.prepare`).
    - `folder`: a run to continue; None for a new one.

    Raises `Refused` for what turns out to be impossible, `Stopped` for a run that cannot go on and
    `Interrupted` after a signal; the run folder's `status.json` says the same.
    """
    name = identity(config, intake)
    held = RunFolder.new(config, name) if folder is None else RunFolder.existing(folder, LOOKED_AT)
    with closing(held), Display(quiet) as display, noted() as pressed:
        display.write_to(held.path)
        if read_json(held.path / "status.json").get("state") == "done":
            display.say(f"{held.path} is finished; nothing to do")
            return Run(held.path)
        try:
            Job(config, intake, cache, held, display, pressed).go(name)
        except Interrupted as stop:
            held.status("stopped", reason=str(stop))
            raise
        except BaseException as error:
            held.status("failed", reason=f"{type(error).__name__}: {' '.join(str(error).split())}")
            raise
    return Run(held.path)


class Job:
    """One run in its folder."""

    def __init__(
        self,
        config: Config,
        intake: Intake,
        cache: Cache,
        held: RunFolder,
        display: Display,
        pressed: list[signal.Signals],
    ):
        self.config = config
        self.intake = intake
        self.cache = cache
        self.held = held
        self.folder = held.path
        self.display = display
        self.pressed = pressed
        self.best: float | None = None

    def go(self, name: str) -> None:
        """Everything, in order."""
        old = read_json(self.folder / "record.json")
        if old and old["identity"] != name:
            raise Refused(
                f"{self.folder} was started with another config or other data\n"
                f"its identity is {old['identity'][:12]}, this one's is {name[:12]}"
            )
        self.held.status("running")
        threads = old.get("threads") or self.config.train.threads or torch.get_num_threads()
        torch.set_num_threads(threads)
        self.held.config(self.config)
        self.record = record(self.config, name) | {"threads": threads}
        self._write_record()
        torch.manual_seed(self.config.seed)
        state = self._assemble()
        self._write_record()
        self._restore(state)
        run = {"folder": str(self.folder), "name": self.folder.name, "config": self.config.plain}
        self.log.follower = follow(bind(self.config.nodes["logger"]), run, self.display.say)
        try:
            finished = self._train(state)
        except BaseException:
            self.log.close(failed=True)
            raise
        if not finished:
            self.log.close(failed=True)
            sign = self.pressed[0]
            raise Interrupted(
                STATUS[sign],
                f"{sign.name} after step {state.step}; continue with train.resume={self.folder}",
            )
        state.policy.save(self.folder / "final")
        self.log.close()
        curves.save(Run(self.folder))
        self.held.status("done", step=state.step)

    def _assemble(self) -> State:
        """Policy, objective and optimizer, as they are before the first step."""
        nodes, rows, names = self.config.nodes, self.intake.rows, self.intake.names
        assembly = Assembly(self.config, self.intake, self.cache, self.display.say, self._preparing)
        policy = assembly.policy()
        loader = assembly.loader()
        self.held.status("running", steps=loader.steps)
        objective = assembly.objective(policy, loader)
        self.gauge = Gauge.of(self.intake.source.world, policy, nodes["loss"])
        self.record |= assembly.facts
        if self.gauge is not None:
            self.record["frontier"] = self.gauge.frontier()
        first = batches(policy, rows, loader.take(0)[:8], self.config.train.micro_tokens, True)[0]
        check_step_zero(policy, objective, first, [names[row] for row in first.rows])
        schedule = bind(nodes["schedule"])
        return State(
            policy=policy,
            optimizer=bind(nodes["optimizer"])(policy.trainable()),
            schedule=lambda step: schedule(step, loader.steps),
            loader=loader,
            objective=objective,
            rows=rows,
        )

    def _preparing(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Part of the start or of the reference is done; a signal ends the run here, too."""
        self.display.progress(stage, done, total, note)
        if self.pressed:
            sign = self.pressed[0]
            raise Interrupted(
                STATUS[sign],
                f"{sign.name} before the first step; continue with train.resume={self.folder}",
            )

    def _train(self, state: State) -> bool:
        train, checkpointing = self.config.train, self.config.checkpoint
        plan = Plan(
            max_grad_norm=train.max_grad_norm,
            micro_tokens=train.micro_tokens,
            log_every=train.log_every,
            eval_every=self.config.eval.every,
            save_every=checkpointing.every,
        )
        return fit(
            state,
            plan,
            Effects(
                log=partial(self.log.write, "train"),
                progress=lambda step, steps, loss: self.display.progress(
                    "train", step, steps, f"loss {loss:.4f}"
                ),
                evaluate=lambda step: self._evaluate(state, step),
                save=lambda step: self._save(state, step),
                stop=lambda: bool(self.pressed),
            ),
        )

    # ---------------------------------------------------------------------- effects

    def _evaluate(self, state: State, step: int) -> None:
        """Held-out pairs, and the exact quantities of a world; what is best so far is exported."""
        metrics: dict[str, Any] = {}
        if self.intake.eval:
            found, columns = evaluate(
                state.policy,
                state.objective,
                state.rows,
                self.intake.eval,
                self.config.train.micro_tokens,
                state.objective.start if step == 0 else None,
            )
            metrics |= found
            names = [self.intake.names[row] for row in self.intake.eval]
            write_rows(self.folder / "eval" / f"step_{step}.parquet", names, columns)
        if self.gauge is not None:
            metrics |= self.gauge(state.policy)
        if metrics:
            self.log.write("eval", step, metrics)
        if self.config.checkpoint.keep_best:
            self._keep_best(state, step, metrics)

    def _keep_best(self, state: State, step: int, metrics: dict[str, float]) -> None:
        name = self.config.checkpoint.metric
        if name not in metrics:
            raise Refused(
                f"checkpoint.metric={name} is not measured here; there is {', '.join(metrics)}"
            )
        value = -metrics[name] if name == "eval/loss" else metrics[name]
        if self.best is None or value > self.best:
            self.best = value
            state.policy.save(self.folder / "best")
            write_json(self.folder / "best.json", {"step": step, name: metrics[name]})

    def _save(self, state: State, step: int) -> None:
        """All that the next step depends on."""
        policy, reference = state.policy, state.objective.reference
        checkpoint.save(
            self.folder / "checkpoints",
            step,
            {
                "policy": {name: parameter for name, parameter in policy.trainable()},
                "optimizer": optimizers.state_by_name(state.optimizer, policy.trainable()),
                "random": states(policy.device.type),
                "reference": reference.state() if isinstance(reference, Changing) else {},
            },
            {
                "identity": self.record["identity"],
                "meter": state.meter.sums,
                "counters": state.counters,
                "metrics_bytes": self.log.offset(),
                "best": self.best,
            },
            self.config.checkpoint.keep,
        )

    def _restore(self, state: State) -> None:
        """Go on from the newest whole checkpoint, if there is one; else from the beginning."""
        self.log = MetricsLog(self.folder / "metrics.jsonl", self.display.say)
        path = checkpoint.latest(self.folder / "checkpoints", self.display.say)
        if path is None:
            self.log.cut(0)
            return
        tensors, plain = checkpoint.load(path)
        if plain["identity"] != self.record["identity"]:
            raise Refused(f"{path} belongs to another run")
        with torch.no_grad():
            for name, parameter in state.policy.trainable():
                parameter.copy_(tensors["policy"][name])
        optimizers.load_state_by_name(
            state.optimizer, state.policy.trainable(), tensors["optimizer"]
        )
        if isinstance(state.objective.reference, Changing):
            state.objective.reference.load(tensors["reference"])
        state.step = plain["step"]
        state.meter.sums = plain["meter"]
        state.counters = plain["counters"]
        self.best = plain["best"]
        self.log.cut(plain["metrics_bytes"])
        set_states(tensors["random"], state.policy.device.type)
        self.display.say(f"continuing {self.folder} after step {state.step}")

    def _write_record(self) -> None:
        source = self.intake.source
        self.record |= {
            "data": self.intake.report,
            "files": source.files,
            "cache": self.cache.counts,
        }
        write_json(self.folder / "record.json", self.record)
        if source.rejects and not (self.folder / "rejects.jsonl").exists():
            write_rejects(self.folder / "rejects.jsonl", source.rejects)
            self.display.say(
                f"{len(source.rejects)} bad rows skipped: {self.folder / 'rejects.jsonl'}"
            )
