"""How bad rows are shown and written down."""

import json

import pytest

from dpo_lab.rows import BadRow, Record, near, reject, shorten, write_rejects


def test_values_are_shown_short_and_on_one_line():
    assert shorten("a\nb") == r"'a\nb'"
    assert shorten(None) == "None"
    assert len(shorten("x" * 10**6)) < 80
    assert len(shorten(["\ud800" * 10**6])) < 80
    assert shorten("\ud800").isascii()


@pytest.mark.parametrize(
    ("word", "names", "hint"),
    [
        ("chosen", ["prompt", "chosn"], "; did you mean chosn?"),
        ("prompt", ["Prompt"], "; did you mean Prompt?"),
        ("prompt", ["question"], ""),
        ("prompt", [], ""),
    ],
)
def test_near_names(word, names, hint):
    assert near(word, names) == hint


def test_a_reject_says_file_line_field_and_reason():
    bad = reject("a.jsonl", Record(17, "", BadRow(None, ""), b"raw"), BadRow("chosen", "is blank"))
    assert str(bad) == "a.jsonl:17: chosen: is blank"
    bad = reject("a.csv", Record(9, "row 4", BadRow(None, ""), "raw"), BadRow(None, "3 cells"))
    assert str(bad) == "a.csv:9 (row 4): 3 cells"


def test_rejects_are_written_whole(tmp_path):
    records = [
        Record(3, "", BadRow(None, "not UTF-8"), b"caf\xe9" + b"x" * 10**6),
        Record(4, "", {"chosen": "\ud800"}, None),
    ]
    rows = [reject("a.jsonl", record, BadRow("chosen", "bad")) for record in records]
    write_rejects(tmp_path / "rejects.jsonl", rows)
    first, second = map(json.loads, (tmp_path / "rejects.jsonl").read_text().splitlines())
    assert (first["file"], first["line"], first["field"], first["reason"]) == (
        *("a.jsonl", 3, "chosen", "bad"),
    )
    assert first["raw"].startswith("caf\\xe9xx")
    assert len(first["raw"]) == 2000
    assert json.loads(second["raw"]) == {"chosen": "\ud800"}
    assert [path.name for path in tmp_path.iterdir()] == ["rejects.jsonl"]


def test_nothing_is_left_where_writing_fails(tmp_path):
    (tmp_path / "rejects.jsonl").mkdir()
    with pytest.raises(OSError):
        write_rejects(tmp_path / "rejects.jsonl", [])
    assert [path.name for path in tmp_path.iterdir()] == ["rejects.jsonl"]
