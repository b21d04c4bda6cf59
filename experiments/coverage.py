"""What each loss gets by who wrote the pairs: arXiv 2404.14367. See coverage.yaml."""

from functools import partial

import numpy as np

from dpo_lab import enumerated, pieces
from dpo_lab.drawing import Panel
from dpo_lab.evidence import Check, above, option, per_seed, split
from dpo_lab.finding import Finding
from dpo_lab.worlds import optimum

LOSSES = {"dpo": "DPO, beta 1", "ipo": "IPO, tau 0.1", "simpo": "SimPO, beta 2.5"}
SAME = 1e-9


def figure(runs):
    by = {name: split(runs[name], "data.off_policy") for name in LOSSES}
    gain, kl = (
        {
            name: {share: per_seed(some, f"world/{metric}") for share, some in groups.items()}
            for name, groups in by.items()
        }
        for metric in ("optimal_share", "kl")
    )
    none, every = min(by["dpo"]), max(by["dpo"])
    forms = [
        optimum.dpo(world, start, beta=1.0)
        for world, start in (enumerated.start(some[0]) for some in by["dpo"].values())
    ]
    apart = max(float(np.abs(form - forms[0]).max()) for form in forms)
    checks = [
        above(
            f"{label}: share with {none:.0%} by another",
            gain[name][none],
            f"with {every:.0%}",
            gain[name][every],
        )
        for name, label in LOSSES.items()
    ]
    checks.append(Check("DPO's closed forms the same", f"apart by {apart:.1e}", apart < SAME))
    rows = [
        {
            "loss": name,
            "off_policy": share,
            "seed": option(run, "seed"),
            **{key: run.metrics.get(f"world/{key}") for key in ("kl", "reward", "optimal_share")},
        }
        for name, groups in by.items()
        for share, some in groups.items()
        for run in some
    ]
    came = "Share of the optimal gain: " + "; ".join(
        f"{label} "
        + ", ".join(
            f"{np.mean([*found.values()]):.3f} with {share:.0%}"
            for share, found in gain[name].items()
        )
        for name, label in LOSSES.items()
    )
    return Finding(
        panels=[
            Panel(
                title,
                f"{title} against the share of responses by another writer, for three losses.",
                partial(draw, found, label),
                3.3,
                3.2,
            )
            for title, found, label in (
                ("Share of the optimal gain", gain, "share of the optimal gain"),
                ("How far they go", kl, "KL to the start, nats"),
            )
        ],
        rows=rows,
        checks=checks,
        came=f"{came} of the responses by another writer.",
    )


def draw(found, label, axes):
    look = pieces.styles([*LOSSES])
    for name, groups in found.items():
        values = [[*seeds.values()] for seeds in groups.values()]
        pieces.line(axes, [100 * share for share in groups], values, look[name], LOSSES[name])
    axes.set(xlabel="responses by another writer, %", ylabel=label)
    pieces.legend_below(axes)
