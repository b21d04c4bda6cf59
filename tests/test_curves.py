"""Curves of one run and of many, and the charts beside them."""

import io
import json

import numpy as np
import pytest
from run_folders import FRONTIER, fake, sweep

from dpo_lab import bands, charts, curves, drawing
from dpo_lab.comparison import compare
from dpo_lab.diagnostics import diagnose
from dpo_lab.grid import grids
from dpo_lab.results import Run


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return compare(sweep(tmp_path_factory.mktemp("sweep")))


def test_one_run_is_drawn_into_its_folder(tmp_path):
    run = fake(tmp_path / "a")
    figure = curves.draw(run)
    assert [axes.get_title() for axes in figure.axes] == [
        "Loss",
        "Accuracy of implicit rewards",
        "Log-ratio to the start",
        "Implicit reward",
        "Exact reward against KL",
    ]
    assert curves.save(run) == run.folder / "curves.png"
    assert (run.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_band_is_mean_and_range_over_shared_steps(tmp_path):
    runs = [fake(tmp_path / str(seed), seed=seed, steps=40 - 20 * seed) for seed in (0, 1)]
    band = bands.across(runs, "eval/loss")
    assert list(band.steps) == [0, 10, 20]
    values = np.array([run.series("eval/loss")[1][:3] for run in runs])
    np.testing.assert_allclose(band.mean, values.mean(0))
    np.testing.assert_allclose(band.low, values.min(0))
    np.testing.assert_allclose(band.high, values.max(0))
    assert bands.across(runs, "eval/nothing") is None and bands.across([], "eval/loss") is None


def test_long_curves_are_thinned_by_means(tmp_path):
    run = fake(tmp_path / "a")
    lines = [{"event": "train", "step": step, "train/loss": step % 2} for step in range(1, 2001)]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    band = bands.across([Run(run.folder)], "train/loss")
    assert len(band.steps) == bands.POINTS
    assert band.steps[0] == 5.5 and np.all(band.mean == 0.5)


def test_every_quantity_has_a_panel_and_pairs_share_a_scale(comparison):
    panels = bands.panels(comparison)
    assert [panel.title for panel in panels] == [quantity.title for quantity in bands.COMPARED]
    figure = drawing.together(panels, 3)
    limits = {axes.get_title("left"): axes.get_ylim() for axes in figure.axes}
    assert limits["Log-ratio, chosen"] == limits["Log-ratio, rejected"]
    assert limits["Implicit reward, chosen"] == limits["Implicit reward, rejected"]
    loss = figure.axes[0]
    markers = [line.get_marker() for line in loss.get_lines()]
    assert markers == ["None", "o", "None", "s", "None", "D", "None", "^", "None", "v", "None", "P"]
    assert len(loss.collections) == 6  # the range over two seeds
    assert "beta=0.1, lr=0.001: 0.5" in panels[0].alt


def test_what_was_not_measured_has_no_panel(tmp_path):
    run = fake(tmp_path / "a")
    lines = [{"event": "train", "step": step, "train/loss": 1.0} for step in (1, 2)]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = compare([Run(run.folder)])
    assert [panel.title for panel in bands.panels(found)] == ["Loss"]
    assert charts.tradeoff(found, bands.styles(found)) is None


def test_of_many_configurations_the_best_have_a_colour(tmp_path):
    found = compare([fake(tmp_path / str(n), beta=0.1 * n) for n in range(1, 13)])
    look = bands.styles(found)
    named = [group.values["loss.beta"] for group, style in look.items() if style.named]
    assert named == pytest.approx([0.1 * n for n in range(1, 8)])  # the share falls with beta
    colours = [style.colour for style in look.values() if style.named]
    assert len(set(colours)) == 7 and [*look.values()][-1] == drawing.OTHERS
    (axes,) = drawing.together([bands.legend(look)], 1).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()][7] == "5 others"


def test_every_distinct_frontier_is_drawn_once(tmp_path):
    other = {"kl": [0, 1], "reward": [-1, 2]}
    runs = [fake(tmp_path / str(seed), seed=seed) for seed in range(3)]
    runs += [fake(tmp_path / "other", beta=0.5, frontier=other)]
    runs += [fake(tmp_path / "none", beta=0.7, frontier={"kl": [1, 2], "reward": [1]})]
    found = charts.frontiers(runs)
    assert [count for _, count in found] == [3, 1]
    np.testing.assert_array_equal(found[0][0], np.array([FRONTIER["kl"], FRONTIER["reward"]]).T)
    comparison = compare(runs)
    panel = charts.tradeoff(comparison, bands.styles(comparison))
    (axes,) = drawing.together([panel], 1).axes
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert said == ["optimum, start 1 (3 runs)", "optimum, start 2 (1 run)"]
    assert "2 optimal frontiers" in panel.alt
    assert len(axes.get_lines()) == 2 + 2 * 5  # each run has a way and an end


def test_a_heat_map_has_its_numbers_in_it(comparison):
    (panel,) = charts.heatmaps(grids(comparison), "world/optimal_share", lower=False)
    axes = drawing.together([panel], 1).axes[0]
    cells = [text.get_text() for text in axes.texts]
    best = max(group.estimate("world/optimal_share").mean for group in comparison.configurations)
    assert len(cells) == 6 and f"{best:.3f}" in cells
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.5", "2.0"]
    assert "optimizer.lr (2 values) by loss.beta (3 values)" in panel.alt
    assert charts.heatmaps([], "eval/loss", lower=True) == []


def test_diagnostics_are_drawn_one_row_a_configuration(comparison):
    rows = [
        (group, [diagnose(run) for run in group.counted]) for group in comparison.configurations
    ]
    figure = drawing.together(charts.spreads(rows), 3)
    for axes in figure.axes:
        assert [tick.get_text() for tick in axes.get_yticklabels()] == [
            group.label for group, _ in rows
        ]
    share = rows[0][1][0].below_start, rows[0][1][1].below_start
    assert figure.axes[1].get_lines()[0].get_xdata()[0] == pytest.approx(sum(share) / 2)


def test_the_same_figure_is_the_same_file_and_says_no_date(comparison, tmp_path):
    panel = bands.panels(comparison)[0]
    for name in ("a", "b"):
        drawing.save(drawing.together([panel], 1), tmp_path / name)
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert b"<dc:date>" not in (tmp_path / "a.svg").read_bytes()


def test_names_are_drawn_as_they_are(tmp_path):
    """A dollar sign starts no formula, and a glyph that the font lacks is no warning."""
    runs = [fake(tmp_path / name, loss=name) for name in ("$x^{$", "损失", "_<&>")]
    comparison = compare(runs)
    panels = [*bands.panels(comparison)[:1], bands.legend(bands.styles(comparison))]
    drawing.save(drawing.together(panels, 2), tmp_path / "figure")
    assert io.BytesIO((tmp_path / "figure.svg").read_bytes()).read(5) == b"<?xml"
