"""Records -> examples: the shape is recognised once, and required of every row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from dpo_lab.batch import Example
from dpo_lab.errors import Refused
from dpo_lab.records import Table
from dpo_lab.rows import BadRow, Record, Reject, names_of, near, reject
from dpo_lab.shapes import DECIDING, FIELDS, SHAPES, Shape, pair, recognise, unclear

LISTED = 10


@dataclass(slots=True)
class Examples:
    """What a table gave: its good rows in order, and its bad ones.

    - `read`: rows in the table; `bad`: how many of them are bad (`rejects` may hold fewer).
    - `unused`: columns that no field was read from.
    """

    name: str
    shape: str
    rows: list[Example] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    read: int = 0
    bad: int = 0
    unused: list[str] = field(default_factory=list)


def examples(
    table: Table, allowed: tuple[str, ...], columns: Mapping[str, str], *, skip: bool
) -> Examples:
    """Turn the records of a table into examples.

    - `allowed`: the shapes that its rows may have.
    - `columns`: our field -> the table's column, where the names differ.
    - `skip`: leave bad rows out and keep them all in `rejects`; else `Refused` names the first ten.

    Raises `Refused` also where no row is good, or a column that `columns` names does not exist.
    """
    head, shape = _recognised(table, allowed, columns)
    first = next((r.row for r in reversed(head) if not isinstance(r.row, BadRow)), {})
    result = Examples(table.name, shape.name if shape else "unknown")
    reader = _Reader(shape, columns, frozenset(first))
    absent = set(columns.values())
    for record in chain(head, table.records):
        result.read += 1
        if absent and not isinstance(record.row, BadRow):
            absent -= record.row.keys()
        try:
            result.rows.append(reader.example(table.name, record))
        except BadRow as bad:
            result.bad += 1
            if skip or result.bad <= LISTED:
                result.rejects.append(reject(table.name, record, bad))
    if shape is not None and absent:
        name = min(absent)
        hint = near(name, table.columns or first)
        raise Refused(f"{table.name}: data.columns names {name!r}, which no row has{hint}")
    if result.bad and not (skip and result.rows):
        raise Refused(_listing(result, skip, elsewhere=len(allowed) < len(SHAPES)))
    read_from = {columns.get(name, name) for name in (shape.fields if shape else ())}
    result.unused = [name for name in table.columns or first if name not in read_from]
    return result


def _recognised(
    table: Table, allowed: tuple[str, ...], columns: Mapping[str, str]
) -> tuple[list[Record], Shape | None]:
    """The records up to the one that says which allowed shape the table has, and that shape.

    None where no record is readable at all. Raises `Refused` where none has an allowed shape.
    """
    unknown = next((name for name in columns if name not in FIELDS), None)
    if unknown is not None:
        raise Refused(
            f"data.columns: {unknown!r} is no field of a row{near(unknown, FIELDS)}\n"
            f"fields are {', '.join(FIELDS)}; type data.columns={{FIELD: COLUMN}}"
        )
    if table.columns is not None:  # stated once for all rows: no need to read them all
        named = _fields(dict.fromkeys(table.columns), columns)
        if not any(named.keys() >= set(SHAPES[name].required) for name in allowed):
            raise _shapeless(table.name, table.columns, named, allowed, columns)
    head, shape = _leading(table, allowed, columns)
    if shape is not None:
        foreign = [name for name in columns if name not in shape.fields]
        if foreign:
            raise Refused(
                f"data.columns: {foreign[0]!r} is no field of {shape.name} rows, as which "
                f"{table.name} is read\nits fields are {', '.join(shape.fields)}"
            )
        return head, shape
    if not head:
        raise Refused(f"{table.name}: no rows")
    readable = next((r for r in head if not isinstance(r.row, BadRow)), None)
    if readable is not None:
        assert isinstance(readable.row, dict)
        where = f"{table.name}:{readable.number}"
        found = _fields(readable.row, columns)
        names = table.columns or list(readable.row)
        raise _shapeless(where, names, found, allowed, columns)
    return head, None


def _leading(
    table: Table, allowed: tuple[str, ...], columns: Mapping[str, str]
) -> tuple[list[Record], Shape | None]:
    """The records up to the first one that has an allowed shape, and that shape.

    A malformed row condemns no other: what it seems to be counts only where no row says more.
    """
    head: list[Record] = []
    perhaps: Shape | None = None
    for record in table.records:
        head.append(record)
        if isinstance(record.row, BadRow):
            continue
        fields = _fields(record.row, columns)
        shape = recognise(fields, allowed)
        if len(allowed) > 1 and unclear(fields):
            perhaps = perhaps or shape
        elif shape is not None:
            return head, shape
    return head, perhaps


def _fields(row: Mapping[str, object], columns: Mapping[str, str]) -> dict[str, object]:
    return {name: row[columns.get(name, name)] for name in FIELDS if columns.get(name, name) in row}


def _shapeless(
    where: str,
    names: list[str],
    found: Mapping[str, object],
    allowed: tuple[str, ...],
    columns: Mapping[str, str],
) -> Refused:
    """Say which columns are missing for the allowed shape that lacks the fewest."""
    wanted = dict.fromkeys(SHAPES[name].required for name in allowed)
    lacking = [[name for name in fields if name not in found] for fields in wanted]
    least = min(filter(None, lacking), key=len, default=None)
    if least is None:
        return Refused(
            f"{where}: expected chats, lists of {{role, content}}, got neither in prompt nor in "
            "chosen and rejected\ntype data=file for rows of plain text"
        )
    parts = []
    for name in least:
        column = columns.get(name, name)
        mapped = f" (for {name})" if column != name else ""
        parts.append(f"{column!r}{mapped}{near(column, names)}")
    shapes = [", ".join(fields) for fields, absent in zip(wanted, lacking, strict=True) if absent]
    return Refused(
        f"{where}: no column {', '.join(parts)}; there is {names_of(names)}\n"
        f"expected {' or '.join(f'({shape})' for shape in shapes)}\n"
        f"a column of another name: data.columns={{{least[0]}: COLUMN}}"
    )


class _Reader:
    """Reads rows as one shape."""

    def __init__(
        self, shape: Shape | None, columns: Mapping[str, str], first: frozenset[str]
    ) -> None:
        self.shape = shape
        self.columns = columns
        self.places = [(name, columns.get(name, name)) for name in (shape.fields if shape else ())]
        used = {column for _, column in self.places}
        self.foreign = [name for name in DECIDING if name not in used and name not in first]

    def example(self, file: str, record: Record) -> Example:
        row = record.row
        if isinstance(row, BadRow):
            raise row
        assert self.shape is not None
        fields = {name: row[column] for name, column in self.places if column in row}
        for name in self.shape.required:
            if name not in fields:
                raise self._named(BadRow(name, self._missing(name, row)))
        for name in self.foreign:
            if row.get(name) is not None:
                reason = f"rows of mixed shapes: this one has {name}, the first one has not"
                raise BadRow(name, reason)
        try:
            prompt, chosen, rejected = pair(fields, self.shape)
        except BadRow as bad:
            raise self._named(bad) from None
        return Example(f"{file}:{record.number}", prompt, chosen, rejected)

    def _missing(self, name: str, row: Mapping[str, object]) -> str:
        column = self.columns.get(name, name)
        others = [other for other in row if other not in {place for _, place in self.places}]
        return f"is missing; the row has {names_of(row)}{near(column, others)}"

    def _named(self, bad: BadRow) -> BadRow:
        """Add the user's name of the column, where it is another."""
        inner = re.split(r"[.\[]", bad.field or "")[0]
        if self.columns.get(inner, inner) == inner:
            return bad
        return BadRow(f"{bad.field} (column {self.columns[inner]})", bad.reason)


def _listing(result: Examples, skip: bool, elsewhere: bool) -> str:
    """At most ten bad rows, how many there are, and what to type."""
    count = f"{result.bad:,} of {result.read:,}" if result.rows else f"all {result.read:,}"
    lines = [f"{result.name}: {count} rows are bad (read as {result.shape})"]
    lines += [f"  {row}" for row in result.rejects[:LISTED]]
    if result.bad > LISTED:
        lines.append(f"  and {result.bad - LISTED:,} more")
    if result.rows and not skip:
        lines.append("correct them, or leave them out with data.on_bad_row=skip")
    elif elsewhere:
        lines.append("rows of another shape? data=file recognises it")
    return "\n".join(lines)
