"""Run folders written by hand: what a run leaves behind, without the run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import yaml

from dpo_lab.results import Run

FRONTIER = {"kl": [0.0, 0.5, 1.0, 2.0, 4.0], "reward": [0.0, 0.5, 0.75, 1.0, 1.2]}


def fake(
    folder: Path,
    *,
    beta: float = 0.1,
    lr: float = 0.001,
    seed: int = 0,
    state: str = "done",
    reason: str | None = None,
    steps: int = 40,
    frontier: dict[str, Any] | None = None,
    **more: str,
) -> Run:
    """A run of DPO in a world, its curves smooth functions of beta, lr and seed.

    `more`: further choices, such as `loss="simpo"`.
    """
    folder.mkdir(parents=True)
    choices = {"loss": "dpo", "data": "world_nano", "logger": "none", **more}
    config = {
        "name": None,
        "seed": seed,
        "outputs_dir": str(folder.parent),
        "train": {"steps": 40, "log_every": 5, "batch_size": 16},
        "loss": {"_target_": f"dpo_lab.losses.{choices['loss']}", "beta": beta},
        "optimizer": {"_target_": "dpo_lab.optimizers.adamw", "lr": lr},
    }
    overrides = [f"{group}={name}" for group, name in choices.items()]
    overrides += [f"loss.beta={beta}", f"optimizer.lr={lr}", f"seed={seed}"]
    record = {
        "identity": f"{beta}-{lr}-{seed}",
        "choices": choices,
        "overrides": overrides,
        "cwd": "/somewhere",
        "dpo_lab": "0.1.0",
        "packages": {"torch": "2.13.0"},
        "frontier": frontier or FRONTIER,
    }
    status = {"state": state, "pid": 1} | ({"reason": reason} if reason else {})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "status.json").write_text(json.dumps(status))
    lines = []
    for step in range(0, steps + 1, 5):
        for event in ("train", "eval"):
            if (event == "eval" and step % 10) or (event == "train" and step == 0):
                continue
            lines.append({"event": event, "step": step, **measured(event, step, beta, lr, seed)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_pairs(folder / "eval" / f"step_{steps}.parquet", beta, seed)
    return Run(folder)


def measured(event: str, step: int, beta: float, lr: float, seed: int) -> dict[str, float]:
    """What one line of metrics.jsonl says."""
    gain = (1 - math.exp(-step / 15)) * (1 + 0.1 * seed) * (lr / 0.001) ** 0.2
    chosen, rejected = -0.4 * gain / beta**0.5, -1.1 * gain / beta**0.5
    found = {
        "loss": 0.6931 - 0.1 * gain,
        "rewards/accuracies": 0.5 + 0.15 * gain,
        "rewards/chosen": beta * chosen,
        "rewards/rejected": beta * rejected,
        "rewards/margins": beta * (chosen - rejected),
        "logratios/chosen": chosen,
        "logratios/rejected": rejected,
        "logratios/margins": chosen - rejected,
    }
    values = {f"{event}/{name}": value for name, value in found.items()}
    if event == "eval":
        values |= {"world/kl": 0.4 * gain / beta**0.5, "world/reward": 0.3 * gain}
        values |= {"world/optimal_share": 0.6 * gain - 0.1 * beta} if step else {}
    return values


def write_pairs(path: Path, beta: float, seed: int, count: int = 60) -> None:
    """The columns of an evaluation, for `count` pairs."""
    draw = np.random.default_rng(seed)
    start = -draw.gamma(4.0, 1.0, (2, count))
    ratio = draw.normal([[-0.4], [-1.1]], 1.0, (2, count))
    tokens = draw.integers(1, 6, (2, count))
    columns: dict[str, Any] = {"row": [f"world:{row}" for row in range(count)]}
    columns["loss"] = np.log1p(np.exp(-beta * (ratio[0] - ratio[1])))
    for place, side in enumerate(("chosen", "rejected")):
        columns |= {
            f"{side}_logps": start[place] + ratio[place],
            f"{side}_ref_logps": start[place],
            f"{side}_start_logps": start[place],
            f"{side}_tokens": tokens[place],
            f"{side}_reward": beta * ratio[place],
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def sweep(folder: Path) -> list[Run]:
    """3 beta x 2 lr x 2 seeds, all finished."""
    return [
        fake(folder / f"beta={beta},lr={lr},seed={seed}", beta=beta, lr=lr, seed=seed)
        for beta in (0.1, 0.5, 2.0)
        for lr in (0.001, 0.003)
        for seed in (0, 1)
    ]
