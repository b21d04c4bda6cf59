"""Faults put into the lab one line at a time: does a test see each of them?

`mutants.toml` lists the faults. Each is put into a copy of the lab in a scratch folder, the tests
of its module are run there until the first one fails, and the line is put back; two at a time.

    python tests/mutants/hunt.py [WORD ...]     all faults, or those whose file or text has a WORD

Exit status: 0 where at least 95 % were caught, 1 below, 2 where the list or the tests are broken.
"""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.toml")
COPIED = ("dpo_lab", "conf", "tests", "experiments")
TARGET = 0.95
AT_ONCE = 2
LIMIT = 180  # seconds; a fault may make a test wait for ever
# what takes long to import, and is imported once for all: nothing of the lab itself
LIBRARIES = (
    "torch transformers.models.llama.modeling_llama transformers.models.gpt2.modeling_gpt2 "
    "transformers.models.auto.modeling_auto transformers.integrations peft datasets pandas "
    "pyarrow.parquet matplotlib.figure hydra.core.config_store safetensors.torch rich.progress "
    "_pytest.assertion.rewrite"
).split()
# these say that the fault is no valid program, not that a test has seen it
INVALID = {"SyntaxError", "IndentationError", "NameError", "UnboundLocalError"}
INVALID |= {"ImportError", "ModuleNotFoundError"}


class Stale(Exception):
    """A fault that cannot be put into the lab as it is."""


@dataclass(frozen=True)
class Mutant:
    """One fault.

    - `fault`: what goes wrong, in words; `traps`: of which kinds it is, with their numbers.
    - `file`: where, from the root; `old`: the line, without its indentation, that must be there
      exactly once, in the function or class `within` where that is given; `new`: what it becomes.
    - `tests`: what is run.
    """

    fault: str
    traps: tuple[str, ...]
    file: str
    old: str
    new: str
    within: str | None
    tests: tuple[str, ...]

    def applied(self, source: str) -> str:
        """The source with the fault in it. Raises `Stale`, and `SyntaxError` where it is none."""
        lines = source.split("\n")
        span = range(len(lines))
        if self.within is not None:
            found = [
                node
                for node in ast.walk(ast.parse(source))
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == self.within
            ]
            if len(found) != 1:
                raise Stale(f"{self.file} has {len(found)} functions named {self.within}")
            span = range(found[0].lineno - 1, found[0].end_lineno or 0)
        places = [number for number in span if lines[number].strip() == self.old]
        if len(places) != 1:
            raise Stale(f"{self.file} has this line {len(places)} times, not once: {self.old}")
        line = lines[places[0]]
        lines[places[0]] = line[: len(line) - len(line.lstrip())] + self.new
        mutated = "\n".join(lines)
        tree = ast.parse(mutated)
        compile(tree, self.file, "exec")
        if ast.dump(tree) == _dump(source):
            raise Stale(f"{self.file}: nothing changes by {self.new}")
        return mutated


@cache
def _dump(source: str) -> str:
    return ast.dump(ast.parse(source))


def mutants() -> list[Mutant]:
    """Everything in the list."""
    listed = tomllib.loads(LIST.read_text())
    traps = listed["traps"]
    return [
        Mutant(
            one["fault"],
            tuple(f"{number}: {traps[str(number)]}" for number in one["traps"]),
            module["file"],
            one["old"],
            one["new"],
            one.get("within"),
            tuple(one.get("tests", module["tests"])),
        )
        for module in listed["module"]
        for one in module["mutant"]
    ]


class Watch:
    """A plugin of pytest that notes the first failure in a file."""

    def __init__(self, note: Path) -> None:
        self.note = note

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        where = "collection" if report.when == "collect" else node.nodeid
        if not self.note.exists():
            self.note.write_text(json.dumps({"test": where, "error": call.excinfo.typename}))


@dataclass(frozen=True)
class Outcome:
    """What the tests said: `status` of pytest (None: no end), and the first failure."""

    status: int | None
    seconds: float
    test: str = ""
    error: str = ""

    @property
    def verdict(self) -> str:
        """caught, SURVIVED, or BROKEN where the tests could not judge."""
        if self.status == 0:
            return "SURVIVED"
        judged = self.status is None or bool(self.error)
        invalid = self.error in INVALID or self.test == "collection"
        return "caught" if judged and not invalid else "BROKEN"


def scratch_copy(folder: Path) -> None:
    """The lab and its tests as they are now."""
    ignored = shutil.ignore_patterns("__pycache__", "mutants")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy2(ROOT / "pyproject.toml", folder)


