"""R1: killed at random moments and at named places, then resumed: bit for bit the same run."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from survival import SAVED, SETTINGS, STEPS, VARIANTS, Bench, differences, leftovers, logged, whole

from dpo_lab.faults import PLACES

ID = "R1"
ONCE = {"record.written", "export.writing", "export.written"}  # passed once a process
SEED = random.SystemRandom().randrange(2**32)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("kill"))
    bench.whole = {variant: bench.run(*words) for variant, words in VARIANTS.items()}
    return bench


def lasted(folder: Path) -> float:
    """Seconds from the first word of a run's folder to its last."""
    return max(0.3, (folder / "status.json").stat().st_mtime - (folder / ".lock").stat().st_mtime)


def killed(bench, words, before, wait=None, fault="") -> tuple[Path | None, str]:
    """Start, and have it killed: the folder where that happened, None where it came too late; and
    what was said."""
    process = bench.start(*words, DPO_LAB_FAULT=fault)
    resumed = [word.partition("=")[2] for word in words if word.startswith("train.resume=")]
    folder = Path(resumed[0]) if resumed else bench.appeared(before, process)
    if wait is not None and folder is not None:
        if resumed:  # until it holds the folder again
            began = (folder / "status.json").stat().st_mtime_ns
            while process.poll() is None and began == (folder / "status.json").stat().st_mtime_ns:
                time.sleep(0.005)
        time.sleep(wait)
        process.kill()
    said, _ = process.communicate(timeout=300)
    return (folder if process.returncode == -9 else None), said


def lost(folder: Path) -> list[str]:
    """Checkpoints that must be there by what is logged and are not: the two newest ones."""
    done = (logged(folder) - 1) // SAVED * SAVED
    due = [step for step in (done, done - SAVED) if step > 0]
    there = whole(folder)
    return [f"step {step} is lost" for step in due if step not in there and max(there) <= step]


def plans(draw: random.Random) -> list[list[str]]:
    """15 runs with 1, 2 or 3 kills each; every place at least twice. The end comes last."""
    todo = [*PLACES, *PLACES, *draw.choices(PLACES, k=30 - 2 * len(PLACES))]
    draw.shuffle(todo)
    cut = []
    for times in [1, 2, 3] * 5:
        some, todo = todo[:times], todo[times:]
        some = [f"{place}:{1 if place in ONCE else draw.randint(1, 2)}" for place in some]
        cut.append(sorted(some, key=lambda fault: fault.startswith("export")))
    return cut


def survived(bench, way: str, number: int, plan: list[str]) -> tuple[str, list[str], list[str]]:
    """One run of a plan in a folder of its own: its variant, its kills, and what is wrong."""
    draw = random.Random(f"{SEED} {way} {number}")
    own = Bench(bench.folder / f"{way}{number}")
    own.environment = bench.environment  # and so the cache
    variant = draw.choice(list(VARIANTS))
    folder, told, problems = None, [], []
    before = set(own.runs())
    while len(told) < len(plan):
        words = [f"train.resume={folder}"] if folder else [*SETTINGS, *VARIANTS[variant]]
        left = 1 - (max(whole(folder), default=0) if folder else 0) / STEPS
        wait = draw.uniform(0, lasted(bench.whole[variant]) * max(left, 0.2))
        fault = plan[len(told)]
        struck, said = (
            killed(own, words, before, wait=wait)
            if way == "moments"
            else killed(own, words, before, fault=fault)
        )
        if struck is None:  # it was done before: begin again with another moment
            assert way == "moments", f"{fault} not passed after {told}: {said}"
            before, folder, told, problems = set(own.runs()), None, [], []
            continue
        folder = struck
        told.append(fault if way == "places" else f"after {wait:.2f} s")
        problems += lost(folder)
    at = max(whole(folder), default=0)
    status, said = own.go(f"train.resume={folder}")
    if status:
        problems.append(f"status {status}: {said[-300:]}")
    else:
        problems += differences(folder, bench.whole[variant]) + leftovers(folder)
        if at and f"continuing {folder} after step {at}" not in said:
            problems.append(f"did not go on after step {at}: {said}")
    return variant, told, problems


@pytest.mark.parametrize("way", ["moments", "places"])
def test_r1(bench, tally, way):
    print(f"seed {SEED}")
    cut = plans(random.Random(f"{SEED} {way}"))
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(partial(survived, bench, way), range(len(cut)), cut)
        for number, (variant, told, problems) in enumerate(found):
            for what in told:
                tally(not problems, f"{variant} run {number}, killed {told} ({what}): {problems}")
