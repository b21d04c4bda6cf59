"""A content-addressed store on disk: tokens, SFT starts, reference log-probabilities.

An entry is a folder `ROOT/KIND/KEY/`, where KEY is a digest of everything that determines its
content. It is built beside its place and renamed into it, under a lock, so that runs that start
together build it once and a killed build leaves nothing that could be taken for an entry.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_lab.disk import writing


def default_root() -> Path:
    """`$DPO_LAB_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("DPO_LAB_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dpo_lab"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dpo_lab"


def digest(*parts: Any) -> str:
    """SHA-256 (hex) of plain data, independent of the order of keys."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """What the cache keeps in one folder. `made`: when, by the clock `time.time()`."""

    kind: str
    path: Path
    bytes: int
    made: float


class Cache:
    """The store below one root. `counts`: what this process found and what it computed."""

    def __init__(self, root: str | Path | None = None):
        self.root = Path(root).expanduser() if root else default_root()
        self.counts: dict[str, int] = {}

    def count(self, name: str, number: int) -> None:
        """Add to a counter that the run's record shows, e.g. `reference_rows_computed`."""
        self.counts[name] = self.counts.get(name, 0) + number

    def place(self, kind: str, key: str) -> Path:
        """Where the entry is or would be."""
        return self.root / kind / key[:32]

    def entry(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of the entry; where there is none yet, `build(folder)` fills it first."""
        place = self.place(kind, key)
        if place.is_dir():
            return place
        with writing(place), self.lock(kind, key):
            if place.is_dir():  # somebody else built it while we waited
                return place
            work = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
            try:
                build(work)
                work.chmod(0o755)
                work.rename(place)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
        return place

    def drop(self, kind: str, key: str) -> None:
        """Remove an entry that turned out to be damaged."""
        shutil.rmtree(self.place(kind, key), ignore_errors=True)

    @contextmanager
    def lock(self, kind: str, key: str) -> Generator[None]:
        """Hold the entry's lock; it falls with the process that holds it."""
        place = self.place(kind, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(place.with_name(f"{place.name}.lock"), "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def entries(self) -> list[Entry]:
        """Everything that is kept, by kind and age; what a killed build left behind included."""
        found = []
        for path in self.root.glob("*/*/"):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            found.append(Entry(path.parent.name, path, size, path.stat().st_mtime))
        return sorted(found, key=lambda entry: (entry.kind, entry.made))

    def prune(self, days: float) -> list[Entry]:
        """Remove what was made more than `days` ago, but nothing that is being made; returns it.

        A run that finds an entry gone makes it again. Locks stay: somebody may be waiting for one.
        """
        removed = []
        for entry in self.entries():
            key = entry.path.name.lstrip(".").split(".")[0]
            with (entry.path.parent / f"{key}.lock").open("w") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if entry.made < time.time() - days * 86400:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    removed.append(entry)
        return removed
