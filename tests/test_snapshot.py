"""A run that was stopped and goes on is the run that never stopped, bit for bit."""

from dataclasses import replace

import pytest
import torch
from test_loop import make_rows, make_state, tokenizer  # noqa: F401

from dpo_lab import checkpoint, snapshot
from dpo_lab.loop import Effects, Plan, fit
from dpo_lab.references import Moving

STEPS, STOPPED = 7, 4  # 17 rows in fours: it stops in the first epoch and ends in the second
PLAN = Plan(max_grad_norm=0.5, micro_tokens=60, log_every=3)


@pytest.fixture(params=["static", "moving"])
def start(request, tokenizer):  # noqa: F811
    """Makes the same run each time: dropout, moments, a reference that may follow."""

    def make():
        rows = make_rows(17)
        state = make_state(tokenizer, rows, steps=STEPS, batch_size=4, dropout=0.3)
        state.schedule = lambda step: 1 / (1 + step)
        if request.param == "moving":
            moving = Moving(state.policy, 0.5, 3)
            state.objective = replace(state.objective, reference=moving)
        return state

    return make


def go(state, log, **effects):
    """Train on, logging what does not depend on the clock."""

    def note(step, metrics):
        log.append({name: m for name, m in metrics.items() if not name.startswith("perf/")})

    return fit(state, PLAN, Effects(log=note, **effects))


def end_of(state):
    tensors, plain = snapshot.take(state)
    named = {f"{file} {name}": t for file, part in tensors.items() for name, t in part.items()}
    return state.step, plain, named


def test_going_on_is_never_having_stopped(start, tmp_path):
    whole, expected = start(), []
    torch.manual_seed(5)
    assert go(whole, expected)

    first, log = start(), []
    torch.manual_seed(5)

    def save(step):
        tensors, plain = snapshot.take(first)
        checkpoint.save(tmp_path, step, tensors, plain, keep=2)

    assert not go(first, log, save=save, stop=lambda: first.step == STOPPED)
    torch.manual_seed(77)  # another process begins anywhere
    second = start()
    tensors, plain = checkpoint.load(tmp_path / f"step_{STOPPED:06d}")
    snapshot.put_back(second, plain["step"], tensors, plain)
    assert go(second, log)

    assert log == expected and len(log) == 3
    (step, plain, named), (steps, wanted, weights) = end_of(second), end_of(whole)
    assert step == steps == STEPS and plain == wanted and named.keys() == weights.keys()
    for name, tensor in named.items():
        assert torch.equal(tensor, weights[name]), name
    assert any(name.startswith("optimizer exp_avg.") for name in named)
