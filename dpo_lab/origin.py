"""The run that a command goes on with (`train.resume`) or repeats (`--from`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_lab import __version__
from dpo_lab.compose import compose
from dpo_lab.config import Config
from dpo_lab.disk import home
from dpo_lab.errors import Refused
from dpo_lab.folder import read_json
from dpo_lab.record import changed_inputs, digests, housekeeping, typed
from dpo_lab.results import Run, flat

if TYPE_CHECKING:
    from dpo_lab.intake import Intake


@dataclass(frozen=True, slots=True)
class Origin:
    """A run that is repeated in a new folder.

    - `touched`: the nodes (`loss`, `data`) that overrides on top have changed; empty where the
      result should be the same.
    """

    folder: Path
    record: dict[str, Any]
    touched: frozenset[str]

    def check(self, config: Config, intake: Intake) -> None:
        """Raise `Refused` where the run took in something else than there is now."""
        depends = {"data": {"data"}, "tokenizer": {"data", "model", "tokens"}}
        now = digests(config, intake)
        now |= {
            name: old  # it was asked for
            for name, old in self.record.get("digests", {}).items()
            if depends.get(name, {name}) & self.touched
        }
        changed = changed_inputs(self.record, {"digests": now})
        if changed:
            files = self.record.get("files", {})
            other = [path for path, sha in files.items() if intake.source.files.get(path) != sha]
            raise Refused(
                f"--from {self.folder}: what it took in has changed since: {'; '.join(changed)}"
                + (f"\nother files: {', '.join(other[:5])}" if other else "")
                + "\nput the old data back, or set data.* aloud to run with the new"
            )

    def compare(self, weights_sha256: str) -> str:
        """Whether its final weights came out again, in words."""
        same = weights_sha256 == self.record.get("weights_sha256")
        return f"the final weights are {'the same as' if same else 'OTHER than'} in {self.folder}"


def chosen(
    overrides: Sequence[str], config_dir: str | None, from_: str | None
) -> tuple[Config, Path | None, Origin | None]:
    """The config of a run, the folder it goes on in, and the run it repeats, where it does."""
    if from_ is None:
        return *resume(overrides, config_dir), None
    if any(word.lstrip("+").startswith("train.resume=") for word in overrides):
        raise Refused("--from repeats a run in a new folder, train.resume goes on in the old: one")
    config, origin = repeat(home(from_), overrides, config_dir)
    return config, None, origin


def resume(overrides: Sequence[str], config_dir: str | None) -> tuple[Config, Path | None]:
    """Compose a config; where `train.resume` is given, on top of what that run was started with.

    Returns the config and the folder to continue, or None for a new one. Raises `Refused` where
    there is no such folder or no run in it.
    """
    config = compose(overrides, config_dir)
    if config.train.resume is None:
        return config, None
    if config.train.resume == "last":
        parent = Path(config.outputs_dir).expanduser() / config.name
        runs = [path.parent for path in parent.glob("*/record.json")]
        if not runs:
            raise Refused(f"train.resume=last: there is no run in {parent}")
        folder = max(runs, key=lambda path: (path / "record.json").stat().st_mtime)
    else:
        folder = Path(config.train.resume).expanduser()
    record = _record(folder, "train.resume=")
    words = [*_anchored(record), *overrides]
    return compose(words, config_dir or record["config_dir"]), folder


def repeat(folder: Path, overrides: Sequence[str], config_dir: str | None) -> tuple[Config, Origin]:
    """Compose the config that a run had, with `overrides` on top.

    What was typed for that run is typed again; where a yaml says something else today, the run's
    own `config.yaml` counts. Raises `Refused` where that cannot be had any more.
    """
    record = _record(folder, "--from ")
    before, now = str(record["dpo_lab"]).split(".")[0], __version__.split(".")[0]
    if before != now:
        raise Refused(
            f"--from {folder}: it was made by dpo_lab {record['dpo_lab']}, and this is "
            f"{__version__}: numbers are kept within a major version only\n"
            f"install dpo-lab {record['dpo_lab']} to repeat it"
        )
    saved = Run(folder)
    if not saved.config:
        raise Refused(f"--from {folder}: {'; '.join(saved.damage)}")
    words = _anchored(record)
    config_dir = config_dir or record["config_dir"]
    today = flat(compose(words, config_dir).plain)
    chosen = {word.partition("=")[0].lstrip("+") for word in overrides}
    for name, value in flat(saved.config).items():
        if housekeeping(name) or today.get(name) == value or name.endswith("path"):
            continue
        if name.split(".")[0] in chosen:
            continue
        if name not in today or name.endswith("_target_") or isinstance(value, list | dict):
            raise Refused(
                f"--from {folder}: {name} was {value} and is {today.get(name)} today, "
                "which cannot be set\nput the yaml of that time back"
            )
        words.append(f"{name}={_quoted(value)}")
    config = compose([*words, *overrides], config_dir)
    names = [word.partition("=")[0].lstrip("+") for word in overrides]
    touched = {name.split(".")[0] for name in names if not housekeeping(name)}
    return config, Origin(folder, record, frozenset(touched))


def _record(folder: Path, asked: str) -> dict[str, Any]:
    record = read_json(folder / "record.json")
    if not record:
        raise Refused(f"{asked}{folder}: there is no run in this folder (no record.json)")
    texts = [record.get("cwd"), record.get("dpo_lab")]
    words = record.get("overrides")
    if isinstance(words, list) and all(isinstance(text, str) for text in [*texts, *words]):
        return {"config_dir": None} | record
    raise Refused(f"{asked}{folder}: record.json does not say what was typed; is it damaged?")


def _anchored(record: dict[str, Any]) -> list[str]:
    """What was typed; files that lie where it was typed, and not here, by their whole path."""
    words = []
    for word in typed(record["overrides"]):
        name, equals, value = word.partition("=")
        value = re.sub(r"^'([^'\\]*)'$", r"\1", value)  # as it was before it was quoted
        path, there = Path(value), Path(record["cwd"]) / value
        is_path = bool(re.search(r"(path|chat_template)$", name) and equals and value)
        if is_path and not path.is_absolute() and not path.exists() and there.exists():
            word = f"{name}={_quoted(str(there))}"
        words.append(word)
    return words


def _quoted(value: Any) -> str:
    """A value as Hydra reads it back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", str(value))
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
