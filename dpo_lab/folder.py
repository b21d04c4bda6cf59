"""The run folder: made once, held by one process, complete in itself.

`config.yaml` (resolved), `record.json` (versions, digests, command), `metrics.jsonl`, `status.json`
(running, done, stopped or failed, and why), `train.log`, `eval/`, `checkpoints/`, `final/`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from dpo_lab.config import Config
from dpo_lab.disk import sync
from dpo_lab.errors import InUse, Refused

# A sweep that looks for what is missing holds a folder's lock for a moment; so long, in seconds, a
# run waits for it before it says that the folder is in use.
LOOKED_AT = 0.5


class RunFolder:
    """A folder that this process writes into; `held` is its lock, let go by `close`.

    `saved` is the step of the newest checkpoint that was ever made in it, or None.
    """

    def __init__(self, path: Path, held: IO[str]):
        self.path = path
        self.held = held
        self.saved: int | None = None
        with suppress(Refused):  # damaged: whoever reads it for its state says so
            self.saved = read_json(path / "status.json").get("saved")

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
            except OSError as error:
                raise Refused(
                    f"outputs_dir={config.outputs_dir}: {error.strerror}: {path}"
                ) from None
            return cls(path, _lock(path, LOOKED_AT))
        raise Refused(f"{parent} already holds 1000 runs of this second")

    @classmethod
    def existing(cls, path: Path, patience: float = 0.0) -> RunFolder:
        """Take a folder up again. Raises `InUse` where another process works in it.

        - `patience`: seconds to wait for one that may only be looking (`LOOKED_AT`).
        """
        return cls(path, _lock(path, patience))

    def status(self, state: str, **more: Any) -> None:
        """Write `status.json`, whole or not at all."""
        known = {} if self.saved is None else {"saved": self.saved}
        write_json(self.path / "status.json", {"state": state, "pid": os.getpid(), **known, **more})

    def ended(self, state: str, reason: str) -> None:
        """Write why there is no result, where the disk still takes it."""
        with suppress(OSError):
            self.status(state, reason=reason)

    def close(self) -> None:
        """Let another process have it."""
        self.held.close()

    def config(self, config: Config) -> None:
        """Write the resolved config."""
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config.plain)))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an empty one where there is none. Raises `Refused` where there
    is something else."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise Refused(f"{path} cannot be read ({reason}); put it back or remove it") from None
    if not isinstance(content, dict):
        raise Refused(f"{path} holds no object; put it back or remove it")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(content, indent=1, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, so that a power cut leaves the old one or the new one."""
    work = path.with_name(f".{path.name}.tmp")
    try:
        work.write_text(text)
        sync(work)
        work.replace(path)
    except BaseException:
        work.unlink(missing_ok=True)
        raise


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
                raise InUse(f"{path} is in use by process {holder}") from None
        time.sleep(0.02)
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle
