"""Losses by hand: worked examples, the contract of every loss, and its yaml."""

import inspect
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dpo_lab import losses
from dpo_lab.batch import Logps, Pair
from dpo_lab.errors import Refused
from dpo_lab.losses import dpo, hinge, ipo, orpo, reference_free_dpo, sft, simpo, unlikelihood

CONF = Path(__file__).parents[1] / "conf" / "loss"
YAMLS = sorted(CONF.glob("*.yaml"))


def logps(*totals: float, tokens: int = 1) -> Logps:
    total = torch.tensor(totals, dtype=torch.float64)
    return Logps(total, torch.full((len(totals),), tokens))


def one(chosen: float, rejected: float, tokens: tuple[int, int] = (1, 1)) -> Pair[Logps]:
    return Pair(logps(chosen, tokens=tokens[0]), logps(rejected, tokens=tokens[1]))


NOTHING = one(0.0, 0.0)  # a reference of log-probability 0: log-ratios are the policy's logps


def test_numbers_of_a_textbook_exercise_at_beta_one():
    # A policy that equals its reference: log-ratio 0, and a coin toss between the two responses.
    start = dpo(one(-3.0, -4.0), one(-3.0, -4.0), beta=1.0)
    assert start.chosen_reward.item() == 0
    assert start.rejected_reward.item() == 0
    assert math.exp(-start.loss.item()) == pytest.approx(0.5)

    # A margin of 1.2 makes the label 76.85 % likely: a loss of 0.2633.
    scores = dpo(one(1.2, 0.0), NOTHING, beta=1.0)
    assert math.exp(-scores.loss.item()) == pytest.approx(0.7685, abs=5e-5)
    assert scores.loss.item() == pytest.approx(0.26328, abs=5e-6)

    # At a margin of 0.8 one nat more of it lowers the loss by 0.3100.
    policy = one(0.8, 0.0)
    policy.chosen.total.requires_grad_()
    dpo(policy, NOTHING, beta=1.0).loss.sum().backward()
    assert policy.chosen.total.grad.item() == pytest.approx(-0.3100, abs=5e-5)

    # Chosen: tokens of probability 0.5 and 0.4; rejected: 0.6 and 0.3. The policy finds the chosen
    # response likelier, but the reference did so by half a nat, so the margin is negative.
    policy = one(math.log(0.5) + math.log(0.4), math.log(0.6) + math.log(0.3), tokens=(2, 2))
    alone = reference_free_dpo(policy, beta=1.0)
    assert alone.chosen_reward.item() == pytest.approx(-1.6094, abs=5e-5)
    assert alone.rejected_reward.item() == pytest.approx(-1.7148, abs=5e-5)
    against = dpo(policy, one(-1.2, -1.7, tokens=(2, 2)), beta=1.0)
    margin = against.chosen_reward - against.rejected_reward
    assert margin.item() == pytest.approx(-0.3946, abs=5e-5)


