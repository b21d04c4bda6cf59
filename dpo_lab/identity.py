"""What a run is: a digest of everything that determines its result."""

from __future__ import annotations

import copy
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_lab import __version__
from dpo_lab.cache import digest
from dpo_lab.config import HOUSEKEEPING, Config

if TYPE_CHECKING:
    from dpo_lab.intake import Intake


def identity(config: Config, intake: Intake) -> str:
    """SHA-256 over the resolved config (less what cannot change the result), the pairs, the
    tokenizer, the files of model and reference, and the lab's major version.
    """
    return identity_of(config, intake.source.digest, intake.tokenizer.digest)


def identity_of(config: Config, data: str, tokenizer: str) -> str:
    """The same from the digests of data and tokenizer, which runs of a sweep have in common."""
    plain: dict[str, Any] = copy.deepcopy(config.plain)
    for name in HOUSEKEEPING:
        node, _, option = name.rpartition(".")
        (plain[node] if node else plain).pop(option, None)
    node = plain["data"]  # a file is known by its content, wherever it lies
    plain["data"] = {key: value for key, value in node.items() if not key.endswith("path")}
    for name in ("model", "reference"):
        folder = Path(plain[name].get("path") or "/nowhere").expanduser()
        if folder.is_dir():
            plain[name]["path"] = folder_digest(folder)
    major = __version__.split(".")[0]
    return digest(plain, data, tokenizer, major)


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's files; read again only where one changed."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    shown = [path for path in files if not path.name.startswith(".")]
    return _digest(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in shown))


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    sha = hashlib.sha256()
    for path, _, _ in files:
        sha.update(path.name.encode())
        with path.open("rb") as handle:
            sha.update(hashlib.file_digest(handle, "sha256").digest())
    return sha.hexdigest()
