"""Overrides -> one checked config, and a sweep's overrides -> all of its jobs.

Three nets hold what a user types: Hydra's struct check, OmegaConf's type check, and
`options.check`, since `+key=1` and `++key=1` slip past the first two. Everything here is done
before torch is loaded.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dpo_lab import options
from dpo_lab.combinations import check_combinations
from dpo_lab.complaints import check_switches, explain, first_line
from dpo_lab.config import CLOSED, NODES, Config
from dpo_lab.errors import Refused
from dpo_lab.overrides import parse, values
from dpo_lab.spelling import did_you_mean, shown
from dpo_lab.verbatim import verbatim


def conf_dir() -> Path:
    """The folder of our own yamls: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file() and (folder / "loss").is_dir():
            return folder
    raise FileNotFoundError(f"no conf/config.yaml beside or in {here}")


@cache
def groups(config_dir: str | None = None) -> dict[str, list[str]]:
    """Every group with its options, the user's own included."""
    found: dict[str, set[str]] = {}
    for root in _roots(config_dir):
        for path in root.glob("*/*.yaml"):
            found.setdefault(path.parent.name, set()).add(path.stem)
    return {name: sorted(found[name]) for name in sorted(found)}


def compose(overrides: Sequence[str] = (), config_dir: str | None = None) -> Config:
    """Compose and check one run. Raises `Refused` for anything a user may have got wrong."""
    prepare(config_dir)
    overrides = verbatim(overrides, calls(config_dir))
    parsed = typed(overrides, config_dir)
    for item in parsed:
        if item.is_sweep_override():
            text = shown(item.input_line)
            raise Refused(f"{text} gives several values; -m runs one job for each of them")
    return _checked(choose(parsed, overrides, config_dir), overrides, config_dir)


def typed(overrides: Sequence[str], config_dir: str | None = None) -> list[Override]:
    """The overrides, taken apart. Raises `Refused` for what no config could take."""
    parsed = parse(overrides, groups(config_dir))
    check_switches(parsed, calls(config_dir))
    return parsed


def choose(
    parsed: Sequence[Override], words: Sequence[str], config_dir: str | None = None
) -> Composed:
    """The config that overrides make, not checked yet; `words` are the same as they were typed."""
    preset = _preset(parsed, config_dir)
    pairs = [(item.key_or_group, str(item.value())) for item in parsed]  # nested ones included
    chosen = [*defaults().items(), *_implied(preset), *pairs]
    register(chosen, config_dir)
    return _compose([*preset, *words], dict(chosen), config_dir)


def jobs(overrides: Sequence[str], config_dir: str | None = None) -> list[list[str]]:
    """The overrides of every job of a sweep, in Hydra's order (the last one varies fastest)."""
    lists: list[list[str]] = [[]]
    swept: set[str] = set()
    prepare(config_dir)
    known = groups(config_dir)
    for item in parse(verbatim(overrides, calls(config_dir)), known):
        if item.is_sweep_override():
            key = item.get_key_element()
            if key in swept:
                raise Refused(
                    f"{shown(item.input_line)}: {key} is swept twice; list all its values once"
                )
            swept.add(key)
            options = [f"{key}={value}" for value in values(item, known)]
        else:
            options = [str(item.input_line)]
        lists = [[*done, option] for done in lists for option in options]
    return lists


@cache
def calls(config_dir: str | None = None) -> dict[str, dict[str, str]]:
    """What every yaml calls: group -> option -> target, the user's own included."""
    found: dict[str, dict[str, str]] = {}
    for root in _roots(config_dir):
        for path in root.glob("*/*.yaml"):
            target = re.search(r"^_target_:\s*([\w.]+)", _text(path), re.M)
            if target:
                found.setdefault(path.parent.name, {})[path.stem] = target[1]
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{path}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None


@cache
def prepare(config_dir: str | None = None) -> None:
    """Store the schemas of what every run has, and make the user's modules importable."""
    if config_dir is not None and not Path(config_dir).is_dir():
        what = "is no folder" if Path(config_dir).exists() else "there is no such folder"
        raise Refused(f"--config-dir {config_dir}: {what}")
    for folder in (config_dir, os.getcwd()):
        if folder is not None and str(Path(folder).resolve()) not in sys.path:
            sys.path.append(str(Path(folder).resolve()))
    store = ConfigStore.instance()
    root = options.closed("dpo_lab.config.Root", [*CLOSED, *defaults()])
    store.store(group="schema", name="root", node=root)
    for name in CLOSED:
        node = options.closed(f"dpo_lab.config.{NODES[name].__name__}")
        store.store(group="schema", name=name, node=node)


def register(chosen: Iterable[tuple[str, str]], config_dir: str | None = None) -> None:
    """Store the schemas of the chosen (group, option)s; making one takes some milliseconds."""
    found = calls(config_dir)
    for group, option in chosen:
        target = found.get(group, {}).get(option)
        if target is not None:
            _store(group, option, target)


@cache
def _store(group: str, option: str, target: str) -> None:
    ConfigStore.instance().store(group=f"schema/{group}", name=option, node=options.schema(target))


def _roots(config_dir: str | None) -> list[Path]:
    return [conf_dir(), *([Path(config_dir).resolve()] if config_dir else [])]


