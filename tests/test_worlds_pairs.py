"""Drawing and labelling pairs: each knob of the recipe does what it says and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dpo_lab.errors import Refused
from dpo_lab.worlds import language, with_pairs, world
from dpo_lab.worlds.frontier import tilt
from dpo_lab.worlds.pairs import TRAIN, draw_pairs, pair_means, preferred, sample, scores
from dpo_lab.worlds.truth import Recipe


def nano(**knobs):
    sizes = {"depth": 4, "pairs": 2000, "eval_pairs": 500, "sft_rows": 500}
    return world(**{"words": "good bad not film", **sizes, **knobs})


def test_a_world_is_the_same_every_time_and_its_digest_covers_every_knob():
    first, again = nano(), nano()
    assert (first.train, first.eval, first.sft) == (again.train, again.eval, again.sft)
    assert first.digest == again.digest
    others = [nano(seed=1), nano(flips=0.1), nano(pairs=1999), nano(stop=0.3), nano(world_seed=1)]
    assert len({source.digest for source in [first, *others]}) == 6
    assert len({nano(pair_source="start", seed=seed).digest for seed in (0, 1)}) == 2


def test_draws_are_nested_and_one_knob_changes_one_thing():
    few, many = nano(pairs=500), nano(pairs=2000)
    assert many.train[:500] == few.train
    assert many.eval == few.eval
    assert nano(seed=1).sft == few.sft and nano(seed=1).train[:500] != few.train

    def flipped(share):
        clean, noisy = (nano(flips=flips).world for flips in (0.0, share))
        tables = [draw_pairs(truth, 2000, TRAIN) for truth in (clean, noisy)]
        np.testing.assert_array_equal(*(np.sort(np.stack(table[1:]), axis=0) for table in tables))
        return tables[0].chosen != tables[1].chosen

    some, more = flipped(0.1), flipped(0.3)
    assert not (some & ~more).any()
    assert some.mean() == pytest.approx(0.1, abs=0.03)
    assert more.mean() == pytest.approx(0.3, abs=0.04)


def test_sampling_is_exact():
    logps = np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    prompts = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    uniform = np.array([0, 0.49, 0.5, 0.99, 0.05, 0.15, 0.31, 0.999999])
    assert sample(logps, prompts, uniform).tolist() == [0, 0, 1, 2, 0, 1, 2, 2]


@pytest.mark.parametrize(
    "knobs",
    [{}, {"temperature": 0.3, "flips": 0.2}, {"length_bias": 0.4}, {"off_policy": 0.5}],
    ids=str,
)
def test_drawn_pairs_have_the_moments_of_the_population(knobs):
    source = nano(pairs=100_000, **knobs)
    truth = source.world
    table = truth.locate(source.train)
    for values in (truth.reward, np.broadcast_to(truth.tree.tokens, truth.reward.shape)):
        for leaves, mean in zip(table[1:], pair_means(truth, values), strict=True):
            drawn = values[table.prompt, leaves]
            assert abs(drawn.mean() - mean) < 4 * drawn.std() / math.sqrt(len(drawn))
    assert abs(np.bincount(table.prompt) / 12_500 - 1).max() < 0.04
    assert (table.chosen == table.rejected).mean() > 0.01  # ties are kept


def test_labels_follow_bradley_terry():
    recipe = Recipe(temperature=2.0)
    assert preferred(recipe, np.array(1.5)) == pytest.approx(1 / (1 + math.exp(-0.75)), abs=1e-15)
    assert preferred(recipe, np.array([-1e6, 1e6])).tolist() == [0, 1]
    certain = replace(recipe, temperature=0.0)
    assert preferred(certain, np.array([-0.1, 0, 3])).tolist() == [0, 0.5, 1]


def test_temperature_zero_prefers_the_better_always():
    source = nano(temperature=0.0)
    table = source.world.locate(source.train)
    chosen, rejected = (source.world.reward[table.prompt, side] for side in table[1:])
    assert (chosen >= rejected).all()


def test_length_bias_is_in_the_scores():
    truth = nano(length_bias=-0.5).world
    np.testing.assert_array_equal(scores(truth), truth.reward - 0.5 * truth.tree.tokens)


def test_off_policy_responses_come_from_another_writer():
    half, whole = nano(off_policy=0.5).world, nano(off_policy=1.0).world
    np.testing.assert_array_equal(whole.source, whole.other)
    assert np.exp(whole.other).sum(1) == pytest.approx(1, abs=1e-12)
    mixture = (np.exp(half.grammar) + np.exp(half.other)) / 2
    np.testing.assert_allclose(np.exp(half.source), mixture, atol=1e-15)
    assert abs(half.grammar - half.other).max() > 0.5


def test_near_duplicates_differ_in_one_word():
    source = nano(near_duplicates=1.0)
    table = source.world.locate(source.train)
    chosen, rejected = (source.world.tree.digits(side) for side in table[1:])
    assert ((chosen != rejected).sum(1) == 1).all()
    assert ((chosen >= 0).sum(1) == (rejected >= 0).sum(1)).all()
    some, plain = nano(near_duplicates=0.3, pairs=10_000), nano(pairs=10_000)
    same = sum(a == b for a, b in zip(some.train, plain.train, strict=True))
    assert same / 10_000 == pytest.approx(0.7, abs=0.03)  # the other rows stay as they were


def test_held_out_prompts_are_kept_out_of_training_pairs_only():
    source = nano(held_out=["horror critic", "drama public"])
    assert {row.prompt for row in source.train} == set(source.world.prompts) - {
        "horror critic",
        "drama public",
    }
    for rows in (source.eval, source.sft):
        assert {row.prompt for row in rows} == set(source.world.prompts)


def test_proxy_noise_is_fixed_and_seen_by_the_annotator_only():
    clean, noisy = nano(temperature=0.0), nano(temperature=0.0, proxy_noise=2.0)
    truth = noisy.world
    np.testing.assert_array_equal(truth.reward, clean.world.reward)
    assert truth.noise.std() == pytest.approx(2, rel=0.05)
    np.testing.assert_array_equal(truth.noise, nano(proxy_noise=2.0, seed=5).world.noise)
    table = truth.locate(noisy.train)
    proxy = truth.proxy[table.prompt, table.chosen] - truth.proxy[table.prompt, table.rejected]
    reward = truth.reward[table.prompt, table.chosen] - truth.reward[table.prompt, table.rejected]
    assert (proxy >= 0).all() and (reward < 0).any()


def test_a_length_neutral_reward_keeps_the_lengths_of_the_reference_at_its_beta():
    truth = nano(length_neutral_beta=0.5, depth=6).world

    def lengths(logps):
        return np.stack([np.bincount(truth.tree.tokens, np.exp(row)) for row in logps])

    at_beta = lengths(tilt(truth.grammar, truth.reward, 0.5))
    np.testing.assert_allclose(at_beta, lengths(truth.grammar), atol=1e-11)
    elsewhere = lengths(tilt(truth.grammar, truth.reward, 0.2))
    assert abs(elsewhere - lengths(truth.grammar)).max() > 0.01


def test_pairs_of_the_start_wait_for_it():
    waiting, plain = nano(pair_source="start"), nano()
    assert waiting.train == [] and waiting.eval == [] and waiting.world.source is None
    assert waiting.sft == plain.sft
    same = with_pairs(waiting, waiting.world.grammar)
    assert (same.train, same.eval) == (plain.train, plain.eval)
    start = tilt(waiting.world.grammar, waiting.world.reward, 1.0)
    other = with_pairs(waiting, start)
    np.testing.assert_array_equal(other.world.source, start)
    assert other.train != same.train and other.digest != same.digest
    assert waiting.train == []


def test_a_start_gives_its_own_length_neutral_reward():
    waiting = nano(pair_source="start", length_neutral_beta=1.0)
    start = tilt(waiting.world.grammar, waiting.world.reward, -2.0)
    truth = with_pairs(waiting, start).world
    star = tilt(start, truth.reward, 1.0)
    tokens = truth.tree.tokens
    np.testing.assert_allclose(np.exp(star) @ tokens, np.exp(start) @ tokens, atol=1e-11)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"words": "good good film"}, "change good"),
        ({"words": "good drama"}, "change drama"),
        ({"words": "good"}, "add words"),
        ({"depth": 12}, "at most 4,000,000"),
        ({"held_out": ["horror nobody"]}, "no prompt horror nobody"),
        ({"held_out": list(language.PROMPTS)}, "none is left"),
    ],
)
def test_impossible_worlds_are_refused(knobs, said):
    with pytest.raises(Refused) as error:
        world(**knobs)
    assert said in str(error.value) and len(str(error.value).splitlines()) <= 3


def test_training_held_out_and_sft_rows_are_drawn_apart():
    source = nano(pairs=500)
    rows = zip(source.train, source.eval, source.sft, strict=True)
    same = [
        (train.prompt == held_out.prompt, train.chosen == held_out.chosen, sft.prompt == row)
        for (train, held_out, sft), row in zip(rows, [x.prompt for x in source.eval], strict=True)
    ]
    # prompts agree as often as chance has it: one time in eight
    assert np.mean(same, axis=0)[[0, 2]] == pytest.approx(1 / 8, abs=0.06)
    assert np.mean(same, axis=0)[1] < 0.2
