"""parquet and Arrow: nested columns, nulls, columns of another type."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpo_lab.columnar import arrow, parquet
from dpo_lab.errors import Refused
from dpo_lab.rows import BadRow


def as_parquet(table):
    out = pa.BufferOutputStream()
    pq.write_table(table, out, row_group_size=2)
    return out.getvalue().to_pybytes()


def as_arrow(table):
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    return out.getvalue().to_pybytes()


def everything(column):
    return True


FORMS = [(parquet, as_parquet), (arrow, as_arrow)]


@pytest.mark.parametrize(("parser", "write"), FORMS)
def test_rows_come_back_unchanged(parser, write):
    rows = [
        {"a": "NA", "b": [{"role": "user", "content": "007"}]},
        {"a": "null\u2028", "b": []},
        {"a": None, "b": None},
    ]
    columns, records = parser("f", write(pa.Table.from_pylist(rows)), everything)
    assert columns == ["a", "b"]
    assert [(r.number, r.row) for r in records] == list(enumerate(rows, 1))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_other_kinds_of_text(kind):
    table = pa.table({"a": pa.array(["x", "y"]).cast(kind)})
    _, records = parquet("f", as_parquet(table), everything)
    assert [r.row for r in records] == [{"a": "x"}, {"a": "y"}]


@pytest.mark.parametrize(("parser", "write"), FORMS)
def test_only_wanted_columns_are_read(parser, write):
    table = pa.table({"a": ["x"], "embedding": [1.5]})
    columns, records = parser("f", write(table), lambda column: column == "a")
    assert columns == ["a", "embedding"]
    assert next(records).row == {"a": "x"}


@pytest.mark.parametrize("values", [[1], [1.5], [True], [b"bytes"]])
@pytest.mark.parametrize(("parser", "write"), FORMS)
def test_a_column_of_another_type_is_named(parser, write, values):
    with pytest.raises(Refused, match=r"column a: holds .*, expected text"):
        parser("f", write(pa.table({"a": values})), everything)


@pytest.mark.parametrize(("parser", "write"), FORMS)
def test_a_column_that_only_other_shapes_have_may_hold_anything(parser, write):
    _, records = parser("f", write(pa.table({"prompt": ["x"], "input": [7]})), everything)
    assert next(records).row == {"prompt": "x", "input": 7}


def test_two_columns_of_one_name():
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    with pytest.raises(Refused, match="a names more than one column"):
        parquet("f", as_parquet(table), everything)


def test_text_that_is_not_utf8_is_a_bad_row():
    raw = pa.array([b"x", b"caf\xe9"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    _, records = arrow("f", as_arrow(pa.table({"a": text})), everything)
    first, second = records
    assert first.row == {"a": "x"}
    assert isinstance(second.row, BadRow)
    assert (second.number, second.row.field) == (2, "a")
    assert "not UTF-8" in second.row.reason


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("parser", "write"), FORMS)
def test_a_damaged_file_is_refused(parser, write, keep):
    data = write(pa.table({"a": [f"{i}" * 100 for i in range(9)]}))
    with pytest.raises(Refused, match="not readable as"):
        list(parser("f", data[: int(len(data) * keep)], everything)[1])