def _preset(parsed: Sequence[Override], config_dir: str | None) -> list[str]:
    """The preset of the chosen model, where it has one, else that of the data source. (Hydra lets
    no interpolated group override others.)"""
    chosen = {item.key_or_group: item.value() for item in parsed}
    there = [] if "preset" in chosen else groups(config_dir).get("preset", [])
    wanted = (chosen.get("model"), chosen.get("data", "world"))
    return [f"preset={name}" for name in wanted if name in there][:1]


def _implied(preset: Sequence[str]) -> list[tuple[str, str]]:
    """The (group, option) pairs that presets put in place of the defaults."""
    pairs = []
    for word in preset:
        path = conf_dir() / "preset" / f"{word.removeprefix('preset=')}.yaml"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""  # or one of the user's
        other = re.search(r"^defaults: \[(\w+)\]", text, re.M)  # one that is built on another
        pairs += _implied([other[1]] if other else [])
        pairs += re.findall(r"override /(\w+): (\w+)", text)
    return pairs


class Composed(NamedTuple):
    """What Hydra made of the overrides: the config, and which option each group took."""

    config: DictConfig
    choices: dict[str, str | None]


def _compose(overrides: list[str], chosen: dict[str, str], config_dir: str | None) -> Composed:
    try:
        return _by_hydra(overrides, config_dir)
    except Exception as error:  # Hydra answers some overrides with errors that are not its own
        if "'schema/" not in str(error):
            raise Refused(explain(error, overrides, calls(config_dir), chosen)) from None
    # a yaml that builds on another one names the schema of that one, too
    everything = [(group, name) for group, names in calls(config_dir).items() for name in names]
    register(everything, config_dir)
    try:
        return _by_hydra(overrides, config_dir)
    except Exception as error:
        raise Refused(explain(error, overrides, calls(config_dir), chosen)) from None


def _by_hydra(overrides: list[str], config_dir: str | None) -> Composed:
    """Hydra's composition without its own node, which is half of the work and not used here."""
    version.setbase("1.3")
    path = create_config_search_path(str(conf_dir()))
    if config_dir:
        path.prepend("user", f"file://{Path(config_dir).resolve()}", "schema")
    loader = ConfigLoaderImpl(path)
    parsed, repository = loader._parse_overrides_and_create_caching_repo("config", overrides)
    found = create_defaults_list(
        repository, "config", parsed, prepend_hydra=False, skip_missing=False
    )
    config = loader._compose_config_from_defaults_list(found.defaults, repository)
    OmegaConf.set_struct(config, True)
    ConfigLoaderImpl._apply_overrides_to_config(found.config_overrides, config)
    return Composed(config, dict(found.overrides.known_choices))


def _checked(composed: Composed, overrides: Sequence[str], config_dir: str | None) -> Config:
    choices = {
        group: option
        for group, option in composed.choices.items()
        if option is not None and not re.search("[/@]", group)
    }
    try:
        plain: Any = OmegaConf.to_container(composed.config, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise Refused(f"{getattr(error, 'full_key', '')}: {first_line(error)}") from None
    root = options.signature("dpo_lab.config.Root").knobs
    known = [*root, *CLOSED, *defaults()]
    for key in plain:
        if key not in known:
            raise Refused(f"unknown option {key}{did_you_mean(str(key), known)}")
    options.check({key: plain[key] for key in plain if key in root}, "", "dpo_lab.config.Root")
    for name in CLOSED:
        if not isinstance(plain.get(name), dict):
            raise Refused(f"{name} was removed or replaced; it holds options such as {name}.*")
        options.check(plain[name], name, f"dpo_lab.config.{NODES[name].__name__}")
    nodes = {}
    for group in defaults():
        node = plain.get(group)
        if not isinstance(node, dict) or "_target_" not in node:
            raise Refused(f"{group} was removed or replaced; choose one with {group}=NAME")
        _check_calls(node, group)
        nodes[group] = node
    name = plain["name"] or f"{choices['data']}-{choices['loss']}"
    if not re.fullmatch(r"[\w.+-]{1,100}", name) or name.startswith("."):
        raise Refused(
            f"name={shown(name)}: it names a folder, so it holds up to 100 letters, digits "
            "and . + - _ only"
        )
    config = Config(
        name=name,
        seed=plain["seed"],
        layout=plain["layout"],
        outputs_dir=plain["outputs_dir"],
        cache_dir=plain["cache_dir"],
        nodes=nodes,
        choices=choices,
        plain=plain,
        overrides=tuple(overrides),
        config_dir=config_dir,
        **{key: NODES[key](**plain[key]) for key in CLOSED},
    )
    check_combinations(config)
    return config


@cache
def defaults() -> dict[str, str]:
    """The groups that every run has a choice of, with the option taken where nothing is said."""
    text = (conf_dir() / "config.yaml").read_text(encoding="utf-8")
    pairs = re.findall(r"^  - (\w+): (\w+)", text, re.M)
    return {name: option for name, option in pairs if name != "preset"}


def _check_calls(node: dict[str, Any], where: str) -> None:
    """Check a call node, and the call nodes inside it (the sources of a mixture)."""
    options.check(node, where, node["_target_"])
    for key, value in node.items():
        if isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, dict) and "_target_" in inner:
                    _check_calls(inner, f"{where}.{key}.{name}")
