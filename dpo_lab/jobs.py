"""The jobs of a sweep: what they are, which folders are theirs, and what is still missing.

A run is known by its identity alone (see `identity`), whatever its folder is called and whichever
sweep or single command made it. Nothing here loads torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dpo_lab.cache import Cache, digest
from dpo_lab.compose import jobs
from dpo_lab.config import Config
from dpo_lab.errors import InUse, Refused
from dpo_lab.folder import RunFolder
from dpo_lab.identity import identity_of
from dpo_lab.intake import find_tokenizer, prepare, read
from dpo_lab.launchers.job import Job, told
from dpo_lab.source import Source
from dpo_lab.variants import Common, compose_all

_LONGEST = 100  # letters of a folder's name before its hash


def expand(overrides: Sequence[str], config_dir: str | None = None) -> list[Job]:
    """Every job of a sweep, composed and checked. Raises `Refused` for what is not acceptable."""
    return jobs_of(jobs(overrides, config_dir), config_dir)


def jobs_of(
    lists: Sequence[Sequence[str]], config_dir: str | None = None, common: Common | None = None
) -> list[Job]:
    """One job for each list of overrides, composed and checked. Raises `Refused`.

    - `common`: as in `compose_all`.
    """
    configs = compose_all(lists, config_dir, common)
    first = configs[0]
    for config in configs:
        for name in ("launcher", "sweeper"):
            if config.nodes[name] != first.nodes[name]:
                raise Refused(f"a sweep has one {name}; give {name} and its options one value each")
        if config.train.resume is not None:
            raise Refused(
                "train.resume continues one run; a sweep finds its folders itself: type the same "
                "command again"
            )
    return [
        Job(number, label, _of_sweep(config))
        for number, (label, config) in enumerate(zip(labels(lists), configs, strict=True), 1)
    ]


def _of_sweep(config: Config) -> Config:
    """The config of a run as one of a sweep: one W&B group, and no words about the sweep."""
    logger = config.nodes["logger"]
    if "group" in logger and logger["group"] is None:
        logger = logger | {"group": config.name}
    return replace(
        config,
        nodes=config.nodes | {"logger": logger},
        plain=config.plain | {"logger": logger},
        overrides=tuple(of_run(config.overrides)),
    )


def of_run(overrides: Sequence[str]) -> list[str]:
    """The overrides that are about a run, without those about its sweep."""
    return [word for word in overrides if not re.match(r"\+*(launcher|sweeper)[.=]", word)]


def labels(lists: Sequence[Sequence[str]]) -> list[str]:
    """What differs between the jobs, e.g. `loss.beta=0.1,seed=0`."""
    places = range(len(lists[0]))
    differing = [place for place in places if len({words[place] for words in lists}) > 1]
    return [",".join(words[place].lstrip("+") for place in differing) or "run" for words in lists]


def folder_name(label: str, identity: str) -> str:
    """`<what differs>-<hash>`, short enough and with nothing that a file system may mind."""
    if len(label) > _LONGEST:
        # the last part of every name will do
        label = re.sub(r"[\w.@/]*[./]([\w-]+=)", r"\1", label)
    return f"{re.sub(r'[^0-9A-Za-z_.,=+-]+', '_', label)[:_LONGEST]}-{identity[:8]}"


class Desk:
    """Reads the data of jobs, each once, and says who the jobs are. `counts`: as in `Cache`."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._source: tuple[str, Source] | None = None
        self._digests: dict[str, str] = {}
        self._tokenizers: dict[str, str] = {}

    def identify(self, jobs: Sequence[Job]) -> list[Job]:
        """Find the identity and the folder of every job; of jobs that are the same, keep the first.

        Raises `Refused` for data that are not acceptable.
        """
        distinct: dict[str, Job] = {}
        for job in jobs:
            data, tokenizer = self._data(job.config), self._tokenizer(job.config)
            job.identity = identity_of(job.config, data, tokenizer)
            distinct.setdefault(job.identity, job)
        for job in distinct.values():
            look(job)
        return list(distinct.values())

    def encode(self, jobs: Sequence[Job]) -> None:
        """See that the tokens of these jobs are in the cache. Raises `Refused` for unfit rows."""
        done = set()
        for job in jobs:
            config = job.config
            start = config.nodes["start"]["_target_"]
            key = digest(self._data(config), self._tokenizer(config), config.plain["tokens"], start)
            if key not in done:
                done.add(key)
                cache = Cache(config.cache_dir)
                prepare(config, self._read(config), cache)
                for name, number in cache.counts.items():
                    self.counts[name] = self.counts.get(name, 0) + number

    def _read(self, config: Config) -> Source:
        key = digest(config.nodes["data"])
        if self._source is None or self._source[0] != key:
            self._source = key, read(config)
        return self._source[1]

    def _data(self, config: Config) -> str:
        key = digest(config.nodes["data"])
        if key not in self._digests:
            self._digests[key] = self._read(config).digest
        return self._digests[key]

    def _tokenizer(self, config: Config) -> str:
        model = config.nodes["model"]
        asked = [model.get(name) for name in ("path", "revision", "vocab_size")]
        key = digest(config.nodes["data"], asked, config.tokens.chat_template)
        if key not in self._tokenizers:
            cache = Cache(config.cache_dir)
            self._tokenizers[key] = find_tokenizer(config, self._read(config), cache).digest
        return self._tokenizers[key]


def look(job: Job) -> None:
    """Find the job's folder, or the place for it; `finished`, `in use` and damage are noted.

    Of several folders with its identity a finished one counts, then one in use, then the newest.
    """
    parent = Path(job.config.outputs_dir).expanduser() / job.config.name
    found = [path for path in parent.glob(f"*-{job.identity[:8]}*") if _is(path, job.identity)]
    job.state, job.reason = "waiting", ""
    for path in found:
        if told(path / "status.json").get("state") == "done":
            job.folder, job.state = path, "finished"
            return
    for path in sorted(found, key=lambda path: path.stat().st_mtime):
        job.folder = path
        try:
            RunFolder.existing(path).close()
        except InUse as refused:
            job.state, job.reason = "in use", str(refused)
            return
        except (Refused, OSError) as error:  # a damaged file, say: the other jobs go on
            job.state, job.reason = "failed", str(error)
            return
    if not found:
        job.folder = parent / folder_name(job.label, job.identity)


def _is(folder: Path, identity: str) -> bool:
    """Whether a folder holds this run; one killed before it wrote its record goes by its name."""
    record = told(folder / "record.json")
    known = record.get("identity")
    return known == identity if known else folder.name.endswith(f"-{identity[:8]}")


def claim(job: Job) -> bool:
    """Make the job's folder, or take up the one it has; False where it is finished or in use.

    Where no folder can be made the job has failed.
    """
    try:
        look(job)
        if job.state != "waiting":
            return False
        make_parent(job.config)
        job.folder.mkdir(exist_ok=True)  # where another sweep was faster, its lock decides
    except (Refused, OSError) as error:
        job.state, job.reason = "failed", str(error)
        return False
    job.earlier = job.words()
    return True


def make_parent(config: Config) -> None:
    """Make the folder in which the runs are. Raises `Refused` where it cannot be made."""
    parent = Path(config.outputs_dir).expanduser() / config.name
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = config.outputs_dir
        raise Refused(f"outputs_dir={where}: {error.strerror}: {parent}") from None
