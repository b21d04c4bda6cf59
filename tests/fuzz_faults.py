"""Faults for random data files: bad rows, and bytes that make a whole file unusable."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from typing import Any

BLANKS = ["", " ", "\n\t ", "\u3000", "\u2028"]


def spoil(
    rng: random.Random,
    form: str,
    shape: str,
    rows: list[dict[str, Any]],
    index: int,
    lines: dict[int, bytes],
) -> tuple[str, str]:
    """Spoil one row, in `rows` or as a whole line in `lines`; returns (field, reason)."""
    row = rows[index] = dict(rows[index])
    side = rng.choice(["chosen", "rejected"])
    faults: list[Callable[[], tuple[str, str]]] = []

    def sets(value: Any, reason: str, name: str = side) -> Callable[[], tuple[str, str]]:
        def put() -> tuple[str, str]:
            row[name] = value
            return name, reason

        return put

    def line(
        make: Callable[[bytes], bytes], where: str, reason: str
    ) -> Callable[[], tuple[str, str]]:
        def put() -> tuple[str, str]:
            lines[index] = make(json.dumps(row).encode())
            return where, reason

        return put

    if shape in ("pairs", "instruction"):
        faults += [sets(blank, "blank" if blank else "empty") for blank in BLANKS]
        first = "prompt" if shape == "pairs" else "instruction"
        faults += [sets(" \n", "blank", first), sets("nul\0here", "NUL")]
    if shape == "hh":
        end = row["chosen"].rindex("\n\nAssistant:") + len("\n\nAssistant:")
        faults += [sets(row["chosen"][:end] + rng.choice(BLANKS), "blank")]
        faults += [sets("Human: hi", "a dialogue begins with")]
    if shape in ("pairs", "instruction", "hh"):
        faults += [lambda: (row.update(chosen=row["rejected"]) or "rejected", "identical")]
        if form != "csv":
            faults += [sets(None, "null")]
        if form in ("json", "jsonl"):
            faults += [
                sets(7, "a number"),
                sets([row[side]], "a list"),
                sets({"t": 1}, "an object"),
            ]
            faults += [sets(row[side] + "\ud83d", "surrogate"), sets(True, "true or false")]
    if shape in ("chat", "whole_chat"):
        message = {"role": "assistant", "content": "x"}
        user = {"role": "user", "content": "x"}
        lead = row[side][:-1]
        faults += [
            sets([], "empty list"),
            sets([*lead, {**message, "role": "bot"}], "is no role"),
            sets([*lead, {**message, "content": " "}], "blank"),
            sets([*lead, {**message, "content": None}], "null"),
            sets([*lead, message, user], "one assistant turn"),
        ]
        if shape == "chat":
            faults += [
                sets([*row["prompt"], message], "must end with", "prompt"),
                sets([user, user], "out of order", "prompt"),
                sets(
                    [*row["prompt"], {"role": "system", "content": "x"}], "out of order", "prompt"
                ),
            ]
    if shape == "sharegpt":
        human = {"from": "human", "value": "x"}
        turns = row["conversations"]
        faults += [
            sets([*turns, human], "out of order", "conversations"),
            sets([*turns, {"from": "gpt", "value": "x"}], "must end with", "conversations"),
            sets([*turns[:-1], {"from": "user", "value": "x"}], "is no role", "conversations"),
            sets(human, "one assistant turn"),
            sets({"from": "gpt", "value": ""}, "empty"),
        ]
    if form in ("json", "jsonl"):
        faults += [
            lambda: (row.pop(side) and side, "missing"),
            line(lambda text: text[:-1] + b', "chosen": "again"}', "chosen", "twice"),
            line(lambda text: text[:-1] + b', "score": NaN}', "", "NaN"),
            line(lambda text: b"[" + text + b"]", "", "expected an object"),
        ]
    if form == "jsonl":
        faults += [
            line(lambda text: text[: len(text) // 2], "", "JSON"),
            line(lambda text: text[:-1] + b', "x": "caf\xe9"}', "", "UTF-8"),
            line(lambda text: text + b", " + text, "", "JSON"),
        ]
        if index < len(rows) - 1:  # at the end of the file it is no fault
            faults.append(line(lambda text: b"  ", "", "blank line"))
    if form == "csv":
        faults += [
            lambda: (lines.update({index: b"only"}) or "", "cells"),
            lambda: (lines.update({index: b",".join([b"x"] * 9)}) or "", "cells"),
        ]
    return rng.choice(faults)()


def ruin(rng: random.Random, form: str, data: bytes) -> tuple[bytes, str]:
    """Make the whole file unusable."""
    ways = [
        (pickle.dumps([1, 2]), "parquet" if form == "parquet" else "pickle"),
        (b"", "empty"),
    ]
    if form == "parquet":
        ways += [(data[: len(data) // 2], "parquet"), (data[:-4], "parquet")]
    else:
        text = data.decode()
        ways += [(text.encode("utf-16"), "UTF-16")]
    if form == "json":
        ways += [(data[: data.rindex(b"]")], "not valid JSON"), (data + b"x", "after the end")]
        ways += [(b'{"rows": ' + data + b"}", "a list of objects"), (b"[]", "no rows")]
    if form == "csv":
        head, rest = data.split(b"\n", 1)
        head = head.rstrip(b"\r")
        ways += [(head.replace(b"chosen", b"chosn", 1) + b"\n" + rest, "did you mean chosn")]
        ways += [(head + b",chosen\n" + rest, "twice"), (data + b'a,"open\n', "never closed")]
        ways += [(head + b"\n", "no rows"), (data + b"caf\xe9,b,c\n", "UTF-8")]
    if form == "jsonl":
        ways += [
            (data.replace(b'"chosen"', b'"chosn"'), "did you mean chosn"),
            (b"\n \n", "no rows"),
        ]
    return rng.choice(ways)
