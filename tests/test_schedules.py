"""Schedules against formulas written once more, and against transformers."""

import inspect
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from dpo_lab import schedules
from dpo_lab.errors import Refused
from dpo_lab.schedules import constant, cosine, linear

CONF = Path(__file__).parents[1] / "conf" / "schedule"
RUNS = [(steps, warmup) for steps in (1, 2, 7, 100) for warmup in (0, 1, 5, 99) if warmup <= steps]


def test_by_hand():
    # Ten updates, four of warm-up: up in quarters, then down in sixths.
    rates = [linear(step, 10, warmup_steps=4) for step in range(10)]
    up, down = [1 / 4, 2 / 4, 3 / 4, 1], [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert rates == pytest.approx(up + down)
    # Half-way down, and one update after the last.
    assert cosine(5, 10) == pytest.approx(0.5)
    assert cosine(5, 10, floor=0.2) == pytest.approx(0.6)
    assert cosine(10, 10, floor=0.2) == linear(10, 10, floor=0.2) == 0.2
    assert [constant(step, 10, warmup_share=0.2) for step in range(4)] == [0.5, 1, 1, 1]


@pytest.mark.parametrize(("steps", "warmup"), RUNS)
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_every_update(steps, warmup, floor):
    for step in range(steps):
        if step < warmup:
            flat = line = curve = (step + 1) / warmup
        else:
            left = 1 - (step - warmup) / (steps - warmup)
            flat, line = 1.0, floor + (1 - floor) * left
            curve = floor + (1 - floor) * math.sin(math.pi * left / 2) ** 2
        assert constant(step, steps, warmup_steps=warmup) == flat
        assert linear(step, steps, warmup_steps=warmup, floor=floor) == pytest.approx(line)
        assert cosine(step, steps, warmup_steps=warmup, floor=floor) == pytest.approx(curve)
        assert 0 < cosine(step, steps, warmup_steps=warmup, floor=floor) <= 1


@pytest.mark.parametrize(("steps", "warmup"), RUNS)
def test_transformers_is_one_update_behind_in_the_warm_up_and_equal_after_it(steps, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    pairs = [
        (constant, {}, get_constant_schedule_with_warmup(optimizer, warmup)),
        (linear, {}, get_linear_schedule_with_warmup(optimizer, warmup, steps)),
        (
            cosine,
            {"floor": 0.1},
            get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, steps, min_lr_rate=0.1),
        ),
    ]
    for ours, knobs, theirs in pairs:
        (rate,) = theirs.lr_lambdas
        for step in range(steps):
            expected = rate(step + 1) if step < warmup - 1 else 1 if step < warmup else rate(step)
            assert ours(step, steps, warmup_steps=warmup, **knobs) == pytest.approx(expected)
        if warmup:
            assert rate(0) == 0 < ours(0, steps, warmup_steps=warmup, **knobs)


@pytest.mark.parametrize(
    ("share", "steps", "warmup"),
    [(0.0, 50, 0), (0.1, 50, 5), (0.1, 55, 6), (0.07, 100, 7), (0.1, 3, 1), (0.999, 10, 10)],
)
def test_a_share_is_rounded_up_to_whole_updates(share, steps, warmup):
    for schedule in (constant, linear, cosine):
        by_share = [schedule(step, steps, warmup_share=share) for step in range(steps)]
        by_count = [schedule(step, steps, warmup_steps=warmup) for step in range(steps)]
        assert by_share == by_count


def test_a_warm_up_longer_than_the_run_ends_below_the_peak():
    assert [linear(step, 3, warmup_steps=150) for step in range(3)] == [1 / 150, 2 / 150, 3 / 150]


@pytest.mark.parametrize("schedule", [constant, linear, cosine])
def test_two_warm_ups_are_refused(schedule):
    with pytest.raises(Refused, match="one of warmup_share and warmup_steps"):
        schedule(0, 10, warmup_share=0.1, warmup_steps=1)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_is_a_call_that_works(path):
    node = OmegaConf.to_container(OmegaConf.load(path))
    assert node.pop("defaults") == [f"/schema/schedule/{path.stem}@_here_"]
    schedule = getattr(schedules, node.pop("_target_").removeprefix("dpo_lab.schedules."))
    parameters = inspect.signature(schedule).parameters.values()
    assert list(node) == [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert schedule(0, 10, **node) == 1
