"""DPO with seven references: arXiv 2407.13709 and 2404.09656. See reference_ablation.yaml."""

from functools import partial

import numpy as np

from dpo_lab import enumerated, pieces
from dpo_lab.drawing import Panel
from dpo_lab.evidence import Check, above, option, per_seed, split
from dpo_lab.finding import Finding
from dpo_lab.worlds import optimum
from dpo_lab.worlds.frontier import Frontier
from dpo_lab.worlds.worth import exact

NAMES = {
    "sft": "SFT (the start)",
    "weak": "weak",
    "strong": "strong",
    "wrong": "wrong",
    "uniform": "uniform",
    "ema": "moving average",
    "hard": "hard updates",
}
STATIC = ("sft", "weak", "strong", "wrong", "uniform")
NEAR = 0.25


def figure(runs):
    world, start = enumerated.start(runs["sft"][0])
    references = {"sft": start, "uniform": np.zeros_like(start)}
    for name in ("weak", "strong", "wrong"):
        references[name] = enumerated.end(runs[f"make_{name}"][0], world)
    betas = sorted({option(run, "loss.beta") for run in runs["sft"]})
    best = {
        name: [
            exact(world, optimum.dpo(world, references[name], beta=beta), start) for beta in betas
        ]
        for name in STATIC
    }
    reward = {name: table(runs[name], "reward") for name in NAMES}
    share = {name: table(runs[name], "optimal_share") for name in NAMES}
    checks = [
        above("strong at beta 0.5, in reward,", reward["strong"][0.5], "SFT", reward["sft"][0.5]),
        above("SFT at beta 0.5, in reward,", reward["sft"][0.5], "wrong", reward["wrong"][0.5]),
        above("SFT at beta 0.5, in share,", share["sft"][0.5], "uniform", share["uniform"][0.5]),
    ]
    for name in ("sft", "weak", "strong"):
        came = float(np.mean([*reward[name][2].values()]))
        wanted = best[name][betas.index(2)]["world/reward"]
        checks.append(
            Check(
                f"{NAMES[name]} at beta 2 within {NEAR} of its optimum",
                f"{came:.3f}, optimum {wanted:.3f}",
                abs(came - wanted) <= NEAR,
                len(reward[name][2]),
            )
        )
    rows = [
        {
            "reference": name,
            "beta": option(run, "loss.beta"),
            "seed": option(run, "seed"),
            **{key: run.metrics.get(f"world/{key}") for key in ("kl", "reward", "optimal_share")},
        }
        for name in NAMES
        for run in runs[name]
    ]
    for name in STATIC:
        for beta, found in zip(betas, best[name], strict=True):
            where = {"reference": f"{name}, closed form", "beta": beta}
            rows.append(
                where | {key: found[f"world/{key}"] for key in ("kl", "reward", "optimal_share")}
            )
    came = "Reward at beta 0.5: " + ", ".join(
        f"{NAMES[name]} {np.mean([*reward[name][0.5].values()]):.2f}"
        + (f" [{best[name][betas.index(0.5)]['world/reward']:.2f}]" if name in STATIC else "")
        for name in NAMES
    )
    right = 1.08 * max(run.metrics["world/kl"] for name in NAMES for run in runs[name])
    frontier = Frontier(world, start)
    curve = np.array([frontier.at_kl(kl)[1:] for kl in np.linspace(0, right, 80)])
    return Finding(
        panels=[
            Panel(
                "Trained, and each one's optimum (open)",
                "Exact reward against KL to the SFT start for seven references over beta, with the "
                "closed-form optimum of the static ones.",
                partial(draw, runs, best, curve, right),
                3.3,
                3.1,
            ),
            Panel(
                "Share of the optimal gain",
                "Share of the optimal gain at the same KL against beta for seven references.",
                partial(draw_share, share),
                3.3,
                3.1,
            ),
        ],
        rows=rows,
        checks=checks,
        came=f"{came} (in brackets: closed form).",
    )


def table(runs, metric):
    return {
        beta: per_seed([run for run in some if f"world/{metric}" in run.metrics], f"world/{metric}")
        for beta, some in split(runs, "loss.beta").items()
    }


def groups(runs, metric):
    return [
        [run.metrics[f"world/{metric}"] for run in some]
        for some in split(runs, "loss.beta").values()
    ]


def draw(runs, best, curve, right, axes):
    pieces.optimum(axes, curve)
    look = pieces.styles([*NAMES])
    for name in NAMES:
        style = look[name]
        pieces.path(axes, groups(runs[name], "kl"), groups(runs[name], "reward"), style, "")
        if name in best:
            points = np.array([(one["world/kl"], one["world/reward"]) for one in best[name]])
            axes.plot(
                *points.T,
                color=style.colour,
                marker=style.marker,
                markersize=4,
                fillstyle="none",
                linestyle=":",
                linewidth=0.8,
            )
    axes.set(xlabel="KL to the start, nats", ylabel="expected true reward")
    axes.set_xlim(-0.03 * right, right)
    axes.plot(
        [], [], color="#777777", marker="o", fillstyle="none", linestyle=":", label="its optimum"
    )
    pieces.legend(axes, loc="lower right")


def draw_share(share, axes):
    look = pieces.styles([*NAMES])
    for name, found in share.items():
        betas = sorted(beta for beta in found if found[beta])
        pieces.line(
            axes, betas, [[*found[beta].values()] for beta in betas], look[name], NAMES[name]
        )
    axes.set(xlabel="beta", ylabel="share of the optimal gain")
    betas = sorted({beta for found in share.values() for beta in found})
    pieces.logarithmic(axes, "x", betas)
    pieces.legend(axes, loc="best")
