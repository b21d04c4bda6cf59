"""A logger that notes when each update ended: how the benchmarks look into a run from outside."""

from __future__ import annotations

import time
from typing import Any

laps: list[tuple[float, float]] = []
losses: list[float] = []


class Clock:
    """Wall and CPU seconds at the start of training and after each update."""

    def __init__(self) -> None:
        laps.append((time.perf_counter(), time.process_time()))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Called after each update, since `train.log_every=1`."""
        if "train/loss" in metrics:
            laps.append((time.perf_counter(), time.process_time()))
            losses.append(round(metrics["train/loss"], 6))

    def finish(self, summary: dict[str, float], failed: bool) -> None:
        """Nothing to end."""


def clock(run: dict[str, Any]) -> Clock:
    """A fresh clock."""
    laps.clear()
    losses.clear()
    return Clock()
