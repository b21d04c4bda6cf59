"""Every loss, reward and gradient against its formula written once more, in NumPy.

The oracle is evaluated at complex arguments: the imaginary part at x + ih, over h, is the
derivative to machine precision, with no help from torch.
"""

import numpy as np
import pytest
import torch

from dpo_lab import losses
from dpo_lab.batch import Logps, Pair

MARGINS = np.linspace(-36.0, 36.0, 25)  # nats of log-ratio; none lies on a kink of hinge or DPOP
BETAS = [0.07, 0.5, 3.0]
SMOOTHINGS = [0.0, 0.1, 0.45]
STEP = 1e-30


def ls(z):
    """log sigmoid of a complex number, without overflow."""
    return np.where(z.real < 0, z, 0) - np.log(1 + np.exp(np.where(z.real < 0, z, -z)))


def positive(z):
    return np.where(z.real > 0, z, 0)


# Each oracle takes logps of policy (pw, pl) and reference (rw, rl), tokens of the chosen and the
# rejected response (n, m) and the knobs, and gives loss, chosen reward, rejected reward.


def dpo(pw, pl, rw, rl, n, m, beta, label_smoothing):
    h = beta * ((pw - rw) - (pl - rl))
    e = label_smoothing
    return -(1 - e) * ls(h) - e * ls(-h), beta * (pw - rw), beta * (pl - rl)


def robust_dpo(pw, pl, rw, rl, n, m, beta, label_smoothing):
    h = beta * (pw - pl - rw + rl)
    e = label_smoothing
    return (-(1 - e) * ls(h) + e * ls(-h)) / (1 - 2 * e), beta * (pw - rw), beta * (pl - rl)


def ipo(pw, pl, rw, rl, n, m, tau, average):
    if not average:
        n = m = 1
    chosen, rejected = (pw - rw) / n, (pl - rl) / m
    return (chosen - rejected - 0.5 / tau) ** 2, tau * chosen, tau * rejected


def hinge(pw, pl, rw, rl, n, m, beta):
    return positive(1 - beta * (pw - pl - rw + rl)), beta * (pw - rw), beta * (pl - rl)


def dpo_norm(pw, pl, rw, rl, n, m, beta, label_smoothing):
    return dpo(pw / n, pl / m, rw / n, rl / m, n, m, beta, label_smoothing)


def simpo(pw, pl, rw, rl, n, m, beta, label_smoothing, gamma=None, gamma_beta_ratio=0.5):
    gamma = gamma_beta_ratio * beta if gamma is None else gamma
    z = beta * pw / n - beta * pl / m - gamma
    e = label_smoothing
    return -(1 - e) * ls(z) - e * ls(-z), beta * pw / n, beta * pl / m


def orpo(pw, pl, rw, rl, n, m, lambda_):
    p, q = np.exp(pw / n), np.exp(pl / m)
    chosen, rejected = np.log(p / (1 - p)), np.log(q / (1 - q))
    return -pw / n - lambda_ * ls(chosen - rejected), chosen, rejected


def reference_free_dpo(pw, pl, rw, rl, n, m, beta):
    return -ls(beta * (pw - pl)), beta * pw, beta * pl


def dpop(pw, pl, rw, rl, n, m, beta, lambda_):
    z = beta * ((pw - rw) - (pl - rl) - lambda_ * positive(rw - pw))
    return -ls(z), beta * (pw - rw), beta * (pl - rl)


def r_dpo(pw, pl, rw, rl, n, m, beta, alpha):
    z = beta * ((pw - rw) - (pl - rl)) + alpha * (n - m)
    return -ls(z), beta * (pw - rw) + alpha * n, beta * (pl - rl) + alpha * m


def rpo(pw, pl, rw, rl, n, m, beta, alpha, average):
    loss = -ls(beta * ((pw - rw) - (pl - rl))) - alpha * (pw / n if average else pw)
    return loss, beta * (pw - rw), beta * (pl - rl)


def unlikelihood(pw, pl, rw, rl, n, m, alpha):
    return -pw + alpha * pl, None, None


