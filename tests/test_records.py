"""Files as they lie on disk: endings, gzip, encodings, things that are no data file."""

import gzip
import pickle
import zipfile

import pyarrow as pa
import pytest

from dpo_lab.errors import Refused
from dpo_lab.records import read, read_folder

ROW = b'{"a": "x"}\n'


def rows_of(path):
    return [record.row for record in read(str(path), lambda column: True).records]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("f.jsonl", ROW),
        ("f.JSONL", ROW),
        ("f.jsonl.gz", gzip.compress(ROW)),
        ("f.jsonl.gz", gzip.compress(ROW[:4]) + gzip.compress(ROW[4:])),
        ("gzipped_by_content.jsonl", gzip.compress(ROW)),
        ("marked.jsonl", b"\xef\xbb\xbf" + ROW),
        ("marked.json", b'\xef\xbb\xbf[{"a": "x"}]'),
        ("marked.csv", b'\xef\xbb\xbf"a"\nx\n'),
        ("f.csv.GZ", gzip.compress(b"a\nx\n")),
    ],
)
def test_read(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert rows_of(tmp_path / name) == [{"a": "x"}]


class Canary:
    def __reduce__(self):
        return (open, ("canary", "w"))


def torn(data, keep):
    return gzip.compress(data * 100)[:-keep]


BAD = [
    ("f.jsonl", b"", "the file is empty"),
    ("f.jsonl.gz", gzip.compress(b""), "the file is empty"),
    ("f.jsonl.gz", torn(ROW, 12), "the gzip stream is cut short"),
    ("f.jsonl.gz", torn(ROW, 4), "the gzip stream is cut short"),
    ("f.jsonl.gz", ROW, "ends in .gz, but is not gzipped"),
    ("f.jsonl.gz", gzip.compress(ROW)[:-8] + b"\xff" * 8, "the gzip stream is damaged"),
    ("f.jsonl.gz", gzip.compress(ROW) + b"tail", "the gzip stream is damaged"),
    ("f.jsonl", '{"a": 1}\n'.encode("utf-16"), "f.jsonl:1: expected jsonl, got UTF-16"),
    ("f.csv", "a\nb\n".encode("utf-16"), "f.csv:1: expected csv, got UTF-16"),
    ("f.json", pickle.dumps(Canary()), "got a pickle"),
    ("f.parquet", pickle.dumps(Canary(), protocol=2), "got a pickle"),
    ("f.parquet", ROW, "does not begin like one"),
    ("f.jsonl", b"PAR1....PAR1", "expected jsonl, got a parquet file"),
    ("f.csv", b"SQLite format 3\0", "an SQLite file"),
    ("f.pkl", pickle.dumps(Canary()), "data files end in .jsonl, .json, .csv, .parquet"),
    ("f.gz", gzip.compress(ROW), "data files end in"),
    ("f.txt", ROW, "data files end in"),
    ("noending", ROW, "data files end in"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD)
def test_refused(tmp_path, monkeypatch, name, data, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Refused) as refused:
        rows_of(tmp_path / name)
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 3
    assert not (tmp_path / "canary").exists()


def test_a_zip_archive_is_no_data(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.jsonl", "w") as archive:
        archive.writestr("rows.jsonl", ROW)
    with pytest.raises(Refused, match=r"a zip archive \(so are torch.save"):
        rows_of(tmp_path / "f.jsonl")


def test_a_missing_file_has_near_names(tmp_path):
    (tmp_path / "pairs.jsonl").write_bytes(ROW)
    with pytest.raises(Refused, match=r"no such file .*; did you mean pairs.jsonl\?"):
        rows_of(tmp_path / "pairz.jsonl")
    with pytest.raises(Refused, match="there is no folder"):
        rows_of(tmp_path / "none" / "pairs.jsonl")


def test_a_folder_is_refused_with_a_hint(tmp_path):
    (tmp_path / "pairs.jsonl").mkdir()
    with pytest.raises(Refused, match="expected a file, got a folder; name one file"):
        rows_of(tmp_path / "pairs.jsonl")
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(Refused, match="data=datasets"):
        rows_of(tmp_path)


def test_a_device_is_refused():
    with pytest.raises(Refused, match="a device or a pipe"):
        rows_of("/dev/null")


def test_home_and_relative_paths(tmp_path, monkeypatch):
    (tmp_path / "f.jsonl").write_bytes(ROW)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    table = read("~/f.jsonl", lambda column: True)
    assert table.files == read("f.jsonl", lambda column: True).files
    assert list(table.files) == [str(tmp_path / "f.jsonl")]


def save_folder(folder, *parts):
    """As `datasets.save_to_disk` does: Arrow streams and a state.json that lists them."""
    folder.mkdir(parents=True)
    names = [f"data-{index:05}-of-{len(parts):05}.arrow" for index in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table)
    listed = ", ".join(f'{{"filename": "{name}"}}' for name in names)
    (folder / "state.json").write_text(f'{{"_data_files": [{listed}]}}')


def test_a_folder_of_datasets(tmp_path):
    save_folder(tmp_path / "d", [{"a": "x"}, {"a": "y"}], [{"a": "z"}])
    table = read_folder(str(tmp_path / "d"), lambda column: True)
    assert table.name == "d"
    assert len(table.files) == 2
    assert [(r.number, r.row["a"]) for r in table.records] == [(1, "x"), (2, "y"), (3, "z")]


def test_a_folder_of_splits_or_of_something_else(tmp_path):
    save_folder(tmp_path / "d" / "train", [{"a": "x"}])
    save_folder(tmp_path / "d" / "test", [{"a": "x"}])
    with pytest.raises(Refused, match=r"type data.path=.*/d/train"):
        read_folder(str(tmp_path / "d"), lambda column: True)
    with pytest.raises(Refused, match=r"did you mean train\?"):
        read_folder(str(tmp_path / "d" / "trian"), lambda column: True)
    (tmp_path / "d" / "train" / "state.json").write_text("{}")
    with pytest.raises(Refused, match="does not list"):
        read_folder(str(tmp_path / "d" / "train"), lambda column: True)
