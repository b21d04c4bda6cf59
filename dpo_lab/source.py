"""What a data source gives: pairs to train on, pairs held out, and what is known about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dpo_lab.batch import Example, Text
from dpo_lab.rows import Reject

if TYPE_CHECKING:
    from dpo_lab.worlds.truth import World


@dataclass
class Source:
    """The rows of one `data` option.

    - `train`, `eval`: pairs, in the order of the file.
    - `sft`: sequences for the SFT start, without rejected; None where the chosen of `train` serve.
    - `sft_digest`: of what determines `sft`; empty where that is `digest`.
    - `digest`: SHA-256 over what determines the rows: contents of files, and knobs.
    - `report`: counts and remarks for the log and the data card.
    - `files`: path -> SHA-256 of its bytes.
    - `rejects`: bad rows that were left out, in the order of the files.
    - `order`: the rows of the training file in its order, before any are held out; None: `train`,
      then `eval`.
    - `world`: where the truth behind the pairs is known.
    """

    train: list[Example]
    eval: list[Example]
    digest: str
    sft: Sequence[Example] | None = None
    sft_digest: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    order: list[Example] | None = None
    world: World | None = None


class Later(Sequence[Example]):
    """`count` rows that are made when one is first looked at."""

    def __init__(self, count: int, make: Callable[[], list[Example]]):
        self.size = count
        self.make = make

    @cached_property
    def rows(self) -> list[Example]:
        """All of them."""
        return self.make()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.rows == list(other)


def texts_sha256(source: Source) -> str:
    """SHA-256 of the JSON list of [prompt, chosen, rejected] of the training file's rows, in order.

    A chat is a list of {"role", "content"} objects.
    """
    rows = source.train + source.eval if source.order is None else source.order
    texts = [[_plain(row.prompt), _plain(row.chosen), _plain(row.rejected)] for row in rows]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _plain(text: Text | None) -> Any:
    if text is None or isinstance(text, str):
        return text
    return [{"role": message.role, "content": message.content} for message in text]


def split(rows: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Hold out about `share` of the prompts: (training rows, held-out rows), each in order.

    A hash of seed and prompt decides, so that rows of one prompt stay together and a row's side
    does not depend on the others. With a share above 0 and two prompts or more, neither side is
    left empty.
    """
    if not share:
        return list(rows), []
    places = {prompt: _place(prompt, seed) for prompt in {row.prompt for row in rows}}
    held_out = {prompt for prompt, place in places.items() if place < share}
    if len(places) > 1 and not held_out:
        held_out = {min(places, key=places.__getitem__)}
    if len(held_out) == len(places):
        held_out -= {max(places, key=places.__getitem__)}
    return (
        [row for row in rows if row.prompt not in held_out],
        [row for row in rows if row.prompt in held_out],
    )


def _place(prompt: Text, seed: int) -> float:
    """A number in [0, 1) that looks random but depends on seed and prompt alone."""
    digest = hashlib.sha256(json.dumps([seed, _plain(prompt)]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def digest_of(kind: str, *parts: Any) -> str:
    """SHA-256 over the name of a source and plain values: knobs, digests of files."""
    return hashlib.sha256(json.dumps([kind, *parts], sort_keys=True).encode()).hexdigest()
