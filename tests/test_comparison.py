"""What differs between runs, which belong together, and which is best."""

import json
import math

import pytest
import yaml
from run_folders import fake, sweep

from dpo_lab.comparison import compare, differing, label, lower_is_better, options, short
from dpo_lab.errors import Refused
from dpo_lab.results import Run


def rewrite(run: Run, config: dict | None = None, overrides: list[str] | None = None) -> Run:
    """The same run with other values in its config and other words in its record."""
    plain = yaml.safe_load((run.folder / "config.yaml").read_text())
    for name, value in (config or {}).items():
        node, _, key = name.rpartition(".")
        (plain.setdefault(node, {}) if node else plain)[key] = value
    (run.folder / "config.yaml").write_text(yaml.safe_dump(plain))
    if overrides is not None:
        record = run.record | {"overrides": overrides}
        (run.folder / "record.json").write_text(json.dumps(record))
    return Run(run.folder)


def told(runs: list[Run]) -> list[str]:
    """What tells these runs apart."""
    return differing({run: options(run) for run in runs})


def test_only_what_differs_is_named_and_the_seed_last(tmp_path):
    runs = sweep(tmp_path)
    assert told(runs) == ["loss.beta", "optimizer.lr", "seed"]
    assert told(runs[:2]) == ["seed"] and told(runs[:1]) == []


def test_what_a_choice_brings_along_is_not_named_again(tmp_path):
    a = rewrite(fake(tmp_path / "a"), {"loss.gamma": 1.0}, ["loss=dpo"])
    b = rewrite(fake(tmp_path / "b", loss="simpo", beta=2.0), {"loss.margin": 3}, ["loss=simpo"])
    assert told([a, b]) == ["loss"]


def test_what_somebody_typed_is_named_even_if_it_follows(tmp_path):
    a = fake(tmp_path / "a", lr=1e-3)
    b = fake(tmp_path / "b", loss="simpo", beta=2.0, lr=3e-3)
    assert told([a, b]) == ["loss", "loss.beta", "optimizer.lr"]


def test_a_silent_difference_is_named(tmp_path):
    """Two yamls of the same name, or a default that changed between versions."""
    a, b = fake(tmp_path / "a"), rewrite(fake(tmp_path / "b"), {"optimizer.eps": 1e-4})
    assert told([a, b]) == ["optimizer.eps"]


def test_where_a_run_is_kept_makes_no_difference(tmp_path):
    a, b = fake(tmp_path / "x" / "a"), fake(tmp_path / "y" / "b", logger="wandb")
    b = rewrite(b, {"train.log_every": 1, "name": "other", "checkpoint.keep": 9})
    assert told([a, b]) == []
    assert len(compare([a, b]).configurations) == 1


def test_other_data_under_the_same_name_is_a_difference(tmp_path):
    runs = [fake(tmp_path / "a"), fake(tmp_path / "b")]
    for run, digest in zip(runs, ("aa", "bb"), strict=True):
        record = run.record | {"files": {"pairs.jsonl": digest}}
        (run.folder / "record.json").write_text(json.dumps(record))
    assert told([Run(run.folder) for run in runs]) == ["data.files"]


def test_configurations_differ_in_more_than_the_seed(tmp_path):
    comparison = compare(sweep(tmp_path))
    assert [group.label for group in comparison.configurations] == [
        f"beta={beta}, lr={lr}" for beta in (0.1, 0.5, 2.0) for lr in (0.001, 0.003)
    ]
    assert all(len(group.counted) == 2 for group in comparison.configurations)
    assert comparison.metric == "world/optimal_share" and not comparison.lower


