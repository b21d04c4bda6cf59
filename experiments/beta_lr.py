"""Beta by learning rate for DPO and SimPO. See beta_lr.yaml."""

from functools import partial

import numpy as np

from dpo_lab import charts, pieces
from dpo_lab.drawing import Panel
from dpo_lab.evidence import above, option, split
from dpo_lab.finding import Finding
from dpo_lab.grid import Grid

NAMES = {"dpo": "DPO", "simpo": "SimPO"}


def figure(runs):
    cubes = {name: cube(runs[name]) for name in NAMES}
    grids = [
        Grid("loss.beta", "optimizer.lr", betas, rates, NAMES[name], values.mean(2))
        for name, (betas, rates, _, values) in cubes.items()
    ]
    over_rate = {name: ranges(*cubes[name][2:], axis=0) for name in NAMES}
    over_beta = ranges(*cubes["simpo"][2:], axis=1)
    checks = [
        above("range over rates, SimPO,", over_rate["simpo"], "DPO", over_rate["dpo"]),
        above("SimPO's range over rates", over_rate["simpo"], "over beta", over_beta),
    ]
    tops = []
    for grid in grids:
        row, column = np.unravel_index(np.nanargmax(grid.means), grid.means.shape)
        best = grid.means[row, column]
        tops.append(f"{grid.title} {best:.2f} at {grid.xs[column]:g}, {grid.ys[row]:g}")
    rows = [
        {
            "loss": name,
            "beta": option(run, "loss.beta"),
            "learning_rate": option(run, "optimizer.lr"),
            "seed": option(run, "seed"),
            **{key: run.metrics.get(f"world/{key}") for key in ("kl", "reward", "optimal_share")},
        }
        for name in NAMES
        for run in runs[name]
    ]
    maps = charts.heatmaps(grids, "share of the optimal gain", lower=False)
    alt = "Share of the optimal gain against the learning rate, at the best beta of each loss."
    return Finding(
        panels=[*maps, Panel("At the best beta", alt, partial(draw, cubes), 3.3, 2.9)],
        columns=3,
        rows=rows,
        checks=checks,
        came=f"Best share of the optimal gain, at which beta and rate: {'; '.join(tops)}.",
    )


def cube(runs):
    """Values (rates, betas, seeds) of the share; a run that hardly moved has a share of nothing."""
    betas, rates, seeds = ([*split(runs, name)] for name in ("loss.beta", "optimizer.lr", "seed"))
    values = np.full((len(rates), len(betas), len(seeds)), np.nan)
    for run in runs:
        place = (
            rates.index(option(run, "optimizer.lr")),
            betas.index(option(run, "loss.beta")),
            seeds.index(option(run, "seed")),
        )
        values[place] = run.metrics.get("world/optimal_share", np.nan)
    return betas, rates, seeds, values


def ranges(seeds, values, axis):
    """By seed: the range over one axis, where the mean over seeds is best on the other."""
    means = np.nan_to_num(values.mean(2), nan=-np.inf)
    place = int(np.argmax(means.max(axis)))
    chosen = values[:, place] if axis == 0 else values[place]
    return {seed: float(np.ptp(column)) for seed, column in zip(seeds, chosen.T, strict=True)}


def draw(cubes, axes):
    look = pieces.styles([*NAMES])
    for name, (betas, rates, _, values) in cubes.items():
        best = int(np.argmax(np.nan_to_num(values.mean(2), nan=-np.inf).max(0)))
        label = f"{NAMES[name]}, beta {betas[best]:g}"
        pieces.line(axes, rates, [*values[:, best]], look[name], label)
    pieces.logarithmic(axes, "x", cubes["dpo"][1])
    axes.set(xlabel="learning rate", ylabel="share of the optimal gain")
    pieces.legend(axes, loc="best")
