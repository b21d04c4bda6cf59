"""What a search saves: twenty trials with pruning against a grid of twenty runs, in the nano world.

python benchmarks/search.py FOLDER [OVERRIDES]

Sought is the largest share of the optimal reward with at most 3 nats of KL, over beta and learning
rate. Costs are training steps, which do not depend on the machine. FOLDER keeps the runs; the same
command again does only what is missing there. A fourth search is killed midway (SIGKILL) and
started again. One run at a time, so that the searches repeat exactly.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dpo_lab

COMMAND = [sys.executable, "-m", "dpo_lab", "-m"]
SETTING = [
    *("data=world_nano", "train.steps=120", "train.threads=1", "eval.every=12", "logger=none"),
    "launcher.jobs=1",
]
GRID = ["loss.beta=0.1,0.3,1,3", "optimizer.lr=1e-4,3e-4,1e-3,3e-3,1e-2"]
SEARCHED = ["loss.beta=tag(log,interval(0.1,3))", "optimizer.lr=tag(log,interval(1e-4,1e-2))"]
METRIC, BOUND, MOST = "world/optimal_share", "world/kl", 3.0
SEARCH = [
    *("sweeper=optuna", "sweeper.trials=20", f"sweeper.maximize=[{METRIC}]"),
    *(f"sweeper.at_most={{{BOUND}: {MOST:g}}}", "sweeper.pruner=successive_halving"),
    *("sweeper.warmup=24", "sweeper.startup=5"),
]
SEEDS = (0, 1, 2)


def grid(folder: Path, words: list[str]) -> dict[str, Any]:
    """Run the grid; its best run within the bound, and the steps of all."""
    subprocess.run([*COMMAND, *SETTING, *GRID, f"outputs_dir={folder}", *words], check=True)
    runs = dpo_lab.runs(folder)
    kept = runs[runs[BOUND] <= MOST].sort_values(METRIC, ascending=False)
    best = kept.iloc[0]
    steps = int(runs["counters/updates"].sum())
    return {"runs": len(runs), "pruned": 0, "steps": steps, **_point(best.to_dict())}


def begin(folder: Path, seed: int, words: list[str]) -> subprocess.Popen:
    """Start a search, or go on with it."""
    mine = [*SETTING, *SEARCHED, *SEARCH, f"sweeper.seed={seed}", f"outputs_dir={folder}", *words]
    return subprocess.Popen([*COMMAND, *mine])


def found(folder: Path) -> dict[str, Any]:
    """What a search has written so far."""
    written = sorted(folder.glob("*/search-*/search.json"))
    return json.loads(written[0].read_text()) if written else {"trials": [], "ended": {}}


def search(folder: Path, seed: int, words: list[str]) -> dict[str, Any]:
    """Do a whole search."""
    if begin(folder, seed, words).wait():
        raise SystemExit("the search has failed")
    return _summary(found(folder))


def killed(folder: Path, seed: int, words: list[str]) -> dict[str, Any]:
    """The same, killed once half of its trials have ended, and started again."""
    process = begin(folder, seed, words)
    while sum(found(folder)["ended"].values()) < 10 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = [row for row in found(folder)["trials"] if row["state"] in ("done", "pruned")]
    summary = search(folder, seed, words)
    after = found(folder)["trials"]
    assert after[: len(before)] == before, "trials from before the kill have changed"
    tried = [tuple(row["overrides"]) for row in after if row["state"] != "lost"]
    print(
        f"\nkilled after {len(before)} trials; afterwards {len(tried) - len(before)} more, "
        f"{len(tried) - len(set(tried))} of all suggested twice"
    )
    return summary


def _summary(content: dict[str, Any]) -> dict[str, Any]:
    ended, best = content["ended"], content["best"][0]
    values = dict(word.split("=") for word in best["overrides"]) | best["measured"]
    counts = {"runs": sum(ended.values()), "pruned": ended.get("pruned", 0)}
    return {**counts, "steps": content["steps"], **_point(values)}


def _point(values: dict[str, Any]) -> dict[str, Any]:
    names = {"share": METRIC, "kl": BOUND, "beta": "loss.beta", "lr": "optimizer.lr"}
    return {short: float(values[name]) for short, name in names.items()}


def main() -> None:
    """Print the table."""
    folder, words = Path(sys.argv[1]), sys.argv[2:]
    rows = {"grid 4 x 5": grid(folder / "grid", words)}
    for seed in SEEDS:
        rows[f"search, seed {seed}"] = search(folder / f"seed{seed}", seed, words)
    middle = [rows[f"search, seed {seed}"] for seed in SEEDS]
    rows["search, killed"] = killed(folder / "killed", len(SEEDS), words)
    print(f"\n{'':<16}  runs  pruned  steps  optimal share     KL   beta        lr")
    for name, row in rows.items():
        print(
            f"{name:<16}  {row['runs']:>4}  {row['pruned']:>6}  {row['steps']:>5}  "
            f"{row['share']:>13.4f}  {row['kl']:>5.3f}  {row['beta']:>5.3f}  {row['lr']:>8.2g}"
        )
    share, steps = (statistics.median(row[name] for row in middle) for name in ("share", "steps"))
    one = rows["grid 4 x 5"]
    print(
        f"median of {len(SEEDS)} seeds: share {share:.4f} against {one['share']:.4f} of the grid, "
        f"{steps / one['steps']:.2f} of its steps"
    )


if __name__ == "__main__":
    main()
