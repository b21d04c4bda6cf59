"""True and proxy reward over training: arXiv 2406.02900. See overoptimization.yaml."""

from functools import partial

import numpy as np

from dpo_lab import pieces
from dpo_lab.charts import frontiers
from dpo_lab.drawing import Panel
from dpo_lab.evidence import above, option, split, within
from dpo_lab.finding import Finding

ENOUGH = 0.05


def figure(runs):
    betas = split(runs["dpo"], "loss.beta")
    small, large = min(betas), max(betas)
    falls = {beta: fall(some) for beta, some in betas.items()}
    rises = {}
    for run in betas[small]:
        true, proxy = (run.series(f"world/{name}")[1] for name in ("reward", "proxy_reward"))
        rises[option(run, "seed")] = proxy[-1] - proxy[int(np.argmax(true))]
    nothing = dict.fromkeys(falls[small], 0.0)
    checks = [
        above(f"fall of the true reward at beta {small:g}", falls[small], "0", nothing, by=ENOUGH),
        within(f"rise of the proxy since then at beta {small:g}", rises, 0, 10),
        within(f"fall of the true reward at beta {large:g}", falls[large], 0, ENOUGH),
    ]
    rows = [
        {
            "beta": option(run, "loss.beta"),
            "seed": option(run, "seed"),
            "step": event["step"],
            **{key: event[f"world/{key}"] for key in ("kl", "reward", "proxy_reward")},
        }
        for run in runs["dpo"]
        for event in run.events
        if "world/kl" in event
    ]
    came = "Fall of the true reward from its best evaluation to the end: " + ", ".join(
        f"{np.mean([*found.values()]):.3f} at beta {beta:g}" for beta, found in falls.items()
    )
    curve, _ = frontiers(runs["dpo"][:1])[0]
    return Finding(
        panels=[
            Panel(
                title,
                f"{title} against the root of KL over training, mean over seeds, for each beta.",
                partial(draw, betas, metric, curve if metric == "reward" else None),
                3.3,
                2.9,
            )
            for title, metric in (("True reward", "reward"), ("Proxy reward", "proxy_reward"))
        ],
        rows=rows,
        checks=checks,
        came=came + ".",
    )


def fall(runs):
    """By seed: the best true reward of all evaluations minus the last."""
    found = {}
    for run in runs:
        _, true = run.series("world/reward")
        found[option(run, "seed")] = max(true) - true[-1]
    return found


def draw(betas, metric, curve, axes):
    ends = []
    for (beta, some), style in zip(betas.items(), pieces.styles([*betas]).values(), strict=True):
        kl = np.mean([run.series("world/kl")[1] for run in some], axis=0)
        values = np.mean([run.series(f"world/{metric}")[1] for run in some], axis=0)
        xs = np.sqrt(np.maximum(kl, 0))
        ends.append(xs.max())
        axes.plot(xs, values, color=style.colour, linewidth=1.1, label=f"beta {beta:g}")
        axes.plot(xs[-1:], values[-1:], color=style.colour, marker=style.marker, markersize=4.5)
    if curve is not None:
        inside = curve[curve[:, 0] <= max(ends) ** 2 * 1.05]
        pieces.optimum(axes, np.column_stack([np.sqrt(inside[:, 0]), inside[:, 1]]))
    axes.set(xlabel="root of KL to the start", ylabel="expected reward")
    pieces.legend(axes, loc="best")
