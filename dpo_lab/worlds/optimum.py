"""What each loss converges to, given endless pairs and a policy that may say anything.

Each function returns log-probabilities (P, n) of the minimiser of the population loss over all
policies, and raises `Refused` where its closed form does not hold: a figure then draws no overlay.
Labels are Bernoulli(sigmoid(difference of scores / t)), score = reward (the annotator's) + lam n, t
the temperature, n the scored tokens; then flipped with probability `flips`.

`reference` is any static one, (P, n), normalised or not; who wrote the pairs matters to `ipo` and
`sft` only. A response's distance to `tilt(reference, world.reward, t * beta)`, the optimum of clean
labels, is in `worth.exact`.
"""

from __future__ import annotations

import numpy as np

from dpo_lab.errors import Refused
from dpo_lab.worlds.frontier import normalised, tilt
from dpo_lab.worlds.pairs import scores, win_probability
from dpo_lab.worlds.truth import World


def dpo(world: World, reference: np.ndarray, *, beta: float, alpha: float = 0.0) -> np.ndarray:
    """DPO (arXiv 2305.18290 eq. 7); with `alpha`, length-regularised (R-DPO, arXiv 2403.19159).

    reference exp((r + lam n) / (t beta) - alpha n / beta) / Z. R-DPO undoes the annotator's length
    bias at alpha = lam / t. Needs t > 0 and no flips.
    """
    _refuse_flips(world, 0.0)
    return _from_scores(world, reference, beta, alpha)


def reference_free_dpo(world: World, *, beta: float) -> np.ndarray:
    """DPO with a reference that finds every complete response equally likely."""
    return dpo(world, np.zeros_like(world.reward), beta=beta)


def robust_dpo(
    world: World,
    reference: np.ndarray,
    *,
    beta: float,
    label_smoothing: float,
    alpha: float = 0.0,
) -> np.ndarray:
    """Robust DPO (arXiv 2403.00409): the optimum of DPO without flips.

    Needs t > 0, and `label_smoothing` to be the world's share of flips, below 1/2.
    """
    _refuse_flips(world, label_smoothing)
    return _from_scores(world, reference, beta, alpha)


def tr_dpo(world: World, start: np.ndarray, *, beta: float, rounds: int) -> np.ndarray:
    """TR-DPO with hard updates (arXiv 2404.09656), each round trained to its end.

    `start` exp(rounds score / (t beta)) / Z: the frontier of the start at beta / rounds. Needs what
    `dpo` needs.
    """
    return dpo(world, start, beta=beta / rounds)


def ipo(world: World, reference: np.ndarray, *, tau: float) -> np.ndarray:
    """IPO on summed log-ratios (arXiv 2310.12036 eq. 17).

    reference exp(P(y chosen against one from the pairs' source) / tau) / Z, flips included. Needs
    pairs of independent responses; holds at any temperature.
    """
    _refuse_dependent(world)
    return normalised(reference + win_probability(world) / tau)


def sft(world: World) -> np.ndarray:
    """Maximum likelihood of the chosen responses: 2 source(y) P(y chosen against one from it).

    One point without a knob; needs pairs of independent responses.
    """
    _refuse_dependent(world)
    assert world.source is not None
    return normalised(world.source + np.log(2 * win_probability(world)))


def unlikelihood(world: World, *, alpha: float) -> np.ndarray:
    """The likelihood of chosen responses minus `alpha` times that of rejected ones.

    source(y) (P - alpha (1 - P)) / Z, P as in `sft`: the responses that win less than a share
    alpha / (1 + alpha) of their comparisons would get a negative one. Where there are any, the loss
    has no minimum, and this is `Refused`. Needs what `sft` needs.
    """
    _refuse_dependent(world)
    assert world.source is not None
    win = win_probability(world)
    weight = win - alpha * (1 - win)
    if weight.min() <= 0:
        raise Refused(
            f"with alpha={alpha:g} the unlikelihood of responses that win less than "
            f"{alpha / (1 + alpha):.2g} of their comparisons is without bound: there is no optimum"
        )
    return normalised(world.source + np.log(weight))


def exact_rl(world: World, reference: np.ndarray, *, beta: float) -> np.ndarray:
    """E[r] - beta KL(policy || reference): reference exp(r / beta) / Z (arXiv 2305.18290 eq. 4).

    No pairs, so no condition on them; needs training on every prompt.
    """
    _refuse_held_out(world)
    return tilt(reference, world.reward, beta)


def _from_scores(world: World, reference: np.ndarray, beta: float, alpha: float) -> np.ndarray:
    recipe = world.recipe
    if recipe.temperature == 0:
        raise Refused("at temperature 0 labels are certain, and DPO's optimum is at infinity")
    if recipe.near_duplicates == 1:
        raise Refused(
            "near-duplicates alone never compare responses of different lengths, "
            "so the optimum is not determined"
        )
    _refuse_held_out(world)
    lift = scores(world) / recipe.temperature - alpha * world.tree.tokens
    return normalised(reference + lift / beta)


def _refuse_flips(world: World, known: float) -> None:
    flips = world.recipe.flips
    if flips != known or flips >= 0.5:
        raise Refused(
            f"{flips:g} of the labels are flipped and the loss reckons with {known:g}: "
            "its optimum has no closed form"
        )


def _refuse_dependent(world: World) -> None:
    if world.recipe.near_duplicates > 0:
        raise Refused("the closed form needs independent responses; some are near-duplicates")
    if world.source is None:
        raise Refused("the closed form needs the source of the pairs, which is not known yet")
    _refuse_held_out(world)


def _refuse_held_out(world: World) -> None:
    if world.recipe.held_out:
        raise Refused("held-out prompts have no pairs, so the optimum is not determined there")
