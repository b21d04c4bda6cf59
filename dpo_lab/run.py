"""One run: config -> objects -> loop -> run folder. The only module that knows all the others."""

from __future__ import annotations

import signal
from contextlib import closing
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from dpo_lab import checkpoint, curves, faults, snapshot
from dpo_lab.assembly import Assembly, device
from dpo_lab.cache import Cache
from dpo_lab.config import Config
from dpo_lab.disk import DiskFull, expect, writing
from dpo_lab.display import Display
from dpo_lab.errors import Interrupted, Refused, Stopped
from dpo_lab.evaluation import evaluate, write_rows
from dpo_lab.folder import LOOKED_AT, RunFolder, read_json, write_json
from dpo_lab.identity import identity
from dpo_lab.intake import Intake
from dpo_lab.loggers import MetricsLog, follow
from dpo_lab.loop import Effects, Plan, State, batches, fit
from dpo_lab.options import bind
from dpo_lab.origin import Origin
from dpo_lab.record import changed_packages, record, resumed, same_facts, same_run
from dpo_lab.repeatable import repeatable
from dpo_lab.results import Run
from dpo_lab.rows import write_rejects
from dpo_lab.signals import STATUS, noted
from dpo_lab.stepzero import check_step_zero


def run(
    config: Config,
    intake: Intake,
    cache: Cache,
    folder: Path | None = None,
    quiet: bool = False,
    origin: Origin | None = None,
) -> Run:
    """Train as the config says and return the finished run.

    - `intake`: the data, read and encoded (`intake.prepare`).
    - `folder`: a run to continue; None for a new one. `origin`: a run that this one repeats.

    Raises `Refused` for what turns out to be impossible, `Stopped` for a run that cannot go on and
    `Interrupted` after a signal; the run folder's `status.json` says the same.
    """
    name = identity(config, intake)
    with writing(folder or Path(config.outputs_dir)):
        held = RunFolder.existing(folder, LOOKED_AT) if folder else RunFolder.new(config, name)
    with closing(held), Display(quiet) as display, noted() as pressed:
        known = record(config, intake, name)
        if old := read_json(held.path / "record.json"):
            same_run(held.path, old, known, config)
            known = resumed(old, known)
        display.write_to(held.path)
        if read_json(held.path / "status.json").get("state") == "done":
            display.say(f"{held.path} is finished; nothing to do")
            return Run(held.path)
        try:
            same = repeatable(device(config.train.device), config.train.deterministic)
            with writing(held.path), same:
                Job(config, intake, cache, held, display, pressed, known).go(origin)
        except Interrupted as stop:
            held.ended("stopped", str(stop))
            raise
        except DiskFull as full:
            held.ended("failed", str(full))
            raise DiskFull(f"{full}; when there is room, train.resume={held.path}") from None
        except BaseException as error:
            held.ended("failed", f"{type(error).__name__}: {' '.join(str(error).split())}")
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
        record: dict[str, Any],
    ):
        self.config = config
        self.intake = intake
        self.cache = cache
        self.held = held
        self.folder = held.path
        self.display = display
        self.pressed = pressed
        self.record = record
        self.best: float | None = None

    def go(self, origin: Origin | None) -> None:
        """Everything, in order."""
        self.held.status("running")
        asked = self.record.get("threads") or self.config.train.threads
        repeated = origin.record.get("threads") if origin else None
        torch.set_num_threads(asked or repeated or torch.get_num_threads())
        self.record["threads"] = torch.get_num_threads()
        if differing := changed_packages(origin.record if origin else self.record, self.record):
            self.display.say(f"versions have changed, so the last bits may: {differing}")
        self.held.config(self.config)
        self._write_record()
        faults.place("record.written")
        torch.manual_seed(self.config.seed)
        with writing(self.cache.root):
            state = self._assemble()
        torch.manual_seed(self.config.seed)  # whether the start was trained just now or found
        self._write_record()
        self.log = MetricsLog(self.folder / "metrics.jsonl", self.display.say)
        run = {"folder": str(self.folder), "name": self.folder.name, "config": self.config.plain}
        try:
            self._restore(state)
            self._look_for_room(state)
            self.log.follower = follow(bind(self.config.nodes["logger"]), run, self.display.say)
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
        faults.place("export.writing")
        with writing(self.folder / "final"):
            state.policy.save(self.folder / "final")
        faults.place("export.written")
        self.log.close()
        if self.gauge is not None:
            write_json(self.folder / "gains.json", self.gauge.gains(state.policy))
        self.record["weights_sha256"] = state.policy.digest()
        self._write_record()
        curves.save(Run(self.folder))
        self.held.status("done", step=state.step)
        if origin and not origin.touched:
            self.display.say(origin.compare(self.record["weights_sha256"]))

    def _assemble(self) -> State:
        """Policy, objective and optimizer, as they are before the first step."""
        assembly = Assembly(self.config, self.intake, self.cache, self.display.say, self._preparing)
        # what it would refuse shows now, not when the start is trained
        bind(self.config.nodes["optimizer"])([("weight", torch.nn.Parameter(torch.zeros(1)))])
        policy = assembly.policy()
        loader = assembly.loader()
        self.held.status("running", steps=loader.steps)
        objective = assembly.objective(policy, loader)
        nodes, rows, names = self.config.nodes, self.intake.rows, self.intake.names
        self.gauge, self.soundings = assembly.gauge(policy, objective), assembly.soundings(policy)
        if self.held.saved is not None:
            same_facts(self.folder, self.record, assembly.facts)
        self.record |= assembly.facts | (self.gauge.facts() if self.gauge else {})
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
            names=names,
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
        train = self.config.train
        plan = Plan(
            max_grad_norm=train.max_grad_norm,
            micro_tokens=train.micro_tokens,
            log_every=train.log_every,
            eval_every=self.config.eval.every,
            save_every=self.config.checkpoint.every,
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
            if bad := [
                n for n, loss in zip(names, columns["loss"], strict=True) if not isfinite(loss)
            ]:
                raise Stopped(f"the held-out loss after step {step} is not finite; rows {bad[:10]}")
            write_rows(self.folder / "eval" / f"step_{step}.parquet", names, columns)
        if self.gauge is not None:
            metrics |= self.gauge(state.policy, at_start=step == 0)
        metrics |= self.soundings(state.policy) if self.soundings else {}
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
            with writing(self.folder / "best"):
                state.policy.save(self.folder / "best")
            write_json(self.folder / "best.json", {"step": step, name: metrics[name]})

    def _save(self, state: State, step: int) -> None:
        """All that the next step depends on."""
        tensors, plain = snapshot.take(state)
        more = {"identity": self.record["identity"], "best": self.best}
        more["metrics_bytes"] = self.log.offset()
        place, keep = self.folder / "checkpoints", self.config.checkpoint.keep
        checkpoint.save(place, step, tensors, plain | more, keep)
        self.held.saved = step
        self.held.status("running", steps=state.loader.steps)

    def _restore(self, state: State) -> None:
        """Go on from the newest whole checkpoint; from the beginning where none was made yet."""
        folder = self.folder / "checkpoints"
        path = checkpoint.latest(folder, self.record["identity"], self.display.say)
        if path is None:
            if self.held.saved is not None or checkpoint.steps(folder):
                raise Refused(
                    f"{folder} holds no whole checkpoint, though the run has made one: nothing to "
                    f"go on from\nput it back, or start a new run (--from {self.folder})"
                )
            if "resumed" in self.record:
                self.display.say(f"{self.folder} has no checkpoint yet; beginning at step 0")
            self.log.cut(0)
            return
        tensors, plain = checkpoint.load(path)
        self.log.cut(plain["metrics_bytes"])
        snapshot.put_back(state, plain["step"], tensors, plain)
        self.best = plain["best"]
        self.display.say(f"continuing {self.folder} after step {state.step}")

    def _look_for_room(self, state: State) -> None:
        """Two checkpoints and the export must fit before anything is trained."""
        needed = snapshot.room(state, exports=1 + self.config.checkpoint.keep_best)
        there = sum(path.stat().st_size for path in self.folder.rglob("*.safetensors"))
        expect(self.folder, needed - there, "two checkpoints and the export")

    def _write_record(self) -> None:
        source = self.intake.source
        found = {"files": source.files, "cache": self.cache.counts}
        self.record |= {"data": self.intake.report} | found
        write_json(self.folder / "record.json", self.record)
        if source.rejects and not (self.folder / "rejects.jsonl").exists():
            write_rejects(self.folder / "rejects.jsonl", source.rejects)
            self.display.say(
                f"{len(source.rejects)} bad rows skipped: {self.folder / 'rejects.jsonl'}"
            )
