"""Rows of token ids as three arrays: quick to keep, to check and to compare; lists when needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dpo_lab.batch import Encoded
from dpo_lab.tokens import Problem

_NAMES = ("ids", "lengths", "paired")


class TokenRows(Sequence[Encoded]):
    """Rows of prompt, chosen and rejected ids; rows without rejected have None there.

    - `ids`: int32, those of all sides of all rows, one after another.
    - `lengths`: int32 (3 R,) of prompt, chosen and rejected of each of the R rows.
    - `paired`: uint8 (R,) whether a row has a rejected response.
    """

    def __init__(self, ids: np.ndarray, lengths: np.ndarray, paired: np.ndarray):
        self.ids = ids
        self.lengths = lengths
        self.paired = paired

    @classmethod
    def of(cls, rows: Sequence[Encoded]) -> TokenRows:
        """The same rows as arrays."""
        sides = [part for row in rows for part in (row.prompt, row.chosen, row.rejected or [])]
        made = cls(
            np.fromiter((i for side in sides for i in side), np.int32),
            np.fromiter(map(len, sides), np.int32),
            np.asarray([row.rejected is not None for row in rows], np.uint8),
        )
        made.rows = list(rows)
        return made

    @cached_property
    def rows(self) -> list[Encoded]:
        """As lists, made when first asked for: of many rows that takes a second."""
        ids = self.ids.tolist()
        ends = np.cumsum(self.lengths).tolist()
        sides = [ids[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        return [
            Encoded(sides[3 * i], sides[3 * i + 1], sides[3 * i + 2] if paired else None)
            for i, paired in enumerate(self.paired.tolist())
        ]

    def __len__(self) -> int:
        return len(self.paired)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Encoded]:
        return iter(self.rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with a response; 0 where there are no rows."""
        prompts, chosen, rejected = self.lengths.reshape(-1, 3).T
        return int((prompts + np.maximum(chosen, rejected)).max(initial=0))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all ids and where they belong."""
        sha = hashlib.sha256()
        for name in _NAMES:
            array = getattr(self, name)
            sha.update(np.int64(array.size).tobytes() + array.tobytes())
        return sha.hexdigest()


def save(
    folder: Path, rows: TokenRows, problems: Sequence[Problem], report: dict[str, Any]
) -> None:
    """Write rows, and what was said of them, into `rows.safetensors`, with a checksum."""
    from safetensors.numpy import save_file

    about = {"problems": json.dumps(list(problems)), "report": json.dumps(report)}
    about["sha256"] = _checksum(rows, about)
    save_file(
        {name: getattr(rows, name) for name in _NAMES}, folder / "rows.safetensors", metadata=about
    )


def load(folder: Path) -> tuple[TokenRows, list[Problem], dict[str, Any]] | None:
    """What was saved there; None where there is nothing or it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "rows.safetensors", "numpy") as file:
            about = dict(file.metadata() or {})
            rows = TokenRows(*(file.get_tensor(name) for name in _NAMES))
    except (OSError, SafetensorError):
        return None
    if about.pop("sha256", None) != _checksum(rows, about):
        return None
    problems = [Problem(*problem) for problem in json.loads(about["problems"])]
    return rows, problems, json.loads(about["report"])


def _checksum(rows: TokenRows, about: dict[str, str]) -> str:
    text = rows.digest + about["problems"] + about["report"]
    return hashlib.sha256(text.encode()).hexdigest()
