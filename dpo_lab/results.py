"""Run folders, read back: the only source of tables and figures."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_lab.errors import Refused

if TYPE_CHECKING:
    import pandas as pd

STATES = ("done", "failed", "running", "stopped")

# what makes a folder a run folder; any one will do, since a run may have died before the others
_MARKS = {"status.json", "record.json", "metrics.jsonl"}


@dataclass(frozen=True)
class Run:
    """One run folder, as it was when first looked at; whole or damaged, it can always be read."""

    folder: Path

    @property
    def state(self) -> str:
        """done, failed, running or stopped; damaged where `status.json` does not say."""
        state = self._status[0].get("state")
        return state if state in STATES else "damaged"

    @property
    def reason(self) -> str:
        """Why there is no result, or what cannot be read; empty where all is well."""
        status, _ = self._status
        said = [str(status["reason"])] if status.get("reason") else []
        if self.state == "running" and not _alive(status.get("pid")):
            said.append(
                f"no process {status.get('pid')} on this machine: killed, or at work elsewhere; "
                f"continue with train.resume={self.folder}"
            )
        return "; ".join(said + self.damage)

    @property
    def damage(self) -> list[str]:
        """What cannot be read of the files that this run should have by now."""
        problems = [problem for _, problem in (self._status, self._record, self._config)]
        return [problem for problem in [*problems, self._events[1]] if problem]

    @property
    def record(self) -> dict[str, Any]:
        """What `record.json` holds."""
        return self._record[0]

    @property
    def choices(self) -> dict[str, str]:
        """What was chosen of each group: `{"loss": "dpo", ...}`."""
        found = self.record.get("choices")
        return found if isinstance(found, dict) else {}

    @property
    def overrides(self) -> list[str]:
        """What was typed, without what belongs to that one call: `train.resume`."""
        found = self.record.get("overrides")
        words = map(str, found) if isinstance(found, list) else ()
        return [word for word in words if not word.lstrip("+").startswith("train.resume=")]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config as plain data."""
        return self._config[0]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, up to the first that is not whole."""
        return self._events[0]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last line of each kind: of the last update, of the last evaluation.

        What an earlier line had and the last has not is left out: it is not true any more.
        """
        last = {str(event.get("event")): event for event in self.events}
        return {
            name: value
            for event in last.values()
            for name, value in event.items()
            if _is_metric(name, value)
        }

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric."""
        found = [
            (event["step"], event[name])
            for event in self.events
            if _is_metric(name, event.get(name))
        ]
        return [step for step, _ in found], [value for _, value in found]

    # ------------------------------------------------------------ each file: content and complaint

    @cached_property
    def _status(self) -> tuple[dict[str, Any], str]:
        return _object(self.folder / "status.json")

    @cached_property
    def _record(self) -> tuple[dict[str, Any], str]:
        return _object(self.folder / "record.json")

    @cached_property
    def _config(self) -> tuple[dict[str, Any], str]:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        path = self.folder / "config.yaml"
        try:
            plain = OmegaConf.to_container(OmegaConf.load(path))
        except FileNotFoundError:
            return {}, "config.yaml is missing"
        except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
            return {}, f"config.yaml cannot be read ({_first_line(error)})"
        if not isinstance(plain, dict) or "seed" not in plain:
            return {}, "config.yaml cannot be read (it is no config of a run)"
        return {str(key): value for key, value in plain.items()}, ""

    @cached_property
    def _events(self) -> tuple[list[dict[str, Any]], str]:
        try:
            lines = (self.folder / "metrics.jsonl").read_text(errors="replace").split("\n")
        except FileNotFoundError:
            return [], "metrics.jsonl is missing" if self.state == "done" else ""
        except OSError as error:
            return [], f"metrics.jsonl cannot be read ({error.strerror})"
        events: list[dict[str, Any]] = []
        for number, line in enumerate(lines, 1):
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict) or type(event.get("step")) is not int:
                # a run that was killed may leave half a line, and that is no damage
                done = self.state == "done"
                broken = number < len(lines) or (done and (line or not events))
                return events, f"metrics.jsonl breaks off at line {number}" if broken else ""
            events.append(event)
        return events, ""


def find(folder: str | Path) -> list[Run]:
    """Every run folder at or below `folder`, by path. Raises `Refused` where `folder` is none."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise Refused(
            f"there is no folder {root}\nexpected a folder with runs in it, such as outputs"
        )
    runs = []
    for place, folders, files in os.walk(root):
        if _MARKS & set(files):
            runs.append(Run(Path(place)))
            folders.clear()  # nothing inside a run folder is a run
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(runs, key=lambda run: run.folder)


def table(folder: str | Path) -> pd.DataFrame:
    """One row a run: folder, state, reason, every choice, every config value under its dotted name,
    and the last value of every metric. A value that a run does not have is missing in its row.
    """
    import pandas as pd

    rows = []
    for run in find(folder):
        config = {name: value for name, value in flat(run.config).items() if "_target_" not in name}
        rows.append(
            {
                "folder": str(run.folder),
                "state": run.state,
                "reason": run.reason,
                **config,
                **run.choices,
                **run.metrics,
            }
        )
    return pd.DataFrame(rows, columns=None if rows else ["folder", "state", "reason"])


def flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"loss": {"beta": 1}}` -> `{"loss.beta": 1}`."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def _is_metric(name: str, value: Any) -> bool:
    return "/" in name and isinstance(value, int | float) and not isinstance(value, bool)


def _object(path: Path) -> tuple[dict[str, Any], str]:
    """The object in a JSON file, and what is wrong with it."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}, f"{path.name} is missing"
    except (OSError, ValueError) as error:
        return {}, f"{path.name} cannot be read ({_first_line(error)})"
    if not isinstance(content, dict):
        return {}, f"{path.name} cannot be read (it holds no object)"
    return content, ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _alive(pid: Any) -> bool:
    """Whether a process of this number exists here; it may belong to somebody else."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
