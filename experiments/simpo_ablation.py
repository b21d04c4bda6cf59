"""SimPO's margin and normalisation: arXiv 2405.14734. See simpo_ablation.yaml."""

from functools import partial

import numpy as np
import pandas as pd

from dpo_lab import pieces
from dpo_lab.drawing import Panel
from dpo_lab.evidence import above, option, per_seed, split, within
from dpo_lab.finding import Finding

NAMES = {"simpo": "SimPO", "no_norm": "not normalised", "dpo": "DPO"}


def figure(runs):
    margins = split(runs["simpo"], "loss.gamma_beta_ratio")
    plain = margins[0.0]
    agreed = {name: {} for name in NAMES}
    rows = []
    for name in NAMES:
        for run in runs[name]:
            share = agreement(run)
            agreed[name].setdefault(option(run, "seed"), share)
            rows.append(
                {
                    "loss": name,
                    "gamma_beta_ratio": option(run, "loss.gamma_beta_ratio"),
                    "seed": option(run, "seed"),
                    "agreement": share,
                    "accuracy": run.metrics["eval/rewards/accuracies"],
                    **{
                        key: run.metrics.get(f"world/{key}")
                        for key in ("length", "kl", "reward", "optimal_share")
                    },
                }
            )
    length = {
        name: per_seed(some, "world/length")
        for name, some in (("a", runs["no_norm"]), ("b", plain))
    }
    share = {
        name: per_seed(
            [run for run in some if "world/optimal_share" in run.metrics], "world/optimal_share"
        )
        for name, some in (("a", runs["no_norm"]), ("b", plain))
    }
    checks = [
        above("length without normalisation", length["a"], "SimPO's", length["b"]),
        above("SimPO's share of the optimal gain", share["b"], "without normalisation", share["a"]),
        within("DPO's agreement", agreed["dpo"], 0, 0.9),
        within("SimPO's agreement", agreed["simpo"], 1, 1),
    ]
    means = {
        ratio: [
            np.mean([run.metrics[name] for run in some])
            for name in ("eval/rewards/accuracies", "world/reward")
        ]
        for ratio, some in margins.items()
    }
    came = "Held-out accuracy and reward by gamma / beta: " + ", ".join(
        f"{ratio:g} {accuracy:.3f} {reward:.2f}" for ratio, (accuracy, reward) in means.items()
    )
    return Finding(
        panels=[
            Panel(
                "Target margin",
                "Held-out accuracy and share of the optimal gain of SimPO against its margin.",
                partial(draw_margin, margins),
                3.3,
                2.8,
            ),
            Panel(
                "Length, and agreement with likelihood",
                "Mean length against the share of pairs that reward and likelihood rank alike.",
                partial(
                    draw_length,
                    {"simpo": plain, "no_norm": runs["no_norm"], "dpo": runs["dpo"]},
                    agreed,
                ),
                3.3,
                2.8,
            ),
        ],
        rows=rows,
        checks=checks,
        came=came + ".",
    )


def agreement(run):
    """Share of held-out pairs that implicit reward and average likelihood rank alike; ties out."""
    last = max((run.folder / "eval").glob("step_*.parquet"), key=lambda path: int(path.stem[5:]))
    pairs = pd.read_parquet(last)
    average = (
        pairs.chosen_logps / pairs.chosen_tokens - pairs.rejected_logps / pairs.rejected_tokens
    )
    reward = pairs.chosen_reward - pairs.rejected_reward
    apart = (average != 0) & (reward != 0)
    return float((np.sign(average[apart]) == np.sign(reward[apart])).mean())


def draw_margin(margins, axes):
    look = pieces.styles(["accuracy", "share"])
    series = {"accuracy": "eval/rewards/accuracies", "share": "world/optimal_share"}
    labels = {"accuracy": "held-out accuracy", "share": "share of the optimal gain"}
    for name, metric in series.items():
        groups = [[run.metrics.get(metric, np.nan) for run in some] for some in margins.values()]
        pieces.line(axes, [*margins], groups, look[name], labels[name])
    axes.set(xlabel="gamma / beta", ylabel="share")
    pieces.legend(axes, loc="best")


def draw_length(found, agreed, axes):
    look = pieces.styles([*NAMES])
    for name, some in found.items():
        lengths = [*per_seed(some, "world/length").values()]
        pieces.path(
            axes,
            [[*agreed[name].values()]],
            [lengths],
            look[name],
            NAMES[name],
        )
    axes.set(xlabel="pairs that reward and likelihood rank alike", ylabel="tokens of a response")
    pieces.legend(axes, loc="best")