ORACLES = [dpo, robust_dpo, ipo, hinge, dpo_norm, simpo, orpo, reference_free_dpo, dpop, r_dpo]
ORACLES += [rpo, unlikelihood]
SECOND_KNOB = {
    "hinge": [{}],
    "reference_free_dpo": [{}],
    "ipo": [{"average": False}, {"average": True}],
    "dpop": [{"lambda_": 0.0}, {"lambda_": 5.0}, {"lambda_": 50.0}],
    "r_dpo": [{"alpha": 0.0}, {"alpha": 0.01}, {"alpha": 1.0}],
    "rpo": [{"alpha": a, "average": b} for a in (0.0, 0.005, 1.0) for b in (False, True)],
    "simpo": [{"label_smoothing": e, "gamma": g} for e in SMOOTHINGS for g in (None, 0.0, 1.3)],
    "orpo": [{"lambda_": 0.0}, {"lambda_": 0.1}, {"lambda_": 2.0}],
    "unlikelihood": [{"alpha": 0.0}, {"alpha": 0.3}, {"alpha": 1.0}],
}
CASES = [
    pytest.param(oracle, first | second, id=f"{oracle.__name__}-{first | second}")
    for oracle in ORACLES
    for first in (
        [{}]
        if oracle in (orpo, unlikelihood)
        else [{"tau" if oracle is ipo else "beta": beta} for beta in BETAS]
    )
    for second in SECOND_KNOB.get(
        oracle.__name__, [{"label_smoothing": smoothing} for smoothing in SMOOTHINGS]
    )
]


def logps_with_margins() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Logps of policy and reference, chosen and rejected, whose log-ratio margins are MARGINS."""
    rng = np.random.default_rng(0)
    count = len(MARGINS)
    n, m = rng.integers(1, 12, count), rng.integers(1, 12, count)
    v, k = rng.uniform(-140, -60, count), rng.uniform(-140, -60, count)
    ratio = rng.uniform(-6, 6, count)
    return [v + ratio + MARGINS, k + ratio, v, k], n, m


@pytest.mark.parametrize(("oracle", "knobs"), CASES)
def test_value_reward_and_gradient(oracle, knobs):
    values, n, m = logps_with_margins()
    assert max(value.max() for value in values) < 0
    tensors = [torch.tensor(value, requires_grad=True) for value in values]
    tokens = [torch.tensor(n), torch.tensor(m)]
    policy, reference = (
        Pair(Logps(chosen, tokens[0]), Logps(rejected, tokens[1]))
        for chosen, rejected in (tensors[:2], tensors[2:])
    )
    loss = getattr(losses, oracle.__name__)
    alone = oracle in (simpo, orpo, reference_free_dpo, unlikelihood)
    scores = loss(policy, **knobs) if alone else loss(policy, reference, **knobs)
    used = tensors[:2] if alone else tensors
    gradients = torch.autograd.grad(scores.loss.sum(), used)

    points = [value.astype(complex) for value in values]
    expected, *rewards = oracle(*points, n, m, **knobs)
    close(scores.loss, expected.real)
    for got, want in zip((scores.chosen_reward, scores.rejected_reward), rewards, strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            close(got, want.real)
    for index, gradient in enumerate(gradients):
        moved = [p + 1j * STEP if i == index else p for i, p in enumerate(points)]
        close(gradient, oracle(*moved, n, m, **knobs)[0].imag / STEP)


def close(got: torch.Tensor, want: np.ndarray) -> None:
    assert got.dtype == torch.float64
    error = np.abs(got.detach().numpy() - want)
    assert (error <= 1e-12 * np.maximum(1, np.abs(want))).all(), error.max()


def test_the_grid_is_the_promised_one():
    values, _, _ = logps_with_margins()
    pw, pl, rw, rl = values
    assert np.allclose(pw - rw - (pl - rl), MARGINS, rtol=0, atol=1e-12)
    elsewhere = {"sft", "exact_rl"}  # which see no pairs; exact_rl is in test_worlds_closed_form
    assert {oracle.__name__ for oracle in ORACLES} | elsewhere == set(losses.__all__)
