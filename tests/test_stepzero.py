"""Before the first step a policy must equal the reference that is its start."""

import math

import pytest
import torch
from test_loop import make_rows, make_state, tokenizer  # noqa: F401

from dpo_lab.errors import Stopped
from dpo_lab.loop import batches
from dpo_lab.scoring import logps
from dpo_lab.stepzero import PER_TOKEN, check_step_zero

NAMES = [f"row {number}" for number in range(8)]


@pytest.fixture
def stage(tokenizer):  # noqa: F811
    """A policy, its objective against itself, and a batch of all rows."""
    rows = make_rows(8)
    state = make_state(tokenizer, rows, dropout=0.5)
    (batch,) = batches(state.policy, rows, range(8), 10_000, paired=True)
    state.policy.eval()
    with torch.no_grad():
        scored = logps(state.policy, batch)
    table = state.objective.reference
    table.totals = torch.stack([scored.chosen.total, scored.rejected.total], 1)
    table.is_start = True
    return state, batch


def test_equal_passes_with_dropout_configured_and_the_loss_is_log_2(stage):
    state, batch = stage
    state.policy.train()
    check_step_zero(state.policy, state.objective, batch, NAMES)
    state.policy.eval()
    loss = state.objective(state.policy, batch).scores.loss
    assert (loss - math.log(2)).abs().max() < 1e-12


@pytest.mark.parametrize("side", [0, 1])
def test_a_reference_that_differs_stops_the_run_and_names_the_row(stage, side):
    state, batch = stage
    state.objective.reference.totals[5, side] += 20 * PER_TOKEN["float64"]
    with pytest.raises(Stopped, match=r"the policy should equal its reference.*row 5"):
        check_step_zero(state.policy, state.objective, batch, NAMES)


def test_what_is_not_finite_stops_the_run_and_names_the_row(stage):
    state, batch = stage
    state.objective.reference.totals[3, 1] = float("nan")
    with pytest.raises(Stopped, match=r"rejected answers are not finite; rows \[row 3\]"):
        check_step_zero(state.policy, state.objective, batch, NAMES)


def test_a_loss_that_is_not_the_papers_there_stops_the_run(stage):
    state, batch = stage
    from dataclasses import replace

    from dpo_lab import losses

    calls = []

    def forgetful(policy, reference):
        calls.append(None)
        beta = 0.3 if len(calls) > 1 else 0.9
        scores = losses.ipo(policy, reference, tau=beta)
        return scores

    with pytest.raises(Stopped, match="initial value"):
        check_step_zero(state.policy, replace(state.objective, loss=forgetful), batch, NAMES)


def test_another_reference_is_not_expected_to_equal(stage):
    state, batch = stage
    state.objective.reference.totals += 1
    state.objective.reference.is_start = False
    check_step_zero(state.policy, state.objective, batch, NAMES)
