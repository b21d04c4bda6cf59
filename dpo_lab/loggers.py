"""metrics.jsonl is the truth; everything else follows it and may fail without hurting the run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

from dpo_lab import faults
from dpo_lab.disk import writing
from dpo_lab.errors import Refused, Stopped


class Follower(Protocol):
    """Something that also wants the metrics."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Take the metrics of one event."""

    def finish(self, summary: dict[str, float], failed: bool) -> None:
        """The run is over."""


class MetricsLog:
    """`metrics.jsonl`: one flat object a line with `event`, `step`, `time` and the metrics.

    Each line is flushed. A resumed run cuts the file back to where its checkpoint was made, so that
    every step stands in it exactly once.
    """

    def __init__(self, path: Path, say: Callable[[str], None]):
        self.path = path
        self.say = say
        self.follower: Follower | None = None
        self.last: dict[str, float] = {}
        # unbuffered: what could not be written is nowhere, and is not tried again on closing
        self.handle = path.open("ab", buffering=0)

    def offset(self) -> int:
        """Bytes written so far, for a checkpoint."""
        os.fsync(self.handle.fileno())
        return self.handle.seek(0, os.SEEK_END)

    def cut(self, offset: int) -> None:
        """Forget what was written after `offset`. Raises `Refused` where that much is not there."""
        there = self.handle.seek(0, os.SEEK_END)
        if there < offset:
            raise Refused(
                f"{self.path} holds {there:,} bytes, and held {offset:,} when the checkpoint was "
                "made; lines were lost\nput the file back, or start a new run"
            )
        self.handle.truncate(offset)

    def write(self, event: str, step: int, metrics: dict[str, Any]) -> None:
        """Append one line, then tell the follower."""
        line = {"event": event, "step": step, "time": round(time.time(), 3), **metrics}
        self._append(json.dumps(line).encode() + b"\n")
        numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        self.last |= numbers
        if self.follower is not None:
            try:
                self.follower.log(step, numbers)
            except Exception as error:  # a follower never hurts the run
                self._drop(error)

    def close(self, failed: bool = False) -> None:
        """End the file, and the follower with the last value of every metric."""
        self.handle.close()
        if self.follower is not None:
            try:
                self.follower.finish(self.last, failed)
            except Exception as error:
                self._drop(error)

    def _append(self, line: bytes) -> None:
        """All of it or nothing."""
        start = self.handle.seek(0, os.SEEK_END)
        faults.place("metrics.append", lambda: self.handle.write(line[: len(line) // 2]))
        try:
            with writing(self.path, len(line)):
                left = line
                while left:
                    left = left[self.handle.write(left) :]
        except Stopped:
            self.handle.truncate(start)
            raise

    def _drop(self, error: Exception) -> None:
        self.follower = None
        self.say(f"W&B stopped following ({_short(error)}); metrics.jsonl has everything")


def none(run: dict[str, Any]) -> None:
    """Nothing follows `metrics.jsonl`."""


def wandb(
    run: dict[str, Any],
    *,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    job_type: str | None = "train",
    tags: list[str] = [],  # noqa: B006  (read as a literal, never changed)
    mode: Literal["offline", "online"] = "offline",
) -> Follower:
    """Weights & Biases, offline unless asked; `wandb sync FOLDER/wandb/offline-*` uploads later.

    - `run`: `folder`, `name` and the whole resolved `config` of the run. The name is that of its
      folder, so in a sweep it says what differs.
    - `group`, `job_type`, `tags`: how W&B sorts the run; `jobs` gives those of a sweep one group.
    - `project`, `entity`: where it belongs. `mode`: whether it is uploaded while it trains.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_START_METHOD", "thread")
    import wandb as library

    settings = library.Settings(
        console="off", init_timeout=5, x_disable_stats=True, x_disable_meta=True, silent=True
    )
    live = library.init(
        project=project,
        entity=entity,
        group=group,
        job_type=job_type,
        tags=tags or None,
        mode=mode,
        name=run["name"],
        dir=run["folder"],
        config=run["config"],
        settings=settings,
        reinit="finish_previous",
    )
    return _WandbRun(live)


class _WandbRun:
    """A live W&B run, with our own step as its x axis."""

    def __init__(self, live: Any):
        self.live = live

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.live.log({"step": step, **metrics}, step=step)

    def finish(self, summary: dict[str, float], failed: bool) -> None:
        self.live.summary.update(summary)
        self.live.finish(exit_code=int(failed))


def follow(
    make: Callable[[dict[str, Any]], Follower | None],
    run: dict[str, Any],
    say: Callable[[str], None],
) -> Follower | None:
    """Start the follower; where that fails the run goes on without it, with one warning."""
    try:
        return make(run)
    except Exception as error:
        say(f"W&B does not follow this run ({_short(error)}); metrics.jsonl has everything")
        return None


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"
