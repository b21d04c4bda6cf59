"""A run that dies right after a checkpoint, and is continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

import dpo_lab
from dpo_lab import run as module
from dpo_lab.results import Run


def resumed(train: Callable[..., Run], settings: Sequence[str], stop: int) -> Run:
    """Train with `settings` in the folder of `train` until step `stop` is saved, die, continue."""
    save = module.Job._save
    died = []

    def save_and_die(self, state, step):
        save(self, state, step)
        if step == stop:
            died.append(self.folder)
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Job, "_save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train(*settings)
    (folder,) = died
    assert Run(folder).state == "failed"
    again = dpo_lab.train([f"train.resume={folder}"])
    assert again.folder == folder and again.state == "done"
    return again
