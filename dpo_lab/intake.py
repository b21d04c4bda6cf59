"""What a run takes in: pairs, tokenizer and token rows. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_lab.batch import Encoded, Example
from dpo_lab.cache import Cache, digest
from dpo_lab.combinations import check_source, sees
from dpo_lab.config import Config
from dpo_lab.disk import refuse_unwritable
from dpo_lab.errors import Refused
from dpo_lab.options import bind
from dpo_lab.source import Source
from dpo_lab.templates import with_template
from dpo_lab.token_rows import TokenRows, load, save
from dpo_lab.tokenizer import Tokenizer
from dpo_lab.tokens import Problem, encode, refuse_problems
from dpo_lab.worlds.pairs import check_pairs

ENCODER_VERSION = 3


@dataclass(slots=True)
class Intake:
    """Pairs as token ids.

    - `rows`: training rows first, then held-out rows; `train` and `eval` are their places.
    - `names`: where each row came from.
    - `sft`: sequences for `start=sft`; None where nothing is trained on them.
    - `report`: counts of what was read, skipped, cut.
    """

    source: Source
    tokenizer: Tokenizer
    rows: list[Encoded]
    names: list[str]
    train: range
    eval: range
    sft: TokenRows | None
    report: dict[str, Any]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its response; 0 where there are no rows yet."""
        lengths = (
            len(row.prompt) + max(len(row.chosen), len(row.rejected or ())) for row in self.rows
        )
        return max(max(lengths, default=0), self.sft.longest if self.sft is not None else 0)


def read(config: Config) -> Source:
    """Read and check the data. Raises `Refused` with at most ten bad rows."""
    refuse_unwritable("outputs_dir", Path(config.outputs_dir).expanduser())
    source = bind(config.nodes["data"])()
    check_source(config, source)
    if source.world is not None and sees(config) == "pair":
        check_pairs(source.world)
    if not source.train and source.world is None:
        raise Refused(f"data={config.choices['data']} gives no training pairs")
    return source


def prepare(config: Config, source: Source, cache: Cache) -> Intake:
    """Encode everything the run will look at, from the cache where it was encoded before.

    Raises `Refused` for rows that cannot be encoded, unless `data.on_bad_row=skip`.
    """
    refuse_unwritable("cache_dir", cache.root)
    tokenizer = find_tokenizer(config, source, cache)
    _check_reference(config, tokenizer)
    intake = Intake(source, tokenizer, [], [], range(0), range(0), None, dict(source.report))
    add_pairs(config, intake, source.train, source.eval, cache, source.digest)
    if config.nodes["start"]["_target_"] == "dpo_lab.start.as_is":
        return intake
    if source.sft is None:
        rows = intake.rows[: len(intake.train)]
        intake.sft = TokenRows.of([Encoded(row.prompt, row.chosen, None) for row in rows])
    else:
        content = f"sft {source.sft_digest or source.digest}"
        intake.sft, problems, _ = _encoded(config, tokenizer, source.sft, cache, content)
        refuse_problems(source.sft, problems)
    return intake


def _check_reference(config: Config, tokenizer: Tokenizer) -> None:
    """Refuse another network as the reference that is not there, or reads other tokens."""
    node = config.nodes["reference"]
    if node["_target_"] != "dpo_lab.references.checkpoint":
        return
    theirs = Tokenizer.from_folder(local_folder(node["path"], None))
    if theirs.digest != tokenizer.digest:
        raise Refused(
            f"reference.path={node['path']} has another tokenizer than the policy, so its "
            "log-probabilities would be of other tokens\n"
            "choose a network with the policy's tokenizer"
        )


def find_tokenizer(config: Config, source: Source, cache: Cache) -> Tokenizer:
    """The tokenizer of the world, of the model's folder, or one trained on the training texts."""
    model = config.nodes["model"]
    if "path" in model:
        folder = local_folder(model["path"], model.get("revision"))
        tokenizer = Tokenizer.from_folder(folder)
    elif source.world is not None:
        world = source.world
        tokenizer = Tokenizer.from_words(world.vocabulary[3:], world.bos, world.eos, world.pad)
    else:
        if model["vocab_size"] is None:
            raise Refused(
                f"model={config.choices['model']} has as many tokens as its tokenizer, and on text "
                "one is trained with model.vocab_size tokens\n"
                "type for example model.vocab_size=8192, or model=small"
            )
        key = digest("bpe", ENCODER_VERSION, source.digest, model["vocab_size"])

        def build(place: Path) -> None:
            Tokenizer.train(_texts(source), model["vocab_size"]).save(place)

        tokenizer = Tokenizer.from_folder(cache.entry("tokenizer", key, build))
    template = config.tokens.chat_template
    return with_template(tokenizer, template) if template else tokenizer


def local_folder(path: str, revision: str | None) -> Path:
    """A local folder as it is; else the tokenizer files of a model on the hub, downloaded."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    from dpo_lab.hub import download

    return download(path, revision, ["tokenizer*", "special_tokens_map.json", "*.jinja"])


def add_pairs(
    config: Config,
    intake: Intake,
    train: Sequence[Example],
    held_out: Sequence[Example],
    cache: Cache,
    content: str,
) -> None:
    """Encode training and held-out pairs; `content` is a digest of what determines them."""
    for side, examples in (("train", train), ("eval", held_out)):
        rows, problems, report = _encoded(
            config, intake.tokenizer, examples, cache, f"{side} {content}"
        )
        bad = {problem[0] for problem in problems}
        if len(bad) == len(examples) or config.nodes["data"].get("on_bad_row") != "skip":
            refuse_problems(examples, problems)
        kept = [index for index in range(len(examples)) if index not in bad]
        places = range(len(intake.rows), len(intake.rows) + len(kept))
        intake.train, intake.eval = (
            (places, intake.eval) if side == "train" else (intake.train, places)
        )
        intake.rows.extend(rows)
        intake.names.extend(examples[index].row for index in kept)
        intake.report[f"{side}_rows"] = len(kept)
        intake.report |= {f"{side}_{name}": value for name, value in report.items() if value}


def _encoded(
    config: Config, tokenizer: Tokenizer, examples: Sequence[Example], cache: Cache, content: str
) -> tuple[TokenRows, list[Problem], dict[str, Any]]:
    tokens = config.tokens
    key = digest(ENCODER_VERSION, tokenizer.digest, tokens.max_length, tokens.truncation, content)
    place = cache.place("tokens", key)
    if not examples:
        return TokenRows.of([]), [], {}
    if (done := load(place)) is not None:
        cache.count("rows_from_cache", len(done[0]))
        return done
    encoding = encode(
        examples, tokenizer, max_length=tokens.max_length, truncation=tokens.truncation
    )
    cache.count("rows_tokenised", len(examples))
    result = (TokenRows.of(encoding.rows), encoding.problems, encoding.report)
    cache.entry("tokens", key, lambda folder: save(folder, *result))
    return result


def _texts(source: Source) -> Iterable[str]:
    """The texts a tokenizer is trained on: training pairs only, never held-out ones."""
    texts: list[str] = []
    flat: Callable[[Any], str] = lambda text: (  # noqa: E731
        text if isinstance(text, str) else "\n".join(turn.content for turn in text)
    )
    for example in source.train:
        texts.append(flat(example.prompt) + flat(example.chosen))
        if example.rejected is not None:
            texts.append(flat(example.rejected))
    return texts
