"""What training starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch

from dpo_lab import losses, optimizers, schedules
from dpo_lab.batch import Encoded
from dpo_lab.errors import Refused
from dpo_lab.loader import Loader
from dpo_lab.loop import Effects, Plan, State, fit
from dpo_lab.objective import Objective
from dpo_lab.policy import Policy
from dpo_lab.ranges import Count, NonNegative, Positive, Seed, exclusive

Progress = Callable[[int, int, float], None]


def as_is(policy: Policy, rows: Sequence[Encoded], micro_tokens: int, progress: Progress) -> None:
    """Leave the policy as it is."""


@exclusive("steps", "epochs")
def sft(
    policy: Policy,
    rows: Sequence[Encoded],
    micro_tokens: int,
    progress: Progress,
    *,
    steps: Annotated[int | None, Count],
    epochs: Annotated[int | None, Count],
    batch_size: Annotated[int, Count],
    lr: Annotated[float, Positive],
    warmup_steps: Annotated[int, NonNegative],
    max_grad_norm: Annotated[float | None, Positive],
    seed: Annotated[int, Seed],
) -> None:
    """Fine-tune in place by maximum likelihood on the chosen answers of `rows`, with the one loop.

    AdamW without weight decay, linear warm-up, then linearly to 0. The loss is the mean negative
    log-probability per token, in nats.
    """
    if steps is None and epochs is None:
        raise Refused("start=sft needs start.steps or start.epochs; both are null")
    torch.manual_seed(seed)
    named = policy.trainable()
    optimizer = optimizers.adamw(named, lr=lr, weight_decay=0.0, beta1=0.9, beta2=0.999, eps=1e-8)
    loader = Loader(len(rows), batch_size, steps=steps, epochs=epochs, seed=seed)
    state = State(
        policy=policy,
        optimizer=optimizer,
        schedule=lambda step: schedules.linear(step, loader.steps, warmup_steps=warmup_steps),
        loader=loader,
        objective=Objective(losses.sft, pairs=False, takes_reference=False),
        rows=rows,
    )
    plan = Plan(max_grad_norm=max_grad_norm, micro_tokens=micro_tokens, log_every=loader.steps)
    fit(state, plan, Effects(log=lambda step, metrics: None, progress=progress))
