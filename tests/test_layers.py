"""Who may import whom, and that light things stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dpo_lab

PACKAGE = Path(dpo_lab.__file__).parent
ROOT = PACKAGE.parent

# from the bottom up; a module may import from its own layer and those below it
LAYERS = [
    "allocator batch config ranges errors disk faults spelling options cache display weights hub "
    "rows turns formats combinations complaints overrides compose completion follower examples "
    "shapes columnar records "
    "mixture source data card truncation templates tokenizer tokens token_rows verbatim",
    "losses optimizers quasi_newton schedules attention segments trees whole_tree head precision "
    "repeatable model adapters probes policy tabular sampling estimates scoring metrics layouts "
    "loader worlds intake",
    "references objective population checkpoint loggers folder identity record origin results "
    "statistics printing gauge evidence experiment",
    "loop stepzero evaluation drawing bands charts grid comparison diagnostics tables curves "
    "page report scorer soundings start signals finding pieces generators snapshot",
    "assembly run",
    "variants launchers jobs live sweepers sweep enumerated reproduce gallery",
    "__init__ __main__",
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}

# outside packages with one door each
DOORS = {
    "hydra": {"compose", "complaints", "overrides", "completion", "options", "variants"},
    "wandb": {"follower"},
    "transformers": {"model", "policy", "adapters", "attention", "probes"},
    "peft": {"model", "policy", "adapters"},
    "datasets": {"data", "columnar"},
    "matplotlib": {"curves", "drawing", "bands", "charts", "pieces"},
    "submitit": {"launchers"},
    "optuna": {"sweepers"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            if node.module == "dpo_lab":
                found += [f"dpo_lab.{alias.name}" for alias in node.names]
    return found


def at_import(path: Path) -> list[str]:
    """What is imported when the module is, outside of functions and TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif node.module:
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    name = name_of(path)
    assert name in RANK, f"{name} has no layer; add it to this test and to CONTRIBUTING"
    for imported in at_import(path):
        parts = imported.split(".")
        if parts[0] == "dpo_lab" and len(parts) > 1 and parts[1] in RANK and parts[1] != name:
            assert RANK[parts[1]] <= RANK[name], f"{name} imports {parts[1]}, which is above it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_outside_packages_have_one_door(path):
    name = name_of(path)
    for imported in imports(path):
        package = imported.split(".")[0]
        if package in DOORS:
            assert name in DOORS[package], f"{package} is imported by {sorted(DOORS[package])} only"


def test_files_are_short_and_named_by_a_noun():
    for path in [*modules(), *(ROOT / "tests").glob("*.py")]:
        assert len(path.read_text().splitlines()) <= 300, path
        assert not any(word in path.stem for word in ("util", "common", "helper", "misc"))


@pytest.mark.parametrize(
    "light",
    [
        "__main__",
        "compose",
        "intake",
        "data",
        "tokens",
        "worlds",
        "card",
        "folder",
        "results",
        "launchers",
        "sweep",
        "reproduce",
    ],
)
def test_light_modules_load_no_torch(light):
    heavy = "'torch._C' in sys.modules, 'transformers' in sys.modules"
    code = f"import sys, dpo_lab.{light}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
