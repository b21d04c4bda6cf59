"""DPO and IPO on three actions: arXiv 2310.12036. See ipo_bandit.yaml."""

from functools import partial

import numpy as np
import torch

from dpo_lab import losses, pieces
from dpo_lab.batch import Logps, Pair
from dpo_lab.drawing import GREY, Panel
from dpo_lab.evidence import Check
from dpo_lab.finding import Finding

TAUS = (0.1, 0.5, 1.0)
STEPS, EVERY, RATE = 6_000, 100, 0.01
CHOSEN, REJECTED = torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2])


def figure(runs):
    ways = {(name, tau): train(name, tau) for name in ("dpo", "ipo") for tau in TAUS}
    checks = []
    for tau in TAUS:
        first = ways["dpo", tau][-1, 0]
        checks.append(Check(f"DPO, tau {tau:g}: above 0.99", f"{first:.4f}", bool(first > 0.99)))
    for tau in TAUS:
        off = float(np.abs(ways["ipo", tau][-1] - closed(tau)).max())
        checks.append(Check(f"IPO, tau {tau:g}: within 0.001", f"off by {off:.1e}", off < 1e-3))
    rows = [
        {
            "loss": name,
            "tau": tau,
            "step": step * EVERY,
            **{f"action_{place + 1}": value for place, value in enumerate(probabilities)},
        }
        for (name, tau), way in ways.items()
        for step, probabilities in enumerate(way)
    ]
    came = "Probability of action 1 at the end: " + ", ".join(
        f"{name.upper()} at {tau:g} {way[-1, 0]:.4f}" for (name, tau), way in ways.items()
    )
    panels = [
        Panel(
            name.upper(),
            f"Probability of the best action over training with {name.upper()}, for three tau.",
            partial(draw, {tau: ways[name, tau] for tau in TAUS}, name == "ipo"),
            3.3,
            2.7,
        )
        for name in ("dpo", "ipo")
    ]
    return Finding(panels=panels, rows=rows, checks=checks, came=came + ".")


def closed(tau):
    """IPO's optimum, the reference uniform: log-ratio gaps of 1 / (3 tau) between neighbours.

    Each action's log-ratio is its mean margin against the three, wins 1, losses -1, over 2 tau.
    """
    logits = np.array([1.0, 0.0, -1.0]) / (3 * tau)
    return np.exp(logits) / np.exp(logits).sum()


def train(name, tau):
    """Probabilities (points, 3) every `EVERY` updates, from the uniform policy."""
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=RATE)
    uniform = torch.full((3,), -np.log(3), dtype=torch.float64)
    knob = {"beta": tau} if name == "dpo" else {"tau": tau}
    way = []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            way.append(logits.detach().softmax(0).numpy())
        optimizer.zero_grad()
        getattr(losses, name)(
            pair(logits.log_softmax(0)), pair(uniform), **knob
        ).loss.mean().backward()
        optimizer.step()
    return np.array(way)


def pair(logps):
    count = torch.ones(3)
    return Pair(Logps(logps[CHOSEN], count), Logps(logps[REJECTED], count))


def draw(ways, compare, axes):
    for (tau, way), style in zip(ways.items(), pieces.styles(TAUS).values(), strict=True):
        steps = np.arange(len(way)) * EVERY
        axes.plot(steps, way[:, 0], color=style.colour, linewidth=1.4, label=f"tau {tau:g}")
        axes.plot(
            steps[::12],
            way[::12, 0],
            color=style.colour,
            marker=style.marker,
            linestyle="",
            markersize=4,
        )
        if compare:
            axes.axhline(closed(tau)[0], color=GREY, linewidth=0.9, linestyle=":")
    if compare:
        axes.plot([], [], color=GREY, linewidth=0.9, linestyle=":", label="closed form")
    axes.set(xlabel="update", ylabel="probability of the best action", ylim=(0.3, 1.03))
    pieces.legend(axes, loc="best")
