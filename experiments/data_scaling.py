"""Distance to the closed-form optimum against the number of pairs. See data_scaling.yaml."""

from functools import partial
from itertools import pairwise

import numpy as np

from dpo_lab import pieces
from dpo_lab.drawing import Panel
from dpo_lab.evidence import above, option, per_seed, split, within
from dpo_lab.finding import Finding

MOST = 128_000


def figure(runs):
    sizes = split([run for some in runs.values() for run in some], "data.pairs")
    distance = {size: per_seed(some, "world/kl_to_optimum") for size, some in sizes.items()}
    agreement = {size: per_seed(some, "world/reward_correlation") for size, some in sizes.items()}
    backwards = {size: per_seed(some, "world/kl_from_optimum") for size, some in sizes.items()}
    order = [*sizes]
    checks = [
        above(f"KL with {one:,} pairs", distance[one], f"with {more:,}", distance[more])
        for one, more in pairwise(order)
    ]
    if MOST in distance:
        checks.append(within(f"KL with {MOST:,} pairs", distance[MOST], 0, 0.07))
    checks.append(within(f"correlation with {order[-1]:,} pairs", agreement[order[-1]], 0.9, 1))
    rows = [
        {
            "pairs": size,
            "steps": option(run, "train.steps"),
            "seed": option(run, "seed"),
            **{
                key: run.metrics[f"world/{key}"]
                for key in (
                    "kl_to_optimum",
                    "kl_from_optimum",
                    "reward_correlation",
                    "reward_slope",
                )
            },
        }
        for size, some in sizes.items()
        for run in some
    ]
    came = "KL(policy || pi*): " + ", ".join(
        f"{np.mean([*distance[size].values()]):.3f} with {size:,}" for size in order
    )
    first, second = pieces.styles(["to", "from"]).values()
    return Finding(
        panels=[
            Panel(
                "Distance to the optimum",
                "KL between the trained policy and the closed-form optimum against pairs.",
                partial(
                    draw,
                    [
                        (distance, first, "KL(policy || pi*)"),
                        (backwards, second, "KL(pi* || policy)"),
                    ],
                    "nats",
                    True,
                ),
                3.3,
                2.7,
            ),
            Panel(
                "Implicit and true reward",
                "Correlation of implicit and true reward against pairs.",
                partial(draw, [(agreement, first, "correlation")], "correlation", False),
                3.3,
                2.7,
            ),
        ],
        rows=rows,
        checks=checks,
        came=came + " pairs.",
    )


def draw(series, label, logarithmic, axes):
    for table, style, name in series:
        pieces.line(axes, [*table], [[*found.values()] for found in table.values()], style, name)
    pieces.logarithmic(axes, "x", [*series[0][0]])
    axes.tick_params(axis="x", labelsize=6.5)
    if logarithmic:
        pieces.logarithmic(axes, "y")
        pieces.legend(axes)
    else:
        axes.axhline(1, color="#777777", linewidth=1.3)
    axes.set(xlabel="preference pairs", ylabel=label)
