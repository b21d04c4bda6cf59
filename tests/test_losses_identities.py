"""What must hold between losses, at their start, at their optimum and far out."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from dpo_lab.batch import Logps, Pair, Scores
from dpo_lab.losses import (
    dpo,
    dpo_norm,
    dpop,
    hinge,
    ipo,
    orpo,
    r_dpo,
    reference_free_dpo,
    robust_dpo,
    rpo,
    simpo,
    unlikelihood,
)

COUNTS = Pair(torch.tensor([3, 9, 1, 5]), torch.tensor([4, 2, 1, 5]))
ONE_TOKEN = Pair(torch.ones(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64))


def random_pair(seed: int, counts: Pair[Tensor] = COUNTS) -> Pair[Logps]:
    """Logps of four pairs at 1 to 3 nats a token, in float64."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.rand, 4, dtype=torch.float64, generator=generator)
    return Pair(
        Logps(-counts.chosen * (1 + 2 * draw()), counts.chosen),
        Logps(-counts.rejected * (1 + 2 * draw()), counts.rejected),
    )


def swapped(pair: Pair[Logps]) -> Pair[Logps]:
    return Pair(pair.rejected, pair.chosen)


def with_margin(margins: list[float], dtype: torch.dtype = torch.float64) -> Pair[Logps]:
    """Responses of one token whose chosen logps are `margins` above the rejected ones' 0."""
    chosen = torch.tensor(margins, dtype=dtype)
    count = torch.ones(len(margins), dtype=torch.int64)
    return Pair(Logps(chosen, count), Logps(torch.zeros_like(chosen), count))


def score(loss, policy: Pair[Logps], *reference: Pair[Logps]) -> tuple[Scores, Tensor, Tensor]:
    """Return the scores, and the loss's gradients by both logps of the policy."""
    leaves = [side.total.clone().requires_grad_() for side in (policy.chosen, policy.rejected)]
    tracked = Pair(Logps(leaves[0], policy.chosen.tokens), Logps(leaves[1], policy.rejected.tokens))
    scores = loss(tracked, *reference)
    return scores, *torch.autograd.grad(scores.loss.sum(), leaves)


def assert_same(left: tuple, right: tuple) -> None:
    """The same losses and the same gradients."""
    for got, want in zip((left[0].loss, *left[1:]), (right[0].loss, *right[1:]), strict=True):
        assert torch.allclose(got, want, rtol=1e-13, atol=1e-13)


# At the start: the policy equals its reference. Slopes are gradients by the chosen logp, in units
# of DPO's -beta / 2; those of the rejected logp are their negatives.
START = [
    (partial(dpo, beta=0.3), math.log(2), 1.0),
    (partial(dpo, beta=0.3, label_smoothing=0.1), math.log(2), 0.8),
    (partial(robust_dpo, beta=0.3, label_smoothing=0.1), math.log(2), 1.25),
    (partial(dpop, beta=0.3, lambda_=50.0), math.log(2), 1.0),
    (partial(hinge, beta=0.3), 1.0, 2.0),
    (partial(ipo, tau=0.3), 1 / (4 * 0.3**2), 2 / 0.3**2),
]


@pytest.mark.parametrize(("loss", "value", "slope"), START)
@pytest.mark.parametrize("seed", [0, 1])
def test_start(loss, value, slope, seed):
    policy = random_pair(seed)
    scores, by_chosen, by_rejected = score(loss, policy, policy)
    assert torch.allclose(scores.loss, torch.tensor(value, dtype=torch.float64), atol=1e-15)
    assert scores.chosen_reward.count_nonzero() == 0
    assert scores.rejected_reward.count_nonzero() == 0
    assert torch.allclose(by_chosen, torch.full_like(by_chosen, -0.15 * slope), atol=1e-15)
    assert torch.equal(by_chosen, -by_rejected)


def test_start_of_losses_that_count_tokens():
    policy = random_pair(0)
    log2 = torch.full((4,), math.log(2), dtype=torch.float64)
    difference = COUNTS.chosen - COUNTS.rejected
    assert torch.allclose(dpo_norm(policy, policy, beta=5.0).loss, log2, atol=1e-15)
    assert torch.allclose(
        ipo(policy, policy, tau=0.1, average=True).loss, torch.tensor(25.0, dtype=torch.float64)
    )
    length = r_dpo(policy, policy, beta=0.1, alpha=0.2)
    assert torch.allclose(length.loss, torch.log1p(torch.exp(-0.2 * difference.double())))
    assert torch.equal(length.chosen_reward, 0.2 * COUNTS.chosen.double())
    with_nll = rpo(policy, policy, beta=0.1, alpha=0.5).loss
    assert torch.allclose(with_nll, log2 - 0.5 * policy.chosen.total)
    # Nothing that a reference-free loss could equal: it starts wherever the policy is.
    assert not torch.isclose(simpo(policy, beta=2.0).loss, log2, atol=1e-3).any()


