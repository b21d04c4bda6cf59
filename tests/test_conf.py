"""Every yaml composes, lists every knob with a comment, and every option has one."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from dpo_lab import config
from dpo_lab.compose import compose, conf_dir, groups
from dpo_lab.options import signature

CALLS = sorted(
    path for path in conf_dir().glob("*/*.yaml") if re.search(r"^_target_:", path.read_text(), re.M)
)
NEEDED = {"path": "data.jsonl", "name": "who/what", "sources": "{a: {}}"}


def call(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", CALLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_yaml_is_a_call_that_lists_every_knob_with_a_comment(path):
    text, node = path.read_text(), call(path)
    assert text.startswith("# ")
    assert node["defaults"] == [f"/schema/{path.parent.name}/{path.stem}@_here_"]
    knobs = signature(node["_target_"]).knobs
    assert set(node) - {"defaults", "_target_"} == set(knobs)
    for name in knobs:
        line = re.search(rf"^{name}:.*$", text, re.M)
        assert line is not None and "#" in line[0], f"{name} has no comment"


@pytest.mark.parametrize("path", CALLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_yaml_composes(path):
    group, name = path.parent.name, path.stem
    words = [f"{group}={name}"]
    for knob, value in call(path).items():
        if value == "???":
            words.append(f"{group}.{knob}={NEEDED[knob]}")
    if name == "adapter_off":
        words.append("adapter=lora")
    if name == "mix":
        words = ["data=mix", "+data@data.sources.a=world_nano"]
    if name == "none" and group == "reference":
        words.append("loss=simpo")
    composed = compose(words)
    assert composed.choices[group] == name


def test_presets_compose():
    assert compose(["model=tabular"]).choices["preset"] == "tabular"
    assert compose(["model=tabular", "data=world"]).choices["preset"] == "tabular"
    for name in set(groups()["preset"]) - {"none", "tabular"}:
        assert compose([f"data={name}"]).choices["preset"] == name


def test_the_run_lists_every_knob_with_a_comment():
    text = (conf_dir() / "config.yaml").read_text()
    node = yaml.safe_load(text)
    root = signature("dpo_lab.config.Root").knobs
    assert set(root) <= set(node)
    for name in config.CLOSED:
        knobs = signature(f"dpo_lab.config.{config.NODES[name].__name__}").knobs
        assert set(node[name]) == set(knobs)
        for knob in knobs:
            assert re.search(rf"^  {knob}:.*#", text, re.M), f"{name}.{knob} has no comment"


OPTION_MODULES = {
    "loss": "losses/*.py",
    "optimizer": "optimizers.py",
    "schedule": "schedules.py",
    "data": "data.py",
    "adapter": "adapters.py",
    "model": "model.py",
    "start": "start.py",
    "reference": "references/*.py",
}


@pytest.mark.parametrize("group", OPTION_MODULES)
def test_every_option_has_a_yaml(group):
    """A public function with keyword-only knobs, or none but run-time objects, is an option."""
    package = Path(config.__file__).parent
    called = {
        call(path)["_target_"].rsplit(".", 1)[-1] for path in CALLS if path.parent.name == group
    }
    for path in package.glob(OPTION_MODULES[group]):
        for node in ast.parse(path.read_text()).body:
            if (
                isinstance(node, ast.FunctionDef)
                and not node.name.startswith("_")
                and node.args.kwonlyargs
            ):
                assert node.name in called, f"{path.name}: {node.name} has no yaml in conf/{group}"
