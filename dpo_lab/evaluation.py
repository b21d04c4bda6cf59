"""The same objective on held-out pairs, without gradient, and what it writes per pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dpo_lab import faults
from dpo_lab.batch import Encoded, Logps, Outcome, Pair
from dpo_lab.disk import writing
from dpo_lab.loop import batches
from dpo_lab.metrics import Meter
from dpo_lab.objective import Objective
from dpo_lab.policy import Policy
from dpo_lab.references import Changing, Reference

if TYPE_CHECKING:
    import pyarrow


def evaluate(
    policy: Policy,
    objective: Objective,
    rows: Sequence[Encoded],
    indices: Sequence[int],
    micro_tokens: int,
    known: Reference | None = None,
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Means under `eval/`, and one column per quantity with a value for each row of `indices`.

    Every row is scored exactly once, in eval mode; both answers are scored, whatever the loss sees.
    Before the first step the policy is its start, whose log-probabilities are `known`: nothing is
    scored again, and margins are exactly 0 where the start is the reference too. A reference that
    moves is scored with every batch, and the policy beside it, for the same reason.
    """
    if isinstance(objective.reference, Changing):
        known = None
    meter = Meter()
    columns: dict[str, list[float]] = {}
    policy.eval()
    with torch.no_grad():
        for batch in batches(policy, rows, indices, micro_tokens, paired=True):
            with policy.autocast():
                outcome = (
                    objective.judge(known.logps(batch), batch)
                    if known
                    else objective(policy, batch)
                )
            meter.add(outcome, objective.units(batch))
            for name, values in _per_row(outcome).items():
                columns.setdefault(name, []).extend(values.tolist())
    return meter.read("eval/"), columns


def _per_row(outcome: Outcome) -> dict[str, torch.Tensor]:
    """Columns by name; what has weights is summed with them, row by row."""
    columns = _columns(outcome)
    if outcome.weights is None:
        return columns
    rows = round(float(outcome.weights.sum()))
    return {
        name: (values * outcome.weights).view(rows, -1).sum(1) for name, values in columns.items()
    }


def _columns(outcome: Outcome) -> dict[str, torch.Tensor]:
    columns = {"loss": outcome.scores.loss}
    if outcome.scores.chosen_reward is not None:
        columns["chosen_reward"] = outcome.scores.chosen_reward
    if outcome.scores.rejected_reward is not None:
        columns["rejected_reward"] = outcome.scores.rejected_reward
    for name, logps in (
        ("logps", outcome.policy),
        ("ref_logps", outcome.reference),
        ("start_logps", outcome.start),
    ):
        if isinstance(logps, Pair):
            columns[f"chosen_{name}"] = logps.chosen.total
            columns[f"rejected_{name}"] = logps.rejected.total
        elif isinstance(logps, Logps):
            columns[f"chosen_{name}"] = logps.total
    if isinstance(outcome.policy, Pair):
        columns["chosen_tokens"] = outcome.policy.chosen.tokens
        columns["rejected_tokens"] = outcome.policy.rejected.tokens
    return columns


def write_rows(path: Path, names: Sequence[str], columns: dict[str, list[float]]) -> None:
    """One row per pair as parquet: where the pair came from, and every column, in float64."""
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.tmp")
    with writing(path):
        pyarrow.parquet.write_table(_table(names, columns), work)
    faults.place("eval.written")
    work.rename(path)


def _table(names: Sequence[str], columns: dict[str, list[float]]) -> pyarrow.Table:
    """From memory as it is: `pyarrow.array` would first import pandas, a good part of a second."""
    import pyarrow

    texts = [name.encode() for name in names]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    buffers = pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(texts))
    made = {"row": pyarrow.StringArray.from_buffers(len(texts), *buffers)}
    for name, values in columns.items():
        numbers = np.asarray(values)
        kind = pyarrow.from_numpy_dtype(numbers.dtype)
        buffer = pyarrow.py_buffer(numbers)
        made[name] = pyarrow.Array.from_buffers(kind, len(numbers), [None, buffer])
    return pyarrow.Table.from_arrays([*made.values()], names=[*made])
