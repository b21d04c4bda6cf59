"""jsonl, json and csv: what a row says comes back unchanged, what is no row is named."""

import pytest

from dpo_lab.errors import Refused
from dpo_lab.formats import csv_rows, json_list, jsonl
from dpo_lab.rows import BadRow

PARSERS = {"jsonl": jsonl, "json": json_list, "csv": csv_rows}


def parse(form, data):
    """[(number, row)] of a file; a bad row is (number, field, reason)."""
    _, records = PARSERS[form](f"f.{form}", data)
    return [
        (r.number, r.row.field, r.row.reason) if isinstance(r.row, BadRow) else (r.number, r.row)
        for r in records
    ]


GOOD = [
    ("jsonl", b'{"a": "x"}\n{"a": "y"}\n', ["x", "y"]),
    ("jsonl", b'{"a": "x"}\r\n{"a": "y"}', ["x", "y"]),
    ("jsonl", b'{"a": "x"}\n\n \t\r\n\n', ["x"]),
    ("jsonl", '{"a": "one\u2028line"}\n'.encode(), ["one\u2028line"]),
    (
        "jsonl",
        '{"a": "one\x85line\x0b\x0c\x1c"}\n'.replace("\x0b\x0c\x1c", "\u2029").encode(),
        None,
    ),
    ("jsonl", b'{"a": "\\ud83d\\ude00"}', ["\U0001f600"]),
    ("jsonl", b'  {"a": "007", "b": [1, {"c": null}]}  ', ["007"]),
    ("json", b'[{"a": "x"},\n\n{"a": "y"}]\n', ["x", "y"]),
    ("json", b' [ {"a":"x"} , {"a":"y"} ] ', ["x", "y"]),
    ("json", '[{"a": "\u2028\x85"}]'.encode(), ["\u2028\x85"]),
    ("json", b"[]", []),
    ("csv", b"a,b\nx,1\ny,2\n", ["x", "y"]),
    ("csv", b"a,b\r\nx,1\r\ny,2", ["x", "y"]),
    ("csv", b"a\nNA\n007\nnull\n1e5\n TRUE \n", ["NA", "007", "null", "1e5", " TRUE "]),
    ("csv", b'a,b\n"two\nlines, ""quoted""",1\n', ['two\nlines, "quoted"']),
    ("csv", b'a,b\n"dos\r\nlines\rmac",1\n', ["dos\r\nlines\rmac"]),
    ("csv", 'a,b\n"u\u2028v\x85w",1\n'.encode(), ["u\u2028v\x85w"]),
    ("csv", b"a,b\nx,\n,2\n\n \n", ["x", ""]),
    ("csv", b",a\n0,x\n", ["x"]),
    ("csv", b'a,b\nhalf"quote,2\n', ['half"quote']),
]


@pytest.mark.parametrize(("form", "data", "texts"), GOOD)
def test_good_rows_come_back_unchanged(form, data, texts):
    found = [row[1]["a"] for row in parse(form, data)]
    assert found == (texts if texts is not None else ["one\x85line\u2029"])


BAD_ROWS = [
    ("jsonl", b'{"a": 1}\n{"a": \n{"a": 3}', 2, None, "not valid JSON"),
    ("jsonl", b'{"a": 1}\n{"a": "cut', 2, None, "cut short"),
    ("jsonl", b'{"a": 1}\n\n{"a": 3}\n', 2, None, "blank line"),
    ("jsonl", b'{"a": 1, "b": 2, "a": 3}\n', 1, "a", "twice"),
    ("jsonl", b'{"a": [{"role": "x", "role": "y"}]}\n', 1, "role", "twice"),
    ("jsonl", b'{"a": NaN}\n', 1, None, "NaN is not JSON"),
    ("jsonl", b'{"a": -Infinity}\n', 1, None, "-Infinity is not JSON"),
    ("jsonl", b"[1, 2]\n", 1, None, "expected an object with columns, got a list"),
    ("jsonl", b'"text"\n', 1, None, "got text"),
    ("jsonl", b"null\n", 1, None, "got null"),
    ("jsonl", b'{"a": "caf\xe9"}\n', 1, None, "not UTF-8: byte 0xe9 at position 11"),
    ("jsonl", b'{"a": "\xed\xa0\x80"}\n', 1, None, "not UTF-8"),
    ("jsonl", b'{"a": "tab\there"}\n', 1, None, "control character"),
    ("jsonl", b'{"a": "nul\0"}\n', 1, None, "NUL"),
    ("jsonl", '{"a": 1}'.encode("utf-16-le"), 1, None, "NUL"),
    ("jsonl", b'{"a": 1} {"a": 2}\n', 1, None, "Extra data"),
    ("jsonl", b"{'a': 1}\n", 1, None, "not valid JSON"),
    ("jsonl", b"[" * 100_000, 1, None, "nested too deeply"),
    ("jsonl", b'{"a": ' + b"9" * 10_000 + b"}", 1, None, "not usable JSON"),
    ("json", b'[{"a": 1},\n7]', 2, None, "expected an object with columns, got a number"),
    ("json", b'[{"a": 1, "a": 2},\n{"a": 3}]', 1, "a", "twice"),
    ("json", b'[{"a": Infinity}, {"a": 3}]', 1, None, "Infinity is not JSON"),
    ("csv", b"a,b\nx\n", 2, "b", "1 cells where the header has 2"),
    ("csv", b'a,b\n"x\ny",1\nx,1,2\n', 4, None, "3 cells where the header has 2"),
    ("csv", b"a,b\nx,1\n\ny,2\n", 3, None, "blank line"),
    ("csv", b"a,b\nx,1\na,b\ny,2\n", 3, None, "repeats the header"),
]


