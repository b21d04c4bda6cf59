"""Entries are built once, whole or not at all."""

import multiprocessing
import time

import pytest

from dpo_lab.cache import Cache, default_root, digest


def test_an_entry_is_built_once(tmp_path):
    cache, built = Cache(tmp_path), []

    def build(folder):
        built.append(folder)
        (folder / "x").write_text("1")

    first = cache.entry("kind", digest("a"), build)
    again = cache.entry("kind", digest("a"), build)
    assert first == again and len(built) == 1 and (first / "x").read_text() == "1"


def test_a_failed_build_leaves_nothing(tmp_path):
    cache = Cache(tmp_path)

    def fail(folder):
        (folder / "half").write_text("...")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.entry("kind", "k", fail)
    assert not cache.place("kind", "k").exists()
    assert [path for path in (tmp_path / "kind").iterdir() if path.suffix != ".lock"] == []


def test_an_entry_has_its_name_only_when_it_is_whole(tmp_path):
    # a build that is killed leaves a folder: it must not be taken for the entry
    cache = Cache(tmp_path)

    def build(folder):
        (folder / "first").write_text("1")
        assert folder != cache.place("kind", "k") and not cache.place("kind", "k").exists()
        (folder / "second").write_text("2")

    place = cache.entry("kind", "k", build)
    assert sorted(path.name for path in place.iterdir()) == ["first", "second"]


def _build_slowly(root, counter):
    def build(folder):
        with counter.get_lock():
            counter.value += 1
        time.sleep(0.3)

    Cache(root).entry("kind", "same", build)


def test_processes_that_start_together_build_once(tmp_path):
    context = multiprocessing.get_context("fork")
    counter = context.Value("i", 0)
    workers = [context.Process(target=_build_slowly, args=(tmp_path, counter)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counter.value == 1


def test_digest_ignores_the_order_of_keys_and_nothing_else():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5}) != digest(1, 2)
    long = ["the same for a long while"] * 50
    assert digest(*long, "a") != digest(*long, "b")


def test_the_environment_says_where(monkeypatch, tmp_path):
    monkeypatch.setenv("DPO_LAB_CACHE", str(tmp_path / "here"))
    assert default_root() == tmp_path / "here"
    assert Cache(tmp_path / "there").root == tmp_path / "there"
