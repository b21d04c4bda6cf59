"""`dpo-lab cache`: what is kept, and how it is removed while others are at work."""

import os
import threading
import time

import pytest

from dpo_lab.__main__ import main
from dpo_lab.cache import Cache


@pytest.fixture
def kept(tmp_path):
    """Two old entries, a new one, and what a killed build has left behind."""
    cache = Cache(tmp_path)
    for kind, key, days in (("tokens", "a", 40), ("tokens", "b", 1), ("start", "c", 40)):
        place = cache.entry(kind, key, lambda folder: (folder / "x").write_bytes(bytes(2**20)))
        os.utime(place, (0, time.time() - days * 86400))
    left = tmp_path / "start" / ".d.xyz"
    left.mkdir()
    os.utime(left, (0, time.time() - 40 * 86400))
    return cache


def names(cache: Cache) -> list[str]:
    return [f"{entry.kind}/{entry.path.name}" for entry in cache.entries()]


def test_what_is_kept(kept, tmp_path, capsys):
    assert names(kept) == ["start/c", "start/.d.xyz", "tokens/a", "tokens/b"]
    assert [entry.bytes for entry in kept.entries()] == [2**20, 0, 2**20, 2**20]
    assert main(["cache", f"cache_dir={tmp_path}"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "start 2 1.0 MiB 40.0 to 40.0 days old",
        "tokens 2 2.0 MiB 1.0 to 40.0 days old",
        "total 4 3.0 MiB 1.0 to 40.0 days old",
        f"{tmp_path}/",
    ]


def test_what_is_old_is_removed(kept, tmp_path, capsys):
    assert main(["cache", "prune", f"cache_dir={tmp_path}"]) == 0
    assert "total           3" in capsys.readouterr().out
    assert names(kept) == ["tokens/b"]
    assert main(["cache", "prune", "days=0", f"cache_dir={tmp_path}"]) == 0
    assert names(kept) == []
    kept.entry("tokens", "a", lambda folder: (folder / "x").write_text("made again"))
    assert names(kept) == ["tokens/a"]
    assert main(["cache", "prune", "days=soon"]) == 2
    assert main(["cache", "prune", "-m"]) == 2


def test_what_is_being_made_is_left_alone(kept):
    inside, go = threading.Event(), threading.Event()

    def build(folder):
        inside.set()
        go.wait(10)
        (folder / "x").write_text("whole")

    thread = threading.Thread(target=kept.entry, args=("reference", "e", build))
    thread.start()
    inside.wait(10)
    kept.prune(-1)
    assert [entry.path.name[:3] for entry in kept.entries()] == [".e."]
    go.set()
    thread.join()
    assert (kept.place("reference", "e") / "x").read_text() == "whole"