@pytest.mark.parametrize(("form", "data", "number", "field", "reason"), BAD_ROWS)
def test_a_bad_row_is_named(form, data, number, field, reason):
    bad = [row for row in parse(form, data) if len(row) == 3]
    assert [(row[0], row[1]) for row in bad] == [(number, field)]
    assert reason in bad[0][2]


BAD_FILES = [
    ("json", b'{"rows": [{"a": 1}]}', "f.json:1: expected a list of objects"),
    ("json", b'{"a": 1}\n{"a": 2}', "name the file .jsonl"),
    ("json", b'[{"a": 1},\n {"a": 2}', "f.json:2 (line 2): not valid JSON: no , or ] here"),
    ("json", b'[{"a": 1}\n {"a": 2}]', "f.json:1 (line 2): not valid JSON: no , or ] here"),
    ("json", b'[{"a": 1},\n {"a": 2},]', "f.json:3 (line 2): not valid JSON: Expecting value"),
    ("json", b'[{"a": 1},\n {"a": tru', "f.json:2 (line 2): not valid JSON: Expecting value"),
    ("json", b'[{"a": 1}]\n[]', "f.json: line 2: not valid JSON: text after the end"),
    ("json", b'[{"a": "x"},\n{"a": "\xe9"}]', "f.json:2: not UTF-8: byte 0xe9"),
    ("json", b"[" * 100_000, "f.json:1 (line 1): not usable JSON: nested too deeply"),
    ("csv", b'a,b\nx,1\n"open,2\nz,3\n', "f.csv:3: not valid csv: a quote opened in this row"),
    ("csv", b'a,b\n"x"y,1\n', "f.csv:2: not valid csv"),
    ("csv", b"a,b\rx,1\r", "f.csv:1: not valid csv: a bare carriage return"),
    ("csv", b"a,b,a\nx,1,y\n", "f.csv:1: the header names a twice"),
    ("csv", b"a,,\nx,1,y\n", "f.csv:1: the header names columns that have no name twice"),
    ("csv", b"a,b\nx,caf\xe9\n", "f.csv:2: not UTF-8: byte 0xe9"),
]


@pytest.mark.parametrize(("form", "data", "message"), BAD_FILES)
def test_a_file_that_cannot_be_read_on_is_refused(form, data, message):
    with pytest.raises(Refused) as refused:
        parse(form, data)
    assert message in str(refused.value)


def test_json_rows_carry_their_line():
    _, records = json_list("f.json", b'[\n{"a": 1},\n{"a":\n2},\n{"a": 3}]')
    assert [(r.number, r.note) for r in records] == [(1, "line 2"), (2, "line 3"), (3, "line 5")]


def test_csv_rows_carry_their_physical_line():
    _, records = csv_rows("f.csv", b'a,b\n"two\nlines",1\nx,2\n')
    assert [(r.number, r.note) for r in records] == [(2, "row 1"), (4, "row 2")]


def test_cells_of_megabytes():
    cell = b"word " * 10**6
    _, records = csv_rows("f.csv", b"a,b\n" + cell + b",1\n")
    assert len(next(records).row["a"]) == 5 * 10**6
