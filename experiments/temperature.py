"""Exact win rates of tempered policies: arXiv 2305.18290, figure 2 right. See temperature.yaml."""

from functools import partial

import numpy as np

from dpo_lab import enumerated, pieces
from dpo_lab.drawing import GREY, Panel
from dpo_lab.evidence import above, option, within
from dpo_lab.finding import Finding
from dpo_lab.worlds.frontier import best_of_n
from dpo_lab.worlds.worth import win_rate

TEMPERATURES = (0.05, 0.25, 0.5, 0.75, 1.0, 1.25)
NAMES = {"dpo": "DPO, beta 0.25", "sft": "SFT on chosen"}


def figure(runs):
    world, start = enumerated.start(runs["dpo"][0])
    rows, rates = [], {name: {at: {} for at in TEMPERATURES} for name in NAMES}
    for name in NAMES:
        for run in runs[name]:
            tables = enumerated.conditionals_of(run, world)
            for at in TEMPERATURES:
                rate = win_rate(world, world.tree.fold(tempered(tables, at)), start)
                rates[name][at][option(run, "seed")] = rate
                rows.append(
                    {
                        "method": name,
                        "temperature": at,
                        "seed": option(run, "seed"),
                        "win_rate": rate,
                    }
                )
    base = enumerated.conditionals_of(runs["dpo"][0], world, start=True)
    lines = {
        "start": [
            win_rate(world, world.tree.fold(tempered(base, at)), start) for at in TEMPERATURES
        ],
        "best of 16": [
            win_rate(world, best_of_n(world, world.tree.fold(tempered(base, at)), 16), start)
            for at in TEMPERATURES
        ],
    }
    rows += [
        {"method": name, "temperature": at, "win_rate": rate}
        for name, values in lines.items()
        for at, rate in zip(TEMPERATURES, values, strict=True)
    ]
    checks = [
        above(f"DPO at temperature {at:g}", rates["dpo"][at], "SFT on chosen", rates["sft"][at])
        for at in TEMPERATURES
    ]
    fall = {seed: rates["dpo"][0.25][seed] - rate for seed, rate in rates["dpo"][1.0].items()}
    checks.append(within("DPO's fall from temperature 0.25 to 1", fall, -1, 0.15))
    came = "Win rate of DPO against the start: " + ", ".join(
        f"{np.mean([*rates['dpo'][at].values()]):.3f} at {at:g}" for at in TEMPERATURES
    )
    alt = "Exact win rate against the start for policies sampled at different temperatures."
    panel = Panel("Win rate against the start", alt, partial(draw, rates, lines), 3.3, 2.9)
    return Finding(panels=[panel], columns=1, rows=rows, checks=checks, came=came + ".")


def tempered(tables, at):
    """Next-token log-probabilities at a temperature."""
    found = []
    for table in tables:
        sharp = table / at
        top = sharp.max(-1, keepdims=True)
        found.append(sharp - top - np.log(np.exp(sharp - top).sum(-1, keepdims=True)))
    return found


def draw(rates, lines, axes):
    look = pieces.styles([*NAMES])
    for name, found in rates.items():
        groups = [[*values.values()] for values in found.values()]
        pieces.line(axes, [*found], groups, look[name], NAMES[name])
    for (name, values), dash in zip(lines.items(), ("-", ":"), strict=True):
        axes.plot(TEMPERATURES, values, color=GREY, linewidth=1.2, linestyle=dash, label=name)
    axes.set(xlabel="sampling temperature", ylabel="win rate against the start")
    axes.set_ylim(0.45, 1.02)
    pieces.legend(axes, loc="best")
