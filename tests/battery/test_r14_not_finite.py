"""R14: NaN and infinity stop a run at the step they come up in, by the names of the rows."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from in_one_process import LORA, Place
from safetensors.torch import load_file, save_file
from survival import Bench, write_pairs

import dpo_lab
from dpo_lab import loop, run
from dpo_lab.errors import Stopped
from dpo_lab.loader import Loader

ID = "R14"
ROW = 11  # of the training file, from 1: its chosen answer is longer than any other
LONG = " film" * 40
LOSS = """
from typing import Annotated

import torch

from dpo_lab.batch import Logps, Pair, Scores
from dpo_lab.ranges import Positive


def poisoned(
    policy: Pair[Logps], reference: Pair[Logps], *, beta: Annotated[float, Positive], how: str
) -> Scores:
    margin = (policy.chosen.total - policy.rejected.total) - (
        reference.chosen.total - reference.rejected.total
    )
    loss = -torch.nn.functional.logsigmoid(beta * margin)
    long = policy.chosen.tokens > 30
    if how in ("nan", "inf"):
        loss = torch.where(long, torch.full_like(loss, float(how)), loss)
    if how == "gradient":  # the root of 0 is 0 and has no slope
        loss = loss + torch.where(long, (margin * 0).abs().sqrt(), margin * 0)
    return Scores(loss, beta * margin.detach(), margin.detach() * 0)
"""
YAML = """
defaults: [/schema/loss/poisoned@_here_]
_target_: poison.poisoned
beta: 0.1    # reward per nat, > 0
how: nan     # nan, inf or gradient
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nan")
    with pytest.MonkeyPatch.context() as patch:
        place = Place(folder, patch)
        lines = (folder / "prefs.jsonl").read_text().splitlines()
        lines[ROW - 1] = lines[ROW - 1].replace('"chosen": "', f'"chosen": "{LONG}')
        (folder / "prefs.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "mine" / "loss").mkdir(parents=True)
        (folder / "mine" / "poison.py").write_text(LOSS)
        (folder / "mine" / "loss" / "poisoned.yaml").write_text(YAML)
        yield place


def step_of_row() -> int:
    """The update that sees the long row first."""
    order = Loader(17, 4, steps=16, seed=0)
    return next(step for step in range(16) if ROW - 1 in order.take(step)) + 1


def damaged(place, value: float):
    """A network with this value in one weight, in a folder like any other's."""
    good = place.train("model.seed=3") / "final"
    weights = load_file(good / "model.safetensors")
    name = next(name for name in sorted(weights) if "mlp" in name)
    weights[name].view(-1)[5] = value
    save_file(weights, good / "model.safetensors", metadata={"format": "pt"})
    return good


def poison(at: int, put):
    """`fit` that lets `put(state)` do its work when `at` updates are done."""

    def fit(state, plan, effects):
        def progress(step: int, steps: int, loss: float) -> None:
            if step == at:
                with torch.no_grad():
                    put(state)

        return loop.fit(state, plan, replace(effects, progress=progress))

    return fit


def into_weights(state):
    state.policy.trainable()[3][1].view(-1)[0] = math.nan


def into_optimizer(state):
    parameter = state.policy.trainable()[3][1]
    state.optimizer.state[parameter]["exp_avg"].view(-1)[0] = math.inf


def into_reference(state):
    next(iter(state.objective.reference.state().values())).view(-1)[0] = math.nan


STEP = step_of_row()
NAMED = rf"rows \[.*prefs\.jsonl:{ROW}[\],]"
MINE = ["loss=poisoned", "eval.every=null"]
PLACES = {
    # what is typed, what is put into the run after which update, what the message must say
    "loss nan": ([*MINE, "loss.how=nan"], None, f"loss of step {STEP} is not finite; {NAMED}"),
    "loss inf": ([*MINE, "loss.how=inf"], None, f"loss of step {STEP} is not finite; {NAMED}"),
    "gradient": (
        [*MINE, "loss.how=gradient"],
        None,
        f"gradient of step {STEP} is not finite; {NAMED}",
    ),
    "gradient, lora": (
        [*MINE, *LORA, "loss.how=gradient"],
        None,
        f"gradient of step {STEP} is not finite; {NAMED}",
    ),
    "learning rate": (["optimizer.lr=3e38"], None, r"step [12] .*rows \["),
    "model nan": ("model", math.nan, r"step 0: .* not finite; rows \[.*prefs\.jsonl:"),
    "reference nan": ("reference", math.nan, r"held-out loss after step 0 is not finite; rows"),
    "weights": (["checkpoint.every=1"], (5, into_weights), r"not finite"),
    "optimizer": (["checkpoint.every=5"], (6, into_optimizer), r"step 7 .*not finite.*rows \["),
    "reference moves": (
        ["reference=ema", "reference.decay=0.9", "reference.every=1", "checkpoint.every=1"],
        (5, into_reference),
        r"not finite",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_r14(place, tally, monkeypatch, name):
    words, put, expected = PLACES[name]
    if words == "model":
        words = ["model=pretrained", f"model.path={damaged(place, put)}"]
        place_settings = [w for w in place.settings if not w.startswith("model")]
    else:
        place_settings = place.settings
        if words == "reference":
            words = ["reference=checkpoint", f"reference.path={damaged(place, put)}"]
        elif put is not None:
            monkeypatch.setattr(run, "fit", poison(*put))
    before = set((place.folder / "run").glob("*"))
    with pytest.raises(Stopped) as stopped:
        dpo_lab.train(
            [*place_settings, "checkpoint.every=2", *words], config_dir=str(place.folder / "mine")
        )
    (folder,) = set((place.folder / "run").glob("*")) - before
    import re

    problems = [] if re.search(expected, str(stopped.value)) else [f"said {stopped.value}"]
    for path in folder.rglob("*.safetensors"):
        for key, value in load_file(path).items():
            if value.is_floating_point() and not np.isfinite(value.numpy()).all():
                problems.append(f"{path} holds a {key} that is not finite")
    problems += [f"{path} is there" for path in folder.glob("final*")]
    tally(not problems, f"{name}: {problems}")


def test_the_command_line_says_it_in_a_line(tmp_path):
    bench = Bench(tmp_path)
    write_pairs(tmp_path / "prefs.jsonl", 40, seed=random.SystemRandom().randrange(2**32))
    words = ["data=file", "data.path=prefs.jsonl", "model=tiny", "model.vocab_size=300"]
    status, said = bench.go(*words, "optimizer.lr=3e38", "train.batch_size=8", "logger=none")
    last = said.strip().splitlines()[-1]
    assert status == 1 and "Traceback" not in said
    assert last.startswith("dpo-lab: ") and "not finite" in last and "prefs.jsonl:" in last
