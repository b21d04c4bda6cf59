"""A run that was stopped and goes on is the run that never stopped, bit for bit."""

from dataclasses import replace

import pytest
import torch
from test_loop import make_rows, make_state, tokenizer  # noqa: F401

import dpo_lab
from dpo_lab import checkpoint, snapshot
from dpo_lab.loop import Effects, Plan, fit
from dpo_lab.references import Moving
from dpo_lab.results import Run
from dpo_lab.run import Job

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


NANO = (
    "data=world_nano data.pairs=60 data.eval_pairs=20 data.sft_rows=80 start.steps=2 "
    "start.batch_size=32 train.steps=5 train.batch_size=16 train.log_every=1 eval.every=3 "
    "checkpoint.every=2 logger=none"
).split()


def test_what_was_logged_after_the_last_checkpoint_is_logged_once(tmp_path, monkeypatch):
    def lines(found):
        clock = ("time", "perf/")
        return [{k: v for k, v in e.items() if not k.startswith(clock)} for e in found.events]

    whole = dpo_lab.train([*NANO, f"outputs_dir={tmp_path / 'whole'}"])
    evaluate = Job._evaluate

    def die(self, state, step):
        if step == 3:  # its update is logged, and the last checkpoint is of step 2
            raise KeyboardInterrupt
        evaluate(self, state, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Job, "_evaluate", die)
        dpo_lab.train([*NANO, f"outputs_dir={tmp_path / 'stopped'}"])
    (folder,) = (tmp_path / "stopped").glob("*/*")
    assert Run(folder).events[-1]["step"] == 3
    again = dpo_lab.train([f"train.resume={folder}"])
    assert lines(again) == lines(whole) and len(lines(again)) == 8
