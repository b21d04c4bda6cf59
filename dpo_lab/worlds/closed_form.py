"""The closed form of what a run is configured to do, from its loss, its reference and its recipe.

The forms themselves, and the conditions under which they hold, are in `worlds.optimum`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dpo_lab.errors import Refused
from dpo_lab.worlds import optimum
from dpo_lab.worlds.pairs import scores
from dpo_lab.worlds.truth import World

Knobs = Mapping[str, Any]

MOST_SCORES = 10_000  # distinct scores of a prompt: each is compared with every other


def closed_form(world: World, loss: Knobs, reference: np.ndarray | None) -> np.ndarray:
    """Log-probabilities (P, n) that the loss leads to, given endless pairs and a policy that may
    say anything.

    - `loss`: the loss's node of the config: its `_target_` and its knobs.
    - `reference`: (P, n) log-probabilities of what it is compared with, normalised or not (zeros:
      uniform); None where there is none, or where it is not known.

    Raises `Refused`, naming the violated condition, where no closed form is known or it does not
    hold: a figure then draws none.
    """
    target = loss["_target_"]
    form = _FORMS.get(target.removeprefix("dpo_lab.losses."))
    if form is None:
        raise Refused(f"no closed form is known for the loss {target}")
    if form in _COMPARES and reference is None:
        raise Refused("what the loss is compared with is not known for every response")
    return form(world, loss, reference)


def moving() -> np.ndarray:
    """Of a reference that follows the policy: always `Refused`. See `optimum.tr_dpo`."""
    raise Refused("the reference moves with the policy, so the optimum is not that of one loss")


def _dpo(world: World, knobs: Knobs, reference: np.ndarray) -> np.ndarray:
    if knobs["label_smoothing"]:
        raise Refused("smoothed labels put a different margin on every pair, which none attains")
    return optimum.dpo(world, reference, beta=knobs["beta"])


def _r_dpo(world: World, knobs: Knobs, reference: np.ndarray) -> np.ndarray:
    return optimum.dpo(world, reference, beta=knobs["beta"], alpha=knobs["alpha"])


def _robust_dpo(world: World, knobs: Knobs, reference: np.ndarray) -> np.ndarray:
    smoothing = knobs["label_smoothing"]
    return optimum.robust_dpo(world, reference, beta=knobs["beta"], label_smoothing=smoothing)


def _reference_free_dpo(world: World, knobs: Knobs, reference: object) -> np.ndarray:
    return optimum.reference_free_dpo(world, beta=knobs["beta"])


def _ipo(world: World, knobs: Knobs, reference: np.ndarray) -> np.ndarray:
    if knobs["average"]:
        raise Refused("averaged over tokens IPO has no closed form; that of its paper is for sums")
    _refuse_many(world)
    return optimum.ipo(world, reference, tau=knobs["tau"])


def _sft(world: World, knobs: Knobs, reference: object) -> np.ndarray:
    _refuse_many(world)
    return optimum.sft(world)


def _unlikelihood(world: World, knobs: Knobs, reference: object) -> np.ndarray:
    _refuse_many(world)
    return optimum.unlikelihood(world, alpha=knobs["alpha"])


def _exact_rl(world: World, knobs: Knobs, reference: np.ndarray) -> np.ndarray:
    return optimum.exact_rl(world, reference, beta=knobs["beta"])


_FORMS: dict[str, Callable[..., np.ndarray]] = {
    "dpo": _dpo,
    "r_dpo": _r_dpo,
    "robust_dpo": _robust_dpo,
    "reference_free_dpo": _reference_free_dpo,
    "ipo": _ipo,
    "sft": _sft,
    "unlikelihood": _unlikelihood,
    "exact_rl": _exact_rl,
}
_COMPARES = (_dpo, _r_dpo, _robust_dpo, _ipo, _exact_rl)


def _refuse_many(world: World) -> None:
    """Where an annotator's error makes every score distinct, comparing all takes minutes."""
    most = max(len(np.unique(row)) for row in scores(world))
    if most > MOST_SCORES:
        raise Refused(f"{most:,} distinct scores are too many to compare each with every other")
