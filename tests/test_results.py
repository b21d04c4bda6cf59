"""Run folders read back, whole and damaged."""

import json
import math
import os
import subprocess

import pytest
from run_folders import fake

import dpo_lab
from dpo_lab.errors import Refused
from dpo_lab.results import Run, find


@pytest.fixture
def run(tmp_path):
    return fake(tmp_path / "sweep" / "one")


def test_a_whole_run(run):
    assert (run.state, run.reason, run.damage) == ("done", "", [])
    assert run.config["loss"]["beta"] == 0.1 and run.choices["loss"] == "dpo"
    assert run.series("eval/loss")[0] == [0, 10, 20, 30, 40]
    assert run.series("train/loss")[0] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert run.metrics["eval/loss"] == run.series("eval/loss")[1][-1]
    assert run.series("eval/nothing") == ([], [])


def test_the_command_of_one_call_is_not_an_override_of_the_run(run):
    record = run.record | {"overrides": ["loss.beta=1", "train.resume=x", "+train.resume=y"]}
    (run.folder / "record.json").write_text(json.dumps(record))
    assert Run(run.folder).overrides == ["loss.beta=1"]


def test_half_a_last_line_is_left_out(run):
    path = run.folder / "metrics.jsonl"
    whole = len(run.events)
    (run.folder / "status.json").write_text('{"state": "stopped", "reason": "SIGTERM"}')
    path.write_text(path.read_text() + '{"event": "train", "step": 45, "train/lo')
    again = Run(run.folder)
    assert len(again.events) == whole and again.reason == "SIGTERM"


def test_a_broken_line_ends_the_reading_and_is_said(run):
    path = run.folder / "metrics.jsonl"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:3], '{"event": "tr', *lines[3:]]))
    again = Run(run.folder)
    assert len(again.events) == 3 and again.reason == "metrics.jsonl breaks off at line 4"


@pytest.mark.parametrize("content", ["", "[]", "3", '"x"', '{"a"', "\x00\x01", "{" * 50])
@pytest.mark.parametrize("name", ["status.json", "record.json", "config.yaml", "metrics.jsonl"])
def test_no_damage_stops_the_reading(run, name, content):
    (run.folder / name).write_text(content)
    again = Run(run.folder)
    assert again.state == ("damaged" if name == "status.json" else "done")
    assert name in again.reason
    assert isinstance(again.metrics, dict) and again.series("eval/loss") is not None
    assert len(dpo_lab.runs(run.folder.parent)) == 1


@pytest.mark.parametrize("name", ["status.json", "record.json", "config.yaml", "metrics.jsonl"])
def test_a_missing_file_is_named(run, name):
    (run.folder / name).unlink()
    again = Run(run.folder)
    assert f"{name} is missing" in again.reason
    assert len(find(run.folder.parent)) == 1


def test_bytes_that_are_no_text(run):
    for name in ("status.json", "record.json", "config.yaml", "metrics.jsonl"):
        (run.folder / name).write_bytes(b"\xff\xfe\x00" + os.urandom(50))
    again = Run(run.folder)
    assert again.state == "damaged" and again.events == [] and again.config == {}


def test_a_process_that_is_gone_is_noticed(run):
    gone = subprocess.Popen(["true"])
    gone.wait()
    status = run.folder / "status.json"
    status.write_text(json.dumps({"state": "running", "pid": gone.pid}))
    assert f"no process {gone.pid} on this machine" in Run(run.folder).reason
    status.write_text(json.dumps({"state": "running", "pid": os.getpid()}))
    assert Run(run.folder).reason == ""


def test_metrics_are_numbers(run):
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "eval/loss": NaN, "eval/flag": true, "eval/text": "x"}\n')
    again = Run(run.folder)
    assert math.isnan(again.metrics["eval/loss"])
    assert "eval/flag" not in again.metrics and "eval/text" not in again.metrics


def test_a_metric_that_the_last_evaluation_left_out_is_not_a_last_value(run):
    assert "world/optimal_share" in run.metrics
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "eval", "step": 50, "world/kl": 0.01}\n')
    again = Run(run.folder)
    assert "world/optimal_share" not in again.metrics and again.metrics["world/kl"] == 0.01
    assert again.metrics["train/loss"] == run.metrics["train/loss"]


def test_find_looks_below_but_not_inside_runs(tmp_path):
    fake(tmp_path / "b" / "deep" / "er")
    fake(tmp_path / "a")
    fake(tmp_path / "a" / "wandb" / "inner")
    fake(tmp_path / ".hidden" / "x")
    assert [str(run.folder.relative_to(tmp_path)) for run in find(tmp_path)] == ["a", "b/deep/er"]
    assert find(tmp_path / "a") == [Run(tmp_path / "a")]
    with pytest.raises(Refused, match="there is no folder"):
        find(tmp_path / "nowhere")


def test_the_table_of_mixed_and_broken_runs(tmp_path):
    fake(tmp_path / "x", beta=0.5)
    fake(tmp_path / "y", loss="simpo", state="failed", reason="ValueError: <no>")
    fake(tmp_path / "z")
    (tmp_path / "z" / "config.yaml").write_text("a: [")
    (tmp_path / "z" / "record.json").unlink()
    table = dpo_lab.runs(tmp_path).set_index("folder")
    assert list(table["state"]) == ["done", "failed", "done"]
    assert table.loc[str(tmp_path / "x"), "loss.beta"] == 0.5
    assert table.loc[str(tmp_path / "y"), "loss"] == "simpo"
    assert table.loc[str(tmp_path / "y"), "reason"] == "ValueError: <no>"
    assert math.isnan(table.loc[str(tmp_path / "z"), "loss.beta"])
    assert not any("_target_" in name for name in table.columns)


def test_the_table_of_no_runs_is_empty(tmp_path):
    assert list(dpo_lab.runs(tmp_path).columns) == ["folder", "state", "reason"]
