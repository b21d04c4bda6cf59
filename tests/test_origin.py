"""Runs that go on, and runs that are repeated."""

import json

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from dpo_lab.compose import compose
from dpo_lab.errors import Refused
from dpo_lab.origin import _quoted, repeat, resume
from dpo_lab.record import changed_config, housekeeping


@pytest.fixture
def folder(tmp_path):
    """What a run of yesterday left."""

    def make(*overrides, **record):
        config = compose([*overrides])
        folder = tmp_path / "run"
        folder.mkdir()
        about = {"overrides": list(overrides), "config_dir": None, "cwd": str(tmp_path)}
        about |= {"dpo_lab": "0.1.0", "identity": "x", **record}
        (folder / "record.json").write_text(json.dumps(about))
        (folder / "config.yaml").write_text(yaml.safe_dump(config.plain))
        (folder / "status.json").write_text('{"state": "done"}')
        (folder / "metrics.jsonl").write_text("")
        return folder

    return make


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        1e-7,
        -2.5,
        "plain",
        "",
        "it's",
        "a, b",
        "back\\slash",
        "end\\",
        "\\'",
        "ü = {x}",
    ],
)
def test_values_are_read_back_as_they_were(value):
    read = OverridesParser.create().parse_override(f"x={_quoted(value)}").value()
    assert read == value and type(read) is type(value)


def test_what_was_typed_is_typed_again_and_overrides_go_on_top(folder):
    config, origin = repeat(folder("loss=hinge", "loss.beta=0.3", "seed=4"), ["seed=5"], None)
    assert config.choices["loss"] == "hinge" and config.nodes["loss"]["beta"] == 0.3
    assert config.seed == 5 and origin.touched == {"seed"}
    config, origin = repeat(origin.folder, ["outputs_dir=x", "train.log_every=1"], None)
    assert not origin.touched


def test_where_a_yaml_says_something_else_today_the_run_s_own_config_counts(folder):
    path = folder("loss=hinge", "train.steps=7", "train.epochs=null")
    saved = yaml.safe_load((path / "config.yaml").read_text())
    saved["optimizer"]["lr"] = 0.0123
    saved["loss"]["beta"] = 0.77
    (path / "config.yaml").write_text(yaml.safe_dump(saved))
    config, _ = repeat(path, [], None)
    assert config.nodes["optimizer"]["lr"] == 0.0123 and config.nodes["loss"]["beta"] == 0.77
    config, _ = repeat(path, ["loss=dpo"], None)  # chosen anew: its own yaml
    assert config.nodes["loss"]["beta"] == compose(["loss=dpo"]).nodes["loss"]["beta"]
    saved["loss"]["_target_"] = "dpo_lab.losses.other"
    (path / "config.yaml").write_text(yaml.safe_dump(saved))
    with pytest.raises(Refused, match=r"loss\._target_ was dpo_lab\.losses\.other"):
        repeat(path, [], None)


def test_files_are_found_where_the_run_was_started(folder, tmp_path, monkeypatch):
    (tmp_path / "prefs.jsonl").write_text("")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = folder("data=file", "data.path=prefs.jsonl")
    for config in (repeat(path, [], None)[0], resume([f"train.resume={path}"], None)[0]):
        assert config.nodes["data"]["path"] == str(tmp_path / "prefs.jsonl")


def test_another_major_version_and_no_run_are_refused(folder, tmp_path):
    with pytest.raises(Refused, match=r"made by dpo_lab 7\.0\.0"):
        repeat(folder(dpo_lab="7.0.0"), [], None)
    with pytest.raises(Refused, match="there is no run in this folder"):
        repeat(tmp_path / "nowhere", [], None)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "record.json").write_text("{")
    with pytest.raises(Refused, match=r"record\.json cannot be read"):
        resume([f"train.resume={tmp_path / 'broken'}"], None)


def test_only_what_changes_a_result_is_named():
    old, new = (
        compose(["loss.beta=0.1"]).plain,
        compose(["loss.beta=0.2", "train.log_every=3"]).plain,
    )
    assert changed_config(old, new) == ["loss.beta was 0.1 and is 0.2"]
    assert housekeeping("logger.project") and not housekeeping("train.steps")
