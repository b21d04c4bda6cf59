"""DPO's distance to its optimum by who wrote the pairs. See coverage.yaml."""

from functools import partial

import numpy as np

from dpo_lab import enumerated, pieces
from dpo_lab.drawing import Panel
from dpo_lab.evidence import Check, above, option, per_seed, split
from dpo_lab.finding import Finding
from dpo_lab.worlds import optimum

SAME = 1e-9


def figure(runs):
    shares = split(runs["dpo"], "data.off_policy")
    distance = {share: per_seed(some, "world/kl_to_optimum") for share, some in shares.items()}
    gain = {share: per_seed(some, "world/optimal_share") for share, some in shares.items()}
    none, every = min(shares), max(shares)
    forms = [
        optimum.dpo(world, start, beta=1.0)
        for world, start in (enumerated.start(some[0]) for some in shares.values())
    ]
    apart = max(float(np.abs(form - forms[0]).max()) for form in forms)
    checks = [
        above(f"KL with {every:.0%} by another", distance[every], f"{none:.0%}", distance[none]),
        Check("closed forms the same", f"apart by {apart:.1e}", apart < SAME),
    ]
    rows = [
        {
            "off_policy": share,
            "seed": option(run, "seed"),
            **{
                key: run.metrics.get(f"world/{key}")
                for key in ("kl_to_optimum", "kl", "reward", "optimal_share")
            },
        }
        for share, some in shares.items()
        for run in some
    ]
    came = "KL(policy || pi*): " + ", ".join(
        f"{np.mean([*found.values()]):.3f} with {share:.0%}" for share, found in distance.items()
    )
    return Finding(
        panels=[
            Panel(
                title,
                f"{title} against the share of responses by another writer.",
                partial(draw, found, label),
                3.3,
                2.7,
            )
            for title, found, label in (
                ("Distance to the optimum", distance, "KL(policy || pi*), nats"),
                ("Share of the optimal gain", gain, "share of the optimal gain"),
            )
        ],
        rows=rows,
        checks=checks,
        came=f"{came} of the responses by another writer.",
    )


def draw(found, label, axes):
    style = pieces.styles(["dpo"])["dpo"]
    groups = [[*values.values()] for values in found.values()]
    pieces.line(axes, [100 * share for share in found], groups, style, "DPO, beta 1")
    axes.set(xlabel="responses by another writer, %", ylabel=label)
    pieces.legend(axes, loc="best")