def run(scratch: Path, tests: Sequence[str], limit: float = LIMIT) -> Outcome:
    """Run tests on the copy, in a fork of this process; the first failure ends it."""
    note, began = scratch / "note.json", time.monotonic()
    note.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            _child(scratch, tests, note)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)
    status: int | None = None
    try:
        while status is None and time.monotonic() - began < limit:
            time.sleep(0.02)
            done, code = os.waitpid(pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(code) if done else None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # itself where it did not end, and what it left
    if status is None:
        os.waitpid(pid, 0)
        return Outcome(None, time.monotonic() - began, f"no end after {limit} s")
    first = json.loads(note.read_text()) if note.is_file() else {}
    return Outcome(status, time.monotonic() - began, **first)


def _child(scratch: Path, tests: Sequence[str], note: Path) -> None:
    import pytest

    with (scratch / "output.txt").open("w") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    os.chdir(scratch)
    sys.path.insert(0, str(scratch))
    import dpo_lab

    assert Path(dpo_lab.__file__).is_relative_to(scratch), dpo_lab.__file__
    basetemp = scratch / "tmp"
    status = pytest.main(
        ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", f"--basetemp={basetemp}", *tests],
        plugins=[Watch(note)],
    )
    sys.stdout.flush()
    os._exit(int(status))


def take(scratches: Any) -> None:
    """A worker takes one of the copies for itself."""
    global _scratch
    _scratch = scratches.get()
    os.environ["PYTHONPATH"] = str(_scratch)


def control(tests: Sequence[str]) -> tuple[Outcome, str]:
    """The tests without a fault, in the worker's copy; and the end of what they said."""
    show = [sys.executable, "-c", "import dpo_lab; print(dpo_lab.__file__)"]
    imported = subprocess.run(show, cwd=_scratch.parent, capture_output=True, text=True).stdout
    if not Path(imported).is_relative_to(_scratch):
        return Outcome(None, 0.0), f"the copy is not what is imported, but {imported}"
    outcome = run(_scratch, tests, limit=LIMIT * len(tests))
    return outcome, (_scratch / "output.txt").read_text()[-3000:]


def judge(mutant: Mutant) -> tuple[Outcome, str]:
    """The tests of one fault, in the worker's copy; and what they said at the end."""
    file = _scratch / mutant.file
    compiled, source = Path(cache_from_source(str(file))), file.read_text()
    file.write_text(mutant.applied(source))
    compiled.unlink(missing_ok=True)
    outcome = run(_scratch, mutant.tests)
    file.write_text(source)
    compiled.unlink(missing_ok=True)
    return outcome, (_scratch / "output.txt").read_text()[-1500:]


def hunt(chosen: Sequence[Mutant], pool: Any) -> int:
    """Judge every fault, print a line for each, and return the exit status."""
    tests = list(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
    halves = [half for half in (tests[::2], tests[1::2]) if half]
    for half, (outcome, said) in zip(halves, pool.map(control, halves), strict=True):
        print(f"without a fault: {len(half)} test files, {outcome.seconds:.0f} s", flush=True)
        if outcome.status != 0:
            print(f"{said}\nthe tests fail without any fault", file=sys.stderr)
            return 2
    verdicts = []
    for mutant, (outcome, said) in zip(chosen, pool.map(judge, chosen), strict=True):
        verdicts.append(outcome.verdict)
        by = f"{outcome.test} ({outcome.error})" if outcome.error else outcome.test
        kinds = ",".join(trap.partition(":")[0] for trap in mutant.traps)
        print(f"{outcome.verdict:8} {outcome.seconds:5.1f} s  {kinds:6}", end=" ")
        print(f"{mutant.file}: {mutant.fault}" + (f"  <- {by}" if by else ""), flush=True)
        if outcome.verdict == "BROKEN":
            print(said, file=sys.stderr)
    caught, planted = verdicts.count("caught"), len(verdicts)
    print(f"caught {caught} / planted {planted} ({caught / planted:.1%})")
    return 2 if "BROKEN" in verdicts else int(caught < TARGET * planted)


def main(words: Sequence[str]) -> int:
    """The command."""
    every = mutants()
    text = {mutant: f"{mutant.file} {mutant.fault} {mutant.traps}" for mutant in every}
    chosen = [m for m in every if not words or any(word in text[m] for word in words)]
    if not chosen:
        print(f"no fault of {len(every)} has any of {', '.join(words)}", file=sys.stderr)
        return 2
    stale = []
    for mutant in chosen:
        try:
            mutant.applied((ROOT / mutant.file).read_text())
        except (Stale, SyntaxError, OSError) as error:
            stale.append(f"{mutant.fault}: {error}")
    if stale:
        print("\n".join(stale), file=sys.stderr)
        return 2
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # plugins that the libraries above have imported already could not be rewritten any more
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for library in LIBRARIES:
        __import__(library)
    assert "dpo_lab" not in sys.modules
    fork = multiprocessing.get_context("fork")
    scratches = fork.Queue()
    with tempfile.TemporaryDirectory(prefix="dpo_lab_mutants_") as folder:
        for number in range(AT_ONCE):
            scratch_copy(scratch := Path(folder).resolve() / str(number))
            scratches.put(scratch)
        with ProcessPoolExecutor(AT_ONCE, fork, take, [scratches]) as pool:
            return hunt(chosen, pool)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
