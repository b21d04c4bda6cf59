"""Small runs by the public command line, and a reader of what they leave that is not the lab's."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
from safetensors.numpy import load_file

WORDS = "the a film was good bad long short great plot actor I you we liked hated not so".split()
STEPS, SAVED, EVALUATED = 16, 2, 4
# dropout, shuffling, accumulation, warm-up and cosine, evaluation: all on
SETTINGS = [
    "data=file",
    "data.path=prefs.jsonl",
    "data.eval_share=0.1",
    "model=tiny",
    "model.hidden_size=32",
    "model.vocab_size=300",
    "model.dropout=0.1",
    "train.epochs=null",
    f"train.steps={STEPS}",
    "train.batch_size=16",
    "train.micro_tokens=200",
    "train.log_every=1",
    "schedule=cosine",
    "schedule.warmup_steps=4",
    "optimizer.lr=1e-3",
    "optimizer.weight_decay=0.01",
    f"eval.every={EVALUATED}",
    f"checkpoint.every={SAVED}",
    "checkpoint.keep_best=true",
    "logger=none",
    "name=run",
]
LORA = ["adapter=lora", "adapter.dropout=0.1", "adapter.r=4", "optimizer.lr=1e-2"]
VARIANTS = {
    "full": [],
    "lora": LORA,
}


def write_pairs(path: Path, rows: int, seed: int = 0) -> None:
    """Pairs of random words, all different."""
    draw = random.Random(seed)

    def said(most: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(2, most)))

    with path.open("w") as file:
        for number in range(rows):
            row = {"prompt": f"{number} {said(8)}", "chosen": f" {said(9)}", "rejected": " no no"}
            row["rejected"] += f" {said(9)}"
            file.write(json.dumps(row) + "\n")


class Bench:
    """A folder with data, where runs are started as a user would."""

    def __init__(self, folder: Path, rows: int = 200):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.environment = {
            **os.environ,
            "DPO_LAB_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "offline",
        }
        write_pairs(folder / "prefs.jsonl", rows)

    def start(self, *words: str, limit: int = -1, **environment: str) -> subprocess.Popen[str]:
        """`dpo-lab WORDS` in a process of its own, which can write no file above `limit` bytes."""
        return subprocess.Popen(
            [sys.executable, "-m", "dpo_lab", *words],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )

    def go(self, *words: str, limit: int = -1, **environment: str) -> tuple[int, str]:
        """Exit status and everything that was printed."""
        process = self.start(*words, limit=limit, **environment)
        said, _ = process.communicate(timeout=300)
        return process.returncode, said

    def run(self, *words: str) -> Path:
        """A run that must end well; returns its folder."""
        before = set(self.runs())
        status, said = self.go(*SETTINGS, *words)
        assert status == 0, said
        (made,) = set(self.runs()) - before
        return made

    def runs(self) -> list[Path]:
        """Every run folder that knows who it is."""
        return sorted(path.parent for path in self.folder.glob("*/*/*/record.json"))

    def appeared(self, before: set[Path], process: subprocess.Popen[str]) -> Path | None:
        """Wait for the folder of a run that was just started."""
        while process.poll() is None:
            if made := set(self.runs()) - before:
                return made.pop()
            time.sleep(0.005)
        return next(iter(set(self.runs()) - before), None)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def whole(folder: Path) -> list[int]:
    """Steps of the checkpoints whose every file is what the manifest says, in order."""
    steps = []
    for path in folder.glob("checkpoints/step_*"):
        try:
            digests = json.loads((path / "manifest.json").read_text())
            if {file.name for file in path.iterdir()} != {*digests, "manifest.json"}:
                continue
            if all(sha256(path / name) == digest for name, digest in digests.items()):
                steps.append(int(path.name[5:]))
        except (OSError, ValueError):
            continue
    return sorted(steps)


def logged(folder: Path) -> int:
    """The last update that has a whole line in metrics.jsonl."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    events = [json.loads(line) for line in lines]
    return max((event["step"] for event in events if event["event"] == "train"), default=0)


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith("perf/")}
        | {"time": 0}
        for line in lines
    ]


def differences(folder: Path, expected: Path) -> list[str]:
    """What of a run's end is not, bit for bit, that of another: weights, optimizer, metrics."""
    found = []
    for name in ("final/model.safetensors", "best/model.safetensors"):
        if not (expected / name).exists() and not (folder / name).exists():
            continue
        ours, theirs = load_file(folder / name), load_file(expected / name)
        for key in ours.keys() | theirs.keys():
            if key not in ours or key not in theirs or ours[key].tobytes() != theirs[key].tobytes():
                found.append(f"{name} {key}")
    last = f"checkpoints/step_{STEPS:06d}"
    for path in sorted((expected / last).glob("*.safetensors")):
        if not (folder / last / path.name).exists() or sha256(folder / last / path.name) != sha256(
            path
        ):
            found.append(f"{last}/{path.name}")
    if metrics(folder) != metrics(expected):
        found.append("metrics.jsonl")
    steps = [event["step"] for event in metrics(folder) if event["event"] == "train"]
    if steps != list(range(1, STEPS + 1)):
        found.append(f"steps {steps}")
    for path in sorted((expected / "eval").iterdir()):
        other = folder / "eval" / path.name
        if not other.exists() or pyarrow.parquet.read_table(other) != pyarrow.parquet.read_table(
            path
        ):
            found.append(f"eval/{path.name}")
    return found


def leftovers(folder: Path) -> list[str]:
    """Hidden files and folders: work that was never finished."""
    names = {path.name for path in folder.rglob(".*") if "wandb" not in path.parts}
    return sorted(names - {".lock"})
