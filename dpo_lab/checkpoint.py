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

from dpo_lab import faults
from dpo_lab.disk import sync, writing
from dpo_lab.weights import load_tensors, save_tensors, size

MANIFEST = "manifest.json"


def save(
    folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int
) -> Path:
    """Write `folder/step_NNNNNN/` and then drop all but the `keep` newest valid checkpoints.

    - `tensors`: file name without ending -> named tensors.
    - `state`: plain data for `state.json`.

    Raises `Stopped` for a tensor that is not finite and where the disk is full; what was there
    before is then still there.
    """
    place = folder / f"step_{step:06d}"
    work = folder / f".step_{step:06d}.{os.getpid()}"
    with writing(place, sum(map(size, tensors.values()))):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".step_*"):
            shutil.rmtree(stale)
        try:
            work.mkdir()
            _fill(work, tensors, {"step": step, **state})
            if place.exists():  # a damaged one: a whole one would have been continued
                place.rename(folder / f".{place.name}.old")
            faults.place("checkpoint.aside")
            work.rename(place)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        faults.place("checkpoint.renamed")
        sync(folder)
    faults.place("checkpoint.committed")
    _prune(folder, place, keep)
    return place


def _fill(work: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    for name, named in tensors.items():
        file = work / f"{name}.safetensors"
        faults.place("checkpoint.writing", lambda file=file: file.write_bytes(b"half"))
        save_tensors(file, named)
    (work / "state.json").write_text(json.dumps(state))
    faults.place("checkpoint.written")
    files = sorted(work.iterdir())
    for path in files:
        sync(path)
    (work / MANIFEST).write_text(_manifest({path.name: _sha256(path) for path in files}))
    sync(work / MANIFEST)
    sync(work)
    faults.place("checkpoint.synced")


def _prune(folder: Path, newest: Path, keep: int) -> None:
    """Only whole ones count; an old one vanishes by a rename, so that no half of one is seen."""
    for aside in folder.glob(".step_*.old"):
        shutil.rmtree(aside)
    there = steps(folder)
    whole = [path for path in there if path == newest or fault(path) is None]
    for path in there:
        if path not in whole[-keep:]:
            aside = folder / f".{path.name}.old"
            path.rename(aside)
            faults.place("checkpoint.pruning", next(aside.iterdir()).unlink)
            shutil.rmtree(aside)


def latest(folder: Path, identity: str, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of this run that is whole; what is passed over is said."""
    for path in reversed(steps(folder)):
        reason = fault(path, identity)
        if reason is None:
            return path
        say(f"{path} is damaged ({reason}); looking for the one before it")
    return None


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors and the state of a checkpoint that `fault` found whole."""
    tensors = {file.stem: load_tensors(file) for file in sorted(path.glob("*.safetensors"))}
    return tensors, json.loads((path / "state.json").read_text())


def fault(path: Path, identity: str | None = None) -> str | None:
    """Why the folder is no whole checkpoint (of the run with that identity), or None."""
    try:
        text = (path / MANIFEST).read_text()
        digests = json.loads(text)
        if not isinstance(digests, dict) or _manifest(digests) != text:
            return f"{MANIFEST} is not as it was written"
        for name in sorted({file.name for file in path.iterdir()} - {MANIFEST, *digests}):
            return f"{name} does not belong to it"
        for name, expected in digests.items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if _sha256(path / name) != expected:
                return f"{name} does not match its checksum"
        state = json.loads((path / "state.json").read_text())
    except OSError as error:
        return f"{Path(error.filename or path).name}: {error.strerror}"
    except ValueError:
        return f"no readable {MANIFEST}"
    if path.name != f"step_{state['step']:06d}":
        return f"it holds step {state['step']}"
    if identity is not None and state.get("identity") != identity:
        return "it belongs to another run"
    return None


def steps(folder: Path) -> list[Path]:
    """The checkpoint folders, oldest first."""
    named = [path for path in folder.glob("step_*/") if re.fullmatch(r"step_\d{6,}", path.name)]
    return sorted(named, key=lambda path: int(path.name[5:]))


def _manifest(digests: dict[str, str]) -> str:
    return json.dumps(digests, indent=1)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
