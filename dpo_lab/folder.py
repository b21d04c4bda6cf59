"""The run folder: made once, held by one process, complete in itself.

`config.yaml` (resolved), `record.json` (versions, digests, command), `metrics.jsonl`, `status.json`
(running, done, stopped or failed, and why), `train.log`, `eval/`, `checkpoints/`, `final/`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from dpo_lab.compose import compose
from dpo_lab.config import Config
from dpo_lab.errors import Refused

# A sweep that looks for what is missing holds a folder's lock for a moment; so long, in seconds, a
# run waits for it before it says that the folder is in use.
LOOKED_AT = 0.5


class RunFolder:
    """A folder that this process writes into; `held` is its lock, let go by `close`."""

    def __init__(self, path: Path, held: IO[str]):
        self.path = path
        self.held = held

    @classmethod
    def new(cls, config: Config, identity: str) -> RunFolder:
        """Make `outputs/<name>/<time>-<hash>`, which no other process gets at the same moment."""
        parent = Path(config.outputs_dir).expanduser() / config.name
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"outputs_dir={config.outputs_dir}: {error.strerror}: {parent}") from None
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for turn in range(1000):
            path = parent / (f"{stamp}-{identity[:8]}" + (f"-{turn}" if turn else ""))
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return cls(path, _lock(path, LOOKED_AT))
        raise Refused(f"{parent} already holds 1000 runs of this second")

    @classmethod
    def existing(cls, path: Path, patience: float = 0.0) -> RunFolder:
        """Take a folder up again. Raises `Refused` where another process works in it.

        - `patience`: seconds to wait for one that may only be looking (`LOOKED_AT`).
        """
        return cls(path, _lock(path, patience))

    def status(self, state: str, **more: Any) -> None:
        """Write `status.json`, whole or not at all."""
        write_json(self.path / "status.json", {"state": state, "pid": os.getpid(), **more})

    def close(self) -> None:
        """Let another process have it."""
        self.held.close()

    def config(self, config: Config) -> None:
        """Write the resolved config."""
        (self.path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config.plain)))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an empty one where there is none."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file in one step."""
    work = path.with_name(f".{path.name}.tmp")
    work.write_text(json.dumps(content, indent=1, default=str) + "\n")
    work.replace(path)


def resume(overrides: Sequence[str], config_dir: str | None) -> tuple[Config, Path | None]:
    """Compose a config; where `train.resume` is given, on top of what that run was started with.

    Returns the config and the folder to continue, or None for a new one. Raises `Refused` where
    there is no such folder or no run in it.
    """
    config = compose(overrides, config_dir)
    if config.train.resume is None:
        return config, None
    if config.train.resume == "last":
        parent = Path(config.outputs_dir).expanduser() / config.name
        runs = [path.parent for path in parent.glob("*/record.json")]
        if not runs:
            raise Refused(f"train.resume=last: there is no run in {parent}")
        folder = max(runs, key=lambda path: (path / "record.json").stat().st_mtime)
    else:
        folder = Path(config.train.resume).expanduser()
    record = read_json(folder / "record.json")
    if not record:
        raise Refused(f"train.resume={folder}: there is no run in this folder (no record.json)")
    started_with = [text for text in record["overrides"] if not text.startswith("train.resume=")]
    return compose([*started_with, *overrides], config_dir or record["config_dir"]), folder


def _lock(path: Path, patience: float) -> IO[str]:
    handle = (path / ".lock").open("a+")
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= until:
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                handle.close()
                raise Refused(f"{path} is in use by process {holder}") from None
        time.sleep(0.02)
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle
