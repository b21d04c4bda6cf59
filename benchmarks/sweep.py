"""What a sweep saves: twelve runs by `dpo-lab -m` against twelve commands, and one job's start.

python benchmarks/sweep.py [REPEATS] [OVERRIDES]

Both sides have warm caches and take turns, three times unless said otherwise: some nine minutes.
Nothing else should run meanwhile. The runs are short, so that most of a command is its start; with
longer ones the ratio goes to what two jobs at once gain, one half at best.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from dpo_lab.jobs import Desk, claim, expand
from dpo_lab.launchers.local import Local

USUAL = ["data=world", "train.steps=30", "logger=none"]
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
    """When a run has its modules and its data, and writes its config before anything else."""
    return (folder / "config.yaml").stat().st_mtime


def start(launcher: Local, words: list[str]) -> float:
    """Seconds from ordering a job to the moment when its run begins."""
    (job,) = Desk().identify(expand(words))
    assert claim(job)
    before = time.time()
    launcher.start([job])
    while launcher.running():
        launcher.poll(0.05)
    assert job.state == "done", job.reason
    return begins(job.folder) - before


def server(warm: bool) -> Local:
    """What starts jobs: with everything imported, or with a job importing it. It is up."""
    made = Local(
        size=1, threads=1, accelerators=[], timeout=3600, grace=5, memory_mb=None, warm=warm
    )
    while not made.ready:
        made.poll(0.1)
    return made


def starts(words: list[str], repeats: int) -> None:
    """One job's start: a new process that imports, against one of the warm server."""
    times = []
    with closing(server(False)) as cold, closing(server(True)) as warm:
        for seed in range(100, 100 + 2 * repeats, 2):
            short = [*words, "train.steps=1"]
            first = start(cold, [*short, f"seed={seed}"])
            times.append((first, start(warm, [*short, f"seed={seed + 1}"])))
    ratio = statistics.median(warm / cold for cold, warm in times)
    each = ", ".join(f"{cold:.2f} and {warm:.2f} s" for cold, warm in times)
    print(f"start of a job, cold and warm: {each}; {ratio:.2f} of it (median of {repeats})")


def sweeps(words: list[str], out: Path, repeats: int) -> None:
    """Twelve runs, as commands and as a sweep."""
    print(f"{BETAS} by {SEEDS}", flush=True)
    ours, theirs = [], []
    for _ in range(repeats):
        shutil.rmtree(out)
        theirs.append(separately(words))
        shutil.rmtree(out)
        ours.append(seconds("-m", *words, *SWEPT))
        print(f"12 commands {theirs[-1]:6.1f} s   one sweep {ours[-1]:6.1f} s", flush=True)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(f"{ratio:.2f} of the time (median of {repeats})", flush=True)


def main() -> None:
    """Print both ratios."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        words = [*USUAL, *sys.argv[2:]]
        print(f"dpo-lab {' '.join(words)}", flush=True)
        words += [f"outputs_dir={out}", f"cache_dir={folder}/cache"]
        seconds("-m", *words, f"seed={SEEDS}")  # fills the caches
        starts(words, repeats)
        sweeps(words, out, repeats)


if __name__ == "__main__":
    main()
