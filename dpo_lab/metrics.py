"""Names and units of metrics, and their means over pairs.

All are means over pairs, except the loss of SFT, which is a mean over tokens. Sums and counts are
kept apart, so that a mean never depends on how an update or an evaluation was cut into batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpo_lab.batch import Logps, Outcome, Pair

Values = dict[str, tuple[Tensor, float]]


def measure(outcome: Outcome, units: float) -> Values:
    """Metrics of one batch: name -> (values per row (B,), number that their sum is divided by)."""
    scores, weights = outcome.scores, outcome.weights
    count = len(scores.loss) if weights is None else float(weights.sum())

    def weighted(tensor: Tensor) -> Tensor:
        return tensor if weights is None else tensor * weights

    def add(name: str, tensor: Tensor) -> None:
        values[name] = (weighted(tensor), count)

    values: Values = {"loss": (weighted(scores.loss.detach()), units)}

    if scores.chosen_reward is not None:
        add("rewards/chosen", scores.chosen_reward)
    if scores.chosen_reward is not None and scores.rejected_reward is not None:
        margin = scores.chosen_reward - scores.rejected_reward
        add("rewards/rejected", scores.rejected_reward)
        add("rewards/margins", margin)
        add("rewards/accuracies", accuracy(margin))
    for side, logps in _sides(outcome.policy):
        add(f"logps/{side}", logps.total.detach())
    base = outcome.reference or outcome.start
    if base is not None:
        for side, logps in _sides(base):
            add(f"ref_logps/{side}", logps.total)
    if outcome.policy is not None and outcome.start is not None:
        ratios = {
            side: ours.total.detach() - theirs.total
            for (side, ours), (_, theirs) in zip(
                _sides(outcome.policy), _sides(outcome.start), strict=True
            )
        }
        for side, ratio in ratios.items():
            add(f"logratios/{side}", ratio)
        if "rejected" in ratios:
            add("logratios/margins", ratios["chosen"] - ratios["rejected"])
    return values


def accuracy(margin: Tensor) -> Tensor:
    """1 where the margin is positive, 1/2 where it is 0 (a tie), else 0; shape of `margin`."""
    return (margin > 0).to(margin.dtype) + 0.5 * (margin == 0).to(margin.dtype)


def _sides(logps: Pair[Logps] | Logps | None) -> list[tuple[str, Logps]]:
    if logps is None:
        return []
    if isinstance(logps, Logps):
        return [("chosen", logps)]
    return [("chosen", logps.chosen), ("rejected", logps.rejected)]


class Meter:
    """Sums over the batches since the last reading; `state` survives a checkpoint exactly."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, outcome: Outcome, units: float) -> None:
        """Add one batch; one transfer from the device."""
        values = measure(outcome, units)
        sums = torch.stack([tensor.sum(dtype=_wide(tensor)) for tensor, _ in values.values()])
        for (name, (_, count)), total in zip(values.items(), sums.tolist(), strict=True):
            pair = self.sums.setdefault(name, [0.0, 0.0])
            pair[0] += total
            pair[1] += count

    def read(self, prefix: str) -> dict[str, float]:
        """The means under `prefix` (`train/`, `eval/`), and a fresh start."""
        means = {f"{prefix}{name}": total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means


def _wide(tensor: Tensor) -> torch.dtype:
    """float64 where the device has it: a sum over many pairs keeps the digits of each."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
