"""`record.json`: what one needs to know to trust a run or to repeat it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_lab import __version__
from dpo_lab.config import HOUSEKEEPING, Config
from dpo_lab.errors import Refused, Stopped
from dpo_lab.identity import folder_digest
from dpo_lab.results import Run, flat

if TYPE_CHECKING:
    from dpo_lab.intake import Intake

_PACKAGES = (
    "torch transformers tokenizers safetensors peft datasets hydra-core omegaconf numpy "
    "pyarrow wandb"
).split()
_CALL = ("command", "cwd", "dpo_lab", "python", "platform", "packages", "git", "time")


def record(config: Config, intake: Intake, identity: str) -> dict[str, Any]:
    """Versions, git state, digests, command and machine, as they are when the run starts."""
    return {
        "identity": identity,
        "overrides": typed(config.overrides),
        "config_dir": os.path.abspath(config.config_dir) if config.config_dir else None,
        "choices": config.choices,
        "seed": config.seed,
        "digests": digests(config, intake),
        "command": " ".join(sys.argv),
        "cwd": os.getcwd(),
        "dpo_lab": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "git": _git(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def resumed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The record of a run that is taken up again: how it began, and each call that went on."""
    call = {name: new[name] for name in _CALL if name in ("command", "time")}
    call |= {name: new[name] for name in _CALL if new[name] != old.get(name)}
    kept = {name: old[name] for name in _CALL if name in old}
    return old | new | kept | {"resumed": [*old.get("resumed", []), call]}


def typed(overrides: tuple[str, ...] | list[str]) -> list[str]:
    """Without what belongs to one call only."""
    return [word for word in overrides if not word.lstrip("+").startswith("train.resume=")]


def digests(config: Config, intake: Intake) -> dict[str, str]:
    """SHA-256 of what the run takes in: data, tokenizer, and the folders of networks."""
    found = {"data": intake.source.digest, "tokenizer": intake.tokenizer.digest}
    for name in ("model", "reference"):
        folder = Path(config.nodes[name].get("path") or "/nowhere").expanduser()
        if folder.is_dir():
            found[name] = folder_digest(folder)
    return found


def changed_inputs(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What another run took in that this one does not, both digests named."""
    before, now = old.get("digests", {}), new["digests"]
    return [
        f"{name} was {before[name][:12]} and is {now.get(name, 'missing')[:12]}"
        for name in before
        if before[name] != now.get(name)
    ]


def changed_config(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Knobs of two resolved configs that differ, of those that change a result."""
    before, now = flat(old), flat(new)
    return [
        f"{name} was {before.get(name)} and is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not housekeeping(name)
    ]


def changed_packages(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Versions that differ from those of another run, or from those this one began with."""
    last = new.get("resumed", [{}])[-1]  # holds what differs from the beginning
    before = {"python": old.get("python"), **old.get("packages", {})}
    now = {"python": last.get("python", new["python"])} | last.get("packages", new["packages"])
    return "; ".join(
        f"{name} was {found} and is {now.get(name)}"
        for name, found in before.items()
        if found != now.get(name)
    )


def housekeeping(name: str) -> bool:
    """Whether an option says where and when things are done rather than what comes out."""
    parts = name.split(".")
    return any(".".join(parts[:end]) in HOUSEKEEPING for end in range(1, len(parts) + 1))


def same_run(folder: Path, old: dict[str, Any], new: dict[str, Any], config: Config) -> None:
    """Raise `Refused` where a folder was started with another config or other data."""
    if old["identity"] == new["identity"]:
        return
    inputs = changed_inputs(old, new)
    knobs = changed_config(Run(folder).config, config.plain)
    found = "; ".join([*inputs, *knobs][:6]) or "the lab's major version"
    raise Refused(
        f"{folder} was started with another config or other data, so nothing is trained\n"
        f"{found}\nleave out what differs, or start a new run without train.resume"
    )


def same_facts(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise `Stopped` where start or reference do not come out as when the run began."""
    for name in ("start", "reference", "start_logps"):
        if old.get(name) and new[name] and old[name] != new[name]:
            raise Stopped(
                f"{folder}: {name} does not come out as when the run began: it was {old[name]} "
                f"and is {new[name]}\nanother machine, or other versions? start a new run"
            )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the current folder's repository and whether it has changes; else None."""

    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = ask("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(ask("status", "--porcelain"))} if commit else None
    except (OSError, subprocess.TimeoutExpired):
        return None
