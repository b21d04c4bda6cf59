"""Log-ratios of chosen and rejected answers, exactly. See displacement.yaml."""

from functools import partial

import numpy as np

from dpo_lab import enumerated, pieces
from dpo_lab.drawing import Panel
from dpo_lab.evidence import Check, above, option, split
from dpo_lab.finding import Finding
from dpo_lab.worlds.frontier import tilt
from dpo_lab.worlds.pairs import pair_means, win_probability

NAMES = {"dpo": "DPO", "dpop": "DPOP", "rpo": "DPO + SFT", "near": "one word swapped"}
NEAR = 1e-6


def figure(runs):
    worlds = {seed: enumerated.start(some[0]) for seed, some in split(runs["dpo"], "seed").items()}
    rows = []
    for name in NAMES:
        for run in runs[name]:
            rows.append(row(name, run, *worlds[option(run, "seed")]))
    found = {
        (one["method"], one["beta"]): by_seed(rows, one["method"], one["beta"]) for one in rows
    }
    low, middle = found["dpo", 0.1], found["dpo", 0.5]
    zero = dict.fromkeys(low, 0.0)
    worst = max(abs(one["sum"] - one["identity"]) for one in rows)
    checks = [
        above("start", zero, "chosen log-ratio at beta 0.5", middle),
        above("chosen log-ratio at beta 0.5", middle, "at beta 0.1", low),
        above("DPOP's", found["dpop", 0.1], "DPO's at beta 0.1", low),
        above("DPO + SFT's", found["rpo", 0.1], "DPO's at beta 0.1", low),
        Check("chosen + rejected = -2 KL(start || policy)", f"off by {worst:.1e}", worst <= NEAR),
    ]
    world, start = worlds[min(worlds)]
    betas = np.geomspace(0.1, 3, 40)
    win = win_probability(world)  # once, for all of the betas
    theory = np.array(
        [sides(world, win, tilt(start, world.reward, beta) - start) for beta in betas]
    )
    zero_at = next((beta for beta, (c, _) in zip(betas, theory, strict=True) if c > 0), None)
    pairs = split(runs["dpo"], "loss.beta")
    came = "Exact log-ratio of chosen answers: " + ", ".join(
        f"{NAMES[name]} at {beta:g} {np.mean([*values.values()]):.2f}"
        for (name, beta), values in found.items()
    )
    if zero_at:
        came += f". At DPO's optimum it is below 0 for beta below {zero_at:.2f}"
    return Finding(
        panels=[
            Panel(
                "DPO: trained, and its optimum",
                "Mean log-ratio of chosen and rejected answers against beta, with the optimum's.",
                partial(draw_beta, [*pairs], rows, betas, theory),
                3.3,
                2.9,
            ),
            Panel(
                "Remedies, and near-duplicates, beta 0.1",
                "Mean log-ratio of chosen and rejected answers for four ways of training.",
                partial(draw_methods, rows),
                3.3,
                2.9,
            ),
        ],
        rows=rows,
        checks=checks,
        came=came + ".",
    )


def row(name, run, world, start):
    """What independent pairs of the start say of a run's policy, without sampling."""
    ratio = enumerated.end(run, world) - start
    chosen, rejected = pair_means(world, ratio)
    return {
        "method": name,
        "beta": option(run, "loss.beta"),
        "seed": option(run, "seed"),
        "chosen": chosen,
        "rejected": rejected,
        "sum": chosen + rejected,
        "identity": 2 * float((np.exp(start) * ratio).sum(1).mean()),
        "measured_chosen": run.metrics["eval/logratios/chosen"],
        "measured_rejected": run.metrics["eval/logratios/rejected"],
        "reward": run.metrics["world/reward"],
        "kl": run.metrics["world/kl"],
    }


def sides(world, win, values):
    """As `pair_means`: the expectation over chosen and over rejected responses."""
    drawn = 2 * np.exp(world.source) * values
    return (drawn * win).sum(1).mean(), (drawn * (1 - win)).sum(1).mean()


def by_seed(rows, name, beta, what="chosen"):
    own = [one for one in rows if (one["method"], one["beta"]) == (name, beta)]
    return {one["seed"]: one[what] for one in own}


def draw_beta(betas, rows, fine, theory, axes):
    look = pieces.styles(["chosen", "rejected"])
    for place, (side, style) in enumerate(look.items()):
        groups = [[*by_seed(rows, "dpo", beta, side).values()] for beta in betas]
        pieces.line(axes, betas, groups, style, side, linestyle="")
        axes.plot(fine, theory[:, place], color=style.colour, linewidth=1.0, label=f"{side}, pi*")
    axes.axhline(0, color="#777777", linewidth=0.8)
    pieces.logarithmic(axes, "x", betas)
    axes.set_yscale("symlog", linthresh=1)
    pieces.plain(axes.yaxis)
    axes.set(xlabel="beta", ylabel="log-ratio to the start, nats")
    pieces.legend(axes, loc="lower right")


def draw_methods(rows, axes):
    look = pieces.styles(["chosen", "rejected"])
    for place, (side, style) in enumerate(look.items()):
        groups = [[*by_seed(rows, name, 0.1, side).values()] for name in NAMES]
        xs = [one + 0.1 * (2 * place - 1) for one in range(len(NAMES))]
        pieces.line(axes, xs, groups, style, side, linestyle="")
    axes.axhline(0, color="#777777", linewidth=0.8)
    axes.set_xticks(range(len(NAMES)), [name.replace(" ", "\n", 1) for name in NAMES.values()])
    axes.set(ylabel="log-ratio to the start, nats", xlim=(-0.5, len(NAMES) - 0.5))
    pieces.legend(axes, loc="best")
