"""Reward under flipped labels: arXiv 2403.00409. See label_noise.yaml."""

from functools import partial

import numpy as np

from dpo_lab import enumerated, pieces
from dpo_lab.drawing import Panel
from dpo_lab.evidence import above, option, per_seed, split
from dpo_lab.finding import Finding
from dpo_lab.worlds.frontier import tilt
from dpo_lab.worlds.worth import exact

METHODS = {
    "dpo": "DPO",
    "cdpo": "conservative DPO",
    "robust_dpo": "robust DPO",
    "robust_wrong": "robust DPO, told 0.1",
}
BETA = 0.5
KL = 0.5


def figure(runs):
    at_beta = {name: at(runs[name]) for name in METHODS}
    at_kl = {name: at_equal_kl(runs[name]) for name in METHODS if name != "robust_wrong"}
    for some in (at_beta, at_kl):  # without flips all are DPO
        for values in some.values():
            values.setdefault(0.0, some["dpo"][0.0])
    tested = [flips for flips in (0.2, 0.4) if flips in at_beta["cdpo"]]
    checks = []
    for flips in tested:
        for one, other in (("robust_dpo", "cdpo"), ("cdpo", "dpo"), ("robust_dpo", "dpo")):
            checks.append(compare(at_beta, one, other, flips, f"at beta {BETA}"))
    for flips in tested:
        checks.append(compare(at_kl, "robust_dpo", "dpo", flips, f"at KL {KL}"))
    world, start = enumerated.start(split(runs["dpo"], "data.flips")[0.0][0])
    clean = exact(world, tilt(start, world.reward, BETA), start)["world/reward"]
    floor = exact(world, start, start)["world/reward"]
    most = tested[-1]
    means = {name: np.mean([*at_beta[name][most].values()]) for name in METHODS}
    came = (
        f"At {most:.0%} flips and beta {BETA}: "
        + ", ".join(f"{METHODS[name]} {value:.2f}" for name, value in means.items())
        + f" (start {floor:.2f}, optimum {clean:.2f}). At equal KL: "
        + ", ".join(
            f"{METHODS[name]} {np.mean([*found[most].values()]):.2f}"
            for name, found in at_kl.items()
        )
        + " of the optimal gain."
    )
    rows = [
        {
            "method": name,
            "flips": option(run, "data.flips"),
            "beta": option(run, "loss.beta"),
            "seed": option(run, "seed"),
            **{key: run.metrics.get(f"world/{key}") for key in ("kl", "reward", "optimal_share")},
        }
        for name in METHODS
        for run in runs[name]
    ]
    return Finding(
        panels=[
            Panel(
                f"Equal beta ({BETA})",
                "Exact reward against the share of flipped labels at one beta.",
                partial(draw, at_beta, "expected true reward", clean, floor),
                3.3,
                3.4,
            ),
            Panel(
                f"Equal KL ({KL} nats)",
                "Share of the optimal gain at one KL against the share of flipped labels.",
                partial(draw, at_kl, "share of the optimal gain", None, None),
                3.3,
                3.4,
            ),
        ],
        rows=rows,
        checks=checks,
        came=came,
    )


def at(runs):
    """Reward by flips and seed at the one beta."""
    chosen = split(runs, "loss.beta")[BETA]
    return {
        flips: per_seed(some, "world/reward") for flips, some in split(chosen, "data.flips").items()
    }


def at_equal_kl(runs):
    """Share of the optimal gain at the one KL by flips and seed, linear in log KL between betas."""
    found = {}
    for flips, some in split(runs, "data.flips").items():
        for seed, own in split(some, "seed").items():
            path = sorted(
                (run.metrics["world/kl"], run.metrics["world/optimal_share"])
                for run in own
                if "world/optimal_share" in run.metrics
            )
            if path:
                kl, share = np.array(path).T
                found.setdefault(flips, {})[seed] = float(np.interp(np.log(KL), np.log(kl), share))
    return found


def compare(table, one, other, flips, where):
    name = f"{METHODS[one]} at {flips:.0%} flips {where}"
    return above(name, table[one][flips], METHODS[other], table[other][flips])


def draw(table, label, clean, floor, axes):
    look = pieces.styles([*METHODS])
    for name, found in table.items():
        flips = sorted(found)
        groups = [[*found[one].values()] for one in flips]
        pieces.line(axes, [100 * one for one in flips], groups, look[name], METHODS[name])
    if clean is not None:
        axes.axhline(clean, color="#777777", linewidth=1.3, label="optimum without flips")
        axes.axhline(floor, color="#777777", linewidth=1.0, linestyle=":", label="start")
    axes.set(xlabel="flipped labels, %", ylabel=label)
    pieces.legend_below(axes)
