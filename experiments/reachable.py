"""What DPO and IPO get of the optimum, and what they lose to what. See reachable.yaml."""

from functools import partial

import numpy as np

from dpo_lab import pieces
from dpo_lab.drawing import COLOURS, Panel
from dpo_lab.evidence import option, per_seed, split, within
from dpo_lab.finding import Finding

# how a sweep is called, its knob, and the least share that is expected of it
SWEEPS = {
    "dpo_20k": ("DPO, 20k pairs", "loss.beta", 0.9),
    "ipo_20k": ("IPO, 20k pairs", "loss.tau", 0.9),
    "dpo_128k": ("DPO, 128k pairs", "loss.beta", 0.95),
    "ipo_128k": ("IPO, 128k pairs", "loss.tau", 0.95),
}
PARTS = ("the loss", "the network", "pairs beyond 128k, updates", "20k pairs instead of 128k")


def figure(runs):
    there = [name for name in SWEEPS if name in runs]
    checks = [
        within(
            f"{SWEEPS[name][0]}, {SWEEPS[name][1].removeprefix('loss.')} {value:g}: share",
            per_seed(some, "world/optimal_share"),
            SWEEPS[name][2],
            1,
        )
        for name in there
        for value, some in split(runs[name], SWEEPS[name][1]).items()
    ]
    missing = {
        f"{loss.upper()} {value:g}": parts
        for loss in ("dpo", "ipo")
        for value, parts in lost(runs, loss).items()
    }
    rows = [
        {
            "sweep": name,
            "value": option(run, SWEEPS[name][1] if name in SWEEPS else "loss.beta"),
            "seed": option(run, "seed"),
            **{key: run.metrics.get(f"world/{key}") for key in ("kl", "reward", "optimal_share")},
            "closed_form_share": aimed(run),
        }
        for name in [*there, "exact_rl"]
        for run in runs[name]
    ]
    rows += [
        {"sweep": f"missing, {name}", **dict(zip(PARTS, parts, strict=True))}
        for name, parts in missing.items()
    ]
    came = "Missing share, and of it to " + ", ".join(PARTS) + ": "
    came += "; ".join(
        f"{name} {sum(parts):.3f} = " + " + ".join(f"{part:.3f}" for part in parts)
        for name, parts in missing.items()
    )
    return Finding(
        panels=[
            Panel(
                "Share of the optimal gain",
                "Share of the optimal gain at the same KL for DPO and IPO with 20k and 128k pairs, "
                "and for the same network trained on the exact reward.",
                partial(draw, runs, there),
                3.3,
                3.6,
            ),
            Panel(
                "What is missing with 20k pairs",
                "Share of the optimal gain that DPO and IPO lose to loss, network and pairs.",
                partial(draw_missing, missing),
                3.3,
                3.6,
            ),
        ],
        rows=rows,
        checks=checks,
        came=came + ".",
    )


def aimed(run):
    """The share that the closed form of the run's loss has; 1 where it is the optimum itself."""
    return run.record.get("closed_form", {}).get("world/optimal_share")


def lost(runs, loss):
    """By knob: what is lost to each of `PARTS`, means over seeds; of knobs with both sizes.

    The network's is what exact RL with it lacks at the KL of the run on more pairs, linear in log
    KL between its runs. A part below 0 says that it is lost in the noise.
    """
    if f"{loss}_128k" not in runs:
        return {}
    knob = SWEEPS[f"{loss}_20k"][1]
    few, many = (split(runs[f"{loss}_{size}"], knob) for size in ("20k", "128k"))
    reach = sorted(
        (run.metrics["world/kl"], run.metrics["world/optimal_share"]) for run in runs["exact_rl"]
    )
    kls, shares = np.array(reach).T
    found = {}
    for value in few.keys() & many.keys():
        share, more = (mean(some[value], "world/optimal_share") for some in (few, many))
        kl = mean(many[value], "world/kl")
        network = 1 - float(np.interp(np.log(kl), np.log(kls), shares))
        aim = 1 - float(np.mean([aimed(run) for run in many[value]]))
        found[value] = (aim, network, 1 - more - network - aim, more - share)
    return dict(sorted(found.items()))


def mean(runs, metric):
    return float(np.mean([*per_seed(runs, metric).values()]))


def draw(runs, there, axes):
    look = pieces.styles([*SWEEPS, "exact_rl"])
    for name in [*there, "exact_rl"]:
        label, knob = (
            SWEEPS[name][:2] if name in SWEEPS else ("exact RL, same network", "loss.beta")
        )
        groups = split(runs[name], knob).values()
        kl, share = (
            [[run.metrics[f"world/{key}"] for run in some] for some in groups]
            for key in ("kl", "optimal_share")
        )
        pieces.path(axes, kl, share, look[name], label)
    for level in (0.9, 0.95):
        axes.axhline(level, color="#777777", linewidth=0.9, linestyle=":")
    axes.axhline(1, color="#777777", linewidth=1.3)
    pieces.logarithmic(axes, "x")
    axes.set(xlabel="KL to the start, nats", ylabel="share of the optimal gain")
    pieces.legend_below(axes)


def draw_missing(missing, axes):
    names = [*missing]
    heights = np.maximum(np.array([*missing.values()]), 0)
    floor = np.zeros(len(names))
    for part, label, colour in zip(heights.T, PARTS, COLOURS, strict=False):
        axes.bar(range(len(names)), part, bottom=floor, color=colour, label=label, width=0.7)
        floor += part
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=6.5)
    axes.set(ylabel="missing share")
    axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.26), ncols=1)
