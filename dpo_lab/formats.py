"""The text formats of data files, jsonl, json and csv: bytes -> records, strictly.

A parser takes the file's name (for messages) and its bytes, and returns the column names, where
the format states them once, and an iterator of records. A row that cannot be read becomes a record
with a `BadRow`; a file that cannot be read on raises `Refused`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from dpo_lab.errors import Refused
from dpo_lab.rows import BadRow, Record, kind_of, names_of, shorten

Parsed = tuple[list[str] | None, Iterator[Record]]

_SPACE = re.compile(r"[ \t\n\r]*")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow(ascii(twice)[1:-1][:40], "this key occurs twice in one object")
    return row


def _no_constant(name: str) -> Any:
    raise BadRow(None, f"{name} is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_LENIENT = json.JSONDecoder()  # only to find where a row ends that the strict one refused


def jsonl(name: str, data: bytes) -> Parsed:
    """JSON lines: one object a line, split at LF alone; only at the end may lines be blank."""
    lines = data.split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    cut = None if data.endswith(b"\n") else len(lines)  # a last line without its end
    return None, (
        Record(number, "", _json_line(line, number == cut), line)
        for number, line in enumerate(lines, 1)
    )


def _json_line(line: bytes, last: bool) -> dict[str, Any] | BadRow:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(None, f"{_not_utf8(error)} of the line")
    if not text.strip():
        return BadRow(None, "a blank line")
    try:
        row = _STRICT.decode(text)
    except BadRow as bad:
        return bad
    except (ValueError, RecursionError) as error:
        return BadRow(None, _not_json(error, text) + ("; is the file cut short?" if last else ""))
    return _object(row)


def _object(row: object) -> dict[str, Any] | BadRow:
    if isinstance(row, dict):
        return row
    return BadRow(None, f"expected an object with columns, got {kind_of(row)}: {shorten(row)}")


def _not_json(error: Exception, text: str) -> str:
    if "\0" in text:
        return "holds NUL bytes: UTF-16, or a damaged file"
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "not usable JSON: nested too deeply"
    return f"not usable JSON: {str(error).splitlines()[0][:100]}"


def json_list(name: str, data: bytes) -> Parsed:
    """One JSON list of objects. Read row by row, so that each bad row is named."""
    text = _decode(name, data)
    at = _skip(text, 0)
    if not text.startswith("[", at):
        hint = " (one object a line? name the file .jsonl)" if text.startswith("{", at) else ""
        raise Refused(f"{name}:1: expected a list of objects: [{{...}}, {{...}}]{hint}")
    return None, _json_elements(name, text, _skip(text, at + 1))


def _json_elements(name: str, text: str, at: int) -> Iterator[Record]:
    number, line, counted = 0, 1, 0
    closed = text.startswith("]", at)
    while not closed:
        number, start = number + 1, at
        line, counted = line + text.count("\n", counted, start), start
        try:
            try:
                value, at = _STRICT.raw_decode(text, start)
                row = _object(value)
            except BadRow as bad:
                row, at = bad, _LENIENT.raw_decode(text, start)[1]
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError):
                line = error.lineno
            reason = _not_json(error, text)
            raise Refused(f"{name}:{number} (line {line}): {reason}") from None
        yield Record(number, f"line {line}", row, text[start:at])
        at = _skip(text, at)
        closed = text.startswith("]", at)
        if not closed:
            if not text.startswith(",", at):
                after = f"line {1 + text.count(chr(10), 0, at)}"
                what = f"got {shorten(text[at : at + 20])}" if at < len(text) else "the file ends"
                raise Refused(f"{name}:{number} ({after}): not valid JSON: no , or ] here; {what}")
            at = _skip(text, at + 1)
    at = _skip(text, at + 1)
    if at < len(text):
        line = 1 + text.count("\n", 0, at)
        raise Refused(f"{name}: line {line}: not valid JSON: text after the end of the list")


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _decode(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise Refused(f"{name}:{line}: {_not_utf8(error)} of the file; save it as UTF-8") from None


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start + 1}"


def csv_rows(name: str, data: bytes) -> Parsed:
    """Comma-separated text with a header; every cell is text (`NA` and `007` too)."""
    csv.field_size_limit(2**31 - 1)
    rows = _csv_rows(name, _decode(name, data))
    first = next(rows, None)
    if first is None:
        raise Refused(f"{name}: no header and no rows")
    header = first[1]
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        which = names_of(twice) if any(twice) else "columns that have no name"
        raise Refused(f"{name}:{first[0]}: the header names {which} twice")
    return header, _csv_records(header, rows)


def _csv_records(header: list[str], rows: Iterator[tuple[int, list[str], str]]) -> Iterator[Record]:
    blank: list[Record] = []  # blank lines count only where something follows them
    for number, (line, cells, raw) in enumerate(rows, 1):
        note = f"row {number}"
        if not raw.strip() and len(cells) < len(header):
            blank.append(Record(line, note, BadRow(None, "a blank line"), raw))
            continue
        yield from blank
        blank.clear()
        row: dict[str, Any] | BadRow = dict(zip(header, cells, strict=False))
        if len(cells) != len(header):
            missing = header[len(cells)] if len(cells) < len(header) else None
            reason = f"{len(cells)} cells where the header has {len(header)}"
            row = BadRow(missing, reason)
        elif cells == header:
            row = BadRow(None, "repeats the header: two files put together?")
        yield Record(line, note, row, raw)


def _csv_rows(name: str, text: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield (physical line on which the row starts, its cells, its text)."""
    consumed: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline="\n"):  # LF alone: a cell may hold any other
            consumed.append(line)
            yield line

    reader = csv.reader(lines(), strict=True)
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                reason = "a quote opened in this row is never closed"
            elif "new-line character" in str(error):
                reason = "a bare carriage return outside quotes; end lines with LF or CRLF"
            else:
                reason = str(error)
            raise Refused(f"{name}:{line}: not valid csv: {reason}") from None
        yield line, cells, "".join(consumed)
        line += len(consumed)
        consumed.clear()
