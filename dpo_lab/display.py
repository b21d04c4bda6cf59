"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dpo_lab.cache import Entry

if TYPE_CHECKING:
    from rich.progress import Progress

# the metrics that are printed at the end of a run
RESULTS = {
    "eval/loss": "loss",
    "eval/rewards/accuracies": "accuracy",
    "eval/rewards/margins": "reward margin",
    "eval/logratios/chosen": "chosen log-ratio, nats",
    "eval/logratios/rejected": "rejected log-ratio, nats",
    "world/reward": "exact reward",
    "world/kl": "exact KL to the start, nats",
    "world/optimal_share": "share of the optimal reward at that KL",
    "world/win_rate": "win rate against the start",
}


class Display:
    """Says what the run does, on standard error and in the run's `train.log`.

    On a terminal a stage with a known length is a bar; elsewhere a line at its end, or every ten
    seconds. Use as a context, so that the bar is taken down whatever happens.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.bar: Progress | None = None
        self.tasks: dict[str, Any] = {}
        self.log: RawIOBase | None = None
        self.spoke = time.monotonic()

    def __enter__(self) -> Display:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self.bar = Progress(
                TextColumn("{task.description:>10}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.log is not None:
            self.log.close()

    def write_to(self, folder: Path) -> None:
        """Also keep every line in the run's `train.log`."""
        self.log = (folder / "train.log").open("ab", buffering=0)

    def say(self, text: str) -> None:
        """One line that stays."""
        if self.log is not None:
            with suppress(OSError):  # a full disk is for those to report who need it
                self.log.write(f"{time.strftime('%H:%M:%S')} {text}\n".encode())
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Part `done` of `total` of a stage is finished."""
        if self.bar is not None:
            if stage not in self.tasks:
                self.tasks[stage] = self.bar.add_task(stage, total=total, note=note)
            self.bar.update(self.tasks[stage], completed=done, note=note)
        elif done == total or time.monotonic() - self.spoke > 10:
            self.spoke = time.monotonic()
            self.say(f"{stage} {done}/{total} {note}".rstrip())


def stored(entries: Sequence[Entry]) -> str:
    """What a cache holds: number, size and age of the entries of each kind, and the total."""
    lines = []
    for kind in [*dict.fromkeys(entry.kind for entry in entries), "total"]:
        some = [entry for entry in entries if kind in (entry.kind, "total")]
        size = sum(entry.bytes for entry in some) / 2**20
        ages = sorted((time.time() - entry.made) / 86400 for entry in some)
        aged = f"  {ages[0]:.1f} to {ages[-1]:.1f} days old" if ages else ""
        lines.append(f"  {kind:<10} {len(some):>6}  {size:>10.1f} MiB{aged}")
    return "\n".join(lines)


def table(metrics: Mapping[str, float], rows: Mapping[str, str]) -> str:
    """A plain two-column table of the metrics named in `rows` (name -> label), those that exist."""
    shown = [(label, metrics[name]) for name, label in rows.items() if name in metrics]
    width = max((len(label) for label, _ in shown), default=0)
    return "\n".join(f"  {label:<{width}}  {value:>10.4f}" for label, value in shown)
