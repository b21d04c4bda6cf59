"""What a checkpoint holds: all that the next step depends on, taken and put back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpo_lab import optimizers
from dpo_lab.generators import set_states, states
from dpo_lab.loop import State
from dpo_lab.weights import size


def take(state: State) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by file, and plain data. Order of rows and learning rate follow from the step.

    Tensors are the live ones, not copies: write them before the next update.
    """
    policy = state.policy
    tensors = {
        "policy": policy.weights(),
        "optimizer": optimizers.state_by_name(state.optimizer, policy.trainable()),
        "random": states(policy.device.type),
    }
    if moving := getattr(state.objective.reference, "state", None):
        tensors["reference"] = moving()
    return tensors, {"meter": state.meter.sums, "counters": state.counters}


def put_back(
    state: State, step: int, tensors: dict[str, dict[str, Tensor]], plain: dict[str, Any]
) -> None:
    """Make `state` what it was when `take` gave these."""
    policy = state.policy
    with torch.no_grad():
        policy.load_weights(tensors["policy"])
    optimizers.load_state_by_name(state.optimizer, policy.trainable(), tensors["optimizer"])
    if "reference" in tensors:
        moving: Any = state.objective.reference
        moving.load(tensors["reference"])
    state.step = step
    state.meter.sums = plain["meter"]
    state.counters = plain["counters"]
    set_states(tensors["random"], policy.device.type)


def room(state: State, exports: int) -> int:
    """Bytes that two checkpoints and so many exports take, about.

    A checkpoint has the weights, at most two moments of each, and what a reference keeps.
    """
    moving = getattr(state.objective.reference, "state", dict)()
    one = 3 * size(state.policy.weights()) + size(moving)
    return 2 * one + exports * size(state.policy.model.state_dict())
