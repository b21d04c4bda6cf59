"""Data files -> records: the one reading path of the lab.

jsonl, json (a list of objects), csv and parquet, each also gzipped, chosen by the file's ending and
checked against its content. Text is UTF-8, with or without a byte order mark. Nothing is unpickled.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dpo_lab.columnar import Parsed, Wanted, arrow, parquet
from dpo_lab.disk import home
from dpo_lab.errors import Refused
from dpo_lab.formats import csv_rows, json_list, jsonl
from dpo_lab.rows import Record, names_of, near

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
_TEXT = {".jsonl": jsonl, ".json": json_list, ".csv": csv_rows}
_GZIP = b"\x1f\x8b"
_CONTENTS = (  # what a file begins with, and what that is
    (b"PAR1", "a parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"PK\x03\x04", "a zip archive (so are torch.save and .npz files)"),
    *((bytes([0x80, protocol]), "a pickle, which the lab never reads") for protocol in range(2, 6)),
    (b"\x93NUMPY", "a NumPy file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite file"),
    (b"(\xb5/\xfd", "a zstd archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\xff\xfe", "UTF-16 text, not UTF-8; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text, not UTF-8; save it as UTF-8"),
)


@dataclass(slots=True)
class Table:
    """A data file, opened: its records can be read once.

    - `name`: how rows are named (`pairs.jsonl`); `files`: path -> SHA-256 of its bytes.
    - `columns`: the column names, where the format states them once.
    """

    name: str
    files: dict[str, str]
    columns: list[str] | None
    records: Iterator[Record]


def read(path: str, wanted: Wanted) -> Table:
    """Open the data file at `path`; `~` is the home folder.

    `wanted(column)` says which columns of a columnar file may be needed. Raises `Refused` where the
    file is missing, is no data file, or cannot be read on; a bad row is a record of its own.
    """
    place = home(path)
    try:
        data = _bytes(path, place)
    except OSError as error:  # a name that no file system takes
        raise Refused(f"{path[:200]}: cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(data).hexdigest()
    ending = place.suffix.lower()
    if ending == ".gz":
        ending = place.with_suffix("").suffix.lower()
    if ending not in ENDINGS:
        raise Refused(
            f"{path}: data files end in {', '.join(ENDINGS)} or one of these and .gz\n"
            f"got {place.name}"
        )
    if data.startswith(_GZIP) or place.suffix.lower() == ".gz":
        data = _unzipped(place.name, data)
    if not data:
        raise Refused(f"{path}: the file is empty")
    columns, records = _parsed(place.name, ending, data, wanted)
    return Table(place.name, {str(place.absolute()): digest}, columns, records)


def read_folder(path: str, wanted: Wanted) -> Table:
    """Open a folder that `datasets.save_to_disk` wrote: the Arrow files that state.json lists."""
    place = home(path)
    if not place.exists():
        raise _missing(path, place)
    if not (place / "state.json").is_file():
        inside = sorted((inner.parent.name for inner in place.glob("*/state.json")), reverse=True)
        found = f"it holds such folders: {names_of(inside)}" if inside else "it has no state.json"
        hint = f"type data.path={place / inside[0]}" if inside else "a file is read with data=file"
        raise Refused(f"{path}: expected a folder saved by datasets.save_to_disk; {found}\n{hint}")
    try:
        state = json.loads(_bytes(path, place / "state.json"))
        listed = [place / entry["filename"] for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{path}/state.json does not list the folder's data files") from None
    files = {str(file.absolute()): _bytes(path, file) for file in listed}
    if not files:
        raise Refused(f"{path}: no rows")
    parsed = [arrow(name, data, wanted) for name, data in files.items()]
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return Table(place.resolve().name, digests, parsed[0][0], _renumbered(parsed))


def _renumbered(parts: list[Parsed]) -> Iterator[Record]:
    number = 0
    for _, records in parts:
        for record in records:
            number += 1
            yield record._replace(number=number)


def _bytes(path: str, place: Path) -> bytes:
    if place.is_dir():
        saved = any(place.glob("state.json")) or any(place.glob("*/state.json"))
        hint = "a folder saved by datasets is read with data=datasets" if saved else "name one file"
        inside = names_of(sorted(inner.name for inner in place.iterdir()))
        raise Refused(f"{path}: expected a file, got a folder; {hint}\nit holds {inside}")
    if not place.exists():
        raise _missing(path, place)
    if not place.is_file():
        raise Refused(f"{path}: expected a file, got a device or a pipe")
    try:
        return place.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from None


def _missing(path: str, place: Path) -> Refused:
    folder = place.absolute().parent
    if not folder.is_dir():
        return Refused(f"{path}: no such file; there is no folder {folder}")
    names = sorted(inner.name for inner in folder.iterdir())
    return Refused(f"{path}: no such file in {folder}{near(place.name, names)}")


def _unzipped(name: str, data: bytes) -> bytes:
    if not data.startswith(_GZIP):
        raise Refused(f"{name}: ends in .gz, but is not gzipped")
    try:
        return gzip.decompress(data)
    except EOFError:
        raise Refused(f"{name}: the gzip stream is cut short; fetch the file again") from None
    except (OSError, zlib.error) as error:
        raise Refused(f"{name}: the gzip stream is damaged: {error}") from None


def _parsed(name: str, ending: str, data: bytes, wanted: Wanted) -> Parsed:
    if ending == ".parquet" and data.startswith(b"PAR1"):
        return parquet(name, data, wanted)
    for start, what in _CONTENTS:
        if data.startswith(start):
            raise Refused(f"{name}:1: expected {ending[1:]}, got {what}")
    if ending == ".parquet":
        raise Refused(f"{name}: expected parquet; the file does not begin like one")
    return _TEXT[ending](name, data.removeprefix(b"\xef\xbb\xbf"))
