"""Files that are odd and valid, each with what it says: [prompt, chosen, rejected] of every row."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_data import TEXTS

ROLES = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}


class Good(NamedTuple):
    """`name` of the file, its bytes, the rows it holds, and what is typed beside its path."""

    name: str
    data: bytes
    rows: list[Any]
    words: tuple[str, ...] = ()


def plain(number: int) -> dict[str, str]:
    return {"prompt": f"q{number}", "chosen": f"a{number}", "rejected": f"b{number}"}


def chat(*turns: str) -> list[dict[str, str]]:
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def good() -> Iterator[Good]:
    yield from _every_shape_in_every_form()
    yield from _texts()
    yield from _layouts()


# --------------------------------------------------------------------- shapes x forms x compression


def _shapes() -> dict[str, list[tuple[dict[str, Any], list[Any]]]]:
    """Shape -> rows as they stand in a file, with what they say."""
    texts = [text for text in TEXTS if len(text) < 100]
    thrice = list(zip(texts, texts[7:] + texts[:7], texts[13:] + texts[:13], strict=True))
    pairs = []
    for p, c, r in thrice:
        truth = [f"{p}?", f"+{c}", f"-{r}"]
        pairs.append((dict(zip(("prompt", "chosen", "rejected"), truth, strict=True)), truth))
    instruction = [
        ({"instruction": f"i {p}", "input": more, "chosen": f"+{c}", "rejected": f"-{r}"},
         [f"i {p}\n\n{more}" if more.strip() else f"i {p}", f"+{c}", f"-{r}"])
        for (p, c, r), more in zip(thrice, ["", " ", "with", "\u3000", "007"] * 20, strict=False)
    ]  # fmt: skip
    hh, chats, shared = [], [], []
    for p, c, r in thrice:
        start = f"\n\nHuman: {p}\n\nAssistant: well\n\nHuman: and?\n\nAssistant:"
        hh.append(({"chosen": f"{start} y{c}", "rejected": f"{start} n{r}"},
                   [start, f" y{c}", f" n{r}"]))  # fmt: skip
        prompt = chat(f"system: be {r}", f"user: u{p}", "assistant: 1", "user: go on")
        yes, no = chat(f"assistant: y{c}"), chat(f"assistant: n{r}")
        chats.append(({"prompt": prompt, "chosen": yes, "rejected": no}, [prompt, yes, no]))
        theirs = [{"from": ROLES[t["role"]], "value": t["content"]} for t in prompt]
        shared.append((
            {"conversations": theirs,
             "chosen": {"from": "gpt", "value": f"y{c}"},
             "rejected": {"from": "gpt", "value": f"n{r}"}},
            [prompt, yes, no],
        ))  # fmt: skip
    whole = [({"chosen": p + y, "rejected": p + n}, [p, y, n]) for _, (p, y, n) in chats]
    return {"file": pairs, "instruction": instruction, "hh": hh, "chat": chats,
            "sharegpt": shared, "whole": whole}  # fmt: skip


def write(form: str, rows: list[dict[str, Any]]) -> bytes:
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if form == "json":
        return json.dumps(rows, indent=1).encode()
    if form == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=5)
    return out.getvalue()


def _every_shape_in_every_form() -> Iterator[Good]:
    for shape, pairs in _shapes().items():
        rows, truths = [row for row, _ in pairs], [truth for _, truth in pairs]
        forms = ["jsonl", "json", "parquet"] + ["csv"] * (shape in ("file", "instruction", "hh"))
        option = {"whole": "chat"}.get(shape, shape)
        for form in forms:
            data = write(form, rows)
            yield Good(f"{shape}.{form}", data, truths, (f"data={option}",))
            yield Good(f"{shape}_zipped.{form}.gz", gzip.compress(data), truths)


# ------------------------------------------------------------------------------------ odd texts


def _texts() -> Iterator[Good]:
    odd = ["NA", "null", "007", "None", "nan", "1e5", "true", "-", "0", "[]", "{}", "\\N", "#N/A"]
    rows = [{"prompt": text, "chosen": f"{text}.", "rejected": f" {text}"} for text in odd]
    for form in ("jsonl", "json", "csv", "parquet"):
        yield Good(f"na.{form}", write(form, rows), [list(row.values()) for row in rows])
    long = {"prompt": "q" * 3_000_000, "chosen": "ja " * 700_000, "rejected": "no\n" * 600_000}
    for form in ("jsonl", "json", "csv", "parquet"):
        data = write(form, [plain(0), long, plain(2)])
        truth = [list(row.values()) for row in (plain(0), long, plain(2))]
        yield Good(f"gigantic.{form}", data, truth)
    emoji = {"prompt": "\U0001f600", "chosen": "a\u0301", "rejected": "\u00e1"}
    yield Good("escapes.jsonl", json.dumps(emoji).encode() + b"\n", [list(emoji.values())])
    lines = [
        f"a{end}b" for end in ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\r\n")
    ]
    rows = [{"prompt": line, "chosen": f"1{line}", "rejected": f"2{line}"} for line in lines]
    for form in ("jsonl", "csv", "json"):
        yield Good(f"line_ends.{form}", write(form, rows), [list(row.values()) for row in rows])
    same = [dict(plain(0)), dict(plain(0)), {"prompt": "q0", "chosen": "b0", "rejected": "a0"}]
    yield Good("repeats.jsonl", write("jsonl", same), [list(row.values()) for row in same])
    near = {"prompt": "q", "chosen": "yes", "rejected": "yes "}
    yield Good("differ_by_a_blank.jsonl", write("jsonl", [near]), [list(near.values())])


# ---------------------------------------------------------------------------------- odd layouts


def _layouts() -> Iterator[Good]:
    rows = [plain(number) for number in range(4)]
    truth = [list(row.values()) for row in rows]
    jsonl = write("jsonl", rows)
    yield Good("bom.jsonl", b"\xef\xbb\xbf" + jsonl, truth)
    yield Good("bom.csv", b"\xef\xbb\xbf" + write("csv", rows), truth)
    yield Good("bom.json", b"\xef\xbb\xbf" + write("json", rows), truth)
    yield Good("crlf.jsonl", jsonl.replace(b"\n", b"\r\n"), truth)
    yield Good("lf.csv", write("csv", rows).replace(b"\r\n", b"\n"), truth)
    yield Good("no_last_end.jsonl", jsonl.rstrip(), truth)
    yield Good("blank_at_the_end.jsonl", jsonl + b"\n  \n\t\n", truth)
    yield Good("blank_at_the_end.csv", write("csv", rows) + b"\r\n\r\n", truth)
    yield Good("blanks_around.jsonl", jsonl.replace(b'{"', b'  \t{ "').replace(b"}", b" } "), truth)
    yield Good("one_line.json", json.dumps(rows).encode(), truth)
    yield Good("one_row.json", json.dumps(rows[:1]).encode(), truth[:1])
    yield Good("UPPER.JSONL", jsonl, truth)
    yield Good("zipped_unnamed.jsonl", gzip.compress(jsonl), truth)
    yield Good("two_members.jsonl.gz", gzip.compress(jsonl[:20]) + gzip.compress(jsonl[20:]), truth)
    yield Good("name with blanks, 100%.jsonl", jsonl, truth)
    yield Good("a=b.jsonl", jsonl, truth)
    yield Good("日本語 'x'.jsonl", jsonl, truth)
    extra = [{**row, "score": 1, "meta": {"a": [1, {"b": None}]}, "": 0} for row in rows]
    yield Good("extra.jsonl", write("jsonl", extra), truth)
    order = [dict(reversed(row.items())) for row in rows]
    yield Good("any_order.jsonl", write("jsonl", [rows[0], *order[1:]]), truth)
    named = [
        {"question": r["prompt"], "chosen": r["chosen"], "bad one": r["rejected"]} for r in rows
    ]
    words = ("data.columns={prompt: question, rejected: bad one}",)
    for form in ("jsonl", "csv", "parquet"):
        yield Good(f"named.{form}", write(form, named), truth, words)
    quoted = 'prompt,chosen,rejected\n"a\nb","say ""hi""","x, y"\nq1,a1,b1\n'
    yield Good("quoted.csv", quoted.encode(), [["a\nb", 'say "hi"', "x, y"], ["q1", "a1", "b1"]])
    table = pa.table({
        "prompt": pa.array([r["prompt"] for r in rows]).dictionary_encode(),
        "chosen": pa.array([r["chosen"] for r in rows], pa.large_string()),
        "rejected": [r["rejected"] for r in rows],
        "embedding": [[0.5] * 3] * 4,
    })  # fmt: skip
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    yield Good("encoded.parquet", out.getvalue(), truth)
    both = chat("user: hi"), chat("assistant: yes"), chat("assistant: no")
    texts = {"prompt": both[0], "chosen": "yes", "rejected": "no"}
    yield Good("chat_with_texts.jsonl", write("jsonl", [texts]), [list(both)])
    cut = [{"prompt": "word " * 400, "chosen": "yes", "rejected": "no"}]
    yield Good("cut_prompt.jsonl", write("jsonl", cut), [list(cut[0].values())],
               ("tokens.max_length=16",))  # fmt: skip
