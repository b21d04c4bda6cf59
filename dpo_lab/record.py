"""`record.json`: what one needs to know to trust a run or to repeat it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dpo_lab import __version__
from dpo_lab.config import Config

_PACKAGES = (
    "torch transformers tokenizers safetensors peft datasets hydra-core omegaconf numpy "
    "pyarrow wandb"
).split()


def record(config: Config, identity: str) -> dict[str, Any]:
    """Versions, git state, command and machine, as they are when the run starts."""
    return {
        "identity": identity,
        "overrides": list(config.overrides),
        "config_dir": os.path.abspath(config.config_dir) if config.config_dir else None,
        "choices": config.choices,
        "command": " ".join(sys.argv),
        "cwd": os.getcwd(),
        "dpo_lab": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "git": _git(),
    }


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
