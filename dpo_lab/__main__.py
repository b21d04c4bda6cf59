"""The command line: `dpo-lab [VERB] [OPTIONS] [OVERRIDES]`. Imports no torch."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dpo_lab import __version__
from dpo_lab.errors import Interrupted, Refused, Stopped

VERBS = {
    "train": "run one configuration, or with -m all combinations of several values (the default)",
    "check": "read config and data, print a card of the data, train nothing; --json: as JSON",
    "report": "FOLDER... [out=DIR] [metric=NAME]: draw and tabulate runs into report.html",
    "reproduce": "[NAME] [--quick]: test a paper's claim and draw it; alone: list what there is",
    "upload": "FOLDER... [project=NAME] [entity=NAME] [mode=offline]: W&B runs from metrics.jsonl",
    "cache": "list what is kept between runs; `cache prune days=30` removes older, days=0 all",
}

USAGE = """\
dpo-lab [VERB] [OPTIONS] [OVERRIDES]

Verbs
{verbs}

Options
  -m, --multirun    run every combination: dpo-lab -m loss.beta=0.1,0.5 seed=0,1
  --from FOLDER     repeat that run in a new folder; overrides go on top
  --config-dir DIR  your own yamls beside ours: DIR/loss/mine.yaml is loss=mine
  --help, --version
  -sc install=bash  completion (or zsh, fish): eval "$(dpo-lab -sc install=bash)"

Choose (GROUP=NAME)
{groups}

Set (NAME.OPTION=VALUE); what is set now:

