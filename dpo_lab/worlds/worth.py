"""What a policy is worth, exactly: expectations over every leaf of the tree.

A policy is its log-probabilities (P, n), float64, as `enumeration.leaf_logps` gives them. Means are
uniform over prompts. Nothing is sampled, so a difference is a difference.
"""

from __future__ import annotations

import numpy as np

from dpo_lab.worlds.frontier import Frontier, tilt
from dpo_lab.worlds.truth import World

MIN_KL = 0.02  # nats; below it the share of the optimal reward divides nothing by nothing


def exact(
    world: World, policy: np.ndarray, reference: np.ndarray, beta: float | None = None
) -> dict[str, float]:
    """Exact metrics of `policy` against `reference`, both (P, n), under names of the log.

    - `beta`: that of the loss, where it has one. The optimum it aims at, given the annotator's
      temperature t, is pi* = reference exp(r / (t beta)) / Z, with r the true reward.

    Always:

    - `world/reward`: E[r]; `world/proxy_reward` where the annotator sees another one.
    - `world/kl`, `world/reverse_kl`: KL(policy || reference), KL(reference || policy), nats.
    - `world/win_rate`: P(r > r') + P(r = r') / 2, y from the policy, y' from the reference.
    - `world/entropy` in nats, `world/length` in scored tokens, `world/mass` (must be 1).
    - `world/optimal_reward`: the most that any policy gets at this KL.
    - `world/optimal_share`: (E[r] - E_ref[r]) / (optimal - E_ref[r]); left out below KL 0.02.
    - `world/reward_correlation`: of log-ratio and r under the reference, within prompts; left out
      where the policy is the reference.

    With `beta`, and at a temperature above 0 (else there is no pi*):

    - `world/kl_to_optimum`, `world/kl_from_optimum`: KL(policy || pi*), KL(pi* || policy).
    - `world/excess_length`: E[length] minus that of pi*.
    - `world/reward_slope`: of the implicit reward t beta log-ratio on r; 1 at pi*, where the
      correlation is 1 too.

    With held-out prompts: `world/held_out_reward`, `world/held_out_kl`, of those alone.
    """
    probability = np.exp(policy)
    logratio = policy - reference
    tokens = world.tree.tokens
    reward = (probability * world.reward).sum(1)
    kl = (probability * logratio).sum(1)
    metrics = {
        "reward": reward.mean(),
        "kl": kl.mean(),
        "reverse_kl": -_mean(np.exp(reference), logratio),
        "win_rate": win_rate(world, policy, reference),
        "entropy": -_mean(probability, policy),
        "length": (probability @ tokens).mean(),
        "mass": probability.sum(1).mean(),
    }
    if world.noise is not None:
        metrics["proxy_reward"] = _mean(probability, world.proxy)
    frontier = Frontier(world, reference)
    metrics["optimal_reward"] = frontier.at_kl(metrics["kl"]).reward
    if metrics["kl"] >= MIN_KL:
        gain = metrics["optimal_reward"] - frontier.start
        metrics["optimal_share"] = (metrics["reward"] - frontier.start) / gain
    correlation, slope = _implicit(world, logratio, np.exp(reference))
    if correlation is not None:
        metrics["reward_correlation"] = correlation
    scale = None if beta is None else beta * world.recipe.temperature
    if scale:
        optimum = tilt(reference, world.reward, scale)
        metrics["kl_to_optimum"] = _mean(probability, policy - optimum)
        metrics["kl_from_optimum"] = _mean(np.exp(optimum), optimum - policy)
        metrics["excess_length"] = metrics["length"] - (np.exp(optimum) @ tokens).mean()
        metrics["reward_slope"] = scale * slope
    if held_out := list(world.recipe.held_out):
        metrics["held_out_reward"] = reward[held_out].mean()
        metrics["held_out_kl"] = kl[held_out].mean()
    return {f"world/{name}": float(value) for name, value in metrics.items()}


def win_rate(world: World, policy: np.ndarray, reference: np.ndarray) -> float:
    """P(r(y) > r(y')) + P(r(y) = r(y')) / 2, y from `policy`, y' from `reference`: (P, n) each."""
    groups = world.groups
    ours, theirs = world.group_mass(policy), world.group_mass(reference)
    below = np.cumsum(theirs) - theirs
    below -= below[groups.starts][groups.prompt]  # cumulative within each prompt
    return float((ours * (below + theirs / 2)).sum() / len(groups.starts))


def top_gains(
    world: World, policy: np.ndarray, reference: np.ndarray, num: int = 10
) -> list[dict[str, str | float]]:
    """The `num` responses whose probability rose most, over all prompts.

    Each is a dict of `prompt`, `response`, `reward`, `probability` and `reference`.
    """
    ours, theirs = np.exp(policy), np.exp(reference)
    top = np.argsort(theirs - ours, axis=None, kind="stable")[:num]
    prompts, leaves = np.unravel_index(top, ours.shape)
    return [
        {
            "prompt": world.prompts[prompt],
            "response": text,
            "reward": float(world.reward[prompt, leaf]),
            "probability": float(ours[prompt, leaf]),
            "reference": float(theirs[prompt, leaf]),
        }
        for prompt, leaf, text in zip(prompts, leaves, world.texts(leaves), strict=True)
    ]


def _mean(probability: np.ndarray, values: np.ndarray) -> float:
    """Expectation of `values` (P, n), mean over prompts."""
    return float(np.einsum("pn,pn->", probability, values)) / len(probability)


def _implicit(
    world: World, logratio: np.ndarray, reference: np.ndarray
) -> tuple[float | None, float]:
    """Correlation and slope of the log-ratio on the true reward, under the reference.

    Each is taken within prompts, since a log-ratio is known up to a constant of the prompt, and
    then averaged over prompts. The correlation is None where the log-ratio does not vary.
    """

    def centred(values: np.ndarray) -> np.ndarray:
        return values - (reference * values).sum(1, keepdims=True)

    reward, ratio = centred(world.reward), centred(logratio)
    covariance = (reference * reward * ratio).sum(1)
    variance = (reference * reward**2).sum(1)
    spread = np.sqrt(variance * (reference * ratio**2).sum(1))
    # Equal policies differ by rounding only; a correlation of rounding errors says nothing.
    correlation = float((covariance / spread).mean()) if spread.min() > 1e-10 else None
    return correlation, float((covariance / variance).mean())
