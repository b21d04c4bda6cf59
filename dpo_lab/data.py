"""Where preference pairs come from: one function for each `data` option.

The options that read files share their knobs:

- `path`: the training file; a relative one starts at the current folder, `~` is the home folder.
- `eval_path`: a file of held-out pairs, or null.
- `eval_share`: without `eval_path`, the share of prompts to hold out, in [0, 1); null: 0.05.
- `limit`: use the first so many good rows of the training file; null: all.
- `on_bad_row`: `error` refuses the file and names its bad rows; `skip` leaves them out, counted and
  kept in `Source.rejects`.
- `columns`: our field -> the file's column, where its name is another, e.g. `{prompt: question}`.
- `seed`: of the split into training and held-out pairs.

Raises `Refused` where a file is missing, unreadable or has bad rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from dpo_lab.columnar import Wanted, arrow_records, checked_columns
from dpo_lab.errors import Refused
from dpo_lab.examples import examples
from dpo_lab.mixture import mix
from dpo_lab.ranges import Count, Range, exclusive
from dpo_lab.records import Table, read, read_folder
from dpo_lab.rows import Record, shorten
from dpo_lab.shapes import FIELDS, SHAPES
from dpo_lab.source import Source, digest_of, split, texts_sha256

__all__ = [
    "Source",
    "chat",
    "datasets",
    "file",
    "hh",
    "hub",
    "instruction",
    "mix",
    "sharegpt",
    "texts_sha256",
]

EVAL_SHARE = 0.05
_ANY = tuple(SHAPES)


@exclusive("eval_path", "eval_share")
def file(
    *,
    path: str,
    eval_path: str | None = None,
    eval_share: Annotated[float | None, Range(ge=0, lt=1)] = None,
    limit: Annotated[int | None, Count] = None,
    on_bad_row: Literal["error", "skip"] = "error",
    columns: dict[str, str] | None = None,
    seed: int = 0,
) -> Source:
    """Pairs of any shape, recognised from the first row and required of all.

    jsonl, json, csv or parquet, each also gzipped. For the knobs see the module.
    """
    return _source("file", _ANY, path, eval_path, eval_share, limit, on_bad_row, columns, seed)


@exclusive("eval_path", "eval_share")
def chat(
    *,
    path: str,
    eval_path: str | None = None,
    eval_share: Annotated[float | None, Range(ge=0, lt=1)] = None,
    limit: Annotated[int | None, Count] = None,
    on_bad_row: Literal["error", "skip"] = "error",
    columns: dict[str, str] | None = None,
    seed: int = 0,
) -> Source:
    """Chats: lists of {role, content}, with a prompt column or as whole chats that share turns."""
    shapes = ("chat", "whole_chat")
    return _source("chat", shapes, path, eval_path, eval_share, limit, on_bad_row, columns, seed)


@exclusive("eval_path", "eval_share")
def sharegpt(
    *,
    path: str,
    eval_path: str | None = None,
    eval_share: Annotated[float | None, Range(ge=0, lt=1)] = None,
    limit: Annotated[int | None, Count] = None,
    on_bad_row: Literal["error", "skip"] = "error",
    columns: dict[str, str] | None = None,
    seed: int = 0,
) -> Source:
    """ShareGPT rows: conversations of {from, value}, then chosen and rejected {from, value}.

    human is the user, gpt and function_call the assistant, observation a tool's answer. Columns
    `system` and `tools` are optional; the tools' text stands first in the system turn, under
    `Tools:`.
    """
    shapes = ("sharegpt",)
    return _source(
        "sharegpt", shapes, path, eval_path, eval_share, limit, on_bad_row, columns, seed
    )


@exclusive("eval_path", "eval_share")
def hh(
    *,
    path: str,
    eval_path: str | None = None,
    eval_share: Annotated[float | None, Range(ge=0, lt=1)] = None,
    limit: Annotated[int | None, Count] = None,
    on_bad_row: Literal["error", "skip"] = "error",
    columns: dict[str, str] | None = None,
    seed: int = 0,
) -> Source:
    r"""Whole dialogues that share a prompt (Anthropic HH, arXiv 2204.05862), as plain text.

    The prompt is what chosen and rejected share, up to the last `\n\nAssistant:` in it; a response
    keeps its leading space.
    """
    return _source("hh", ("hh",), path, eval_path, eval_share, limit, on_bad_row, columns, seed)


@exclusive("eval_path", "eval_share")
def instruction(
    *,
    path: str,
    eval_path: str | None = None,
    eval_share: Annotated[float | None, Range(ge=0, lt=1)] = None,
    limit: Annotated[int | None, Count] = None,
    on_bad_row: Literal["error", "skip"] = "error",
    columns: dict[str, str] | None = None,
    seed: int = 0,
) -> Source:
    """Instructions: the prompt is `instruction`, a blank line and `input`, where that is not blank.

    With `columns` that name a `prompt`, the prompt is that column alone.
    """
    shapes = ("pairs",) if columns and "prompt" in columns else ("instruction",)
    return _source(
        "instruction", shapes, path, eval_path, eval_share, limit, on_bad_row, columns, seed
    )


@exclusive("eval_path", "eval_share")
def datasets(
    *,
    path: str,
    eval_path: str | None = None,
    eval_share: Annotated[float | None, Range(ge=0, lt=1)] = None,
    limit: Annotated[int | None, Count] = None,
    on_bad_row: Literal["error", "skip"] = "error",
    columns: dict[str, str] | None = None,
    seed: int = 0,
) -> Source:
    """A folder written by `datasets.save_to_disk`, of rows of any shape.

    Of a folder with splits, `path` and `eval_path` name the splits: `FOLDER/train`, `FOLDER/test`.
    """
    return _source(
        "datasets", _ANY, path, eval_path, eval_share, limit, on_bad_row, columns, seed, read_folder
    )


@exclusive("eval_split", "eval_share")
def hub(
    *,
    path: str,
    subset: str | None = None,
    split: str = "train",
    eval_split: str | None = None,
    revision: str | None = None,
    eval_share: Annotated[float | None, Range(ge=0, lt=1)] = None,
    limit: Annotated[int | None, Count] = None,
    on_bad_row: Literal["error", "skip"] = "error",
    columns: dict[str, str] | None = None,
    seed: int = 0,
) -> Source:
    """A dataset of the Hugging Face hub by name, of rows of any shape. None of its code is run.

    - `path`: `OWNER/NAME`, or a local folder of data files; `subset`: its configuration.
    - `split`, `eval_split`: which of its splits to train on and to hold out.
    - `revision`: branch, tag or commit; null: the newest.
    """

    def open_split(part: str, wanted: Wanted) -> Table:
        return _hub_table(path, subset, part, revision, wanted)

    return _source(
        "hub", _ANY, split, eval_split, eval_share, limit, on_bad_row, columns, seed, open_split
    )


def _source(
    option: str,
    shapes: tuple[str, ...],
    path: str,
    eval_path: str | None,
    eval_share: float | None,
    limit: int | None,
    on_bad_row: str,
    columns: Any,
    seed: int,
    open_table: Callable[[str, Wanted], Table] = read,
) -> Source:
    """Read the training table, and the held-out one or the share to hold out."""
    if eval_path is not None and eval_share is not None:
        raise Refused("data.eval_path and data.eval_share exclude each other; set one")
    mapped = _column_names(columns)
    wanted = frozenset({*FIELDS, *mapped.values()}).__contains__
    skip = on_bad_row == "skip"
    table = open_table(path, wanted)
    found = examples(table, shapes, mapped, skip=skip)
    order = found.rows[:limit]
    report: dict[str, Any] = {
        "option": option,
        "shape": found.shape,
        "read": found.read,
        "skipped": found.bad,
        "unused_columns": found.unused,
    }
    files, rejects = dict(table.files), found.rejects
    share = EVAL_SHARE if eval_share is None else eval_share
    if eval_path is None:
        train, held_out = split(order, share, seed)
    else:
        eval_table = open_table(eval_path, wanted)
        eval_found = examples(eval_table, shapes, mapped, skip=skip)
        train, held_out = order, eval_found.rows
        report |= {"eval_read": eval_found.read, "eval_skipped": eval_found.bad}
        files |= eval_table.files
        rejects = rejects + eval_found.rejects
    report |= {"train": len(train), "eval": len(held_out)}
    held_out_by = [share, seed] if eval_path is None else list(eval_table.files.values())
    return Source(
        train=train,
        eval=held_out,
        digest=digest_of(
            option, list(table.files.values()), on_bad_row, mapped, limit, held_out_by
        ),
        report=report,
        files=files,
        rejects=rejects,
        order=order,
    )


def _column_names(columns: Any) -> dict[str, str]:
    """`columns` as a dict; its values come from a user and may be anything."""
    columns = {} if columns is None else columns
    if not isinstance(columns, Mapping) or not all(isinstance(v, str) for v in columns.values()):
        raise Refused(
            f"data.columns must map fields to column names, got {shorten(columns)}\n"
            "for example data.columns={prompt: question}"
        )
    return dict(columns)


def _hub_table(
    path: str, subset: str | None, part: str, revision: str | None, wanted: Wanted
) -> Table:
    """Download one split, or take it from the cache of `datasets`."""
    folder = Path(path).expanduser()
    if not path or (not folder.is_dir() and path.count("/") != 1):
        # To `datasets`, a bare name such as csv is a loader, and an empty one the current folder.
        raise Refused(f"data.path={path}: expected OWNER/NAME on the hub, or a local folder")
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        dataset = load_dataset(
            str(folder) if folder.is_dir() else path, subset, split=part, revision=revision
        )
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise Refused(f"{path}: datasets cannot load split {part}: {reason}") from None
    name = f"{folder.name}/{part}"
    columns = checked_columns(name, dataset.features.arrow_schema, wanted)
    batches = dataset.with_format("arrow").select_columns(columns).iter(batch_size=1000)
    records = list(arrow_records(name, "a dataset", batches))
    return Table(name, {name: _content(records)}, dataset.column_names, iter(records))


def _content(records: list[Record]) -> str:
    """A digest of rows that come from no single file."""
    sha = hashlib.sha256()
    for record in records:
        sha.update(json.dumps(record.row, sort_keys=True, default=str).encode() + b"\n")
    return sha.hexdigest()
