"""A run folder belongs to one process, and its files are replaced whole."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dpo_lab import folder as module
from dpo_lab.errors import InUse, Refused
from dpo_lab.folder import RunFolder, read_json, write_json


@pytest.fixture
def config(tmp_path):
    return SimpleNamespace(outputs_dir=str(tmp_path), name="run")


def test_starts_of_one_second_get_a_folder_each(config, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "20240101-120000")
    made = [RunFolder.new(config, "abcdefgh123") for _ in range(3)]
    assert [held.path.name for held in made] == [
        "20240101-120000-abcdefgh",
        "20240101-120000-abcdefgh-1",
        "20240101-120000-abcdefgh-2",
    ]
    for held in made:
        held.close()


def test_a_folder_has_one_holder_at_a_time(config):
    held = RunFolder.new(config, "abcdefgh")
    with pytest.raises(InUse, match=f"in use by process {os.getpid()}"):
        RunFolder.existing(held.path).close()
    held.close()
    RunFolder.existing(held.path).close()


def test_the_status_keeps_the_newest_checkpoint(config):
    held = RunFolder.new(config, "abcdefgh")
    held.status("running")
    assert "saved" not in read_json(held.path / "status.json")
    held.saved = 5
    held.ended("failed", "no reason")
    held.close()
    again = RunFolder.existing(held.path)
    assert again.saved == 5
    again.close()
    found = read_json(held.path / "status.json")
    assert found == {"state": "failed", "pid": os.getpid(), "saved": 5, "reason": "no reason"}


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    path, order = tmp_path / "status.json", []
    write_json(path, {"a": 1})
    sync, replace = module.sync, Path.replace
    monkeypatch.setattr(module, "sync", lambda work: order.append("sync") or sync(work))
    monkeypatch.setattr(
        Path, "replace", lambda work, to: order.append("replace") or replace(work, to)
    )
    write_json(path, {"a": 2})
    assert order == ["sync", "replace"] and read_json(path) == {"a": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_json(path, {"a": 1})

    def full(work):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "sync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(Refused, match=r"record\.json .*put it back or remove it"):
        read_json(path)
    assert read_json(tmp_path / "nothing.json") == {}
