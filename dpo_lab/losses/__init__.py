"""Losses: pure functions from log-probabilities to `Scores`, one loss per row, unreduced.

`policy: Pair[Logps]` says that rows come in pairs, `policy: Logps` that they do not; a positional
`reference` says that one is needed; keyword-only parameters are the knobs. Each loss returns its
own implicit rewards, detached. `policy: Leaves` is a loss of everything that a world's policy may
say. A new loss is one such function and one yaml in `conf/loss/`.
"""

from dpo_lab.losses.direct import dpo, dpo_norm, hinge, ipo, robust_dpo
from dpo_lab.losses.exact import exact_rl
from dpo_lab.losses.likelihood import sft, unlikelihood
from dpo_lab.losses.reference_free import orpo, reference_free_dpo, simpo
from dpo_lab.losses.regularised import dpop, r_dpo, rpo

__all__ = [
    "dpo",
    "dpo_norm",
    "dpop",
    "exact_rl",
    "hinge",
    "ipo",
    "orpo",
    "r_dpo",
    "reference_free_dpo",
    "robust_dpo",
    "rpo",
    "sft",
    "simpo",
    "unlikelihood",
]
