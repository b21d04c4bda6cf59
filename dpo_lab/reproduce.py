"""`dpo-lab reproduce NAME`: run what an experiment still lacks, draw it, and say what came.

Imports no torch: runs are processes of their own. Drawing again, with all runs there, trains
nothing.
"""

from __future__ import annotations

import gc
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dpo_lab import experiment as experiments
from dpo_lab.errors import Refused
from dpo_lab.evidence import below_frontier
from dpo_lab.experiment import Experiment, Runs
from dpo_lab.jobs import Desk, expand
from dpo_lab.launchers.job import Job
from dpo_lab.launchers.machine import cores
from dpo_lab.live import clock
from dpo_lab.results import Run
from dpo_lab.spelling import did_you_mean
from dpo_lab.sweep import complete

if TYPE_CHECKING:
    from dpo_lab.finding import Finding

FLAGS = {
    "--quick": "fewer points and seeds: an indication in minutes",
    "--real": "print the same sweeps for real data and what they would cost; run nothing",
    "--gallery": "write experiments/README.md anew from what has been found",
}


class Asked(NamedTuple):
    """What was typed after `reproduce`."""

    name: str | None
    overrides: list[str]
    flags: set[str]
    config_dir: str | None


def reproduce(words: Sequence[str], config_dir: str | None = None) -> int:
    """Do what `dpo-lab reproduce WORDS` says and return the exit status, as `sweep` does.

    Raises `Refused` for an unknown experiment or words that are not acceptable, before anything is
    started. A claim that does not hold is a result, with status 0.
    """
    gc.enable()
    asked = parse(words, config_dir)
    if "--gallery" in asked.flags:
        from dpo_lab.gallery import gallery

        print(gallery(asked.overrides, asked.config_dir))
        return 0
    if asked.name is None:
        print(listing(asked.config_dir))
        return 0
    experiment = experiments.load(asked.name, asked.config_dir)
    if "--real" in asked.flags:
        if asked.overrides:
            raise Refused(f"--real prints commands as they are; leave out {asked.overrides[0]}")
        print(real(experiment))
        return 0
    return perform(experiment, asked)


def parse(words: Sequence[str], config_dir: str | None = None) -> Asked:
    """Take name, flags and overrides apart, wherever they stand."""
    name, overrides, flags = None, [], set()
    rest = iter(words)
    for word in rest:
        key, _, value = word.partition("=")
        if word in FLAGS:
            flags.add(word)
        elif key in ("--config-dir", "-cd"):
            config_dir = value or next(rest, "")
        elif word.startswith("-"):
            raise Refused(f"unknown option {word}{did_you_mean(word, FLAGS)}")
        elif "=" in word:
            if key.lstrip("+") in ("name", "train.resume"):
                raise Refused(f"{word}: runs of an experiment are found by its name; leave it out")
            overrides.append(word)
        elif name is None:
            name = word
        else:
            raise Refused(f"one experiment at a time: {name} or {word}")
    if name is None and (flags - {"--gallery"} or (overrides and "--gallery" not in flags)):
        raise Refused(f"which experiment? {', '.join(experiments.names(config_dir))}")
    return Asked(name, overrides, flags, config_dir)


def listing(config_dir: str | None = None) -> str:
    """Every experiment with its claim and what it costs."""
    lines = ["dpo-lab reproduce NAME [--quick | --real] [OVERRIDES]   (cost: on one core)", ""]
    for name in experiments.names(config_dir):
        one = experiments.load(name, config_dir)
        counts = [_count(one, quick) for quick in (False, True)]
        full, quick = (f"{some} runs, {clock(some * one.seconds)}" for some in counts)
        cost = f"{full}; --quick {quick}" if counts[0] else "no run"
        lines += [f"{name}  ({cost})", f"    {one.paper}, {one.figure}", f"    {one.claim.strip()}"]
    lines += ["", *(f"{flag:<10} {text}" for flag, text in FLAGS.items())]
    return "\n".join(lines)


def real(experiment: Experiment) -> str:
    """The commands of an experiment on real data, and what they would cost."""
    lines, runs = [], 0
    for name, words in experiment.real_words().items():
        runs += _combinations(words)
        lines.append(f"# {name}\n{shlex.join(['dpo-lab', '-m', *words])}")
    about = experiment.real
    assert about is not None
    lines.append(
        f"# {runs} runs of {about.parameters / 1e6:,.0f}M parameters on {about.pairs:,.0f} pairs "
        f"of {about.tokens:,.0f} tokens:\n# about {about.hours:.2g} hours each on one A100 at 40% "
        f"of its peak, {runs * about.hours:,.2g} together"
    )
    if any("{" in word for words in experiment.sweeps.values() for word in words):
        lines.append("# {best:SWEEP:OPTION}: the value that did best there; {final:SWEEP}: final/")
    return "\n".join([*lines, *(f"# {line}" for line in about.note.splitlines())])