def test_two_responses_by_hand():
    # The chosen response of 2 tokens went from -5 to -4 nats, the rejected one of 4 from -6 to -8.
    policy = one(-4.0, -8.0, tokens=(2, 4))
    reference = one(-5.0, -6.0, tokens=(2, 4))

    scores = dpo(policy, reference, beta=0.1)
    assert scores.chosen_reward.item() == pytest.approx(0.1)  # 0.1 (-4 + 5)
    assert scores.rejected_reward.item() == pytest.approx(-0.2)  # 0.1 (-8 + 6)
    assert scores.loss.item() == pytest.approx(math.log(1 + math.exp(-0.3)))

    smoothed = dpo(policy, reference, beta=0.1, label_smoothing=0.25).loss.item()
    right, wrong = math.log(1 + math.exp(-0.3)), math.log(1 + math.exp(0.3))
    assert smoothed == pytest.approx(0.75 * right + 0.25 * wrong)
    robust = losses.robust_dpo(policy, reference, beta=0.1, label_smoothing=0.25).loss.item()
    assert robust == pytest.approx((0.75 * right - 0.25 * wrong) / 0.5)

    # IPO wants a margin of 5 nats at tau 0.1: 3 by sums, 1/2 + 2/4 = 1 by tokens.
    assert ipo(policy, reference, tau=0.1).loss.item() == pytest.approx((3 - 5) ** 2)
    assert ipo(policy, reference, tau=0.1, average=True).loss.item() == pytest.approx((1 - 5) ** 2)

    assert hinge(policy, reference, beta=0.1).loss.item() == pytest.approx(0.7)
    norm = losses.dpo_norm(policy, reference, beta=5.0)
    assert norm.chosen_reward.item() == pytest.approx(2.5)
    assert norm.rejected_reward.item() == pytest.approx(-2.5)
    assert norm.loss.item() == pytest.approx(math.log(1 + math.exp(-5.0)))

    # Two tokens fewer at 0.05 a token leave 0.3 - 0.1 of the margin.
    shorter = losses.r_dpo(policy, reference, beta=0.1, alpha=0.05).loss.item()
    assert shorter == pytest.approx(math.log(1 + math.exp(-0.2)))
    with_nll = losses.rpo(policy, reference, beta=0.1, alpha=0.5).loss.item()
    assert with_nll == pytest.approx(right + 0.5 * 4)
    with_mean = losses.rpo(policy, reference, beta=0.1, alpha=0.5, average=True).loss.item()
    assert with_mean == pytest.approx(right + 0.5 * 2)

    # DPOP sleeps while the chosen response gains, and wakes when it loses: the other way round,
    # log-ratios are -1 and 2, the margin 0.1 (-3 - 10 * 1).
    asleep = losses.dpop(policy, reference, beta=0.1, lambda_=10.0).loss.item()
    assert asleep == pytest.approx(right)
    awake = losses.dpop(reference, policy, beta=0.1, lambda_=10.0)
    assert awake.loss.item() == pytest.approx(math.log(1 + math.exp(1.3)))
    assert awake.chosen_reward.item() == pytest.approx(-0.1)

    # Without a reference: mean logps are -2 and -2, so only gamma = 0.5 * 2 is left.
    assert simpo(policy, beta=2.0).loss.item() == pytest.approx(math.log(1 + math.exp(1.0)))
    assert simpo(policy, beta=2.0).chosen_reward.item() == pytest.approx(-4.0)
    assert orpo(policy, lambda_=0.1).loss.item() == pytest.approx(2 + 0.1 * math.log(2))
    assert reference_free_dpo(policy, beta=0.5).loss.item() == pytest.approx(
        math.log(1 + math.exp(-2.0))
    )
    assert unlikelihood(policy, alpha=0.25).loss.item() == pytest.approx(4 - 0.25 * 8)


