"""metrics.jsonl is the truth; everything else follows it and may fail without hurting the run."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from dpo_lab import faults
from dpo_lab.disk import writing
from dpo_lab.errors import Refused, Stopped

PATIENCE = 4.0  # seconds that the end of a run waits for a follower


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
        numbers = _numbers(metrics)
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
    """Weights & Biases, offline unless asked; `dpo-lab upload FOLDER` uploads later.

    - `run`: `folder`, `name` and the whole resolved `config` of the run. The name is that of its
      folder, so in a sweep it says what differs.
    - `group`, `job_type`, `tags`: how W&B sorts the run; `jobs` gives those of a sweep one group.
    - `project`, `entity`: where it belongs. `mode`: whether it is uploaded while it trains.
    """
    settings = {
        "project": project,
        "entity": entity,
        "group": group,
        "job_type": job_type,
        "tags": tags or None,
        "mode": mode,
        "name": run["name"],
        "id": hashlib.sha256(run["name"].encode()).hexdigest()[:16],
        "dir": run["folder"],
        "config": run["config"],
        "reinit": "finish_previous",
    }
    metrics = Path(run["folder"]).absolute() / "metrics.jsonl"
    return Apart({"metrics": str(metrics), "settings": settings})


class Apart:
    """W&B in a process of its own (`follower.py`), which a run waits for only at its end.

    - `patience`: seconds it waits then. The process reads `metrics.jsonl` itself, from its
      beginning, so that nothing is missing after a resume.
    """

    def __init__(self, order: dict[str, Any], patience: float = PATIENCE):
        self.patience = patience
        self.said = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `_end`)
        # -P: the folder of the script is no place to import from; a session of its own, so that a
        # Ctrl-C is the run's alone, and all that W&B starts can be ended with it
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("follower.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            start_new_session=True,
        )
        self._tell(json.dumps(order))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """It reads them by itself; raise what ended it."""
        if self.process.poll() is not None:
            self._end()

    def finish(self, summary: dict[str, float], failed: bool) -> None:
        """Let it read the rest and end, `patience` seconds at most."""
        self._tell("failed" if failed else "done")
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(self.patience)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            pass
        self._end()

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def _end(self) -> None:
        """Leave nothing behind, and raise where it did not end well."""
        status = self.process.poll()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        self.said.close()
        if status is None:
            raise TimeoutError(f"it did not answer within {self.patience:g} s")
        if status:
            raise RuntimeError(lines[-1] if lines else f"it ended with status {status}")


def upload(folder: Path, knobs: dict[str, Any], patience: float = 600.0) -> None:
    """Make a finished run's W&B run again from its `metrics.jsonl` and `config.yaml`.

    - `knobs`: of `wandb`, in place of those in the run's config.
    - `patience`: seconds to wait until W&B has everything.

    An upload takes the place of an earlier one of the same run. Raises `Refused` where the folder
    holds no run, or W&B does not take it.
    """
    import yaml

    if not (folder / "metrics.jsonl").is_file():
        raise Refused(f"{folder}: there is no run in this folder (no metrics.jsonl)")
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    given: dict[str, Any] = {"project": "dpo_lab"}
    given |= {name: value for name, value in config["logger"].items() if name != "_target_"}
    run = {"folder": str(folder), "name": folder.resolve().name, "config": config}
    follower = wandb(run, **(given | knobs))
    assert isinstance(follower, Apart)
    follower.patience = patience
    try:
        follower.finish({}, failed=False)
    except Exception as error:
        raise Refused(f"{folder}: W&B did not take it ({_short(error)})") from None


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in line.items() if isinstance(v, int | float)}


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
    return f"{type(error).__name__}: {text[:160]}".removeprefix("RuntimeError: ")
