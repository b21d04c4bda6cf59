"""Displacement, margins and length, from the pairs of an evaluation."""

import math

import numpy as np
import pytest
from run_folders import fake, write_pairs

from dpo_lab.diagnostics import diagnose, summarise
from dpo_lab.results import Run

# margins: 3, -1, 0, 1; lengths: chosen longer, rejected longer, equal, chosen longer
COLUMNS = {
    "chosen_logps": np.array([-2.0, -3.0, -1.0, -5.0]),
    "chosen_start_logps": np.array([-1.0, -3.0, -2.0, -4.0]),
    "chosen_reward": np.array([3.0, 0.0, 1.0, 1.0]),
    "rejected_reward": np.array([0.0, 1.0, 1.0, 0.0]),
    "chosen_tokens": np.array([3.0, 1.0, 2.0, 4.0]),
    "rejected_tokens": np.array([1.0, 2.0, 2.0, 3.0]),
}


def test_by_hand():
    found = summarise(7, 4, COLUMNS)
    assert (found.step, found.pairs) == (7, 4)
    assert found.below_start == 0.5  # -2 < -1 and -5 < -4; equal is not below
    assert found.margin == pytest.approx((-0.85, 0.5, 2.7))  # of -1, 0, 1, 3, linear between
    assert found.saturated == 0.25  # sigmoid(-m) < 0.1 from m = log 9 = 2.197
    # margins 3, -1, 0, 1 and lengths 2, -1, 0, 1: means 0.75 and 0.5
    covariance = 2.25 * 1.5 + 1.75 * 1.5 + 0.75 * 0.5 + 0.25 * 0.5
    spread = math.sqrt((2.25**2 + 1.75**2 + 0.75**2 + 0.25**2) * (1.5**2 + 1.5**2 + 0.5**2 * 2))
    assert found.length_correlation == pytest.approx(covariance / spread)
    assert found.accuracy == {"chosen": (1.0, 2), "rejected": (0.0, 1), "neither": (0.5, 1)}


def test_what_was_not_measured_is_none():
    found = summarise(1, 4, {"chosen_logps": COLUMNS["chosen_logps"]})
    assert found.below_start is None and found.margin is None and found.accuracy == {}
    same = COLUMNS | {"chosen_tokens": COLUMNS["rejected_tokens"]}
    found = summarise(1, 4, same)
    assert found.length_correlation is None and found.accuracy["chosen"] == (None, 0)
    flat = COLUMNS | {"chosen_reward": COLUMNS["rejected_reward"]}
    assert summarise(1, 4, flat).length_correlation is None


def test_margins_that_are_not_finite_are_left_out():
    bad = COLUMNS | {"chosen_reward": np.array([np.nan, 0.0, 1.0, np.inf])}
    assert summarise(1, 4, bad).margin == pytest.approx((-0.95, -0.5, -0.05))
    none = COLUMNS | {"chosen_reward": np.full(4, np.nan)}
    assert summarise(1, 4, none).margin is None


def test_the_newest_evaluation_counts_by_number(tmp_path):
    run = fake(tmp_path / "a", steps=40)
    write_pairs(run.folder / "eval" / "step_5.parquet", 0.1, 3)
    write_pairs(run.folder / "eval" / "step_100.parquet", 0.1, 3, count=7)
    (run.folder / "eval" / "step_x.parquet").write_text("")
    found = diagnose(run)
    assert (found.step, found.pairs) == (100, 7)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\x00" * 40 + b"PAR1"])
def test_a_damaged_file_is_no_evaluation(tmp_path, content):
    run = fake(tmp_path / "a")
    (run.folder / "eval" / "step_50.parquet").write_bytes(content)
    assert diagnose(run) is None
    assert diagnose(Run(tmp_path)) is None