def test_gradient_of_dpo():
    policy, reference, beta = random_pair(0), random_pair(1), 0.7
    _, by_chosen, by_rejected = score(partial(dpo, beta=beta), policy, reference)
    delta = (policy.chosen.total - reference.chosen.total) - (
        policy.rejected.total - reference.rejected.total
    )
    assert torch.allclose(by_chosen, -beta * torch.sigmoid(-beta * delta), atol=1e-15)
    assert torch.equal(by_chosen, -by_rejected)


DPO = partial(dpo, beta=0.3)
REDUCTIONS = {
    "dpo, smoothing 0": (partial(dpo, beta=0.3, label_smoothing=0.0), DPO),
    "robust, smoothing 0": (partial(robust_dpo, beta=0.3, label_smoothing=0.0), DPO),
    "dpop, lambda 0": (partial(dpop, beta=0.3, lambda_=0.0), DPO),
    "r_dpo, alpha 0": (partial(r_dpo, beta=0.3, alpha=0.0), DPO),
    "rpo, alpha 0": (partial(rpo, beta=0.3, alpha=0.0), DPO),
}


@pytest.mark.parametrize(("loss", "plain"), REDUCTIONS.values(), ids=REDUCTIONS)
def test_reductions(loss, plain):
    policy, reference = random_pair(0), random_pair(1)
    assert_same(score(loss, policy, reference), score(plain, policy, reference))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_reductions_of_one_token(smoothing):
    policy, reference = random_pair(0, ONE_TOKEN), random_pair(1, ONE_TOKEN)
    norm = score(partial(dpo_norm, beta=0.3, label_smoothing=smoothing), policy, reference)
    plain = score(partial(dpo, beta=0.3, label_smoothing=smoothing), policy, reference)
    assert_same(norm, plain)
    average = score(partial(ipo, tau=0.3, average=True), policy, reference)
    assert_same(average, score(partial(ipo, tau=0.3), policy, reference))
    no_margin = score(partial(simpo, beta=0.3, gamma=0.0), policy)
    assert_same(no_margin, score(partial(reference_free_dpo, beta=0.3), policy))


def test_a_uniform_reference():
    policy = random_pair(0)
    nothing = Pair(
        Logps(torch.zeros(4, dtype=torch.float64), COUNTS.chosen),
        Logps(torch.zeros(4, dtype=torch.float64), COUNTS.rejected),
    )
    free = score(partial(reference_free_dpo, beta=0.3), policy)
    assert_same(score(DPO, policy, nothing), free)

    # Uniform over the next token of 50 is another thing: it is R-DPO at beta log 50 a token.
    price = math.log(50)
    next_token = Pair(
        Logps(-COUNTS.chosen.double() * price, COUNTS.chosen),
        Logps(-COUNTS.rejected.double() * price, COUNTS.rejected),
    )
    priced = score(partial(r_dpo, beta=0.3, alpha=0.3 * price), policy, nothing)
    assert_same(score(DPO, policy, next_token), priced)


def slope_at(loss, margin: float) -> float:
    """The derivative of the loss by the chosen logp at one log-ratio margin."""
    _, by_chosen, _ = score(loss, with_margin([margin]), with_margin([0.0]))
    return by_chosen.item()


@pytest.mark.parametrize("e", [0.05, 0.1, 0.4])
def test_best_margin_of_conservative_dpo(e):
    loss = partial(dpo, beta=0.5, label_smoothing=e)
    best = math.log((1 - e) / e) / 0.5
    assert slope_at(loss, best) == pytest.approx(0, abs=1e-15)
    assert slope_at(loss, best - 0.1) < 0 < slope_at(loss, best + 0.1)
    # Plain and robust DPO have none: more margin is always better.
    for far in (0.0, best, 5 * best):
        assert slope_at(partial(dpo, beta=0.5), far) < 0
        assert slope_at(partial(robust_dpo, beta=0.5, label_smoothing=e), far) < 0


def test_best_margin_of_ipo_and_hinge():
    assert ipo(with_margin([2.5]), with_margin([0.0]), tau=0.2).loss == 0
    loss = partial(ipo, tau=0.2)
    assert slope_at(loss, 2.5) == 0
    assert slope_at(loss, 2.4) < 0 < slope_at(loss, 2.6)
    assert slope_at(partial(hinge, beta=0.5), 1.99) == -0.5
    for satisfied in (2.0, 2.01, 100.0):
        assert slope_at(partial(hinge, beta=0.5), satisfied) == 0
        assert hinge(with_margin([satisfied]), with_margin([0.0]), beta=0.5).loss == 0


def test_best_margin_of_smoothed_simpo():
    # As in the authors' code the flipped label gets +gamma: the best margin is gamma + log 9, 3.57.
    # Had it kept -gamma, it would be 3.46.
    def slope(reward_margin: float) -> float:
        loss = partial(simpo, beta=2.5, gamma=1.375, label_smoothing=0.1)
        return score(loss, with_margin([reward_margin / 2.5]))[1].item()

    assert slope(1.375 + math.log(9)) == pytest.approx(0, abs=1e-15)
    assert slope(3.46) < 0 < slope(3.6)


