"""R3: a full disk stops a run with one line; nothing is lost, and it goes on once there is room.

The disks are tmpfs of some megabytes, which only root may mount; RLIMIT_FSIZE needs nobody's leave.
"""

import os
import re
import subprocess
import time
from contextlib import contextmanager

import pytest
from survival import SETTINGS, Bench, differences, leftovers, logged, whole

ID = "R3"
BARE = ["checkpoint.every=null", "checkpoint.keep_best=false", "eval.every=null"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def saving(bench):
    return bench.run()


@pytest.fixture(scope="module")
def bare(bench):
    return bench.run(*BARE)


@contextmanager
def disk(folder, size):
    """A file system of its own, `size` as mount takes it."""
    folder.mkdir(exist_ok=True)
    if os.geteuid() != 0 or mount(folder, f"size={size}").returncode:
        pytest.skip("mounting a tmpfs takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(folder, how):
    words = ["mount", "-t", "tmpfs", "-o", how, "none", str(folder)]
    return subprocess.run(words, capture_output=True)


def fill(folder, leave):
    """Take all but `leave` bytes; returns the file to remove again."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))
    return ballast


def complaint(status, said, path) -> list[str]:
    """What is wrong with how a full disk was reported."""
    lines = [line for line in said.splitlines() if line.startswith("dpo-lab: ")]
    if status != 1 or len(lines) != 1 or "Traceback" in said:
        return [f"status {status}, said {said[-600:]}"]
    if str(path) not in lines[0] or not re.search(r"[\d,]+ bytes|[\d,]+ are free", lines[0]):
        return [f"said {lines[0]}"]
    return []


def goes_on(bench, folder, expected) -> list[str]:
    """What is wrong with the run once there is room again."""
    status, said = bench.go(f"train.resume={folder}")
    if status:
        return [f"resumed: status {status}, said {said[-600:]}"]
    return differences(folder, expected) + leftovers(folder)


def killed_at(bench, place, *words):
    before = set(bench.runs())
    status, said = bench.go(*SETTINGS, *words, DPO_LAB_FAULT=place)
    assert status == -9, said
    return (set(bench.runs()) - before).pop()


def test_checkpoint_by_limit(bench, saving, tally):
    folder = killed_at(bench, "checkpoint.committed:2")
    assert whole(folder) == [2, 4]
    status, said = bench.go(f"train.resume={folder}", limit=300_000)
    found = complaint(status, said, folder / "checkpoints")
    found += [] if whole(folder) == [2, 4] else [f"left {whole(folder)}"]
    tally(not (found := found + goes_on(bench, folder, saving)), f"checkpoint, limit: {found}")


def test_metrics_by_limit(bench, bare, tally):
    size = (bare / "metrics.jsonl").stat().st_size
    assert size > (bare / "eval" / "step_16.parquet").stat().st_size
    before = set(bench.runs())
    status, said = bench.go(*SETTINGS, *BARE, limit=size - 1500)
    (folder,) = set(bench.runs()) - before
    found = complaint(status, said, folder.relative_to(bench.folder) / "metrics.jsonl")
    found += [] if (folder / "metrics.jsonl").read_bytes().endswith(b"}\n") else ["a torn line"]
    tally(not (found := found + goes_on(bench, folder, bare)), f"metrics, limit: {found}")


def test_export_by_limit(bench, saving, tally):
    folder = killed_at(bench, "export.writing")
    status, said = bench.go(f"train.resume={folder}", limit=200_000)
    found = complaint(status, said, folder / "final")
    found += [] if whole(folder) == [14, 16] else [f"left {whole(folder)}"]
    tally(not (found := found + goes_on(bench, folder, saving)), f"export, limit: {found}")


def test_no_room_from_the_beginning(bench, saving, tally):
    with disk(bench.folder / "small", "1200k") as small:
        before = set(bench.runs())
        status, said = bench.go(*SETTINGS, "outputs_dir=small")
        (folder,) = set(bench.runs()) - before
        found = complaint(status, said, folder.relative_to(bench.folder))
        found += [] if "two checkpoints and the export need" in said else [said]
        found += ["trained"] if logged(folder) else []
        mount(small, "remount,size=8m")
        tally(not (found := found + goes_on(bench, folder, saving)), f"no room: {found}")


def test_checkpoint(bench, saving, tally):
    with disk(bench.folder / "outputs2", "8m") as outputs:
        before = set(bench.runs())
        process = bench.start(*SETTINGS, f"outputs_dir={outputs}")
        folder = bench.appeared(before, process)
        while process.poll() is None and not whole(folder):
            time.sleep(0.01)
        ballast = fill(outputs, leave=40_000)
        said, _ = process.communicate(timeout=300)
        found = complaint(process.returncode, said, folder)
        found += [] if whole(folder) else ["no checkpoint is left"]
        ballast.unlink()
        tally(not (found := found + goes_on(bench, folder, saving)), f"checkpoint: {found}")


def test_metrics(bench, bare, tally):
    with disk(bench.folder / "outputs3", "8m") as outputs:
        before = set(bench.runs())
        process = bench.start(*SETTINGS, *BARE, f"outputs_dir={outputs}")
        folder = bench.appeared(before, process)
        while process.poll() is None and logged(folder) < 2:
            time.sleep(0.01)
        ballast = fill(outputs, leave=0)
        said, _ = process.communicate(timeout=300)
        found = complaint(process.returncode, said, folder / "metrics.jsonl")
        found += [] if (folder / "metrics.jsonl").read_bytes().endswith(b"}\n") else ["torn"]
        ballast.unlink()
        tally(not (found := found + goes_on(bench, folder, bare)), f"metrics: {found}")


def test_export(bench, saving, tally):
    with disk(bench.folder / "outputs4", "8m") as outputs:
        folder = killed_at(bench, "export.writing", f"outputs_dir={outputs}")
        ballast = fill(outputs, leave=60_000)
        status, said = bench.go(f"train.resume={folder}")
        found = complaint(status, said, folder)
        found += [] if whole(folder) == [14, 16] else [f"left {whole(folder)}"]
        ballast.unlink()
        tally(not (found := found + goes_on(bench, folder, saving)), f"export: {found}")


@pytest.mark.parametrize("size", ["16k", "60k"])
def test_cache(bench, bare, tally, size):
    with disk(bench.folder / f"cache{size}", size) as cache:
        before = set(bench.runs())
        words = [*SETTINGS, *BARE, f"cache_dir={cache}"]
        status, said = bench.go(*words)
        found = complaint(status, said, cache)
        mount(cache, "remount,size=8m")
        for folder in set(bench.runs()) - before:
            found += goes_on(bench, folder, bare)
        status, said = bench.go(*words)
        found += differences(bench.runs()[-1], bare) if status == 0 else [said]
        tally(not found, f"cache of {size}: {found}")


def test_temporary_folder(bench, bare, tally):
    with disk(bench.folder / "temporary", "16k") as temporary:
        fill(temporary, leave=0)
        before = set(bench.runs())
        status, said = bench.go(*SETTINGS, *BARE, TMPDIR=str(temporary))
        (folder,) = set(bench.runs()) - before
        found = differences(folder, bare) if status == 0 else [said]
        tally(not found, f"TMPDIR: {found}")


def test_wandb(bench, saving, tally):
    folder = killed_at(bench, "checkpoint.committed:3", "logger=wandb")
    subprocess.run(["rm", "-rf", str(folder / "wandb")], check=True)
    with disk(folder / "wandb", "16k"):
        found = goes_on(bench, folder, saving)
        tally(not found, f"W&B: {found}")
