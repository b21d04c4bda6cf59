"""Log-ratios, rewards and accuracy on real dialogues. See dialogues.yaml."""

from functools import partial
from pathlib import Path

import numpy as np

from dpo_lab import pieces
from dpo_lab.drawing import Panel
from dpo_lab.evidence import above, option, per_seed, split
from dpo_lab.finding import Finding

LOSSES = {"dpo": "DPO", "simpo": "SimPO"}
PANELS = (
    ("Log-ratio of chosen answers", "logratios/chosen", "nats a response"),
    ("Log-ratio of rejected answers", "logratios/rejected", "nats a response"),
    ("Margin of the implicit reward", "rewards/margins", "reward of the loss's own"),
    ("Accuracy of the implicit reward", "rewards/accuracies", "share of held-out pairs"),
)


def figure(runs):
    groups = {
        (name, beta): some
        for name in LOSSES
        for beta, some in split(runs[name], "loss.beta").items()
    }
    chosen = {key: per_seed(some, "eval/logratios/chosen") for key, some in groups.items()}
    small, large = (end(beta for name, beta in groups if name == "dpo") for end in (min, max))
    free = min(beta for name, beta in groups if name == "simpo")
    nothing = dict.fromkeys(chosen["dpo", small], 0.0)
    ours = f"DPO's at beta {small:g}"
    margin = per_seed(groups["dpo", small], "eval/logratios/margins")
    checks = [
        above("the start's chosen log-ratio", nothing, ours, chosen["dpo", small]),
        above(f"DPO's at beta {large:g}", chosen["dpo", large], ours, chosen["dpo", small]),
        above(ours, chosen["dpo", small], f"SimPO's at beta {free:g}", chosen["simpo", free]),
        above(f"margin of log-ratios of DPO at beta {small:g}", margin, "0", nothing),
    ]
    rows = [
        {
            "loss": name,
            "beta": beta,
            "seed": option(run, "seed"),
            "step": event["step"],
            **{key: event.get(f"eval/{key}") for _, key, _ in PANELS},
        }
        for (name, beta), some in groups.items()
        for run in some
        for event in run.events
        if "eval/loss" in event
    ]
    data, files = (runs["dpo"][0].record[name] for name in ("data", "files"))
    came = (
        ", ".join(f"{Path(path).name} (SHA-256 {sha[:12]})" for path, sha in files.items())
        + f": {data['train_rows']:,} training, {data['eval_rows']:,} held-out pairs. In the end, "
        "log-ratio of chosen and rejected answers, nats, and accuracy: "
    ) + "; ".join(
        f"{LOSSES[name]} at {beta:g} "
        + ", ".join(
            f"{np.mean([*per_seed(some, f'eval/{metric}').values()]):.2f}"
            for metric in ("logratios/chosen", "logratios/rejected", "rewards/accuracies")
        )
        for (name, beta), some in groups.items()
    )
    return Finding(
        panels=[
            Panel(
                title,
                f"{title} over training, mean over seeds, for DPO and SimPO at each beta.",
                partial(draw, groups, metric, unit),
                3.3,
                2.9,
            )
            for title, metric, unit in PANELS
        ],
        rows=rows,
        checks=checks,
        came=came + ".",
    )


def draw(groups, metric, unit, axes):
    look = pieces.styles([*groups])
    for (name, beta), some in groups.items():
        steps = some[0].series(f"eval/{metric}")[0]
        values = zip(*(run.series(f"eval/{metric}")[1] for run in some), strict=True)
        label = f"{LOSSES[name]}, beta {beta:g}"
        pieces.line(axes, steps, [*values], look[name, beta], label)
    axes.set(xlabel="step", ylabel=unit)
    pieces.legend(axes, loc="best")
