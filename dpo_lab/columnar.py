"""The columnar formats of data files, parquet and Arrow: bytes -> records, strictly.

They return what the parsers of `dpo_lab.formats` return. `wanted` says which columns may be read at
all, so that a column of images or embeddings costs nothing. pyarrow is imported where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dpo_lab.errors import Refused
from dpo_lab.rows import BadRow, Record, names_of
from dpo_lab.shapes import FIELDS, SHAPES

if TYPE_CHECKING:
    import pyarrow

Parsed = tuple[list[str] | None, Iterator[Record]]
Wanted = Callable[[str], bool]


def parquet(name: str, data: bytes, wanted: Wanted) -> Parsed:
    """Parquet, nested columns included; only the columns that are `wanted` are read."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(pyarrow.BufferReader(data))
        schema = file.schema_arrow
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(name, "parquet", error) from None
    columns = checked_columns(name, schema, wanted)
    batches = file.iter_batches(columns=columns, batch_size=1000)
    return schema.names, arrow_records(name, "parquet", batches)


def arrow(name: str, data: bytes, wanted: Wanted) -> Parsed:
    """An Arrow stream, the form in which `datasets` saves a folder."""
    import pyarrow

    try:
        stream = pyarrow.ipc.open_stream(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(name, "arrow", error) from None
    columns = checked_columns(name, stream.schema, wanted)
    batches = (batch.select(columns) for batch in stream)
    return stream.schema.names, arrow_records(name, "arrow", batches)


def checked_columns(name: str, schema: pyarrow.Schema, wanted: Wanted) -> list[str]:
    """The wanted columns of an Arrow schema; refuse those that cannot hold text or messages.

    One that only some shapes of rows have may hold anything, as long as nobody reads it.
    """
    from pyarrow import types

    twice = sorted({column for column in schema.names if schema.names.count(column) > 1})
    if twice:
        raise Refused(f"{name}: {names_of(twice)} names more than one column")
    columns = [column for column in schema.names if wanted(column)]
    for column in columns:
        kind = schema.field(column).type
        inner = kind.value_type if types.is_dictionary(kind) else kind
        text = types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)
        spare = column in FIELDS and column not in SHAPES["pairs"].required
        if not (spare or text or types.is_nested(inner) or types.is_null(inner)):
            raise Refused(
                f"{name}: column {column}: holds {kind}, expected text or a list of messages\n"
                f"save it as text, or map another column: data.columns={{{column}: COLUMN}}"
            )
    return columns


def arrow_records(
    name: str, form: str, batches: Iterable[pyarrow.RecordBatch | pyarrow.Table]
) -> Iterator[Record]:
    """The rows of Arrow batches. Text that is not UTF-8 is a bad row."""
    import pyarrow

    number = 0
    source = iter(batches)
    while True:
        try:
            batch = next(source, None)
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(f"{name}:{number + 1}", form, error) from None
        if batch is None:
            return
        try:
            rows: list[dict[str, Any] | BadRow] = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [_arrow_row(batch.slice(index, 1)) for index in range(batch.num_rows)]
        for row in rows:
            number += 1
            yield Record(number, "", row, None)


def _arrow_row(batch: pyarrow.RecordBatch | pyarrow.Table) -> dict[str, Any] | BadRow:
    for column in batch.schema.names:
        try:
            batch.column(column).to_pylist()
        except UnicodeDecodeError as error:
            return BadRow(column, f"not UTF-8: {error}")
    return batch.to_pylist()[0]


def _damaged(name: str, form: str, error: Exception) -> Refused:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return Refused(f"{name}: not readable as {form}: {reason}")
