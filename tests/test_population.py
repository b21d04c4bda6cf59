"""The loss over all pairs of a world's responses: its weights, its sums, and whole runs of it."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from interrupted import resumed
from safetensors.torch import load_file
from tables import assert_same, solved, state_of, tiny

import dpo_lab
from dpo_lab import losses
from dpo_lab.batch import Pair
from dpo_lab.compose import compose
from dpo_lab.errors import Refused
from dpo_lab.evaluation import evaluate
from dpo_lab.population import Enumerated, Population
from dpo_lab.references import LeafTable
from dpo_lab.worlds import world
from dpo_lab.worlds.enumeration import leaf_logps
from dpo_lab.worlds.frontier import tilt
from dpo_lab.worlds.pairs import draw_pairs, pair_mass

# ----------------------------------------------------------------------------------- the weights


@pytest.mark.parametrize(
    "knobs",
    [
        {"flips": 0.1, "length_bias": 0.3, "temperature": 0.5},
        {"near_duplicates": 0.6, "off_policy": 0.3},
    ],
    ids=str,
)
def test_pairs_are_drawn_with_the_mass_they_have(knobs):
    truth = tiny(depth=2, pairs=50_000, **knobs)
    drawn = draw_pairs(truth, 50_000, 0)
    num = truth.tree.num_leaves
    for prompt in (0, 5):
        mass = pair_mass(truth, prompt)
        assert mass.sum() == pytest.approx(1, abs=1e-12)
        rows = drawn.prompt == prompt
        counts = np.bincount(drawn.chosen[rows] * num + drawn.rejected[rows], minlength=num**2)
        expected = rows.sum() * mass.ravel()
        assert counts[expected == 0].sum() == 0
        often = expected > 5
        chi2 = ((counts - expected)[often] ** 2 / expected[often]).sum()
        assert chi2 < often.sum() + 4 * np.sqrt(2 * often.sum())


def test_the_loss_is_the_sum_over_pairs_by_hand():
    truth = tiny(depth=2, flips=0.1)
    state = state_of(truth, partial(losses.ipo, tau=0.3))
    with torch.no_grad():
        state.policy.model.moved += torch.linspace(-1, 1, 8 * 21).double().reshape(8, 21)
    means, columns = evaluate(state.policy, state.objective, state.rows, state.rows.eval, 10_000)
    ratio = leaf_logps(state.policy, truth) - truth.grammar
    expected, right = [], []
    for prompt in range(8):
        mass, delta = pair_mass(truth, prompt), ratio[prompt][:, None] - ratio[prompt]
        expected.append((mass * (delta - 1 / 0.6) ** 2).sum())
        right.append((mass * ((delta > 0) + 0.5 * (delta == 0))).sum())
    np.testing.assert_allclose(columns["loss"], expected, atol=1e-12)
    assert means["eval/loss"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert means["eval/rewards/accuracies"] == pytest.approx(np.mean(right), abs=1e-12)
    chosen = np.mean([(pair_mass(truth, p).sum(1) * ratio[p]).sum() for p in range(8)])
    assert means["eval/logratios/chosen"] == pytest.approx(chosen, abs=1e-12)


def test_prompts_held_out_are_not_trained_on():
    truth = tiny(held_out=["drama public", "horror critic"])
    rows = Enumerated(truth, pairs=True)
    assert rows.names[:6] == [
        p for p in truth.prompts if p not in ("drama public", "horror critic")
    ]
    assert rows.names[6:] == list(truth.prompts)
    ours = solved(truth, partial(losses.dpo, beta=0.5), steps=5)
    moved = np.abs(ours - truth.grammar) > 1e-6
    assert moved.any(1).tolist() == [prompt in rows.names[:6] for prompt in truth.prompts]


def test_what_is_too_large_to_sum_over_is_refused():
    large = world(pairs=1, eval_pairs=1, sft_rows=1).world
    with pytest.raises(Refused, match=r"37,449 responses(.|\n)*data=world_nano"):
        Population(losses.dpo, True, True, world=large, sees="pair")
    chosen = Population(losses.sft, False, False, world=large, sees="chosen")
    rows = Enumerated(large, pairs=False)
    batch = rows.batches([0], 10**9, torch.device("cpu"))[0]
    table = LeafTable(torch.from_numpy(large.grammar), "").logps(batch)
    outcome = chosen.judge(table, batch)
    assert float(outcome.weights.sum()) == pytest.approx(1, abs=1e-12)
    assert not isinstance(outcome.policy, Pair)


# ------------------------------------------------------------------------------------ whole runs


@pytest.fixture
def train(tmp_path):
    return lambda *more: dpo_lab.train([*more, "logger=none", f"outputs_dir={tmp_path}"])


TABLE = ("model=tabular", "data.depth=3", "data.pairs=10", "data.eval_pairs=10", "loss.beta=0.5")


def test_a_table_is_a_run_like_any_other(train):
    run = train(*TABLE, "train.steps=50")
    assert run.metrics["world/kl_to_closed_form"] == pytest.approx(0, abs=1e-12)
    assert run.metrics["world/reward_slope"] == pytest.approx(1, abs=1e-8)
    record = json.loads((run.folder / "record.json").read_text())
    for name in ("kl", "reward", "win_rate"):
        known = record["closed_form"][f"world/{name}"]
        assert run.metrics[f"world/{name}"] == pytest.approx(known, abs=1e-8)
    logps = load_file(run.folder / "final" / "table.safetensors")["logps"].numpy()
    truth = tiny()
    assert_same(logps, tilt(truth.grammar, truth.reward, 0.5))
    first = json.loads((run.folder / "gains.json").read_text())["gains"][0]
    prompt = truth.prompts.index(first["prompt"])
    gain = (np.exp(logps) - np.exp(truth.grammar)).max()
    assert first["probability"] - first["reference"] == pytest.approx(gain, abs=1e-8)
    assert first["reward"] in truth.reward[prompt]


@pytest.mark.parametrize(
    "settings",
    [
        (*TABLE, "train.steps=8", "reference=ema"),
        (*"data=world_nano loss=exact_rl start.steps=2 train.steps=4 train.batch_size=3".split(),),
    ],
    ids=["table", "network"],
)
@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(train, settings):
    settings = [*settings, "checkpoint.every=1", "eval.every=2"]
    whole, again = train(*settings), resumed(train, settings, stop=3)
    ours, theirs = whole.metrics, again.metrics
    assert {name for name in ours if not name.startswith("perf/")} <= theirs.keys()
    for name, value in ours.items():
        if not name.startswith(("perf/", "time")):
            assert theirs[name] == value, name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model=tabular adapter=lora", "no adapter=lora"),
        ("model=tabular start=sft", r"no start=sft(.|\n)*start=as_is"),
        ("model=tabular train.dtype=float32", "train.dtype=float64"),
        ("loss=exact_rl train.gradient_checkpointing=true", "gradient_checkpointing=false"),
    ],
)
def test_impossible_combinations_are_refused(words, said):
    with pytest.raises(Refused, match=said):
        compose(words.split())


def test_a_world_too_large_is_refused_before_a_folder_is_made(train, tmp_path):
    with pytest.raises(Refused, match="all pairs of 37,449 responses"):
        train("model=tabular", "data=world", "data.pairs=1", "data.eval_pairs=1")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["loss=exact_rl", "model=tabular"])
def test_without_a_world_there_is_nothing_to_sum_over(train, tmp_path, what):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": " b", "rejected": " c"}\n' * 4)
    with pytest.raises(Refused, match=f"{what} needs a world"):
        train(what, "data=file", f"data.path={path}")
