"""The loop: how an update is cut changes nothing, and what is not finite stops it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dpo_lab import losses, optimizers
from dpo_lab.batch import Encoded, Scores
from dpo_lab.errors import Stopped
from dpo_lab.evaluation import evaluate
from dpo_lab.loader import Loader
from dpo_lab.loop import Effects, Plan, State, batches, due, fit
from dpo_lab.model import llama
from dpo_lab.objective import Objective
from dpo_lab.policy import Policy
from dpo_lab.references import Table
from dpo_lab.tokenizer import Tokenizer

WORDS = [f"w{number}" for number in range(20)]


@pytest.fixture
def tokenizer():
    return Tokenizer.from_words(WORDS, "<bos>", "<eos>", "<pad>")


def make_rows(number: int) -> list[Encoded]:
    rng = np.random.default_rng(0)

    def ids(low: int, high: int) -> list[int]:
        return rng.integers(3, 20, rng.integers(low, high)).tolist()

    return [Encoded([2, *ids(1, 6)], [*ids(1, 9), 1], [*ids(1, 9), 1]) for _ in range(number)]


def make_state(tokenizer, rows, *, loss=None, steps=10, batch_size=8, dropout=0.0) -> State:
    model = llama(
        tokenizer,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        intermediate_size=64,
        max_positions=64,
        dropout=dropout,
    )
    policy = Policy(model, tokenizer, dtype="float64")
    reference = Table(torch.linspace(-9, -5, 2 * len(rows), dtype=torch.float64).view(-1, 2), "x")
    objective = Objective(
        loss or (lambda policy, reference: losses.dpo(policy, reference, beta=0.3)),
        pairs=True,
        takes_reference=True,
        reference=reference,
        start=reference,
    )
    return State(
        policy=policy,
        optimizer=optimizers.adamw(policy.trainable(), lr=1e-3),
        schedule=lambda step: 1.0,
        loader=Loader(len(rows), batch_size, steps=steps),
        objective=objective,
        rows=rows,
    )


def trained(tokenizer, micro_tokens, layout="shared"):
    rows, logged = make_rows(17), []
    state = make_state(tokenizer, rows)
    state.policy.layout = layout
    plan = Plan(max_grad_norm=0.5, micro_tokens=micro_tokens, log_every=3)
    fit(state, plan, Effects(log=lambda step, metrics: logged.append(metrics)))
    return torch.cat([p.detach().flatten() for _, p in state.policy.trainable()]), logged


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
@pytest.mark.parametrize("micro_tokens", [1, 40, 100, 10_000])
def test_micro_batches_and_layouts_change_nothing(tokenizer, micro_tokens, layout):
    expected, expected_log = trained(tokenizer, 10_000)
    weights, log = trained(tokenizer, micro_tokens, layout)
    assert (weights - expected).abs().max() < 1e-10
    for ours, theirs in zip(log, expected_log, strict=True):
        for name in theirs:
            if not name.startswith("perf/"):
                assert ours[name] == pytest.approx(theirs[name], abs=1e-10)


def test_logged_means_are_those_of_all_pairs_since_the_last_line(tokenizer):
    rows, seen, logged = make_rows(17), [], []
    state = make_state(tokenizer, rows, steps=4, batch_size=5)
    loss = state.objective.loss

    def remember(policy, reference):
        scores = loss(policy, reference)
        seen.append((scores, policy))
        return scores

    state.objective = replace(state.objective, loss=remember)
    plan = Plan(max_grad_norm=None, micro_tokens=30, log_every=4)
    fit(state, plan, Effects(log=lambda step, metrics: logged.append(metrics)))
    losses_seen = torch.cat([scores.loss.detach() for scores, _ in seen])
    margins = torch.cat([scores.chosen_reward - scores.rejected_reward for scores, _ in seen])
    chosen = torch.cat([policy.chosen.total.detach() for _, policy in seen])
    assert len(losses_seen) == 20
    assert logged[0]["train/loss"] == pytest.approx(losses_seen.mean().item(), abs=1e-12)
    assert logged[0]["train/rewards/margins"] == pytest.approx(margins.mean().item(), abs=1e-12)
    assert logged[0]["train/logps/chosen"] == pytest.approx(chosen.mean().item(), abs=1e-12)
    assert logged[0]["train/rewards/accuracies"] == (margins > 0).double().mean().item()


@pytest.mark.parametrize("micro_tokens", [1, 50, 10_000])
def test_evaluation_sees_every_row_once_however_it_is_cut(tokenizer, micro_tokens):
    rows = make_rows(17)
    state = make_state(tokenizer, rows)
    means, columns = evaluate(state.policy, state.objective, rows, range(17), micro_tokens)
    whole, whole_columns = evaluate(state.policy, state.objective, rows, range(17), 10_000)
    assert means.keys() == whole.keys()
    for name in means:
        assert means[name] == pytest.approx(whole[name], abs=1e-12)
    assert len(columns["loss"]) == 17
    np.testing.assert_allclose(columns["chosen_logps"], whole_columns["chosen_logps"], atol=1e-12)
    assert means["eval/loss"] == pytest.approx(np.mean(columns["loss"]), abs=1e-12)


def test_sft_is_the_mean_over_tokens(tokenizer):
    rows, logged = make_rows(6), []
    state = make_state(tokenizer, rows, steps=1, batch_size=6)
    state.objective = Objective(losses.sft, pairs=False, takes_reference=False)
    chosen = batches(state.policy, rows, range(6), 10_000, paired=False)[0]
    from dpo_lab.scoring import token_logps

    expected = -token_logps(state.policy, chosen).mean().item()
    plan = Plan(max_grad_norm=None, micro_tokens=20, log_every=1)
    fit(state, plan, Effects(log=lambda step, metrics: logged.append(metrics)))
    assert logged[0]["train/loss"] == pytest.approx(expected, abs=1e-12)


def test_clipping_scales_the_update_and_logs_the_norm_before_it(tokenizer):
    norms = []
    for limit in (None, 1e-3):
        state = make_state(tokenizer, make_rows(8), steps=1)
        state.optimizer = optimizers.sgd(state.policy.trainable(), lr=1.0)
        before = [p.detach().clone() for _, p in state.policy.trainable()]
        plan = Plan(max_grad_norm=limit, micro_tokens=10_000, log_every=1)
        fit(
            state, plan, Effects(log=lambda step, metrics: norms.append(metrics["train/grad_norm"]))
        )
        moved = [b - p.detach() for b, (_, p) in zip(before, state.policy.trainable(), strict=True)]
        length = math.sqrt(sum(float((m**2).sum()) for m in moved))
        assert length == pytest.approx(norms[0] if limit is None else limit, rel=1e-3)
    assert norms[0] == pytest.approx(norms[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [1, 3])
def test_a_loss_that_is_not_finite_stops_with_its_rows(tokenizer, bad, at):
    rows = make_rows(16)
    state = make_state(tokenizer, rows, batch_size=4)
    calls = []

    def loss(policy, reference):
        calls.append(None)
        values = (policy.chosen.total - reference.chosen.total) ** 2
        poison = torch.ones_like(values)
        if len(calls) == at:
            poison[1] = bad
        return Scores(values * poison)

    state.objective = replace(state.objective, loss=loss)
    expected = state.loader.take(at - 1)[1]
    plan = Plan(max_grad_norm=1.0, micro_tokens=10_000, log_every=100)
    with pytest.raises(Stopped, match=rf"step {at} is not finite; rows \[{expected}\]"):
        fit(state, plan, Effects(log=lambda step, metrics: None))
    assert state.step == at - 1
    assert all(torch.isfinite(p).all() for _, p in state.policy.trainable())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_move(tokenizer):
    state = make_state(tokenizer, make_rows(8))
    state.objective = replace(
        state.objective,
        loss=lambda policy, reference: Scores(policy.chosen.total.abs().mul(0).sqrt()),
    )
    before = state.policy.digest()
    plan = Plan(max_grad_norm=1.0, micro_tokens=10_000, log_every=100)
    with pytest.raises(Stopped, match="gradient of step 1 is not finite"):
        fit(state, plan, Effects(log=lambda step, metrics: None))
    assert state.policy.digest() == before


def test_the_reference_never_moves_and_is_no_parameter(tokenizer):
    rows = make_rows(16)
    state = make_state(tokenizer, rows)
    before = state.objective.reference.totals.clone()
    plan = Plan(max_grad_norm=1.0, micro_tokens=10_000, log_every=100)
    fit(state, plan, Effects(log=lambda step, metrics: None))
    assert torch.equal(state.objective.reference.totals, before)
    assert not state.objective.reference.totals.requires_grad


def test_due():
    assert [step for step in range(1, 8) if due(step, 3, 7)] == [3, 6, 7]
    assert [step for step in range(1, 8) if due(step, None, 7)] == [7]
    assert [step for step in range(1, 8) if due(step, 3, None)] == [3, 6]


def test_updates_are_those_of_a_plain_loop(tokenizer):
    rows, logged = make_rows(17), []
    ours, plain = (make_state(tokenizer, rows, steps=5, batch_size=6) for _ in range(2))
    ours.optimizer = optimizers.sgd(ours.policy.trainable(), lr=0.1)
    ours.schedule = lambda step: 1 / (1 + step)
    plan = Plan(max_grad_norm=0.5, micro_tokens=40, log_every=1)
    fit(ours, plan, Effects(log=lambda step, metrics: logged.append(metrics)))
    weights = [parameter for _, parameter in plain.policy.trainable()]
    for step, metrics in enumerate(logged):
        (batch,) = batches(plain.policy, rows, plain.loader.take(step), 10_000, True)
        loss = plain.objective(plain.policy, batch).scores.loss.mean()
        gradients = torch.autograd.grad(loss, weights)
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        rate = 0.1 / (1 + step)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= rate * min(1.0, 0.5 / (norm + 1e-6)) * gradient
        assert metrics["train/loss"] == pytest.approx(loss.item(), abs=1e-12)
        assert metrics["train/grad_norm"] == pytest.approx(norm, rel=1e-10)
        assert metrics["train/learning_rate"] == pytest.approx(rate, rel=1e-12)
    for (_, weight), expected in zip(ours.policy.trainable(), weights, strict=True):
        assert (weight - expected).abs().max() < 1e-12


def test_dropout_is_on_in_updates_and_off_in_evaluation(tokenizer):
    rows, modes = make_rows(8), []
    state = make_state(tokenizer, rows, steps=2)
    loss = state.objective.loss

    def watched(policy, reference):
        modes.append(state.policy.model.training)
        return loss(policy, reference)

    state.objective = replace(state.objective, loss=watched)

    def look(step):
        evaluate(state.policy, state.objective, rows, range(8), 10_000)

    plan = Plan(max_grad_norm=None, micro_tokens=10_000, log_every=1, eval_every=1)
    fit(state, plan, Effects(log=lambda step, metrics: None, evaluate=look))
    assert modes == [False, True, False, True, False]


def test_held_out_sft_is_the_mean_over_chosen_tokens(tokenizer):
    rows = make_rows(6)
    state = make_state(tokenizer, rows)
    state.objective = Objective(losses.sft, pairs=False, takes_reference=False)
    means, columns = evaluate(state.policy, state.objective, rows, range(6), 30)
    tokens = sum(len(row.chosen) for row in rows)
    assert columns["chosen_tokens"] == [len(row.chosen) for row in rows]
    assert means["eval/loss"] == pytest.approx(-sum(columns["chosen_logps"]) / tokens, abs=1e-12)


def test_the_loss_is_given_the_reference_which_is_told_of_each_update(tokenizer):
    state, told, given = make_state(tokenizer, make_rows(17), steps=3), [], []
    table, loss = state.objective.reference, state.objective.loss
    table.after_step = lambda policy, step: told.append((step, policy.digest()))

    def watched(policy, reference):
        given.append(reference.chosen.total)
        return loss(policy, reference)

    state.objective = replace(state.objective, loss=watched)
    plan = Plan(max_grad_norm=None, micro_tokens=10_000, log_every=1)
    fit(state, plan, Effects(log=lambda step, metrics: None))
    assert [step for step, _ in told] == [1, 2, 3] and len(set(told)) == 3
    assert told[-1][1] == state.policy.digest()  # after the update, not before it
    for step, totals in enumerate(given):
        assert torch.equal(totals, table.totals[state.loader.take(step), 0])
