"""Two swept numbers as a grid."""

import math

import numpy as np
from run_folders import fake, sweep

from dpo_lab.comparison import compare
from dpo_lab.grid import grids
from dpo_lab.results import Run


def test_every_cell_is_a_mean_over_seeds(tmp_path):
    runs = sweep(tmp_path)
    (grid,) = grids(compare(runs, "world/reward"))
    assert (grid.x, grid.y, grid.title) == ("loss.beta", "optimizer.lr", "")
    assert (grid.xs, grid.ys) == ([0.1, 0.5, 2.0], [0.001, 0.003])
    for row, lr in enumerate(grid.ys):
        for column, beta in enumerate(grid.xs):
            values = [
                run.metrics["world/reward"]
                for run in runs
                if run.config["loss"]["beta"] == beta and run.config["optimizer"]["lr"] == lr
            ]
            assert grid.means[row, column] == np.mean(values)


def test_a_missing_or_failed_cell_is_empty(tmp_path):
    runs = [run for run in sweep(tmp_path) if "beta=2.0,lr=0.003" not in run.folder.name]
    runs.append(fake(tmp_path / "failed", beta=2.0, lr=0.003, state="failed", reason="no"))
    (grid,) = grids(compare(runs))
    assert math.isnan(grid.means[1, 2]) and grid.cells == 5


def test_one_grid_for_each_loss(tmp_path):
    runs = sweep(tmp_path / "dpo")
    for beta in (0.1, 0.5):
        for lr in (0.001, 0.003):
            runs.append(fake(tmp_path / f"{beta}-{lr}", beta=beta, lr=lr, loss="ipo"))
    found = grids(compare(runs))
    assert [grid.title for grid in found] == ["loss=dpo", "loss=ipo"]
    assert [grid.cells for grid in found] == [6, 4]


def test_one_number_or_a_line_makes_no_grid(tmp_path):
    runs = [fake(tmp_path / str(beta), beta=beta) for beta in (0.1, 0.5)]
    assert grids(compare(runs)) == []
    runs.append(fake(tmp_path / "loss", loss="ipo", lr=1.0))
    assert grids(compare(runs)) == []
    assert grids(compare([])) == []


def test_a_diagonal_is_a_grid_with_holes(tmp_path):
    runs = [fake(tmp_path / str(n), beta=0.1 * n, lr=0.001 * n) for n in (1, 2, 3)]
    (grid,) = grids(compare(runs))
    assert grid.cells == 3 and grid.means.shape == (3, 3)


def test_runs_without_metrics_fill_nothing(tmp_path):
    runs = sweep(tmp_path)
    for run in runs:
        (run.folder / "metrics.jsonl").write_text("")
    assert grids(compare([Run(run.folder) for run in runs])) == []
