"""Every loss as a curve over the margin, on paper and as a page. See loss_shapes.yaml."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from dpo_lab import losses, pieces
from dpo_lab.batch import Logps, Pair
from dpo_lab.compose import conf_dir
from dpo_lab.drawing import Panel
from dpo_lab.errors import Refused
from dpo_lab.evidence import Check
from dpo_lab.finding import Finding
from dpo_lab.options import bind, signature

TOKENS = 5  # of both responses
START = -8.0  # nats, of both responses under the reference
MARGINS = np.linspace(-8, 8, 129)
BETAS = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0]
SHOWN = ("dpo", "cdpo", "robust_dpo", "ipo", "hinge", "simpo")


def figure(runs):
    known, left_out = curves()
    checks = [
        Check(f"{name}: {wanted:.4f}", f"{round(value, 4) + 0.0:.4f}", abs(value - wanted) < 1e-4)
        for name, _, wanted, value in exercises()
    ]
    rows = [
        {"loss": name, "beta": beta, "margin": margin, "value": value, "slope": slope}
        for name, one in known.items()
        for beta, (values, slopes) in one["at"].items()
        if beta in (0.1, 0.5, 1.0)
        for margin, value, slope in zip(MARGINS, values, slopes, strict=True)
    ]
    right = sum(check.holds for check in checks)
    said = f" ({', '.join(left_out)}: of more than a pair's margin, left out)" if left_out else ""
    alt = "Loss against the log-ratio margin in nats, at beta 1."
    slope = "Derivative of the loss by the margin, at beta 1."
    return Finding(
        panels=[
            Panel("Loss, beta 1", alt, partial(draw, known, 0, "loss"), 3.3, 2.7),
            Panel("Slope, beta 1", slope, partial(draw, known, 1, "d loss / d margin"), 3.3, 2.7),
        ],
        rows=rows,
        checks=checks,
        came=f"{len(known)} losses drawn{said}; {right} of {len(checks)} numbers as by hand.",
        page=page(known),
    )


# ----------------------------------------------------------------------------------- the exercises


def exercises():
    """(What is asked, how it is found by hand, that number, the lab's), beta 1."""
    same = losses.dpo(pair(0.0), pair(0.0), beta=1.0)
    found = losses.dpo(pair(1.2), pair(0.0), beta=1.0)
    chosen, rejected = (torch.tensor([math.log(p)], dtype=torch.float64) for p in (0.2, 0.18))
    count = torch.tensor([1])
    own = Pair(Logps(chosen, count), Logps(rejected, count))
    half = torch.tensor([0.5], dtype=torch.float64)
    reference = Pair(Logps(half - 1, count), Logps(half * 0 - 1, count))
    scores = losses.dpo(own, reference, beta=1.0)
    best = math.log(0.9 / 0.1)
    return [
        ("margin of equal models", "(a - a) - (b - b)", 0.0, reward_margin(same)),
        ("their loss", "-log σ(0) = log 2", 0.6931, same.loss.item()),
        ("probability at margin 1.2", "1 / (1 + exp(-1.2))", 0.7685, math.exp(-found.loss.item())),
        ("loss at margin 1.2", "-log 0.7685", 0.2633, found.loss.item()),
        ("slope at margin 0.8", "-(1 - σ(0.8))", -0.3100, slope(0.8)),
        ("log of 0.2", "the chosen answer", -1.6094, own.chosen.total.item()),
        ("log of 0.18", "the rejected answer", -1.7148, own.rejected.total.item()),
        (
            "margin of these, 0.5 in the reference",
            "(-1.6094 + 1.7148) - 0.5",
            -0.3946,
            reward_margin(scores),
        ),
        (
            "slope at log 9, labels wrong 1 in 10",
            "the best margin: log (0.9 / 0.1)",
            0.0,
            slope(best, label_smoothing=0.1),
        ),
    ]


def slope(at, **knobs):
    margin = torch.tensor([at], dtype=torch.float64, requires_grad=True)
    losses.dpo(pair(margin), pair(0.0), beta=1.0, **knobs).loss.sum().backward()
    return margin.grad.item()


def reward_margin(scores):
    return (scores.chosen_reward - scores.rejected_reward).item()


# -------------------------------------------------------------------------------------- the curves


def pair(margin):
    """A pair whose log-ratio margin is `margin` nats, half of it on either side."""
    margin = torch.as_tensor(margin, dtype=torch.float64).reshape(-1)
    count = torch.full((len(margin),), TOKENS)
    return Pair(Logps(START + margin / 2, count), Logps(START - margin / 2, count))


def curves():
    """Every loss of one pair: title and, by beta, values and slopes; and the names of the rest."""
    known, left_out = {}, []
    for path in sorted((conf_dir() / "loss").glob("*.yaml")):
        node = OmegaConf.to_container(OmegaConf.load(path))
        node.pop("defaults", None)
        inputs = signature(node["_target_"]).inputs
        paired = inputs == {"policy": "Pair[Logps]"} or inputs == {
            "policy": "Pair[Logps]",
            "reference": "Pair[Logps]",
        }
        if not paired:
            left_out.append(path.stem)
            continue
        knob = next((name for name in ("beta", "tau") if name in node), None)
        try:
            at = {
                beta: curve(node | ({knob: beta} if knob else {}), "reference" in inputs)
                for beta in (BETAS if knob else [1.0])
            }
        except (Refused, TypeError, AttributeError):
            left_out.append(path.stem)
            continue
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        others = {
            key: value
            for key, value in node.items()
            if key not in ("_target_", knob) and value is not None
        }
        known[path.stem] = {"title": title, "knob": knob, "others": others, "at": at}
    return known, left_out


def curve(node, compares):
    margin = torch.tensor(MARGINS, requires_grad=True)
    given = (pair(margin), pair(torch.zeros(len(MARGINS)))) if compares else (pair(margin),)
    loss = bind(node)(*given).loss
    loss.sum().backward()
    return loss.detach().numpy(), margin.grad.numpy()


def draw(known, which, label, axes):
    shown = [name for name in SHOWN if name in known]
    for name, style in pieces.styles(shown).items():
        values = known[name]["at"][1.0][which]
        axes.plot(MARGINS, values, color=style.colour, linewidth=1.2)
        every = slice(8, None, 24)
        axes.plot(
            MARGINS[every],
            values[every],
            color=style.colour,
            marker=style.marker,
            markersize=4,
            linestyle="",
            label=name,
        )
    axes.set(xlabel="log-ratio margin, nats", ylabel=label, xlim=(-5, 5))
    axes.set_ylim((-2.5, 6.5) if which == 0 else (-2.5, 1.0))
    pieces.legend(axes, loc="best")


# ---------------------------------------------------------------------------------------- the page


def page(known):
    """One HTML file without any request: the curves as numbers, and a little script."""
    data = {
        "margins": MARGINS.tolist(),
        "betas": BETAS,
        "losses": {
            name: {
                "title": one["title"],
                "knob": one["knob"],
                "others": ", ".join(f"{key} {value}" for key, value in one["others"].items()),
                "at": {
                    f"{beta:g}": [np.round(part, 4).tolist() for part in both]
                    for beta, both in one["at"].items()
                },
            }
            for name, one in known.items()
        },
        "exercises": [
            {"asked": name, "how": how, "came": f"{round(value, 4) + 0.0:.4f}"}
            for name, how, _, value in exercises()
        ],
        "pair": {"tokens": TOKENS, "start": START},
    }
    shell = Path(__file__).with_name("loss_shapes.html").read_text(encoding="utf-8")
    return shell.replace("__DATA__", json.dumps(data).replace("<", "\\u003c"))
