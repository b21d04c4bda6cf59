"""Whether a claim holds, from numbers that one can follow."""

import itertools
import json

import numpy as np
import pytest

from dpo_lab.evidence import above, below_frontier, interval, per_seed, sign_flip, split, within
from dpo_lab.results import Run
from tests.run_folders import fake


def test_the_permutation_test_by_hand():
    # three pairs, all in favour: only the signs as they are reach the mean, 1 of 8
    assert sign_flip([1.0, 2.0, 3.0]) == 1 / 8
    # 3 + 1 - 2 = 2: patterns of at least 2 are +++, ++-, +-+ (3 - 1 + 2 = 4) and none else
    patterns = [a * 3 + b * 1 + c * -2 for a, b, c in itertools.product((1, -1), repeat=3)]
    assert sign_flip([3.0, 1.0, -2.0]) == sum(one >= 2 for one in patterns) / 8
    assert sign_flip([0.0] * 5) == 1.0


def test_the_interval_holds_the_mean_and_narrows():
    few = np.arange(5.0)
    low, high = interval(few)
    assert 0 <= low < 2 < high <= 4
    many = np.tile(few, 20)
    assert interval(many)[1] - interval(many)[0] < high - low
    assert interval([3.0]) == (3.0, 3.0)
    assert interval(few) == (low, high)  # from a fixed seed


def test_the_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(size=(300, 40))
    covered = [low <= 0 <= high for low, high in map(interval, draws)]
    assert 0.88 < np.mean(covered) < 0.99


def seeds(*values):
    return dict(enumerate(values))


def test_a_ranking_needs_all_seeds_to_agree():
    other = seeds(1, 2, 3, 4, 5)
    better = seeds(1.5, 2.4, 3.6, 4.5, 5.5)
    check = above("ours", better, "theirs", other)
    assert check.holds and check.seeds == 5
    assert "+0.500" in check.came and "p 0.031" in check.came and "5 seeds" in check.came
    mixed = seeds(1.5, 2.4, 3.6, 4.5, 4.9)  # four of five: p = 2/32
    assert not above("ours", mixed, "theirs", other).holds
    assert not above("theirs", other, "ours", better).holds
    assert not above("ours", better, "theirs", other, by=0.6).holds


def test_few_seeds_are_judged_by_their_mean_and_counted():
    check = above("ours", seeds(2.0), "theirs", {0: 1.0, 1: 9.0})
    assert check.holds and check.seeds == 1 and check.came.endswith("1 seed")
    assert above("ours", {7: 1.0}, "theirs", {8: 0.0}).holds is False


def test_a_range_can_fail():
    assert within("x", seeds(0.4, 0.6), 0.45, 0.55).holds
    assert not within("x", seeds(0.4, 0.8), 0.45, 0.55).holds
    assert not within("x", seeds(float("nan")), 0, 1).holds
    assert not within("x", {}, 0, 1).holds


def test_runs_by_option_and_seed(tmp_path):
    runs = [
        fake(tmp_path / f"{beta}-{seed}", beta=beta, seed=seed)
        for beta, seed in itertools.product((0.5, 0.1), (1, 0))
    ]
    found = split(runs, "loss.beta", "seed")
    assert [*found] == [(0.1, 0), (0.1, 1), (0.5, 0), (0.5, 1)]
    assert split(runs, "loss") == {"dpo": runs}
    values = per_seed(found[0.1, 0], "world/kl")
    assert per_seed(runs, "world/none") == {}
    assert values == {0: pytest.approx(found[0.1, 0][0].metrics["world/kl"])}


def test_a_reward_above_the_optimum_is_seen_at_any_evaluation_of_any_run(tmp_path):
    runs = [fake(tmp_path / f"{seed}", seed=seed) for seed in (0, 1)]
    assert below_frontier(runs) is None  # nothing is known of an optimum

    def tell(run, *pairs):
        lines = [{"step": 0, "world/reward": a, "world/optimal_reward": b} for a, b in pairs]
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))

    tell(runs[0], (0.5, 0.6), (0.7, 0.8))
    tell(runs[1], (0.5, 0.5 - 1e-9), (0.1, 0.2))
    again = [Run(run.folder) for run in runs]
    check = below_frontier(again)
    assert check.holds and check.seeds is None and "4 evaluations of 2 runs" in check.came
    tell(runs[1], (0.5, 0.5 - 1e-5), (0.1, 0.2))
    assert not below_frontier([Run(run.folder) for run in runs]).holds
