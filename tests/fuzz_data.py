"""Random data files whose truth is known: what each good row says, and where each fault was put.

`make_case(rng, folder)` writes one file: a good one, one with one to three bad rows, or one with a
fault that makes the whole file unusable.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_faults import BLANKS, ruin, spoil

TEXTS = [
    *("NA", "null", "None", "007", "1e5", "true", "-", "0", "[1, 2]", '{"a": 1}', "=1+1", "nan"),
    *('say "hi"', "comma, semi; tab\t.", "line\nbreak", "dos\r\nbreak", "old mac\rbreak"),
    *(" leading", "trailing ", "\tboth\n", "back\\slash \\n \\u0041", "'single' `tick`", "#x"),
    *("a\u2028b", "a\u2029b", "next\x85line", "form\x0cfeed", "bell\x07", "\ufeffmark", "\u200bz"),
    *(
        "emoji 😀👩‍🚀",
        "e\u0301",
        "日本語",
        "مرحبا",
        "Ünïcode",
        "</s> <|endoftext|>",
        "\x7f",
        "\ue000",
    ),
    "long " * 2000,
]
ROLES = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}


@dataclass
class Case:
    """A file with its truth.

    - `rows`: [prompt, chosen, rejected] of the good rows, chats as lists of {role, content}.
    - `faults`: (number in the file, part of the field, part of the reason) of each bad row.
    - `fatal`: part of the message, where the whole file must be refused.
    """

    path: Path
    shape: str
    rows: list[Any]
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    fatal: str | None = None


def make_case(rng: random.Random, folder: Path) -> Case:
    """Write one random file."""
    form = rng.choice(["jsonl", "jsonl", "json", "csv", "parquet"])
    shapes = ["pairs", "hh", "instruction"]
    if form != "csv":
        shapes += ["chat", "whole_chat", "sharegpt"]
    shape = rng.choice(shapes)
    pairs = [GOOD[shape](rng, index) for index in range(rng.randint(4, 9))]
    rows = [
        {**row, "id": index} if rng.random() < 0.5 else row for index, (row, _) in enumerate(pairs)
    ]
    if form in ("csv", "parquet"):
        rows = [{key: row.get(key) for key in rows[0]} for row in rows]
    truths: list[Any] = [truth for _, truth in pairs]
    path = folder / f"rows.{form}"
    case = Case(path, shape, truths)
    kind = rng.choice(["good", "good", "rows", "rows", "file"])
    places: list[tuple[int, str, str]] = []
    lines: dict[int, bytes] = {}
    if kind == "rows":
        for index in rng.sample(range(1, len(rows)), rng.randint(1, 3)):
            place = spoil(rng, form, shape, rows, index, lines)
            places.append((index, *place))
            truths[index] = None
    case.rows = [truth for truth in truths if truth is not None]
    data, numbers = WRITERS[form](rng, rows, lines)
    case.faults = [(numbers[index], where, why) for index, where, why in sorted(places)]
    if kind == "file":
        data, case.fatal = ruin(rng, form, data)
    elif form != "parquet" and rng.random() < 0.2:
        data = b"\xef\xbb\xbf" + data
    if rng.random() < 0.25:
        data = gzip.compress(data)
        if kind == "file" and rng.random() < 0.5:
            data, case.fatal = data[: rng.randint(3, len(data) - 1)], "cut short"
        case.path = folder / (path.name + rng.choice(["", ".gz", ".GZ"]))
    case.path.write_bytes(data)
    return case


# ------------------------------------------------------------------------------------- good rows


def _text(rng: random.Random, tag: str) -> str:
    return f"{rng.choice(TEXTS)}{tag}" if rng.random() < 0.7 else f"{tag}{rng.choice(TEXTS)}"


def _pair(rng: random.Random, index: int) -> tuple[dict[str, Any], list[Any]]:
    row = {name: _text(rng, f"{name[0]}{index}") for name in ("prompt", "chosen", "rejected")}
    return row, list(row.values())


def _instruction(rng: random.Random, index: int) -> tuple[dict[str, Any], list[Any]]:
    _, (prompt, chosen, rejected) = _pair(rng, index)
    more = rng.choice([*BLANKS, "with this"])
    whole = f"{prompt}\n\n{more}" if more.strip() else prompt
    shaped = {"instruction": prompt, "input": more, "chosen": chosen, "rejected": rejected}
    return shaped, [whole, chosen, rejected]


def _hh(rng: random.Random, index: int) -> tuple[dict[str, Any], list[Any]]:
    prompt = ""
    for turn in range(rng.randint(1, 3)):
        prompt += f"\n\nHuman: {_text(rng, f'q{turn}')}\n\nAssistant:"
        prompt += "" if turn < 0 else f" {_text(rng, f'a{turn}')}"
    prompt += "\n\nHuman: and?\n\nAssistant:"
    start = rng.choice(["", " ", " I think ", "\n"])
    chosen, rejected = (f"{start}{_text(rng, side)}" for side in ("c", "r"))
    if chosen == rejected:
        rejected += "!"
    return {"chosen": prompt + chosen, "rejected": prompt + rejected}, [prompt, chosen, rejected]


def _turns(rng: random.Random) -> list[dict[str, str]]:
    turns = [{"role": "system", "content": _text(rng, "s")}] if rng.random() < 0.4 else []
    for turn in range(rng.randint(0, 2)):
        turns.append({"role": "user", "content": _text(rng, f"u{turn}")})
        turns.append({"role": "assistant", "content": _text(rng, f"a{turn}")})
        if rng.random() < 0.3:
            turns.append({"role": "tool", "content": rng.choice(["", "42"])})
            turns.append({"role": "assistant", "content": "so 42"})
    return [*turns, {"role": "user", "content": _text(rng, "last")}]


def _answer(rng: random.Random, tag: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": _text(rng, tag)}]


def _chat(rng: random.Random, index: int) -> tuple[dict[str, Any], list[Any]]:
    truth = [_turns(rng), _answer(rng, "c"), _answer(rng, "r")]
    return dict(zip(("prompt", "chosen", "rejected"), truth, strict=True)), truth


def _whole_chat(rng: random.Random, index: int) -> tuple[dict[str, Any], list[Any]]:
    _, (prompt, chosen, rejected) = _chat(rng, index)
    return {"chosen": prompt + chosen, "rejected": prompt + rejected}, [prompt, chosen, rejected]


def _sharegpt(rng: random.Random, index: int) -> tuple[dict[str, Any], list[Any]]:
    _, truth = _chat(rng, index)
    theirs = [[{"from": ROLES[t["role"]], "value": t["content"]} for t in part] for part in truth]
    row = {"conversations": theirs[0], "chosen": theirs[1][0], "rejected": theirs[2][0]}
    row["system"], row["tools"] = "", ""
    if truth[0][0]["role"] != "system" and rng.random() < 0.5:
        row["system"], row["tools"] = "be kind", rng.choice(["", '[{"name": "f"}]'])
        tools = f"Tools:\n{row['tools']}\n\n" if row["tools"] else ""
        truth = [[{"role": "system", "content": tools + "be kind"}, *truth[0]], *truth[1:]]
    return row, truth


GOOD: dict[str, Callable[[random.Random, int], tuple[dict[str, Any], list[Any]]]] = {
    "pairs": _pair,
    "instruction": _instruction,
    "hh": _hh,
    "chat": _chat,
    "whole_chat": _whole_chat,
    "sharegpt": _sharegpt,
}


# --------------------------------------------------------------------------------------- writers


def _jsonl(rng: random.Random, rows: list[Any], lines: dict[int, bytes]) -> tuple[bytes, list[int]]:
    plain = rng.random() < 0.5
    end = rng.choice([b"\n", b"\r\n"])
    dumped = [lines.get(index, _dump(row, plain)) for index, row in enumerate(rows)]
    data = end.join(dumped) + rng.choice([b"", end, end + b" \n\n"])
    return data, list(range(1, len(rows) + 1))


def _dump(row: Any, plain: bool) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=plain).encode()
    except UnicodeEncodeError:  # a lone surrogate can only be written as an escape
        return json.dumps(row).encode()


def _json(rng: random.Random, rows: list[Any], lines: dict[int, bytes]) -> tuple[bytes, list[int]]:
    plain, indent = rng.random() < 0.5, rng.choice([b"", b"\n", b"\n  "])
    dumped = [lines.get(index, _dump(row, plain)) for index, row in enumerate(rows)]
    return b"[" + indent + (b"," + indent).join(dumped) + b"\n]\n", list(range(1, len(rows) + 1))


def _csv(rng: random.Random, rows: list[Any], lines: dict[int, bytes]) -> tuple[bytes, list[int]]:
    end = rng.choice(["\n", "\r\n"])
    # where lines end in LF, csv.writer leaves a bare CR unquoted, and no reader can know it
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]) if end == "\r\n" else csv.QUOTE_ALL
    data, numbers = b"", []
    for index, cells in enumerate([list(rows[0]), *(row.values() for row in rows)], -1):
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator=end, quoting=quoting).writerow(cells)
        numbers.append(1 + data.count(b"\n"))
        data += lines[index] + end.encode() if index in lines else text.getvalue().encode()
    return data, numbers[1:]


def _parquet(
    rng: random.Random, rows: list[Any], lines: dict[int, bytes]
) -> tuple[bytes, list[int]]:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=rng.choice([2, 100]))
    return out.getvalue(), list(range(1, len(rows) + 1))


WRITERS = {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet}
