"""Optimizers, their two groups of parameters, and their state as named tensors.

Every optimizer takes the trainable parameters as (name, parameter) pairs and puts them in two
groups, each in the order given: first those with weight decay, then those without (see `decays`).
An empty group is left out. `lr` is the peak: whoever runs the updates sets each group's "lr" to
`lr` times the schedule before each of them.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, AdamW, Optimizer, RMSprop

from dpo_lab.errors import Refused
from dpo_lab.quasi_newton import Lbfgs
from dpo_lab.ranges import Count, NonNegative, Positive, Range


def adamw(
    named_parameters: list[tuple[str, Parameter]],
    *,
    lr: Annotated[float, Positive],
    weight_decay: Annotated[float, NonNegative] = 0.0,
    beta1: Annotated[float, Range(ge=0, lt=1)] = 0.9,
    beta2: Annotated[float, Range(ge=0, lt=1)] = 0.999,
    eps: Annotated[float, Positive] = 1e-8,
) -> Optimizer:
    """AdamW (arXiv 1711.05101), torch's fused kernel where it exists for these parameters.

    - `lr`: learning rate at the schedule's peak, > 0; 3e-7 to 1e-6 for full preference tuning of
      models of billions of parameters, 5e-6 to 1e-4 for LoRA, up to 1e-3 for tiny models.
    - `weight_decay`: decoupled: each update first scales a weight by `1 - lr weight_decay`, >= 0.
    - `beta1`, `beta2`: decay of the running means of gradient and squared gradient, in [0, 1).
    - `eps`: added to the root of the second mean, > 0.
    """
    # The kernel is chosen by device and dtype alone, so that a resumed run takes the same one.
    fused = all(
        parameter.device.type in {"cpu", "cuda"}
        and parameter.dtype in {torch.float32, torch.float64}
        for _, parameter in named_parameters
    )
    groups = _groups(named_parameters, weight_decay)
    return AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, fused=fused)


def rmsprop(
    named_parameters: list[tuple[str, Parameter]],
    *,
    lr: Annotated[float, Positive],
    weight_decay: Annotated[float, NonNegative] = 0.0,
    alpha: Annotated[float, Range(ge=0, lt=1)] = 0.99,
    eps: Annotated[float, Positive] = 1e-8,
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.0,
) -> Optimizer:
    """RMSprop, the optimizer of the DPO paper (arXiv 2305.18290, appendix B: lr 1e-6).

    One buffer a weight, half of AdamW's memory. There is no bias correction: the running mean of
    squared gradients starts at 0, so that the first updates are up to `1 / sqrt(1 - alpha)` = 10
    times the learning rate; combine it with warm-up.

    - `lr`: learning rate at the schedule's peak, > 0; 5e-7 to 1e-6 for models of billions of
      parameters.
    - `weight_decay`: added to the gradient (not decoupled), >= 0.
    - `alpha`: decay of the running mean of squared gradients, in [0, 1).
    - `eps`: added to its root, > 0.
    - `momentum`: in [0, 1); 0 keeps no momentum buffer.
    """
    groups = _groups(named_parameters, weight_decay)
    return RMSprop(groups, lr=lr, alpha=alpha, eps=eps, momentum=momentum)


def sgd(
    named_parameters: list[tuple[str, Parameter]],
    *,
    lr: Annotated[float, Positive],
    weight_decay: Annotated[float, NonNegative] = 0.0,
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.0,
    nesterov: bool = False,
) -> Optimizer:
    """Stochastic gradient descent, for small and tabular policies and for checks by hand.

    - `lr`: learning rate at the schedule's peak, > 0.
    - `weight_decay`: added to the gradient (not decoupled), >= 0.
    - `momentum`: in [0, 1); 0 keeps no state at all.
    - `nesterov`: look ahead along the momentum; refused where `momentum` is 0.
    """
    if nesterov and momentum == 0:
        raise Refused(
            "sgd: expected momentum above 0 with nesterov=true, got momentum=0; "
            "type optimizer.momentum=0.9 or optimizer.nesterov=false"
        )
    groups = _groups(named_parameters, weight_decay)
    return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)


def lbfgs(
    named_parameters: list[tuple[str, Parameter]],
    *,
    lr: Annotated[float, Positive] = 1.0,
    history: Annotated[int, Count] = 20,
) -> Optimizer:
    """L-BFGS without line search, for objectives without noise (`model=tabular`, `loss=exact_rl`).

    - `lr`: factor of every step, > 0; 1 is the full quasi-Newton step.
    - `history`: steps and changes of the gradient that are remembered, each as large as the
      weights.
    """
    return Lbfgs([parameter for _, parameter in named_parameters], lr=lr, history=history)


def decays(name: str, parameter: Parameter) -> bool:
    """Whether a parameter takes weight decay: matrices do; biases, norms and other vectors do not.

    The name decides only for biases and norms of more than one dimension: a bias for each expert
    of a mixture, a norm for each attention head.
    """
    *modules, last = name.split(".")
    norm = bool(modules) and "norm" in modules[-1].lower()
    return parameter.ndim >= 2 and not last.endswith("bias") and not norm


def state_by_name(
    optimizer: Optimizer, named_parameters: list[tuple[str, Parameter]]
) -> dict[str, Tensor]:
    """Return the state as `{"exp_avg.PARAMETER": tensor}`: flat, all tensors, update counts too.

    Tensors are the live ones, not copies: save them before the next update. Empty before the first
    update. Learning rate and the other knobs are no state: they follow from config and step.
    """
    return {
        f"{key}.{name}": tensor
        for name, parameter in named_parameters
        if parameter in optimizer.state
        for key, tensor in optimizer.state[parameter].items()
    }


def load_state_by_name(
    optimizer: Optimizer,
    named_parameters: list[tuple[str, Parameter]],
    tensors: dict[str, Tensor],
) -> None:
    """Put back what `state_by_name` gave, so that training goes on bit for bit.

    Tensors are copied, to the device of their parameter.

    Raises `KeyError` with the name of a parameter that `named_parameters` lacks.
    """
    by_name = dict(named_parameters)
    in_order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    position = {parameter: index for index, parameter in enumerate(in_order)}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        state.setdefault(position[by_name[name]], {})[key] = tensor.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _groups(
    named_parameters: list[tuple[str, Parameter]], weight_decay: float
) -> list[dict[str, Any]]:
    decayed = [parameter for name, parameter in named_parameters if decays(name, parameter)]
    others = [parameter for name, parameter in named_parameters if not decays(name, parameter)]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
