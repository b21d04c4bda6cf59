"""References that follow the policy, and the uniform one."""

import math

import pytest
import torch
from interrupted import resumed
from networks import ROWS, Tokens, every_layout, in_double, tiny

import dpo_lab
from dpo_lab import losses
from dpo_lab.adapters import lora
from dpo_lab.compose import compose
from dpo_lab.errors import Refused
from dpo_lab.policy import Policy
from dpo_lab.references import Stage, ema, uniform
from dpo_lab.results import Run
from dpo_lab.scoring import logps, token_logps

KNOBS = {"r": 4, "alpha": 8, "target_modules": ["all-linear"], "modules_to_save": ["lm_head"]}


def stage(policy: Policy) -> Stage:
    def never(*_):
        raise AssertionError

    return Stage(policy, "", never, never)


def make_policy(adapter: bool) -> Policy:
    model = in_double(tiny("llama", attention_dropout=0.5))
    return Policy(lora(model, **KNOBS) if adapter else model, Tokens(), dtype="float64")


def moved(policy: Policy, size: float) -> None:
    with torch.no_grad():
        for _, weight in policy.trainable():
            weight.add_(size * torch.sin(torch.arange(weight.numel()).reshape(weight.shape)))


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([weights[name].flatten() for name in sorted(weights)]).clone()


@pytest.mark.parametrize("adapter", [False, True])
def test_the_reference_is_the_average_of_the_weights_by_hand(adapter):
    policy = make_policy(adapter)
    reference = ema(stage(policy), decay=0.75, every=2)
    start = flat(policy.weights())
    batch = every_layout(policy, ROWS)["shared"]
    policy.eval()
    assert torch.equal(reference.logps(batch).chosen.total, logps(policy, batch).chosen.total)

    moved(policy, 0.1)
    reference.after_step(policy, 1)
    assert torch.equal(flat(reference.state()), start)
    reference.after_step(policy, 2)
    first = 0.75 * start + 0.25 * flat(policy.weights())
    torch.testing.assert_close(flat(reference.state()), first, rtol=0, atol=1e-15)
    moved(policy, 0.1)
    reference.after_step(policy, 3)
    reference.after_step(policy, 4)
    second = 0.75 * first + 0.25 * flat(policy.weights())
    torch.testing.assert_close(flat(reference.state()), second, rtol=0, atol=1e-15)

    # its log-probabilities are those of a policy with these weights, without dropout
    policy.load_weights(reference.state())
    expected, ours = logps(policy, batch), reference.logps(batch)
    assert torch.equal(ours.chosen.total, expected.chosen.total)
    assert torch.equal(ours.rejected.total, expected.rejected.total)
    assert not ours.chosen.total.requires_grad


def test_without_decay_the_reference_becomes_the_policy():
    policy = make_policy(False)
    reference = ema(stage(policy), decay=0.0, every=1)
    moved(policy, 0.1)
    reference.after_step(policy, 1)
    assert torch.equal(flat(reference.state()), flat(policy.weights()))
    moved(policy, 0.1)
    assert not torch.equal(flat(reference.state()), flat(policy.weights()))


def test_the_copy_of_an_adapter_shares_its_base_and_trains_nothing():
    policy = make_policy(True)
    twin = policy.twin()
    ours, theirs = dict(policy.model.named_parameters()), dict(twin.model.named_parameters())
    assert ours.keys() == theirs.keys() and not twin.trainable()
    for name, weight in ours.items():
        assert (theirs[name] is weight) != weight.requires_grad, name
    assert policy.trainable()
    batch = every_layout(policy, ROWS)["shared"]
    policy.train()
    expected = token_logps(twin, batch)
    moved(policy, 0.1)
    assert torch.equal(token_logps(twin, batch), expected)
    assert policy.model.training and not twin.model.training


def test_the_state_comes_back():
    policy = make_policy(True)
    first, second = (ema(stage(policy), decay=0.5, every=1) for _ in range(2))
    assert len(first.state()) == len(policy.trainable())
    moved(policy, 0.2)
    first.after_step(policy, 1)
    second.load({name: value.clone() for name, value in first.state().items()})
    assert torch.equal(flat(first.state()), flat(second.state()))


