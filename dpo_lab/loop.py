"""The only training loop. The order of effects is the order of lines."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from dpo_lab.batch import Batch, Encoded, Outcome, Prompts
from dpo_lab.errors import Stopped
from dpo_lab.layouts import lay_out, split
from dpo_lab.loader import Loader
from dpo_lab.metrics import Meter
from dpo_lab.objective import Objective
from dpo_lab.policy import Policy
from dpo_lab.population import Enumerated


@dataclass(frozen=True, slots=True)
class Plan:
    """What the loop does and when. `x_every` are steps; None means not at intervals."""

    max_grad_norm: float | None
    micro_tokens: int
    log_every: int
    eval_every: int | None = None
    save_every: int | None = None


@dataclass(slots=True)
class State:
    """All that changes while training. `step` counts finished updates; `names` says where each row
    came from, for messages.
    """

    policy: Policy
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    loader: Loader
    objective: Objective
    rows: Sequence[Encoded]
    names: Sequence[str] = ()
    step: int = 0
    meter: Meter = field(default_factory=Meter)
    counters: dict[str, int] = field(default_factory=lambda: {"pairs": 0, "tokens": 0})


@dataclass(frozen=True, slots=True)
class Effects:
    """What the loop lets happen outside of itself."""

    log: Callable[[int, dict[str, float]], None]
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None
    evaluate: Callable[[int], None] = lambda step: None
    save: Callable[[int], None] = lambda step: None
    stop: Callable[[], bool] = lambda: False


def fit(state: State, plan: Plan, effects: Effects) -> bool:
    """Train until the loader's steps are done. Returns False where `effects.stop` ended it early.

    Losses are summed per pair (SFT: per token) and divided by their number in the whole update, so
    that the size of micro-batches changes nothing but rounding. Raises `Stopped` at the first loss
    or gradient that is not finite, before the weights are touched, and at the first update that
    leaves a weight that is not.
    """
    policy, loader = state.policy, state.loader
    parameters = [parameter for _, parameter in policy.trainable()]
    if state.step == 0:
        effects.evaluate(0)
    clock, since = time.perf_counter(), dict(state.counters)
    while state.step < loader.steps:
        policy.train()
        taken = loader.take(state.step)
        micro = batches(policy, state.rows, taken, plan.micro_tokens, state.objective.pairs)
        units = sum(state.objective.units(batch) for batch in micro)
        loss = 0.0
        for batch in micro:
            with policy.autocast():
                outcome = state.objective(policy, batch)
            total = outcome.total()
            (total / units).backward()
            loss += _finite(total, outcome, batch, state) / units
            state.meter.add(outcome, state.objective.units(batch))
            state.counters["pairs"] += len(batch.rows)
            state.counters["tokens"] += int(batch.tokens.sum())
        limit = plan.max_grad_norm if plan.max_grad_norm is not None else float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        if norm != norm or norm == float("inf"):
            raise Stopped(
                f"the gradient of step {state.step + 1} is not finite; {_culprits(state, micro)}"
            )
        rate = state.optimizer.defaults["lr"] * state.schedule(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.step()
        if not _all_finite(parameters):
            raise Stopped(
                f"step {state.step + 1} left weights whose norm is not finite (learning rate "
                f"{rate:g}, gradient norm {norm:g}); {_where(state, _rows(micro))}"
            )
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        if state.objective.reference is not None:
            state.objective.reference.after_step(policy, state.step)
        effects.progress(state.step, loader.steps, loss)
        if due(state.step, plan.log_every, loader.steps):
            now = time.perf_counter()
            metrics = state.meter.read("train/")
            metrics |= {"train/grad_norm": norm, "train/learning_rate": rate}
            metrics |= {f"counters/{name}": count for name, count in state.counters.items()}
            metrics["counters/updates"] = state.step
            for name, count in state.counters.items():
                metrics[f"perf/{name}_per_second"] = (count - since[name]) / (now - clock)
            metrics["perf/peak_memory_mb"] = _peak_memory_mb(policy)
            effects.log(state.step, metrics)
            clock, since = now, dict(state.counters)
        if due(state.step, plan.eval_every, loader.steps):
            effects.evaluate(state.step)
            clock = time.perf_counter()
            since = dict(state.counters)
        stopping = effects.stop() and state.step < loader.steps
        if stopping or due(state.step, plan.save_every, None):
            effects.save(state.step)
        if stopping:
            return False
    return True


def due(step: int, every: int | None, last: int | None) -> bool:
    """Whether something done every `every` steps, and after step `last`, is due after `step`."""
    return step == last or (every is not None and step % every == 0)


def batches(
    policy: Policy,
    rows: Sequence[Encoded],
    indices: Sequence[int],
    micro_tokens: int,
    paired: bool,
) -> Sequence[Batch | Prompts]:
    """The rows `indices`, laid out in as many micro-batches as the token budget asks for."""
    if isinstance(rows, Enumerated):
        return rows.batches(indices, micro_tokens, policy.device)
    parts = split(rows, indices, policy.layout, micro_tokens, paired)
    return [
        lay_out(rows, part, policy.layout, pad_id=policy.tokenizer.pad_id, paired=paired).to(
            policy.device
        )
        for part in parts
    ]


def _peak_memory_mb(policy: Policy) -> float:
    """Of the accelerator's memory, or of this process on a CPU."""
    if policy.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def _finite(total: torch.Tensor, outcome: Outcome, batch: Batch | Prompts, state: State) -> float:
    value = total.item()
    if value - value == 0.0:
        return value
    losses = outcome.scores.loss.detach()
    each = len(losses) // len(batch.rows)  # more than one where a row is a sum over pairs
    found = (~torch.isfinite(losses)).nonzero()[:, 0].tolist()
    bad = list(dict.fromkeys(batch.rows[i // each] for i in found))
    raise Stopped(
        f"the loss of step {state.step + 1} is not finite; {_where(state, bad or batch.rows)}"
    )


def _culprits(state: State, micro: Sequence[Batch | Prompts]) -> str:
    """The rows whose gradient is not finite when each is alone; all where none is."""
    policy, pairs = state.policy, state.objective.pairs
    bad = []
    for row in _rows(micro):
        state.optimizer.zero_grad(set_to_none=True)
        batch = batches(policy, state.rows, [row], 1, pairs)[0]
        with policy.autocast():
            state.objective(policy, batch).total().backward()
        gradients = [p.grad for _, p in policy.trainable() if p.grad is not None]
        if not _all_finite(gradients):
            bad.append(row)
    return _where(state, bad) if bad else f"the update has {_where(state, _rows(micro))}"


def _all_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """By their norm, in one pass: a NaN or infinity anywhere makes it one."""
    with torch.no_grad():
        return bool(torch.isfinite(torch.nn.utils.get_total_norm(tensors)))


def _rows(micro: Sequence[Batch | Prompts]) -> list[int]:
    return [row for batch in micro for row in batch.rows]


def _where(state: State, rows: list[int]) -> str:
    shown = ", ".join(str(state.names[row] if state.names else row) for row in rows[:10])
    return f"rows [{shown}]" + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