{config}"""


@dataclass(frozen=True, slots=True)
class Line:
    """A command line, taken apart."""

    verb: str
    overrides: list[str]
    config_dir: str | None = None
    from_: str | None = None
    multirun: bool = False
    help: bool = False
    version: bool = False
    json: bool = False
    completion: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status.

    0 done, 1 a run failed, 2 refused, 130 and 143 stopped by a signal and saved.
    """
    gc.disable()  # nothing to collect while a config is composed; a tenth of the time to a message
    try:
        line = parse(sys.argv[1:] if argv is None else list(argv))
        if line.version:
            print(f"dpo-lab {__version__}")
            return 0
        if line.completion:
            from dpo_lab.completion import complete

            return complete(line.completion, VERBS)
        if line.help:
            print(usage(line))
            return 0
        if line.multirun and line.verb == "train":
            return sweep(line)
        if line.verb == "reproduce":
            return import_module("dpo_lab.reproduce").reproduce(line.overrides)
        verbs = {"train": train, "check": check, "report": report, "cache": cache, "prune": prune}
        verbs["upload"] = upload
        return verbs[line.verb](line)
    except (Refused, Stopped, Interrupted) as error:
        print(f"dpo-lab: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else getattr(error, "status", 1)
    except MemoryError as error:
        print(f"dpo-lab: not enough memory for this many: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dpo-lab: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a name too long, a folder that nobody may make
        if error.filename is None:
            raise
        print(f"dpo-lab: {str(error.filename)[:200]}: {error.strerror}", file=sys.stderr)
        return 1


def parse(words: list[str]) -> Line:
    """Take verb and options out of the words, wherever they stand; the rest are overrides."""
    verb = "train"
    if words and words[0] in VERBS:
        verb, words = words[0], words[1:]
    if verb == "reproduce" and not {"-h", "--help"} & {*words}:
        return Line(verb, words)
    if verb == "cache" and words[:1] == ["prune"]:
        verb, words = "prune", words[1:]
    overrides: list[str] = []
    given: dict[str, Any] = {}
    flags = {"-m": "multirun", "--multirun": "multirun", "-h": "help", "--help": "help"}
    flags |= {"--version": "version", "--json": "json"}
    valued = {"--config-dir": "config_dir", "-cd": "config_dir"}
    valued |= {"--from": "from_", "-sc": "completion", "--shell-completion": "completion"}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word in flags:
            given[flags[word]] = True
        elif name in valued:
            given[valued[name]] = value if equals else next(rest, "")
            if not given[valued[name]]:
                raise Refused(f"{name} needs a value; dpo-lab --help lists the options")
        elif word.startswith("-") and not word.startswith("-="):
            raise Refused(f"unknown option {word}; dpo-lab --help lists them")
        elif "=" not in word and verb in ("report", "upload"):
            overrides.append(word)
        elif "=" not in word and not word.startswith("~"):
            from dpo_lab.spelling import did_you_mean, shown

            if word in VERBS:
                raise Refused(f"{word} is a verb; there is one verb, and it stands first")
            raise Refused(
                f"{shown(word)} is neither a verb nor an override{did_you_mean(word, VERBS)}\n"
                "an override is written NAME=VALUE"
            )
        else:
            overrides.append(word)
    if given.get("json") and verb != "check":
        raise Refused("--json is an option of check")
    if given.get("from_") and (verb != "train" or given.get("multirun")):
        raise Refused("--from repeats one run: it goes with the verb train, without -m")
    if given.get("multirun") and verb != "train":
        raise Refused(f"-m runs jobs; dpo-lab {verb} runs none")
    if verb == "train" and not given.keys() & {"multirun", "help"}:
        for word in overrides:
            if word.lstrip("+").split("=")[0].split(".")[0] in ("launcher", "sweeper"):
                raise Refused(f"{word} is about the jobs of a sweep; add -m, or leave it out")
    return Line(verb, overrides, **given)


def usage(line: Line) -> str:
    """The help text, with the config as the overrides make it."""
    from omegaconf import OmegaConf

    from dpo_lab.compose import compose, groups

    config = compose(line.overrides, line.config_dir)
    listed = groups(line.config_dir)
    shown = {name: options for name, options in listed.items() if name in config.nodes}
    width = max(map(len, shown))
    return USAGE.format(
        verbs="\n".join(f"  {verb:<7}  {text}" for verb, text in VERBS.items()),
        groups="\n".join(
            f"  {name:<{width}}  {', '.join(options)}" for name, options in shown.items()
        ),
        config=OmegaConf.to_yaml(OmegaConf.create(config.plain)),
    )


def train(line: Line) -> int:
    """Train one run and print its last metrics and its folder."""
    import dpo_lab
    from dpo_lab.allocator import keep_freed_memory
    from dpo_lab.display import RESULTS, table

    keep_freed_memory()
    gc.enable()
    run = dpo_lab.train(line.overrides, config_dir=line.config_dir, from_=line.from_)
    print(table(run.metrics, RESULTS))
    print(f"weights_sha256={run.record.get('weights_sha256')}")
    print(f"{run.folder}/  (curves.png, metrics.jsonl, final/)")
    return 0


def check(line: Line) -> int:
    """Print what a run would take in."""
    from dpo_lab.cache import Cache
    from dpo_lab.card import card, render
    from dpo_lab.compose import compose
    from dpo_lab.intake import prepare, read
    from dpo_lab.source import texts_sha256

    config = compose(line.overrides, line.config_dir)
    cache = Cache(config.cache_dir)
    source = read(config)
    rows = prepare(config, source, cache).rows
    lengths = {
        "prompt": [len(row.prompt) for row in rows],
        "chosen": [len(row.chosen) for row in rows],
        "rejected": [len(row.rejected or ()) for row in rows],
    }
    facts = card(source, lengths)
    sha256 = texts_sha256(source)
    if line.json:
        print(json.dumps(facts | {"texts_sha256": sha256}, indent=1))
    else:
        print(f"{render(facts)}\ntexts_sha256={sha256}")
    return 0


def sweep(line: Line) -> int:
    """Run every missing job of a sweep."""
    from dpo_lab import sweep

    gc.enable()
    return sweep.sweep(line.overrides, line.config_dir)


def report(line: Line) -> int:
    """Write the report of some folders of runs and print where it is."""
    from dpo_lab.report import report

    folders, given = _folders(line, ["out", "metric"])
    gc.enable()
    out = Path(given["out"]) if "out" in given else None
    print(report(folders, out, given.get("metric")))
    return 0


def upload(line: Line) -> int:
    """Make W&B runs of finished runs."""
    from dpo_lab.loggers import upload

    folders, given = _folders(line, ["project", "entity", "mode"])
    if given.get("mode", "online") not in ("online", "offline"):
        raise Refused(f"mode must be one of online, offline, got {given['mode']}")
    gc.enable()
    for folder in folders:
        upload(folder, {"mode": "online"} | given)
        print(f"{folder} is in W&B")
    return 0


def _folders(line: Line, options: list[str]) -> tuple[list[Path], dict[str, str]]:
    """The folders that a line names, and its options, which have these names."""
    from dpo_lab.disk import home
    from dpo_lab.spelling import did_you_mean

    given = dict(word.split("=", 1) for word in line.overrides if "=" in word)
    folders = [home(word) for word in line.overrides if "=" not in word]
    for name, value in given.items():
        if name not in options:
            raise Refused(f"unknown option {name}{did_you_mean(name, options)}")
        if not value.strip():
            raise Refused(f"{name} needs a value, {name}=VALUE; or leave it out")
    if not folders:
        raise Refused(f"{line.verb} needs a folder of runs; type dpo-lab {line.verb} outputs/NAME")
    return folders, given


def cache(line: Line) -> int:
    """List what the cache holds."""
    from dpo_lab.cache import Cache
    from dpo_lab.compose import compose
    from dpo_lab.display import stored

    kept = Cache(compose(line.overrides, line.config_dir).cache_dir)
    print(f"{stored(kept.entries())}\n{kept.root}/")
    return 0


def prune(line: Line) -> int:
    """Remove what is old from the cache."""
    from dpo_lab.cache import Cache
    from dpo_lab.compose import compose
    from dpo_lab.display import stored

    given = [word for word in line.overrides if word.startswith("days=")]
    rest = [word for word in line.overrides if word not in given]
    try:
        days = float(given[-1].removeprefix("days=")) if given else 30.0
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise Refused(f"days must be a number >= 0, got {given[-1].removeprefix('days=')!r}")
    kept = Cache(compose(rest, line.config_dir).cache_dir)
    print(f"removed from {kept.root}/\n{stored(kept.prune(days))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