@pytest.mark.parametrize("paired", [True, False])
def test_uniform_makes_dpo_reference_free(paired):
    policy = make_policy(False)
    policy.eval()
    batch = every_layout(policy, ROWS, paired)["padded"]
    known = uniform(stage(policy)).logps(batch)
    if not paired:
        assert (known.total == 0).all() and len(known.total) == len(ROWS)
        return
    scored = logps(policy, batch)
    ours, theirs = (
        losses.dpo(scored, known, beta=0.3),
        losses.reference_free_dpo(scored, beta=0.3),
    )
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(ours.chosen_reward, theirs.chosen_reward)


# ------------------------------------------------------------------------------------ whole runs

NANO = (
    "data=world_nano data.pairs=100 data.eval_pairs=40 data.sft_rows=200 start.steps=5 "
    "start.batch_size=32 train.steps=6 train.batch_size=16 train.log_every=1 eval.every=3 "
    "schedule.warmup_steps=2 logger=none"
).split()


@pytest.fixture
def train(tmp_path):
    return lambda *more: dpo_lab.train([*NANO, f"outputs_dir={tmp_path}", *more])


def steady(run: Run) -> list[dict]:
    return [
        {name: value for name, value in event.items() if not name.startswith(("time", "perf/"))}
        for event in run.events
    ]


def test_a_run_starts_at_log_2_and_keeps_its_start_for_log_ratios(train):
    soft = train("reference=ema", "reference.decay=0.5")
    first, last = soft.events[0], soft.metrics
    assert first["eval/loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert first["eval/rewards/margins"] == 0 and first["eval/rewards/accuracies"] == 0.5
    # rewards are against the reference as it is, log-ratios against the start
    reward = 0.1 * (last["eval/logps/chosen"] - last["eval/ref_logps/chosen"])
    assert last["eval/rewards/chosen"] == pytest.approx(reward, abs=1e-6)
    start = last["eval/logps/chosen"] - first["eval/logps/chosen"]
    assert last["eval/logratios/chosen"] == pytest.approx(start, abs=1e-5)
    assert abs(last["eval/ref_logps/chosen"] - first["eval/logps/chosen"]) > 1e-4
    assert last["world/kl"] > 0


@pytest.mark.slow
def test_it_is_frozen_until_it_first_moves(train):
    hard, frozen = train("reference=ema", "reference.decay=0", "reference.every=4"), train()
    (steps, ours), (_, theirs) = hard.series("train/loss"), frozen.series("train/loss")
    assert steps == [1, 2, 3, 4, 5, 6]
    assert ours[:4] == pytest.approx(theirs[:4], abs=2e-6)
    assert ours[4] == pytest.approx(math.log(2), abs=1e-7)
    assert theirs[4] != pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("adapter", ["none", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one(train, adapter):
    settings = ["reference=ema", f"adapter={adapter}", "checkpoint.every=1", "model.dropout=0.1"]
    assert steady(train(*settings)) == steady(resumed(train, settings, stop=4))


@pytest.mark.slow
def test_uniform_is_a_run_without_reference(train):
    ours = train("reference=uniform")
    theirs = train("loss=reference_free_dpo")
    assert ours.series("train/loss") == theirs.series("train/loss")
    assert ours.events[0]["eval/loss"] != pytest.approx(math.log(2), abs=1e-3)


def test_a_reference_that_would_never_move_is_refused(train):
    with pytest.raises(Refused, match=r"every=6 .*never.* 6 updates"):
        compose([*NANO, "reference=ema", "reference.every=6"])
    with pytest.raises(Refused, match=r"reference.every=1, or reference=frozen"):
        train("reference=ema", "reference.every=9", "train.steps=null", "train.epochs=1")
    with pytest.raises(Refused, match="decay"):
        compose([*NANO, "reference=ema", "reference.decay=1"])
