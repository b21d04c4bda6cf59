"""What the last evaluation of a run says pair by pair: displacement, margins, length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpo_lab.drawing import drawable
from dpo_lab.results import Run

SATURATED = 0.1  # sigmoid(-margin) below this: the pair hardly moves a logistic loss any more


class Share(NamedTuple):
    """A share (None where there is nothing to divide by) of `pairs` pairs."""

    value: float | None
    pairs: int


@dataclass(frozen=True)
class Diagnostics:
    """Held-out pairs of one evaluation. None: the run measured no such thing.

    - `below_start`: share of chosen responses less likely than at the start.
    - `margin`: 5th, 50th and 95th percentile of the implicit reward margin.
    - `saturated`: share of pairs with sigmoid(-margin) below 0.1, the weight in DPO's gradient.
    - `length_correlation`: Pearson's, of margin and tokens chosen minus tokens rejected; None also
      where either does not vary.
    - `accuracy`: of the margin's sign, ties one half, by which answer is longer: `chosen`,
      `rejected`, `neither`.
    """

    step: int
    pairs: int
    below_start: float | None
    margin: tuple[float, float, float] | None
    saturated: float | None
    length_correlation: float | None
    accuracy: dict[str, Share]


def diagnose(run: Run) -> Diagnostics | None:
    """Read the newest `eval/step_N.parquet`; None where there is none, or it cannot be read."""
    import pyarrow
    import pyarrow.parquet

    path = max((run.folder / "eval").glob("step_*.parquet"), key=_step, default=None)
    if path is None or _step(path) < 0:
        return None
    try:
        table = pyarrow.parquet.read_table(path)
        column = {
            name: table.column(name).to_numpy().astype(np.float64)
            for name in table.column_names
            if name != "row"
        }
    except (OSError, ValueError, TypeError, pyarrow.ArrowException):
        return None
    return summarise(_step(path), table.num_rows, column)


def summarise(step: int, pairs: int, column: dict[str, np.ndarray]) -> Diagnostics:
    """The numbers of N pairs, from columns (N,) under the names that evaluation gives them.

    Pairs whose margin is not finite are left out of everything that is about margins.
    """
    below = None
    if {"chosen_logps", "chosen_start_logps"} <= column.keys() and pairs:
        below = float((column["chosen_logps"] < column["chosen_start_logps"]).mean())
    if not {"chosen_reward", "rejected_reward"} <= column.keys():
        return Diagnostics(step, pairs, below, None, None, None, {})
    margin = column["chosen_reward"] - column["rejected_reward"]
    finite = np.isfinite(drawable(margin))
    margin = margin[finite]
    if not len(margin):
        return Diagnostics(step, pairs, below, None, None, None, {})
    low, middle, high = np.quantile(margin, [0.05, 0.5, 0.95])
    saturated = float((margin > np.log(1 / SATURATED - 1)).mean())
    correlation, accuracy = None, {}
    if {"chosen_tokens", "rejected_tokens"} <= column.keys():
        longer = (column["chosen_tokens"] - column["rejected_tokens"])[finite]
        if margin.std() > 0 and longer.std() > 0:
            correlation = float(np.corrcoef(margin, longer)[0, 1])
        accuracy = {
            "chosen": _accuracy(margin[longer > 0]),
            "rejected": _accuracy(margin[longer < 0]),
            "neither": _accuracy(margin[longer == 0]),
        }
    quantiles = (float(low), float(middle), float(high))
    return Diagnostics(step, pairs, below, quantiles, saturated, correlation, accuracy)


def _accuracy(margin: np.ndarray) -> Share:
    right = (margin > 0) + 0.5 * (margin == 0)
    return Share(float(right.mean()) if len(right) else None, len(right))


def _step(path: Path) -> int:
    """`step_20.parquet` -> 20; -1 for what has no number."""
    number = path.stem.removeprefix("step_")
    return int(number) if number.isdecimal() else -1
