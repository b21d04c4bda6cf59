"""Runs in this process, stopped after a step by a signal as a scheduler sends it."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
from survival import LORA, SETTINGS, STEPS, write_pairs

import dpo_lab
from dpo_lab import curves, loop, run
from dpo_lab.errors import Interrupted

__all__ = ["LORA", "Place"]

# 17 rows, 4 pairs an update: epochs end within updates
TINY = [
    *SETTINGS,
    "data.eval_share=null",
    "train.batch_size=4",
    "train.micro_tokens=60",
    f"checkpoint.every={STEPS}",
]


class Place:
    """A folder with data; `train` runs to the end, `stopped` to SIGTERM after some step."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self.folder = folder
        patch.setattr(curves, "save", lambda run: None)  # no result depends on it
        write_pairs(folder / "prefs.jsonl", 17)
        write_pairs(folder / "held.jsonl", 5, seed=1)
        self.settings = [
            *TINY,
            f"data.path={folder / 'prefs.jsonl'}",
            f"data.eval_path={folder / 'held.jsonl'}",
            f"outputs_dir={folder}",
            f"cache_dir={folder / 'cache'}",
        ]

    def train(self, *words: str) -> Path:
        return dpo_lab.train([*self.settings, *words]).folder

    def stopped(self, step: int, *words: str) -> Path:
        """The folder of a run that SIGTERM ended after this step."""
        before = set((self.folder / "run").glob("*"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "fit", _signalled(step))
            with pytest.raises(Interrupted) as stop:
                self.train(*words)
        assert stop.value.status == 143 and f"after step {step};" in str(stop.value)
        (made,) = set((self.folder / "run").glob("*")) - before
        return made

    def resumed(self, folder: Path) -> Path:
        return dpo_lab.train([f"train.resume={folder}"]).folder


def _signalled(at: int):
    def fit(state, plan, effects):
        def progress(step: int, steps: int, loss: float) -> None:
            if step == at:
                signal.raise_signal(signal.SIGTERM)

        return loop.fit(state, plan, replace(effects, progress=progress))

    return fit