@pytest.mark.parametrize("e", [0.0, 0.25, 0.5])
def test_swapping_the_labels_and_their_noise_changes_nothing(e):
    # 1 - e leaves the range of the knob, but not of the formula. Binary fractions make this exact.
    policy, reference = random_pair(0), random_pair(1)
    here = dpo(policy, reference, beta=0.3, label_smoothing=e).loss
    there = dpo(swapped(policy), swapped(reference), beta=0.3, label_smoothing=1 - e).loss
    assert torch.equal(here, there)


ALL = [
    DPO,
    partial(dpo, beta=0.3, label_smoothing=0.1),
    partial(robust_dpo, beta=0.3, label_smoothing=0.1),
    partial(ipo, tau=0.3),
    partial(ipo, tau=0.3, average=True),
    partial(hinge, beta=0.3),
    partial(dpo_norm, beta=5.0),
    partial(dpop, beta=0.3, lambda_=50.0),
    partial(r_dpo, beta=0.3, alpha=0.1),
    partial(rpo, beta=0.3, alpha=0.1),
    partial(simpo, beta=2.0),
    partial(orpo, lambda_=0.1),
    partial(reference_free_dpo, beta=0.3),
]
WITHOUT_REFERENCE = (simpo, orpo, reference_free_dpo, unlikelihood)


def inputs_of(loss, policy: Pair[Logps], reference: Pair[Logps]) -> list[Pair[Logps]]:
    return [policy] if loss.func in WITHOUT_REFERENCE else [policy, reference]


@pytest.mark.parametrize("loss", ALL, ids=str)
def test_a_reward_belongs_to_the_response_not_to_its_label(loss):
    policy, reference = random_pair(0), random_pair(1)
    here = loss(*inputs_of(loss, policy, reference))
    there = loss(*inputs_of(loss, swapped(policy), swapped(reference)))
    assert torch.equal(here.chosen_reward, there.rejected_reward)
    assert torch.equal(here.rejected_reward, there.chosen_reward)


@pytest.mark.parametrize("e", [0.1, 0.3, 0.45])
def test_robust_dpo_is_dpo_on_average_over_flipped_labels(e):
    policy, reference = random_pair(0), random_pair(1)
    loss = partial(robust_dpo, beta=0.3, label_smoothing=e)
    kept = score(loss, policy, reference)
    flipped = score(loss, swapped(policy), swapped(reference))
    clean = score(DPO, policy, reference)
    assert torch.allclose((1 - e) * kept[0].loss + e * flipped[0].loss, clean[0].loss)
    assert torch.allclose((1 - e) * kept[1] + e * flipped[2], clean[1])


def test_robust_dpo_falls_without_bound():
    loss = partial(robust_dpo, beta=1.0, label_smoothing=0.1)
    losses = loss(with_margin([10.0, 100.0]), with_margin([0.0, 0.0])).loss
    assert losses.tolist() == pytest.approx([-1.25, -12.5], abs=1e-3)


def test_dpop_takes_the_flat_side_of_its_kink():
    # At the start every pair sits on the kink; one step to the left the slope is 51 times larger.
    loss = partial(dpop, beta=0.1, lambda_=50.0)
    assert slope_at(loss, 0.0) == slope_at(partial(dpo, beta=0.1), 0.0) == -0.05
    assert slope_at(loss, -1e-9) == pytest.approx(-0.05 * 51)
    assert slope_at(loss, 1e-9) == pytest.approx(-0.05)


FAR = [sign * size for size in (30.0, 100.0, 800.0, 1e4) for sign in (1, -1)]


@pytest.mark.parametrize("loss", [*ALL, partial(unlikelihood, alpha=0.1)], ids=str)
def test_far_margins_stay_finite_in_float32(loss):
    # The chosen response, then the rejected one, is unlikely; the other has log-probability 0.
    scale = loss.keywords.get("beta", loss.keywords.get("tau", 1.0))
    nats = torch.tensor(FAR) / scale
    count = torch.ones(len(FAR), dtype=torch.int64)
    reference = with_margin([0.0] * len(FAR), torch.float32)

    def far(dtype: torch.dtype) -> tuple[Scores, Tensor, Tensor]:
        chosen, rejected = nats.clamp(max=0).to(dtype), (-nats).clamp(max=0).to(dtype)
        policy = Pair(Logps(chosen, count), Logps(rejected, count))
        return score(loss, *inputs_of(loss, policy, reference))

    (scores, *gradients), (exact, *_) = far(torch.float32), far(torch.float64)
    for got in (scores.loss, *gradients, scores.chosen_reward, scores.rejected_reward):
        if got is not None:
            assert got.dtype == torch.float32
            assert got.isfinite().all()
    if (
        loss.func is not orpo
    ):  # log odds of probability one are infinite: each dtype has its stand-in
        assert torch.allclose(scores.loss, exact.loss.float(), rtol=1e-5)