def test_the_mean_is_over_seeds_and_over_finished_runs(tmp_path):
    for seed in (0, 1):
        fake(tmp_path / str(seed), seed=seed)
    fake(tmp_path / "2", seed=2, state="failed", reason="no", steps=10)
    fake(tmp_path / "again", seed=1)
    runs = [Run(tmp_path / name) for name in ("0", "1", "2", "again")]
    comparison = compare(runs)
    (group,) = comparison.configurations
    assert [run.folder.name for run in group.counted] == ["0", "again"] and comparison.repeats == 1
    values = [run.metrics["eval/loss"] for run in group.counted]
    assert group.estimate("eval/loss").mean == pytest.approx(sum(values) / 2)
    assert group.estimate("eval/nothing") is None


def test_where_nothing_has_finished_the_rest_counts(tmp_path):
    run = fake(tmp_path / "a", state="stopped", reason="SIGTERM", steps=20)
    comparison = compare([run])
    assert comparison.best == run and not comparison.configurations[0].finished
    assert comparison.settled == comparison.configurations


def test_best_knows_the_direction(tmp_path):
    runs = sweep(tmp_path)
    most = max(runs, key=lambda run: run.metrics["world/reward"])
    least = min(runs, key=lambda run: run.metrics["world/kl"])
    assert compare(runs, "world/reward").best == most
    assert compare(runs, "world/kl").best == least
    assert compare(runs, "world/kl").ranked[0].runs[0].config["loss"]["beta"] == 2.0
    for name in ("eval/loss", "world/kl", "world/kl_to_optimum", "perf/peak_memory_mb"):
        assert lower_is_better(name)
    for name in ("eval/rewards/accuracies", "world/optimal_share", "eval/logps/chosen"):
        assert not lower_is_better(name)


def test_an_unfinished_or_diverged_run_is_never_the_best(tmp_path):
    good = fake(tmp_path / "good", lr=1e-4)
    fake(tmp_path / "failed", state="failed", reason="no")
    bad = fake(tmp_path / "bad", beta=0.2)
    with (bad.folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "eval", "step": 50, "world/optimal_share": NaN}\n')
    runs = [Run(tmp_path / name) for name in ("good", "failed", "bad")]
    assert compare(runs).best == good
    assert math.isnan(compare(runs).configuration(Run(bad.folder)).runs[0].metrics[RANKED])


RANKED = "world/optimal_share"


def test_an_unknown_metric_is_refused(tmp_path):
    with pytest.raises(Refused, match="did you mean world/reward"):
        compare([fake(tmp_path / "a")], "world/rewart")


def test_runs_without_config_or_metrics_are_kept_aside(tmp_path):
    for name in ("a", "b"):
        fake(tmp_path / name)
    (tmp_path / "a" / "config.yaml").unlink()
    (tmp_path / "b" / "metrics.jsonl").unlink()
    comparison = compare([Run(tmp_path / "a"), Run(tmp_path / "b")])
    assert [run.folder.name for run in comparison.runs] == ["b", "a"]
    assert comparison.label(comparison.runs[1]) == "a" and comparison.best is None
    (tmp_path / "a" / "metrics.jsonl").unlink()
    assert compare([Run(tmp_path / "a")]).metric is None


def test_labels_say_as_little_as_tells_apart(tmp_path):
    a = rewrite(fake(tmp_path / "a"), {"start.lr": 1.0}, ["loss.beta=0.1", "start.lr=1"])
    b = rewrite(fake(tmp_path / "b", beta=1.0, lr=0.1), {"start.lr": 2.0})
    comparison = compare([a, b])
    assert comparison.differing == ["loss.beta", "optimizer.lr", "start.lr"]
    assert [group.label for group in comparison.configurations] == ["beta=0.1", "beta=1.0"]
    assert short("start.lr", comparison.differing) == "start.lr"
    assert short("loss.beta", comparison.differing) == "beta"
    long = label({"data.path": "/a/very/long/way/to/some/pairs.jsonl"}, [])
    assert long == "data.path=/a/very/long…e/pairs.jsonl"


def test_options_leave_the_machinery_out(tmp_path):
    assert set(options(fake(tmp_path / "a"))) == {
        *("loss", "data", "seed", "train.steps", "train.batch_size", "loss.beta", "optimizer.lr")
    }
