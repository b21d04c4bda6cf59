"""Tables trained on all pairs converge to the closed forms of their configs, to 1e-8."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from tables import assert_same, fixed, node, nothing, solved, state_of, tiny

from dpo_lab import losses
from dpo_lab.errors import Refused
from dpo_lab.references import Stage, ema, uniform
from dpo_lab.worlds import optimum
from dpo_lab.worlds.closed_form import closed_form
from dpo_lab.worlds.frontier import tilt


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        pytest.param({"temperature": 0.5, "off_policy": 0.5}, marks=pytest.mark.slow),
        pytest.param(
            {"length_bias": 0.3, "temperature": 2.0, "proxy_noise": 0.5}, marks=pytest.mark.slow
        ),
        pytest.param({"near_duplicates": 0.5}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_dpo_with_any_static_reference(knobs):
    truth = tiny(**knobs)
    loss = partial(losses.dpo, beta=0.5)
    wrong = tilt(truth.grammar, truth.reward, -1.5)
    steps = 160 if truth.recipe.near_duplicates else 60
    config = node("dpo", beta=0.5, label_smoothing=0.0)
    assert_same(solved(truth, loss, steps=steps), closed_form(truth, config, truth.grammar))
    against = solved(truth, loss, reference=fixed(wrong), steps=steps)
    assert_same(against, closed_form(truth, config, wrong))
    assert np.abs(against - closed_form(truth, config, truth.grammar)).max() > 0.1


def test_reference_free_and_uniform_are_the_same():
    truth = tiny()
    star = closed_form(truth, node("reference_free_dpo", beta=0.8), None)
    free = solved(truth, partial(losses.reference_free_dpo, beta=0.8), reference=nothing)
    never: Stage = None  # type: ignore[assignment]
    flat = solved(truth, partial(losses.dpo, beta=0.8), reference=lambda policy: uniform(never))
    assert_same(free, star)
    assert_same(flat, star)
    zeros = closed_form(truth, node("dpo", beta=0.8, label_smoothing=0.0), np.zeros_like(star))
    np.testing.assert_array_equal(zeros, star)


@pytest.mark.parametrize("knobs", [{}, {"flips": 0.2, "temperature": 0.3}, {"temperature": 0.0}])
def test_ipo(knobs):
    truth = tiny(**knobs)
    star = closed_form(truth, node("ipo", tau=0.2, average=False), truth.grammar)
    assert_same(solved(truth, partial(losses.ipo, tau=0.2)), star)


@pytest.mark.parametrize("knobs", [{}, {"flips": 0.2, "length_bias": 0.3}])
def test_preferred_fine_tuning(knobs):
    truth = tiny(**knobs)
    star = closed_form(truth, node("sft"), None)
    assert_same(solved(truth, losses.sft, sees="chosen", reference=nothing), star)


def test_unlikelihood_while_it_is_bounded():
    truth = tiny(temperature=3.0)
    star = closed_form(truth, node("unlikelihood", alpha=0.2), None)
    assert_same(solved(truth, partial(losses.unlikelihood, alpha=0.2), reference=nothing), star)
    with pytest.raises(Refused, match="without bound"):
        closed_form(truth, node("unlikelihood", alpha=0.9), None)


def test_robust_dpo_undoes_flips():
    truth = tiny(flips=0.3)
    loss = partial(losses.robust_dpo, beta=0.5, label_smoothing=0.3)
    star = closed_form(truth, node("robust_dpo", beta=0.5, label_smoothing=0.3), truth.grammar)
    assert_same(solved(truth, loss, steps=60), star)
    assert_same(star, tilt(truth.grammar, truth.reward, 0.5))


def test_length_regularisation_undoes_length_bias():
    truth = tiny(length_bias=0.4, temperature=2.0)
    star = closed_form(truth, node("r_dpo", beta=0.5, alpha=0.2), truth.grammar)
    assert_same(solved(truth, partial(losses.r_dpo, beta=0.5, alpha=0.2)), star)
    assert_same(star, tilt(truth.grammar, truth.reward, 1.0))


@pytest.mark.slow
def test_hard_updates_walk_along_the_frontier():
    truth = tiny()

    def hard(policy):
        return ema(Stage(policy, "", None, None), decay=0.0, every=40)

    for rounds in (1, 2, 3):
        ours = solved(truth, partial(losses.dpo, beta=0.9), reference=hard, steps=40 * rounds)
        assert_same(ours, optimum.tr_dpo(truth, truth.grammar, beta=0.9, rounds=rounds))


def test_exact_rl():
    truth = tiny(temperature=0.5, flips=0.1)  # of labels that it never sees
    star = closed_form(truth, node("exact_rl", beta=0.4), truth.grammar)
    assert_same(star, tilt(truth.grammar, truth.reward, 0.4))
    state = state_of(truth, partial(losses.exact_rl, beta=0.4), sees="leaves")
    (batch,) = state.rows.batches(state.rows.eval, 10_000, torch.device("cpu"))
    for policy, steepest in ((star, 1e-14), (star + 0.01 * truth.tree.tokens, None)):
        logits = torch.tensor(policy, requires_grad=True)
        outcome = state.objective.judge(batch.leaves(logits.log_softmax(1)), batch)
        outcome.total().backward()
        found = float(logits.grad.abs().max())
        assert found < steepest if steepest else found > 1e-4
    kl = (np.exp(star) * (star - truth.grammar)).sum(1)
    value = (np.exp(star) * truth.reward).sum(1) - 0.4 * kl
    judged = state.objective.judge(batch.leaves(torch.tensor(star)), batch)
    np.testing.assert_allclose(judged.scores.loss, -value, atol=1e-13)


def test_exact_rl_finds_its_optimum():
    truth = tiny()
    ours = solved(truth, partial(losses.exact_rl, beta=1.0), sees="leaves", steps=100)
    star = tilt(truth.grammar, truth.reward, 1.0)
    assert (np.exp(ours) * (ours - star)).sum(1).max() < 1e-12


def test_closed_forms_are_refused_with_the_violated_condition():
    truth = tiny()
    for said, config in [
        ("smoothed labels", node("dpo", beta=0.5, label_smoothing=0.1)),
        ("averaged over tokens", node("ipo", tau=0.5, average=True)),
        ("no closed form is known for the loss dpo_lab.losses.hinge", node("hinge", beta=1.0)),
        ("no closed form is known for the loss mine.dpo", {"_target_": "mine.dpo", "beta": 0.5}),
    ]:
        with pytest.raises(Refused, match=said):
            closed_form(truth, config, truth.grammar)
    with pytest.raises(Refused, match="not known for every response"):
        closed_form(truth, node("dpo", beta=0.5, label_smoothing=0.0), None)
    apart = tiny(held_out=["drama public"])
    with pytest.raises(Refused, match="held-out"):
        closed_form(apart, node("exact_rl", beta=0.5), apart.grammar)
