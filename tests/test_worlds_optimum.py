"""Closed forms: there the gradient of the lab's own losses vanishes over the whole population."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpo_lab import losses
from dpo_lab.batch import Logps, Pair
from dpo_lab.errors import Refused
from dpo_lab.worlds import Frontier, optimum, world
from dpo_lab.worlds.frontier import normalised, tilt
from dpo_lab.worlds.pairs import preferred, scores

PROMPTS = (1, 4)  # a critic and a member of the public; each prompt has an optimum of its own


def tiny(**knobs):
    sizes = {"depth": 3, "pairs": 10, "eval_pairs": 10, "sft_rows": 10}
    return world(words="good bad not film", **sizes, **knobs).world


def steepness(truth, policy, loss) -> float:
    """Largest entry of the gradient of the population loss by the logits of every response.

    `loss(chosen, rejected, prompt)` takes the indices of the responses' log-probabilities.
    """
    steepest = 0.0
    for prompt in PROMPTS:
        mass = np.exp(truth.source[prompt])
        score = scores(truth)[prompt]
        wins = preferred(truth.recipe, score[:, None] - score)
        wins = (1 - truth.recipe.flips) * wins + truth.recipe.flips * wins.T
        weight = torch.tensor(2 * mass[:, None] * mass * wins)  # of (chosen, rejected)
        logits = torch.tensor(policy[prompt], requires_grad=True)
        num, tokens = len(logits), torch.tensor(truth.tree.tokens)
        pairs = torch.cartesian_prod(torch.arange(num), torch.arange(num)).T

        def sides(logps, pairs=pairs, tokens=tokens):
            return Pair(*(Logps(logps[side], tokens[side]) for side in pairs))

        values = loss(sides(logits.log_softmax(0)), lambda row: sides(torch.tensor(row[prompt])))  # noqa: B023
        (weight.ravel() * values.loss).sum().backward()
        assert logits.grad is not None
        steepest = max(steepest, logits.grad.abs().max().item())
    return steepest


def assert_optimal(truth, closed_form, loss):
    np.testing.assert_allclose(np.exp(closed_form).sum(1), 1, atol=1e-12)
    assert steepness(truth, closed_form, loss) < 1e-14
    moved = normalised(closed_form + 0.01 * truth.tree.tokens)
    assert steepness(truth, moved, loss) > 1e-6


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"temperature": 0.4},
        {"length_bias": 0.3, "temperature": 2.0},
        {"proxy_noise": 1.0},
        {"off_policy": 0.7},
        {"length_neutral_beta": 0.5},
    ],
    ids=str,
)
def test_dpo(knobs):
    truth = tiny(**knobs)
    wrong = tilt(truth.grammar, truth.reward, -1.5)
    for reference in (truth.grammar, wrong):
        assert_optimal(
            truth,
            optimum.dpo(truth, reference, beta=0.5),
            lambda policy, of, reference=reference: losses.dpo(policy, of(reference), beta=0.5),
        )


def test_dpo_aims_at_the_frontier():
    truth = tiny(temperature=0.5)
    star = optimum.dpo(truth, truth.grammar, beta=0.6)
    np.testing.assert_allclose(star, tilt(truth.grammar, truth.reward, 0.3), atol=1e-12)


def test_reference_free():
    truth = tiny()
    assert_optimal(
        truth,
        optimum.reference_free_dpo(truth, beta=0.8),
        lambda policy, of: losses.reference_free_dpo(policy, beta=0.8),
    )


def test_robust_dpo_undoes_flips():
    truth = tiny(flips=0.3)
    star = optimum.robust_dpo(truth, truth.grammar, beta=0.5, label_smoothing=0.3)
    assert_optimal(
        truth,
        star,
        lambda policy, of: losses.robust_dpo(
            policy, of(truth.grammar), beta=0.5, label_smoothing=0.3
        ),
    )
    np.testing.assert_allclose(star, tilt(truth.grammar, truth.reward, 0.5), atol=1e-12)


def test_length_regularisation_undoes_length_bias():
    truth = tiny(length_bias=0.4, temperature=2.0)
    for alpha in (0.2, 0.05):
        star = optimum.dpo(truth, truth.grammar, beta=0.5, alpha=alpha)
        assert_optimal(
            truth,
            star,
            lambda policy, of, alpha=alpha: losses.r_dpo(
                policy, of(truth.grammar), beta=0.5, alpha=alpha
            ),
        )
        clean = np.allclose(star, tilt(truth.grammar, truth.reward, 1.0), atol=1e-12)
        assert clean == (alpha == 0.2)  # the bias over the temperature


@pytest.mark.parametrize(
    "knobs", [{}, {"flips": 0.2, "temperature": 0.3}, {"temperature": 0.0}, {"off_policy": 0.6}]
)
def test_ipo(knobs):
    truth = tiny(**knobs)
    assert_optimal(
        truth,
        optimum.ipo(truth, truth.grammar, tau=0.2),
        lambda policy, of: losses.ipo(policy, of(truth.grammar), tau=0.2),
    )


@pytest.mark.parametrize("knobs", [{}, {"flips": 0.2, "length_bias": 0.3}, {"temperature": 0.0}])
def test_sft_on_chosen(knobs):
    truth = tiny(**knobs)
    assert_optimal(truth, optimum.sft(truth), lambda policy, of: losses.sft(policy.chosen))


def test_hard_updates_of_the_reference_walk_along_the_frontier():
    truth = tiny()
    policy = truth.grammar
    for rounds in (1, 2, 3):
        policy = optimum.dpo(truth, policy, beta=0.9)
        whole = optimum.tr_dpo(truth, truth.grammar, beta=0.9, rounds=rounds)
        np.testing.assert_allclose(policy, whole, atol=1e-11)
    point = Frontier(truth, truth.grammar).at_beta(0.3)
    assert (np.exp(policy) * truth.reward).sum(1).mean() == pytest.approx(point.reward, abs=1e-12)


def test_closed_forms_are_refused_where_they_do_not_hold():
    def refused(said, form, truth, *args, **knobs):
        with pytest.raises(Refused, match=said):
            form(truth, *args, **knobs)

    flipped = tiny(flips=0.2)
    refused("flipped", optimum.dpo, flipped, flipped.grammar, beta=0.5)
    refused("flipped", optimum.robust_dpo, flipped, flipped.grammar, beta=0.5, label_smoothing=0.1)
    half = tiny(flips=0.5)
    refused("flipped", optimum.robust_dpo, half, half.grammar, beta=0.5, label_smoothing=0.5)
    certain = tiny(temperature=0.0)
    refused("infinity", optimum.dpo, certain, certain.grammar, beta=0.5)
    swapped = tiny(near_duplicates=1.0)
    refused("different lengths", optimum.dpo, swapped, swapped.grammar, beta=0.5)
    mixed = tiny(near_duplicates=0.1)
    refused("independent", optimum.ipo, mixed, mixed.grammar, tau=0.5)
    refused("independent", optimum.sft, mixed)
    optimum.dpo(mixed, mixed.grammar, beta=0.5)
    waiting = tiny(pair_source="start")
    refused("not known yet", optimum.sft, waiting)
    apart = tiny(held_out=["drama public"])
    refused("held-out", optimum.dpo, apart, apart.grammar, beta=0.5)
    refused("held-out", optimum.ipo, apart, apart.grammar, tau=0.5)
