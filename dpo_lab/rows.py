"""The nouns of reading: a record, a bad row, a reject; and how messages show what was found."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dpo_lab.spelling import nearest

SHORT = 60
RAW = 2000


class BadRow(Exception):
    """A row that cannot be used: the `field` at fault, where it is one field, and the `reason`."""

    def __init__(self, field: str | None, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


class Record(NamedTuple):
    """One row of a file, before anything is known about its shape.

    - `number`: from 1; the line of the file (jsonl, csv) or the row (json, parquet, arrow).
    - `note`: the other of the two, where they differ: `line 210`.
    - `row`: column -> value, or why the row could not be read.
    - `raw`: the row as it stands in the file; None where it is not text there.
    """

    number: int
    note: str
    row: dict[str, Any] | BadRow
    raw: str | bytes | None


def shorten(value: object, limit: int = SHORT) -> str:
    """Show `value` on one line of printable characters, cut to about `limit` of them."""
    if isinstance(value, str | bytes) and len(value) > limit:
        return f"{value[: limit - 3]!r}..."
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def names_of(columns: Iterable[str]) -> str:
    """Column names for a message: the first twelve, shortened."""
    listed = list(columns)
    shown = ", ".join(ascii(name)[1:-1][:40] for name in listed[:12])
    return shown + (f" and {len(listed) - 12} more" if len(listed) > 12 else "") or "no columns"


def near(word: str, names: Iterable[str]) -> str:
    """`; did you mean chosn?` where a name is near, else nothing."""
    found = nearest(word, list(names)[:2000], 3)
    return (
        f"; did you mean {' or '.join(ascii(name)[1:-1][:80] for name in found)}?" if found else ""
    )


def kind_of(value: object) -> str:
    """What JSON calls a value: text, a number, a list, an object, null."""
    for types, name in (
        (bool, "true or false"),
        (str, "text"),
        (int | float, "a number"),
        (list | tuple, "a list"),
        (dict, "an object"),
        (bytes, "binary data"),
    ):
        if isinstance(value, types):
            return name
    return "null" if value is None else type(value).__name__


@dataclass(frozen=True, slots=True)
class Reject:
    """A bad row as it is reported: `file`, `line` (the record's number), `field`, `reason`, `raw`.

    `note` is the record's note; `raw` is the row's text, cut to 2,000 characters.
    """

    file: str
    line: int
    note: str
    field: str | None
    reason: str
    raw: str

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        field = f" {self.field}:" if self.field else ""
        return f"{self.file}:{self.line}{note}:{field} {self.reason}"


def reject(file: str, record: Record, bad: BadRow) -> Reject:
    """The report of one bad row."""
    raw = record.raw
    if raw is None:
        raw = "" if isinstance(record.row, BadRow) else json.dumps(record.row, default=str)
    if isinstance(raw, bytes):
        raw = raw[: 4 * RAW].decode("utf-8", "backslashreplace")
    return Reject(file, record.number, record.note, bad.field, bad.reason, raw[:RAW])


def write_rejects(path: str | Path, rejects: Iterable[Reject]) -> None:
    """Write rejects as JSON lines. The file appears whole or not at all."""
    path = Path(path)
    half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with half.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in rejects)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
