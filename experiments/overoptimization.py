"""True and proxy reward over training: arXiv 2406.02900. See overoptimization.yaml."""

from functools import partial

import numpy as np

from dpo_lab import enumerated, pieces
from dpo_lab.drawing import Panel
from dpo_lab.evidence import above, option, split, within
from dpo_lab.finding import Finding
from dpo_lab.worlds.frontier import Frontier, tilt
from dpo_lab.worlds.worth import exact

SMALL, LARGE = 0.1, 1.0  # the betas of the claim
ENOUGH = 0.05


def figure(runs):
    betas = split(runs["dpo"], "loss.beta")
    falls = {beta: fall(some) for beta, some in betas.items()}
    rises = {}
    for run in betas[SMALL]:
        true, proxy = (run.series(f"world/{name}")[1] for name in ("reward", "proxy_reward"))
        rises[option(run, "seed")] = proxy[-1] - proxy[int(np.argmax(true))]
    nothing = dict.fromkeys(falls[SMALL], 0.0)
    checks = [
        above(f"fall of the true reward at beta {SMALL:g}", falls[SMALL], "0", nothing, by=ENOUGH),
        within(f"rise of the proxy since then at beta {SMALL:g}", rises, 0, 10),
        within(f"fall of the true reward at beta {LARGE:g}", falls[LARGE], 0, ENOUGH),
    ]
    rows = [
        {
            "beta": option(run, "loss.beta"),
            "seed": option(run, "seed"),
            "step": event["step"],
            **{key: event[f"world/{key}"] for key in ("kl", "reward", "proxy_reward")},
        }
        for run in runs["dpo"]
        for event in run.events
        if "world/kl" in event
    ]
    came = "Fall of the true reward from its best evaluation to the end: " + ", ".join(
        f"{np.mean([*found.values()]):.3f} at beta {beta:g}" for beta, found in falls.items()
    )
    best, fooled = optima([enumerated.start(run) for run in betas[SMALL]])
    return Finding(
        panels=[
            Panel(
                title,
                f"{title} against the root of KL over training, mean over seeds, for each beta.",
                partial(draw, betas, metric, curves),
                3.3,
                2.9,
            )
            for title, metric, curves in (
                (
                    "True reward",
                    "reward",
                    [(best, "optimum", "-"), (fooled, "best for the proxy", ":")],
                ),
                ("Proxy reward", "proxy_reward", []),
            )
        ],
        rows=rows,
        checks=checks,
        came=came + ".",
    )


def fall(runs):
    """By seed: the best true reward of all evaluations minus the last."""
    found = {}
    for run in runs:
        _, true = run.series("world/reward")
        found[option(run, "seed")] = max(true) - true[-1]
    return found


def optima(worlds):
    """KL and true reward (F, 2) along the frontier and along the proxy's, mean over worlds."""
    strengths = np.geomspace(20, 0.1, 60)
    best, fooled = [], []
    for world, start in worlds:
        frontier = Frontier(world, start)
        best.append([frontier.at_beta(beta)[1:] for beta in strengths])
        policies = (tilt(start, world.proxy, beta) for beta in strengths)
        found = (exact(world, policy, start) for policy in policies)
        fooled.append([(one["world/kl"], one["world/reward"]) for one in found])
    return np.mean(best, axis=0), np.mean(fooled, axis=0)


def draw(betas, metric, curves, axes):
    ends = []
    for (beta, some), style in zip(betas.items(), pieces.styles([*betas]).values(), strict=True):
        kl = np.mean([run.series("world/kl")[1] for run in some], axis=0)
        values = np.mean([run.series(f"world/{metric}")[1] for run in some], axis=0)
        xs = np.sqrt(np.maximum(kl, 0))
        ends.append(xs.max())
        axes.plot(xs, values, color=style.colour, linewidth=1.1, label=f"beta {beta:g}")
        axes.plot(xs[-1:], values[-1:], color=style.colour, marker=style.marker, markersize=4.5)
    for curve, label, dash in curves:
        inside = curve[curve[:, 0] <= max(ends) ** 2 * 1.3]
        points = np.column_stack([np.sqrt(inside[:, 0]), inside[:, 1]])
        pieces.optimum(axes, points, label, dash)
    axes.set(xlabel="root of KL to the start", ylabel="expected reward")
    pieces.legend(axes, loc="best")
