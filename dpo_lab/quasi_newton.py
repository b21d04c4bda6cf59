"""L-BFGS for objectives without noise, with a state of named tensors like any other optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

GROWTH = 2.0


class Lbfgs(Optimizer):
    """Limited-memory BFGS without line search: one gradient an update (Nocedal and Wright,
    "Numerical Optimization", 2nd edition, algorithm 7.4).

    torch's own calls its objective as often as it likes, and keeps lists that no checkpoint here
    takes. Steps and changes of the gradient are kept oldest first; a pair along which the gradient
    does not grow (the objective is not convex there, or has changed), or that is lost in rounding,
    is left out. What a line search would prevent is bounded: a step is at most twice as long as the
    one before, or of length one.

    - `lr`: factor of every step; 1 is the full step.
    - `history`: pairs kept, at least 1.
    """

    def __init__(self, params: Iterable[Any], *, lr: float, history: int):
        super().__init__(params, {"lr": lr, "history": history})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move along the quasi-Newton direction of the gradients that are there; no closure."""
        assert closure is None
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        lr, history = self.param_groups[0]["lr"], self.param_groups[0]["history"]
        states = [self.state[p] for p in parameters]
        if not states[0]:
            for state, parameter in zip(states, parameters, strict=True):
                state["steps"] = parameter.new_zeros((0, *parameter.shape))
                state["changes"] = parameter.new_zeros((0, *parameter.shape))
        else:
            changes = [g - state["gradient"] for g, state in zip(gradients, states, strict=True)]
            steps = [state["step"] for state in states]
            known = _dot(steps, steps) > 1e-27 * max(1.0, _dot(parameters, parameters))
            if known and _dot(steps, changes) > 1e-10 * _dot(changes, changes):
                for state, step, change in zip(states, steps, changes, strict=True):
                    state["steps"] = torch.cat([state["steps"], step[None]])[-history:]
                    state["changes"] = torch.cat([state["changes"], change[None]])[-history:]
        direction = _direction(gradients, states)
        length, before = lr * _norm(direction), _norm([s["step"] for s in states if "step" in s])
        shorter = min(1.0, max(1.0, GROWTH * before) / length) if length else 1.0
        for state, parameter, along, gradient in zip(
            states, parameters, direction, gradients, strict=True
        ):
            state["step"] = lr * shorter * along
            state["gradient"] = gradient
            parameter += state["step"]


def _direction(gradients: list[Tensor], states: list[dict[str, Tensor]]) -> list[Tensor]:
    """Minus the inverse Hessian that the history implies, times the gradient."""
    pairs = [
        ([state["steps"][i] for state in states], [state["changes"][i] for state in states])
        for i in range(len(states[0]["steps"]))
    ]
    direction = [-gradient for gradient in gradients]
    weights = []
    for step, change in reversed(pairs):
        weight = _dot(step, direction) / _dot(step, change)
        weights.append(weight)
        direction = [d - weight * y for d, y in zip(direction, change, strict=True)]
    if pairs:
        step, change = pairs[-1]
        scale = _dot(step, change) / _dot(change, change)
    else:
        scale = 1.0  # nothing is known of the curvature
    direction = [scale * d for d in direction]
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        back = _dot(change, direction) / _dot(step, change)
        direction = [d + (weight - back) * s for d, s in zip(direction, step, strict=True)]
    return direction


def _norm(one: list[Tensor]) -> float:
    return _dot(one, one) ** 0.5


def _dot(one: list[Tensor], other: list[Tensor]) -> float:
    return float(sum((a * b).sum() for a, b in zip(one, other, strict=True)))
