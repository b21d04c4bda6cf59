"""What users add in a folder of their own gets schema, ranges, help and training."""

import json
import math
import subprocess
import sys

import pytest

LOSS = """
from __future__ import annotations

from typing import Annotated

from dpo_lab.batch import Logps, Pair, Scores
from dpo_lab.ranges import Positive


def squared(
    policy: Pair[Logps], reference: Pair[Logps], *, beta: Annotated[float, Positive], shift: float =
    1.0
) -> Scores:
    chosen = beta * (policy.chosen.total - reference.chosen.total)
    rejected = beta * (policy.rejected.total - reference.rejected.total)
    return Scores((chosen - rejected - shift) ** 2, chosen.detach(), rejected.detach())
"""
LOSS_YAML = """# A loss of my own.
defaults: [/schema/loss/squared@_here_]
_target_: my_losses.squared
beta: 0.1   # reward per nat
shift: 1.0  # where the margin should end
"""
SOURCE = '''
from __future__ import annotations

from dpo_lab.batch import Example
from dpo_lab.source import Source


def counting(*, rows: int = 40) -> Source:
    """Numbers: the next one is chosen."""
    made = [
        Example(f"count:{i}", f"{i} is followed by", f" {i + 1}", f" {i - 1}") for i in range(rows)
    ]
    return Source(train=made[:-8], eval=made[-8:], digest=f"counting {rows}")
'''
SOURCE_YAML = """# A source of my own.
defaults: [/schema/data/counting@_here_]
_target_: my_data.counting
rows: 40    # how many
"""
WORLDS = '''
from __future__ import annotations

from typing import Annotated

import numpy as np

from dpo_lab.ranges import Count, NonNegative
from dpo_lab.source import Source
from dpo_lab.worlds import Recipe, World, as_source, judged
from dpo_lab.worlds.tree import Tree


def brief(*, pairs: Annotated[int, Count] = 100, temperature: Annotated[float, NonNegative] = 1.0
) -> Source:
    """The built-in words, where two of them are best."""
    return judged(
        lambda prompt, response: -abs(len(response.split()) - 2.0),
        words="good bad film not", depth=3, pairs=pairs, eval_pairs=20, sft_rows=50,
        temperature=temperature,
    )


def signals(*, pairs: Annotated[int, Count] = 100) -> Source:
    """Words, prompts and rewards of my own: what a lamp should show, said by a fair coin."""
    tree = Tree(num_words=2, depth=1)  # an end at once, red, green
    reward = np.array([[0.0, 1.0, -1.0], [0.0, -1.0, 1.0]])
    grammar = np.log(np.full((2, 3), 1 / 3))
    world = World(("red", "green"), ("stop", "go"), tree, reward, grammar, Recipe(pairs, 20))
    return as_source(world, {"signals": pairs}, sft_rows=50, sft_seed=0)
'''
BRIEF_YAML = """# A reward of my own.
defaults: [/schema/data/brief@_here_]
_target_: my_worlds.brief
pairs: 100        # of preferences
temperature: 1.0  # of the labels
"""
SIGNALS_YAML = """# A world of my own.
defaults: [/schema/data/signals@_here_]
_target_: my_worlds.signals
pairs: 100  # of preferences
"""
QUICK = "train.steps=2 train.epochs=null train.batch_size=8 logger=none".split()


@pytest.fixture
def mine(tmp_path):
    """A folder outside the checkout with a loss and a data source."""
    for group, name, yaml, module, code in (
        ("loss", "squared", LOSS_YAML, "my_losses", LOSS),
        ("data", "counting", SOURCE_YAML, "my_data", SOURCE),
        ("data", "brief", BRIEF_YAML, "my_worlds", WORLDS),
        ("data", "signals", SIGNALS_YAML, "my_worlds", WORLDS),
    ):
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / f"{name}.yaml").write_text(yaml)
        (tmp_path / f"{module}.py").write_text(code)
    return tmp_path


def dpo_lab(folder, *words):
    command = [sys.executable, "-m", "dpo_lab", "--config-dir", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_a_loss_shows_up_is_checked_and_trains(mine):
    assert "squared" in dpo_lab(mine, "--help").stdout
    for word, says in (
        ("loss.betta=1", "did you mean loss.beta?"),
        ("loss.beta=x", "loss.beta must be a number > 0, got x"),
        ("loss.beta=-1", "loss.beta must be > 0, got -1.0"),
        ("reference=none", "loss=squared compares with a reference"),
    ):
        done = dpo_lab(mine, "loss=squared", word)
        assert done.returncode == 2 and says in done.stderr
    small = (
        "data=world_nano data.pairs=100 data.eval_pairs=20 data.sft_rows=100 start.steps=2".split()
    )
    done = dpo_lab(mine, "loss=squared", "loss.beta=0.3", *small, *QUICK)
    assert done.returncode == 0, done.stderr


def test_a_source_trains_with_a_tokenizer_of_its_own_text(mine):
    model = "model=tiny model.vocab_size=300 model.max_positions=64".split()
    done = dpo_lab(mine, "data=counting", "data.rows=50", *model, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "did you mean data.rows?" in dpo_lab(mine, "data=counting", "data.row=3").stderr


def last(folder, name):
    """The last line of the metrics of the newest run of this name."""
    (run,) = (folder / "outputs" / name).iterdir()
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def test_a_reward_of_ones_own_is_measured_exactly(mine):
    small = "preset=world model=tiny start.steps=2 start.batch_size=16 name=brief".split()
    done = dpo_lab(mine, "data=brief", *small, *QUICK)
    assert done.returncode == 0, done.stderr
    said = last(mine, "brief")
    # a response has 0 to 3 words, and none is more than 2 words from the best
    assert -2 < said["world/reward"] < 0 and said["world/kl_to_optimum"] > 0
    assert (
        "did you mean data.temperature?" in dpo_lab(mine, "data=brief", "data.temprature=2").stderr
    )
    done = dpo_lab(mine, "data=brief", "data.temperature=-1")
    assert done.returncode == 2 and "data.temperature must be >= 0" in done.stderr


def test_a_world_of_ones_own_has_its_optimum_by_hand(mine):
    words = "preset=tabular data=signals model=tabular loss=dpo loss.beta=0.5 logger=none".split()
    done = dpo_lab(mine, *words, "train.batch_size=2", "name=signals")
    assert done.returncode == 0, done.stderr
    said = last(mine, "signals")
    # pi* of rewards 0, 1, -1 and a fair start is exp(2 r) / Z
    weights = [math.exp(2 * reward) for reward in (0, 1, -1)]
    expected = (weights[1] - weights[2]) / sum(weights)
    assert said["world/reward"] == pytest.approx(expected, abs=1e-8)
    assert said["world/optimal_share"] == pytest.approx(1, abs=1e-8)
