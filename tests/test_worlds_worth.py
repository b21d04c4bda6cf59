"""Exact metrics and the frontier, against brute force and known identities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dpo_lab.worlds import Frontier, exact, world
from dpo_lab.worlds.frontier import best_of_n, normalised, tilt
from dpo_lab.worlds.pairs import pair_means, preferred, scores, win_probability
from dpo_lab.worlds.worth import top_gains, win_rate

NANO = {"words": "good bad not film", "depth": 4, "pairs": 10, "eval_pairs": 10, "sft_rows": 10}


@pytest.fixture(scope="module")
def nano():
    return world(**NANO).world


@pytest.fixture(scope="module")
def default():
    return world(pairs=10, eval_pairs=10, sft_rows=10).world


def some_policies(truth):
    """Policies of many kinds, all normalised."""
    rng = np.random.default_rng(0)
    reference = truth.grammar
    yield reference
    for scale in (1e-6, 1e-3, 0.1, 1, 5):
        yield normalised(reference + scale * rng.normal(size=reference.shape))
    for beta in (1e6, 30.0, 1.0, 0.1, 0.01, -1.0):
        yield tilt(reference, truth.reward, beta)
        yield tilt(reference, truth.reward + rng.normal(size=reference.shape), beta)
    for num in (2, 64):
        yield best_of_n(truth, reference, num)
    yield normalised(np.where(truth.reward == truth.reward.max(1, keepdims=True), 0, -700.0))


def test_the_default_frontier_has_its_known_numbers(default):
    for beta, reward, kl, win in [
        (2.0, 0.72085, 0.17304, 0.66465),
        (1.0, 1.21303, 0.53226, 0.77796),
        (0.5, 1.70173, 1.22859, 0.88778),
        (0.25, 2.05256, 2.21486, 0.95645),
    ]:
        metrics = exact(default, tilt(default.grammar, default.reward, beta), default.grammar)
        got = [metrics[f"world/{name}"] for name in ("reward", "kl", "win_rate")]
        assert got == pytest.approx([reward, kl, win], abs=1e-5)


def test_the_reference_itself(nano):
    metrics = exact(nano, nano.grammar, nano.grammar, beta=0.5)
    assert metrics["world/kl"] == metrics["world/reverse_kl"] == 0
    assert metrics["world/win_rate"] == pytest.approx(0.5, abs=1e-14)
    assert metrics["world/mass"] == pytest.approx(1, abs=1e-12)
    assert metrics["world/optimal_reward"] == pytest.approx(metrics["world/reward"], abs=1e-12)
    assert metrics["world/reward_slope"] == 0
    assert not {"world/optimal_share", "world/reward_correlation"} & metrics.keys()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_optimum_is_recognised(temperature):
    truth = world(**NANO, temperature=temperature).world
    star = tilt(truth.grammar, truth.reward, 0.7 * temperature)
    metrics = exact(truth, star, truth.grammar, beta=0.7)
    for name, value in [
        ("kl_to_optimum", 0),
        ("kl_from_optimum", 0),
        ("excess_length", 0),
        ("reward_correlation", 1),
        ("reward_slope", 1),
        ("optimal_share", 1),
    ]:
        assert metrics[f"world/{name}"] == pytest.approx(value, abs=1e-10), name


def test_only_what_applies_is_reported(nano):
    policy = tilt(nano.grammar, nano.reward, 1.0)
    plain = exact(nano, policy, nano.grammar)
    extra = exact(nano, policy, nano.grammar, beta=1.0).keys() - plain.keys()
    names = ("kl_to_optimum", "kl_from_optimum", "excess_length", "reward_slope")
    assert extra == {f"world/{name}" for name in names}
    certain = world(**NANO, temperature=0.0).world
    assert exact(certain, policy, certain.grammar, beta=1.0).keys() == plain.keys()
    apart = world(**NANO, held_out=["horror critic"], proxy_noise=1.0).world
    metrics = exact(apart, policy, apart.grammar)
    place = apart.prompts.index("horror critic")
    by_hand = (np.exp(policy[place]) * apart.reward[place]).sum()
    assert metrics["world/held_out_reward"] == pytest.approx(by_hand, abs=1e-12)
    noise = (np.exp(policy) * apart.noise).sum(1).mean()
    gap = metrics["world/proxy_reward"] - metrics["world/reward"]
    assert gap == pytest.approx(noise, abs=1e-12)


def test_metrics_are_the_sums_they_say(nano):
    rng = np.random.default_rng(3)
    policy = normalised(nano.grammar + rng.normal(size=nano.grammar.shape))
    metrics = exact(nano, policy, nano.grammar, beta=0.5)
    p, q, star = np.exp(policy), np.exp(nano.grammar), tilt(nano.grammar, nano.reward, 0.5)
    for name, value in {
        "reward": p * nano.reward,
        "kl": p * np.log(p / q),
        "reverse_kl": q * np.log(q / p),
        "entropy": -p * np.log(p),
        "length": p * nano.tree.tokens,
        "kl_to_optimum": p * (policy - star),
        "kl_from_optimum": np.exp(star) * (star - policy),
    }.items():
        assert metrics[f"world/{name}"] == pytest.approx(value.sum() / 8, abs=1e-12), name
    correlations, slopes = [], []
    for weight, ratio, reward in zip(q, policy - nano.grammar, nano.reward, strict=True):
        (ratio_var, both), (_, reward_var) = np.cov(ratio, reward, aweights=weight, ddof=0)
        correlations.append(both / math.sqrt(ratio_var * reward_var))
        slopes.append(0.5 * both / reward_var)
    assert metrics["world/reward_correlation"] == pytest.approx(np.mean(correlations), abs=1e-12)
    assert metrics["world/reward_slope"] == pytest.approx(np.mean(slopes), abs=1e-12)


def test_win_rate_counts_ties_half(nano):
    policy, reference = tilt(nano.grammar, nano.reward, 0.5), nano.grammar
    by_hand = 0.0
    for ours, theirs, reward in zip(np.exp(policy), np.exp(reference), nano.reward, strict=True):
        wins = (np.sign(reward[:, None] - reward) + 1) / 2
        by_hand += ours @ wins @ theirs / 8
    assert win_rate(nano, policy, reference) == pytest.approx(by_hand, abs=1e-13)


@pytest.mark.parametrize("size", ["nano", "default"])
def test_no_policy_is_above_the_frontier(size, request):
    truth = request.getfixturevalue(size)
    for policy in some_policies(truth):
        metrics = exact(truth, policy, truth.grammar)
        assert metrics["world/reward"] <= metrics["world/optimal_reward"] + 1e-9


def test_points_of_the_frontier_are_found_again(default):
    frontier = Frontier(default, default.grammar)
    kls, rewards = [], []
    for beta in (1e3, 20, 1, 0.1, 0.02, 0.004):
        point = frontier.at_beta(beta)
        metrics = exact(default, tilt(default.grammar, default.reward, beta), default.grammar)
        assert point.kl == pytest.approx(metrics["world/kl"], rel=1e-8, abs=1e-12)
        assert point.reward == pytest.approx(metrics["world/reward"], abs=1e-11)
        again = frontier.at_kl(point.kl)
        assert again.reward == pytest.approx(point.reward, abs=1e-9)
        kls.append(point.kl)
        rewards.append(point.reward)
    assert kls == sorted(kls) and rewards == sorted(rewards)
    assert frontier.at_kl(0).reward == frontier.start
    assert frontier.at_kl(frontier.max_kl + 1).reward == frontier.max_reward
    below = frontier.at_kl(frontier.max_kl - 1e-3)
    assert below.kl == pytest.approx(frontier.max_kl - 1e-3, rel=1e-9)
    assert below.reward < frontier.max_reward


def test_the_slope_of_the_frontier_is_beta(nano):
    frontier = Frontier(nano, nano.grammar)
    for beta in (2.0, 0.5, 0.1):
        low, high = frontier.at_beta(beta * (1 + 1e-4)), frontier.at_beta(beta * (1 - 1e-4))
        slope = (high.reward - low.reward) / (high.kl - low.kl)
        assert slope == pytest.approx(beta, rel=1e-6)


def test_far_from_zero_kl_is_variance_over_two_beta_squared(nano):
    grammar = np.exp(nano.grammar)
    mean = (grammar * nano.reward).sum(1, keepdims=True)
    variance = (grammar * (nano.reward - mean) ** 2).sum(1).mean()
    kl = Frontier(nano, nano.grammar).at_beta(1e3).kl
    assert kl * 2e6 == pytest.approx(variance, rel=2e-3)


def test_tilts_compose(nano):
    strong = tilt(nano.grammar, nano.reward, 1.5)
    twice = tilt(strong, nano.reward, 0.5)
    np.testing.assert_allclose(
        twice, tilt(nano.grammar, nano.reward, 1 / (1 / 0.5 + 1 / 1.5)), atol=1e-12
    )


@pytest.mark.parametrize("size", ["nano", "default"])
def test_best_of_n(size, request):
    truth = request.getfixturevalue(size)
    reference = truth.grammar
    np.testing.assert_allclose(best_of_n(truth, reference, 1), reference, atol=1e-10)
    kls = []
    for num in (2, 4, 16, 128, 4096):
        metrics = exact(truth, best_of_n(truth, reference, num), reference)
        bound = math.log(num) - (num - 1) / num
        assert metrics["world/kl"] <= bound
        kls.append(metrics["world/kl"])
        assert metrics["world/mass"] == pytest.approx(1, abs=1e-12)
    assert kls == sorted(kls)


def test_best_of_two_by_hand(nano):
    for prompt, (mass, reward) in enumerate(zip(np.exp(nano.grammar), nano.reward, strict=True)):
        takes = (np.sign(reward[:, None] - reward) + 1) / 2  # the first of two draws is taken
        by_hand = 2 * mass * (takes @ mass)
        best = np.exp(best_of_n(nano, nano.grammar, 2)[prompt])
        np.testing.assert_allclose(best, by_hand, atol=1e-15)


@pytest.mark.parametrize("knobs", [{}, {"flips": 0.2, "temperature": 0.3, "length_bias": 0.5}])
def test_log_ratios_of_both_sides_add_up_to_minus_twice_the_kl(knobs):
    truth = world(**NANO, **knobs).world
    for policy in list(some_policies(truth))[1:8]:
        chosen, rejected = pair_means(truth, policy - truth.grammar)
        reverse_kl = exact(truth, policy, truth.grammar)["world/reverse_kl"]
        assert chosen + rejected == pytest.approx(-2 * reverse_kl, rel=1e-12, abs=1e-14)


def test_means_over_pairs_are_sums_over_all_pairs():
    truth = world(**NANO, flips=0.1, length_bias=0.2).world
    values = np.random.default_rng(0).normal(size=truth.reward.shape)
    chosen = 0.0
    for prompt, mass in enumerate(np.exp(truth.source)):
        score = scores(truth)[prompt]
        wins = 0.1 + 0.8 * preferred(truth.recipe, score[:, None] - score)
        chosen += 2 * np.einsum("i,j,ij,i->", mass, mass, wins, values[prompt]) / 8
    assert pair_means(truth, values)[0] == pytest.approx(chosen, abs=1e-13)


def test_displacement_crosses_zero_in_the_default_world(default):
    drawn = 2 * np.exp(default.source) * win_probability(default)

    def chosen(beta):
        star = tilt(default.grammar, default.reward, beta)
        return (drawn * (star - default.grammar)).sum(1).mean()

    assert chosen(1.6) > 0 > chosen(1.2)


def test_what_gains_most_is_listed_first(nano):
    gains = top_gains(nano, tilt(nano.grammar, nano.reward, 0.2), nano.grammar, num=3)
    rise = [row["probability"] - row["reference"] for row in gains]
    assert rise == sorted(rise, reverse=True) and rise[2] > 0
    assert gains[0]["prompt"] in nano.prompts and gains[0]["reward"] > 0
