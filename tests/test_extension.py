"""What users add in a folder of their own gets schema, ranges, help and training."""

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
QUICK = "train.steps=2 train.epochs=null train.batch_size=8 logger=none".split()


@pytest.fixture
def mine(tmp_path):
    """A folder outside the checkout with a loss and a data source."""
    for group, name, yaml, module, code in (
        ("loss", "squared", LOSS_YAML, "my_losses", LOSS),
        ("data", "counting", SOURCE_YAML, "my_data", SOURCE),
    ):
        (tmp_path / group).mkdir()
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