def perform(experiment: Experiment, asked: Asked) -> int:
    """Run what is missing, stage by stage, then draw and say what came."""
    quick = "--quick" in asked.flags
    experiment.figure_of()  # what is wrong with it shows now, not after the runs
    words = experiment.words(quick, asked.overrides)
    count = sum(map(_combinations, words.values()))
    print(f"{experiment.title}: {experiment.paper}, {experiment.figure}")
    form = "quick form" if quick else "full form"
    each = (
        f"{count} runs in {len(words)} sweeps, about {experiment.seconds:g} s each on one core, "
        f"{clock(count * experiment.seconds)} together"
    )
    print(f"{form}: {each}" if words else "nothing to train", flush=True)
    done: Runs = {}
    desk = Desk()
    while len(done) < len(words):
        names = experiments.ready(words, done)
        jobs: dict[str, list[Job]] = {}
        for name in names:
            jobs[name] = expand(experiments.resolved(words[name], done), asked.config_dir)
        typed = [job for some in jobs.values() for job in some]
        for number, job in enumerate(typed, 1):
            job.number = number
        for name, some in jobs.items():
            for job in some:
                job.label = name if job.label == "run" else f"{name},{job.label}"
        print(announced(desk.identify(typed), experiment.seconds), flush=True)
        if status := complete(typed, desk):
            return status
        folders = {job.identity: job.folder for job in typed if job.folder != Path()}
        for name, some in jobs.items():
            own = dict.fromkeys(folders[job.identity] for job in some)
            done[name] = [Run(folder) for folder in own]
    return conclude(experiment, asked, done)


def announced(jobs: Sequence[Job], seconds: float) -> str:
    """How many runs are to be done now, and how long that will take."""
    missing = [job for job in jobs if job.state == "waiting"]
    if not missing:
        return f"{len(jobs)} runs, all done before"
    config = missing[0].config
    asked = config.nodes["launcher"].get("jobs")
    room = asked or max(1, cores() // (config.train.threads or 4))
    at_once = max(1, min(room, len(missing), cores()))
    return (
        f"{len(missing)} runs to do, {len(jobs) - len(missing)} done before: about "
        f"{clock(len(missing) * seconds / at_once)}, {at_once} at once"
    )


def conclude(experiment: Experiment, asked: Asked, done: Runs) -> int:
    """Draw, keep and tell what the finished runs show."""
    from dpo_lab.finding import told, write

    quick = "--quick" in asked.flags
    ours = ("launcher", "outputs_dir=", "cache_dir=", "data.path=")  # where things are, not what
    given = [word for word in asked.overrides if not word.startswith(ours)]
    finding = _drawn(experiment, done, given)
    runs = {run.folder: run for some in done.values() for run in some}
    if check := below_frontier([*runs.values()]):
        finding = replace(finding, checks=[*finding.checks, check])
    folder = next((path.parent for path in runs), None) or _outputs(asked) / experiment.name
    about = {
        "form": "quick" if quick else "full",
        "overrides": given,
        "runs": len(runs),
    }
    stem = folder / (f"{experiment.name}-quick" if quick else experiment.name)
    try:
        files = write(finding, experiment, stem, about)
    except OSError as error:
        raise Refused(f"cannot write to {folder}: {error.strerror}") from None
    print(told(finding, experiment))
    print(f"{folder}/  ({', '.join(files)})")
    return 0


def _drawn(experiment: Experiment, done: Runs, given: Sequence[str]) -> Finding:
    """What the experiment's own code finds; an error of its is ours only where nothing was typed.

    With overrides it is taken to miss runs that they took away.
    """
    try:
        return experiment.figure_of()(done)
    except (LookupError, ValueError, AssertionError) as error:
        if not given or isinstance(error, Refused):
            raise
        raise Refused(
            f"{experiment.name} cannot be drawn from these runs ({type(error).__name__}: {error})\n"
            f"leave out what changes its points: {' '.join(given)}"
        ) from None


def _outputs(asked: Asked) -> Path:
    from dpo_lab.compose import compose

    said = [word for word in asked.overrides if word.startswith("outputs_dir=")]
    return Path(compose(said, asked.config_dir).outputs_dir).expanduser()


def _count(experiment: Experiment, quick: bool) -> int:
    return sum(map(_combinations, experiment.words(quick).values()))


def _combinations(words: Sequence[str]) -> int:
    """How many jobs the words of a sweep make."""
    from dpo_lab.compose import jobs

    return len(jobs([experiments.placeholder(word) for word in words]))
