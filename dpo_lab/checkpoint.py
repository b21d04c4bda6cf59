"""Checkpoints: written beside their place, synced, named in a manifest, and only then renamed.

A checkpoint is a folder `checkpoints/step_000500/` of safetensors and JSON; nothing is ever
unpickled. `manifest.json`, written last, holds the SHA-256 of every other file: a folder without
one, or with a file that does not match, is not a checkpoint and is passed over, aloud.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from dpo_lab.weights import load_tensors, save_tensors

MANIFEST = "manifest.json"


def save(
    folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int
) -> Path:
    """Write `folder/step_NNNNNN/` and then drop all but the `keep` newest valid checkpoints.

    - `tensors`: file name without ending -> named tensors.
    - `state`: plain data for `state.json`.
    """
    place = folder / f"step_{step:06d}"
    work = folder / f".step_{step:06d}.{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".step_*"):
        shutil.rmtree(stale)
    work.mkdir()
    try:
        for name, named in tensors.items():
            save_tensors(work / f"{name}.safetensors", named)
        (work / "state.json").write_text(json.dumps({"step": step, **state}))
        digests = {path.name: _sha256(path) for path in sorted(work.iterdir())}
        (work / MANIFEST).write_text(json.dumps(digests, indent=1))
        for path in work.iterdir():
            _sync(path)
        _sync(work)
        if place.exists():
            shutil.rmtree(place)
        work.rename(place)
        _sync(folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    valid = [path for path in steps(folder) if fault(path) is None]
    for path in valid[:-keep]:
        shutil.rmtree(path)
    return place


def latest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole; what is passed over is said."""
    for path in reversed(steps(folder)):
        reason = fault(path)
        if reason is None:
            return path
        say(f"{path} is damaged ({reason}); using the one before it")
    return None


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors and the state of a checkpoint that `fault` found whole."""
    tensors = {file.stem: load_tensors(file) for file in sorted(path.glob("*.safetensors"))}
    return tensors, json.loads((path / "state.json").read_text())


def fault(path: Path) -> str | None:
    """Why the folder is no whole checkpoint, or None."""
    try:
        digests = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"no readable {MANIFEST}"
    for name, expected in digests.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if _sha256(file) != expected:
            return f"{name} does not match its checksum"
    state = json.loads((path / "state.json").read_text())
    if path.name != f"step_{state['step']:06d}":
        return f"it holds step {state['step']}"
    return None


def steps(folder: Path) -> list[Path]:
    """The checkpoint folders, oldest first."""
    if not folder.is_dir():
        return []
    named = (path for path in folder.iterdir() if re.fullmatch(r"step_\d{6,}", path.name))
    return sorted(named, key=lambda path: int(path.name[5:]))


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
