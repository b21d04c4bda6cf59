"""Reward against KL: arXiv 2305.18290, figure 2 left. See dpo_frontier.yaml."""

from functools import partial

import numpy as np

from dpo_lab import enumerated, pieces
from dpo_lab.drawing import Panel
from dpo_lab.evidence import above, option, per_seed, split, within
from dpo_lab.finding import Finding
from dpo_lab.worlds.frontier import Frontier, best_of_n
from dpo_lab.worlds.worth import exact

# how a method is called, and its knob
METHODS = {
    "dpo": ("DPO", "loss.beta"),
    "ipo": ("IPO", "loss.tau"),
    "simpo": ("SimPO", "loss.beta"),
    "reference_free_dpo": ("DPO without reference", "loss.beta"),
    "unlikelihood": ("unlikelihood", "loss.alpha"),
    "sft": ("SFT on chosen", "optimizer.lr"),
    "exact_rl": ("exact RL", "loss.beta"),
}
CLAIMED = ("unlikelihood", "sft", "reference_free_dpo")


def figure(runs):
    there = [name for name in METHODS if name in runs]
    first = runs["dpo"][0]
    world, start = enumerated.start(first)
    frontier = Frontier(world, start)
    best = [exact(world, best_of_n(world, start, num), start) for num in (2, 4, 8, 16, 32, 64)]
    best = np.array([(point["world/kl"], point["world/reward"]) for point in best])
    checks = []
    for name in CLAIMED:
        ours, theirs = at_their_kl(runs["dpo"], runs[name])
        checks.append(above("DPO's share at its KLs", ours, METHODS[name][0], theirs))
    checks.append(
        within(
            "DPO's share of the optimal gain", per_seed(runs["dpo"], "world/optimal_share"), 0.8, 1
        )
    )
    rows = [
        {
            "method": name,
            "knob": METHODS[name][1],
            "value": option(run, METHODS[name][1]),
            "seed": option(run, "seed"),
            "learning_rate": option(run, "optimizer.lr"),
            **{key: run.metrics.get(f"world/{key}") for key in ("kl", "reward", "optimal_share")},
        }
        for name in there
        for run in runs[name]
    ]
    rows += [
        {"method": f"best of {num}", "kl": kl, "reward": reward}
        for num, (kl, reward) in zip((2, 4, 8, 16, 32, 64), best, strict=True)
    ]
    shares = {
        METHODS[name][0]: list(per_seed(runs[name], "world/optimal_share").values())
        for name in there
    }
    came = "Mean share of the optimal gain at the same KL: " + ", ".join(
        f"{name} {np.mean(values):.2f}" for name, values in shares.items()
    )
    right = 1.08 * max(row["kl"] for row in rows if row["method"] in METHODS)
    curve = np.array([frontier.at_kl(kl)[1:] for kl in np.linspace(0, right, 80)])
    alt = "Exact reward against exact KL to the start for each method, below the optimal frontier."
    gap = "Share of the optimal gain at the same KL, for each method over KL."
    return Finding(
        panels=[
            Panel(
                "Reward against KL", alt, partial(draw, runs, there, curve, best, right), 3.3, 3.6
            ),
            Panel("Share of the optimal gain", gap, partial(draw_share, runs, there), 3.3, 3.6),
        ],
        rows=rows,
        checks=checks,
        came=came + ". Learning rates: " + rates(runs, there) + ".",
    )


def at_their_kl(ours, theirs):
    """By seed: DPO's share of the optimal gain at the KL of each of their runs, and theirs; means.

    DPO's is linear in log KL between its runs, and that of its nearest run beyond them.
    """
    found = {}, {}
    for seed, some in split(theirs, "seed").items():
        own, other = (
            sorted(
                (run.metrics["world/kl"], run.metrics["world/optimal_share"])
                for run in runs
                if option(run, "seed") == seed and "world/optimal_share" in run.metrics
            )
            for runs in (ours, some)
        )
        if own and other:
            (kl, share), (at, got) = np.array(own).T, np.array(other).T
            found[0][seed] = float(np.interp(np.log(at), np.log(kl), share).mean())
            found[1][seed] = float(got.mean())
    return found


def rates(runs, there):
    return ", ".join(
        f"{METHODS[name][0]} {option(runs[name][0], 'optimizer.lr'):g}" for name in there
    )


def groups(runs, name, metric):
    return [
        [run.metrics.get(f"world/{metric}", np.nan) for run in some]
        for some in split(runs[name], METHODS[name][1]).values()
    ]


def draw(runs, there, curve, best, right, axes):
    pieces.optimum(axes, curve)
    inside = best[best[:, 0] <= right]
    pieces.optimum(axes, inside, "best of 2 to 64", ":")
    look = pieces.styles(there)
    for name in there:
        pieces.path(
            axes,
            groups(runs, name, "kl"),
            groups(runs, name, "reward"),
            look[name],
            METHODS[name][0],
        )
    axes.set(xlabel="KL to the start, nats", ylabel="expected true reward")
    axes.set_xlim(-0.03 * right, right)
    pieces.legend_below(axes)


def draw_share(runs, there, axes):
    look = pieces.styles(there)
    for name in there:
        shares = groups(runs, name, "optimal_share")
        pieces.path(axes, groups(runs, name, "kl"), shares, look[name], METHODS[name][0])
    axes.axhline(1, color="#777777", linewidth=1.3)
    axes.set(xlabel="KL to the start, nats", ylabel="share of the optimal gain")
    axes.set_ylim(top=1.05)
