"""An experiment: a paper's claim, the sweeps that test it, and the code that draws the answer.

`experiments/NAME.yaml` holds claim, cost and sweeps, `experiments/NAME.py` a function
`figure(runs)` that makes a `Finding` of the finished runs. Nothing here loads torch.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import fsum
from pathlib import Path
from types import ModuleType
from typing import Any

from dpo_lab.errors import Refused
from dpo_lab.results import Run, flat
from dpo_lab.spelling import did_you_mean

Runs = dict[str, list[Run]]

# {best:SWEEP:OPTION}, the option's value with the least held-out loss; {final:SWEEP}, the policy
_NEEDS = re.compile(r"\{(best|final):(\w+)(?::([\w.]+))?\}")
_KEYS = ("title", "paper", "figure", "claim", "expect", "seconds")
_ALL_KEYS = (*_KEYS, "common", "sweeps", "quick", "real", "facts")


@dataclass(frozen=True, slots=True)
class Real:
    """The same sweeps on real data: what is said instead, and what that would take.

    - `common`: words in place of the experiment's; `sweeps`: words of single sweeps, likewise.
    - `parameters`, `pairs`, `tokens`: of the model, of the data, of a pair; `note`: what else.
    - `drop`: keys of words that mean nothing there; `leave_out`: sweeps, likewise.
    """

    common: list[str]
    parameters: float
    pairs: float
    tokens: float
    sweeps: dict[str, list[str]] = field(default_factory=dict)
    drop: list[str] = field(default_factory=list)
    leave_out: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def hours(self) -> float:
        """GPU hours of a run: 8 flop a parameter and token, at 40% of an A100's 312 Tflop/s.

        Forward and backward take 6 of them, the reference 2.
        """
        return 8 * self.parameters * self.pairs * self.tokens / (0.4 * 312e12) / 3600


@dataclass(frozen=True, slots=True)
class Experiment:
    """What `experiments/NAME.yaml` says.

    - `seconds`: of one run on one core.
    - `sweeps`: the words of each, as one would type them after `dpo-lab -m`.
    - `common`: words of every sweep; its own with the same key count more.
    - `quick`: words in place of those of `common`, or of the sweep they stand under; null leaves a
      sweep out.
    """

    name: str
    path: Path
    title: str
    paper: str
    figure: str
    claim: str
    expect: str
    seconds: float
    common: list[str]
    sweeps: dict[str, list[str]]
    quick: dict[str, list[str] | None]
    real: Real | None
    facts: list[dict[str, Any]]

    def words(self, quick: bool = False, more: Sequence[str] = ()) -> dict[str, list[str]]:
        """Every sweep as overrides; `more` are the user's, and come last."""
        said = self.quick if quick else {}
        return {
            name: merged(
                [f"name={self.name}"],
                self.common,
                said.get("common") or [],
                own,
                said.get(name) or [],
                more,
            )
            for name, own in self.sweeps.items()
            if not (name in said and said[name] is None)
        }

    def real_words(self) -> dict[str, list[str]]:
        """Every sweep as overrides for real data."""
        if self.real is None:
            raise Refused(f"{self.name} says nothing of real data; {self.path} has no `real`")
        drop = self.real.drop
        return {
            name: merged(
                [f"name={self.name}"],
                self.real.common,
                [word for word in own if word.partition("=")[0] not in drop],
                self.real.sweeps.get(name, []),
            )
            for name, own in self.sweeps.items()
            if name not in self.real.leave_out
        }

    def figure_of(self) -> Callable[[Runs], Any]:
        """The function that draws, from NAME.py beside the yaml."""
        return self._module().figure

    def _module(self) -> ModuleType:
        path = self.path.with_suffix(".py")
        if not path.is_file():
            raise Refused(f"{self.path} has no {path.name} beside it, which draws the figure")
        folder = str(path.parent)
        if folder not in sys.path:  # figures may share code
            sys.path.append(folder)
        spec = importlib.util.spec_from_file_location(f"experiments_{self.name}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def experiments_dir() -> Path:
    """The folder of our experiments: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "experiments", here.parent / "experiments"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no experiments beside or in {here}")


def names(config_dir: str | None = None) -> dict[str, Path]:
    """Every experiment, by name; those in the user's CONFIG_DIR/experiments go first."""
    folders = [experiments_dir()]
    if config_dir is not None:
        folders.append(Path(config_dir) / "experiments")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def load(name: str, config_dir: str | None = None) -> Experiment:
    """Read one. Raises `Refused` where there is none of this name, or its yaml is not complete."""
    import yaml

    known = names(config_dir)
    if name not in known:
        raise Refused(f"there is no experiment {name}{did_you_mean(name, known)}")
    path = known[name]
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise Refused(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(said, dict):
        raise Refused(f"{path}: expected {', '.join(_KEYS)}")
    if missing := [key for key in _KEYS if key not in said]:
        raise Refused(f"{path}: {', '.join(missing)} is missing")
    for key in said:
        if key not in _ALL_KEYS:
            raise Refused(f"{path}: unknown entry {key}{did_you_mean(key, _ALL_KEYS)}")
    sweeps, quick = said.get("sweeps") or {}, said.get("quick") or {}
    for key in quick:
        if key not in ("common", *sweeps):
            raise Refused(f"{path}: quick: there is no sweep {key}{did_you_mean(key, sweeps)}")
    for key, words in sweeps.items():
        for other in _wanted(words):
            if other not in sweeps:
                raise Refused(f"{path}: {key} needs {other}{did_you_mean(other, sweeps)}")
    return Experiment(
        name=name,
        path=path,
        **{key: said[key] for key in _KEYS},
        common=said.get("common") or [],
        sweeps=sweeps,
        quick=quick,
        real=_real(path, said.get("real")),
        facts=said.get("facts") or [],
    )


def _real(path: Path, said: dict[str, Any] | None) -> Real | None:
    if said is None:
        return None
    known = [one.name for one in fields(Real)]
    for key in said:
        if key not in known:
            raise Refused(f"{path}: real: unknown entry {key}{did_you_mean(key, known)}")
    for key in ("common", "parameters", "pairs", "tokens"):
        if key not in said:
            raise Refused(f"{path}: real: {key} is missing")
    return Real(**said)


def merged(*lists: Sequence[str]) -> list[str]:
    """All words; of several with the same key the last one counts, at the place of the first."""
    found: dict[str, str] = {}
    for word in [word for words in lists for word in words]:
        found[word.partition("=")[0].lstrip("+")] = word
    return list(found.values())


def ready(words: Mapping[str, Sequence[str]], done: Mapping[str, Any]) -> list[str]:
    """The sweeps that are not done and need none that is not."""
    return [
        name for name in words if name not in done and _wanted(words[name]) <= set(done) | {name}
    ]


def resolved(words: Sequence[str], done: Runs) -> list[str]:
    """The words with what they take from finished sweeps put in."""

    def put(match: re.Match[str]) -> str:
        kind, sweep, option = match.groups()
        runs = done[sweep]
        if kind == "final":
            if len(runs) != 1:
                raise Refused(f"{match[0]} needs one run, and {sweep} has {len(runs)}")
            return f"'{(runs[0].folder / 'final').resolve()}'"
        return repr(best(runs, option))

    return [_NEEDS.sub(put, word) for word in words]


def placeholder(word: str) -> str:
    """A word as it could be once the sweeps that it takes something from are done."""
    return _NEEDS.sub(lambda match: "'folder'" if match[1] == "final" else "0.001", word)


def best(runs: Sequence[Run], option: str) -> Any:
    """The value of an option with the least held-out loss, mean over its runs."""
    losses: dict[Any, list[float]] = {}
    for run in runs:
        losses.setdefault(flat(run.config)[option], []).append(run.metrics["eval/loss"])
    return min(losses, key=lambda value: fsum(losses[value]) / len(losses[value]))


def _wanted(words: Sequence[str]) -> set[str]:
    return {match[2] for word in words for match in _NEEDS.finditer(word)}