def test_orpo_by_hand():
    # One token of probability 0.8 against one of 0.5: odds 4 and 1, odds ratio 4.
    scores = orpo(one(math.log(0.8), math.log(0.5)), lambda_=0.5)
    assert scores.chosen_reward.item() == pytest.approx(math.log(4))
    assert scores.rejected_reward.item() == pytest.approx(0, abs=1e-15)
    assert scores.loss.item() == pytest.approx(-math.log(0.8) - 0.5 * math.log(4 / 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orpo_near_probability_one(dtype):
    near = torch.tensor([-1e-3, -1e-6, -1e-9, -1e-20, 0.0], dtype=dtype, requires_grad=True)
    away = torch.full((5,), -1.0, dtype=dtype)
    count = torch.ones(5, dtype=torch.int64)
    for sides in ((near, away), (away, near)):
        scores = orpo(Pair(*(Logps(side, count) for side in sides)), lambda_=0.1)
        (gradient,) = torch.autograd.grad(scores.loss.sum(), near)
        for got in (scores.loss, scores.chosen_reward, scores.rejected_reward, gradient):
            assert got.dtype == dtype
            assert got.isfinite().all()
    # Log odds of exp(-x) are -log(x) for small x, and keep their digits: 1 - p does not cancel.
    odds = scores.rejected_reward[:2].tolist()
    assert odds == pytest.approx([math.log(1e3), math.log(1e6)], abs=1e-3)


def test_sft_is_a_sum_over_tokens():
    scores = sft(Logps(torch.tensor([-2.0, -6.0]), torch.tensor([1, 3])))
    assert scores.loss.tolist() == [2.0, 6.0]
    assert scores.chosen_reward is None
    assert scores.rejected_reward is None


def test_which_losses_sum_and_which_average():
    # The same tokens twice over: sums double, means stay.
    policy, twice = one(-4.0, -9.0, tokens=(2, 3)), one(-8.0, -18.0, tokens=(4, 6))
    base, base_twice = one(-5.0, -7.0, tokens=(2, 3)), one(-10.0, -14.0, tokens=(4, 6))
    for loss, knobs in [(simpo, {"beta": 2.0}), (orpo, {"lambda_": 0.1})]:
        assert torch.equal(loss(policy, **knobs).loss, loss(twice, **knobs).loss)
    for loss, knobs in [
        (losses.dpo_norm, {"beta": 5.0}),
        (ipo, {"tau": 0.1, "average": True}),
    ]:
        assert torch.equal(loss(policy, base, **knobs).loss, loss(twice, base_twice, **knobs).loss)
    for loss in (dpo, hinge):
        doubled = loss(policy, base, beta=0.2)
        assert torch.equal(doubled.loss, loss(twice, base_twice, beta=0.1).loss)
    assert ipo(twice, base_twice, tau=0.1).loss.item() == pytest.approx((2 * 3 - 5) ** 2)
    assert sft(twice.chosen).loss == 2 * sft(policy.chosen).loss


def test_simpo_has_one_gamma_by_two_names():
    policy = one(-4.0, -6.0, tokens=(2, 2))
    absolute = simpo(policy, beta=2.5, gamma=1.375).loss
    assert torch.equal(absolute, simpo(policy, beta=2.5, gamma_beta_ratio=0.55).loss)
    default = simpo(policy, beta=2.5).loss
    assert torch.equal(default, simpo(policy, beta=2.5, gamma_beta_ratio=0.5).loss)
    assert torch.equal(simpo(policy, beta=2.5, gamma=0.0).loss, simpo_without_margin(policy, 2.5))
    with pytest.raises(Refused, match="one of gamma and gamma_beta_ratio"):
        simpo(policy, beta=2.5, gamma=1.0, gamma_beta_ratio=0.5)


def simpo_without_margin(policy: Pair[Logps], beta: float) -> torch.Tensor:
    """SimPO without a target is reference-free DPO on mean logps."""
    means = Pair(
        Logps(policy.chosen.total / policy.chosen.tokens, policy.chosen.tokens),
        Logps(policy.rejected.total / policy.rejected.tokens, policy.rejected.tokens),
    )
    return reference_free_dpo(means, beta=beta).loss


@pytest.mark.parametrize("label_smoothing", [0.5, 0.7])
def test_robust_refuses_labels_without_information(label_smoothing):
    with pytest.raises(ValueError, match=r"below 0\.5") as refusal:
        losses.robust_dpo(NOTHING, NOTHING, beta=0.1, label_smoothing=label_smoothing)
    assert isinstance(refusal.value, Refused)


def test_every_loss_has_a_yaml_and_the_signature_that_the_lab_reads():
    targets = {OmegaConf.load(path)["_target_"].rpartition(".")[2] for path in YAMLS}
    assert targets == set(losses.__all__)
    for name in losses.__all__:
        parameters = inspect.signature(getattr(losses, name)).parameters
        of = {"sft": "Logps", "exact_rl": "Leaves"}.get(name, "Pair[Logps]")
        assert parameters["policy"].annotation == of
        if "reference" in parameters:
            assert parameters["reference"].annotation == of


@pytest.mark.parametrize(
    "path", [path for path in YAMLS if path.stem != "exact_rl"], ids=lambda path: path.stem
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_yaml_is_a_call_that_works(path, dtype):
    node = OmegaConf.to_container(OmegaConf.load(path))
    assert node.pop("defaults") == [f"/schema/loss/{path.stem}@_here_"]
    loss = getattr(losses, node.pop("_target_").removeprefix("dpo_lab.losses."))
    parameters = inspect.signature(loss).parameters.values()
    assert list(node) == [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]

    def random_logps(tokens):
        tokens = torch.tensor(tokens)
        return Logps(-tokens * (1 + torch.rand(3, dtype=dtype)), tokens)

    torch.manual_seed(0)
    policy = Pair(random_logps([3, 1, 7]), random_logps([2, 9, 7]))
    policy.chosen.total.requires_grad_()
    inputs = [policy.chosen] if loss is sft else [policy]
    if "reference" in inspect.signature(loss).parameters:
        inputs.append(Pair(random_logps([3, 1, 7]), random_logps([2, 9, 7])))
    scores = loss(*inputs, **node)
    assert scores.loss.shape == (3,)
    assert scores.loss.dtype == dtype
    assert scores.loss.requires_grad
    assert scores.loss.isfinite().all()
    for reward in (scores.chosen_reward, scores.rejected_reward):
        if loss in (sft, unlikelihood):
            assert reward is None
        else:
            assert reward.shape == (3,)
            assert reward.dtype == dtype
            assert not reward.requires_grad
