"""What a sweep saves: twelve runs by `dpo-lab -m` against twelve commands, and one job's start.

python benchmarks/sweep.py [REPEATS] [OVERRIDES]

Both sides have warm caches, and take turns. Nothing else should run meanwhile.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dpo_lab.jobs import Desk, claim, expand
from dpo_lab.launchers.local import Local

BETAS, SEEDS = "0.1,0.3,1.0", "0,1,2,3"
SWEPT = [f"loss.beta={BETAS}", f"seed={SEEDS}", "launcher.jobs=2"]
COMMAND = [sys.executable, "-m", "dpo_lab"]


def seconds(*words: str) -> float:
    """How long one command takes."""
    before = time.perf_counter()
    subprocess.run([*COMMAND, *words], check=True, capture_output=True)
    return time.perf_counter() - before


def separately(words: list[str]) -> float:
    """Twelve commands, one after the other."""
    return sum(
        seconds(*words, f"loss.beta={beta}", f"seed={seed}")
        for beta in BETAS.split(",")
        for seed in SEEDS.split(",")
    )


def begins(folder: Path) -> float:
    """When a run began to make its objects: the first line of its own log follows at once."""
    return (folder / "config.yaml").stat().st_mtime


def starts(words: list[str], repeats: int, warm: bool) -> list[float]:
    """Seconds from ordering a job to the moment when its run has its modules and its data."""
    launcher = Local(
        size=1, threads=None, accelerators=[], timeout=3600, grace=5, memory_mb=None, warm=warm
    )
    while not launcher.ready:
        launcher.poll(0.1)
    times = []
    for repeat in range(repeats):
        (job,) = Desk().identify(expand([*words, f"seed={100 + repeat + 50 * warm}"]))
        claim(job)
        before = time.time()
        launcher.start([job])
        while launcher.running():
            launcher.poll(0.05)
        times.append(begins(job.folder) - before)
    launcher.close()
    return times


def main() -> None:
    """Print both ratios."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        words = ["data=world", "logger=none", f"outputs_dir={out}", *sys.argv[2:]]
        words.append(f"cache_dir={folder}/cache")
        seconds(*words)  # fills the caches
        ours, theirs = [], []
        for _ in range(repeats):
            shutil.rmtree(out)
            theirs.append(separately(words))
            shutil.rmtree(out)
            ours.append(seconds("-m", *words, *SWEPT))
            print(f"12 commands {theirs[-1]:6.1f} s   one sweep {ours[-1]:6.1f} s", flush=True)
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f"{ratio:.2f} of the time (medians of {repeats})")
        cold = statistics.median(starts([*words, "train.steps=1"], repeats, warm=False))
        warm = statistics.median(starts([*words, "train.steps=1"], repeats, warm=True))
        print(f"start of a job: cold {cold:.2f} s, warm {warm:.2f} s, {warm / cold:.2f} of it")


if __name__ == "__main__":
    main()
