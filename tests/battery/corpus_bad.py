"""Files that must be refused, each with what the message has to say: where, and why."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from corpus_good import chat, plain, write


class Bad(NamedTuple):
    """`name` of the file, its bytes, and what the message says beside its name.

    - `words`: what is typed beside the path.
    - `rejects`: (line, field) of the bad rows that `data.on_bad_row=skip` leaves out of three; None
      where the file as a whole is of no use.
    """

    name: str
    data: bytes
    says: tuple[str, ...]
    words: tuple[str, ...] = ()
    rejects: tuple[tuple[int, str | None], ...] | None = None


def bad() -> Iterator[Bad]:
    yield from _files()
    yield from _columns()
    yield from _lines()
    yield from _values()
    yield from _csv()
    yield from _chats()
    yield from _parquet()
    yield from _tokens()


ROWS = [plain(number) for number in range(3)]
LINES = [json.dumps(row).encode() for row in ROWS]


def lines(*changed: bytes, at: int = 1) -> bytes:
    """Three good lines, one of them in the middle exchanged."""
    return b"\n".join([*LINES[:at], *changed, *LINES[at + 1 :]]) + b"\n"


def row(**changes: Any) -> bytes:
    """Three rows, the second with changes; `...` removes a key."""
    changed = {key: value for key, value in {**ROWS[1], **changes}.items() if value is not ...}
    return lines(json.dumps(changed).encode())


def _files() -> Iterator[Bad]:
    whole = lines(LINES[1])
    for name in ("e.jsonl", "e.json", "e.csv", "e.parquet"):
        yield Bad(name, b"", ("empty",))
    yield Bad("empty.jsonl.gz", gzip.compress(b""), ("empty",))
    yield Bad("blank.jsonl", b"\n \n\t\n", ("no rows",))
    yield Bad("blank.json", b"\n \n", ("expected a list",))
    yield Bad("blank.csv", b"\n\n", ("",))
    yield Bad("bom_only.jsonl", b"\xef\xbb\xbf", ("",))
    yield Bad("empty_list.json", b"[]", ("no rows",))
    yield Bad("cut.jsonl.gz", gzip.compress(whole)[:-9], ("cut short",))
    yield Bad("damaged.jsonl.gz", gzip.compress(whole)[:20] + b"\0" * 40, ("damaged",))
    yield Bad("not_zipped.jsonl.gz", whole, ("not gzipped",))
    yield Bad("twice_zipped.jsonl.gz", gzip.compress(gzip.compress(whole)), ("",))
    for protocol in range(6):
        yield Bad(f"pickle{protocol}.jsonl", pickle.dumps(ROWS, protocol), ("",))
    yield Bad("pickle.csv", pickle.dumps(ROWS), ("pickle",))
    yield Bad("pickle.parquet", pickle.dumps(ROWS), ("parquet",))
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w") as packed:
        packed.writestr("a.jsonl", whole)
    yield Bad("zip.jsonl", box.getvalue(), ("zip",))
    yield Bad("parquet.jsonl", write("parquet", ROWS), ("parquet file",))
    yield Bad("jsonl.parquet", whole, ("parquet",))
    yield Bad("rows.txt", whole, (".jsonl",))
    yield Bad("rows.pkl", pickle.dumps(ROWS), (".jsonl",))
    yield Bad("rows", whole, (".jsonl",))
    for code in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        yield Bad(f"{code}.jsonl", whole.decode().encode(code), ("",))
    yield Bad("utf-16.csv", write("csv", ROWS).decode().encode("utf-16"), ("UTF-16",))
    yield Bad("utf-16.json", write("json", ROWS).decode().encode("utf-16"), ("UTF-16",))
    latin = "prompt,chosen,rejected\nq,caf\u00e9,b\n".encode("latin-1")
    yield Bad("latin.csv", latin, (":2", "UTF-8"))
    yield Bad("latin.json", '[{"prompt": "\u00e9"}]'.encode("latin-1"), (":1", "UTF-8"))
    yield Bad("cut.json", write("json", ROWS)[:-20], (":3", "JSON"))
    yield Bad("unclosed.json", json.dumps(ROWS)[:-1].encode(), ("JSON",))
    yield Bad("trailing.json", json.dumps(ROWS)[:-1].encode() + b",]", ("JSON",))
    yield Bad("after.json", json.dumps(ROWS).encode() + b" x", ("after the end",))
    yield Bad("object.json", json.dumps({"data": ROWS}).encode(), ("a list of objects",))
    yield Bad("columns.json", json.dumps({"prompt": ["q"]}).encode(), ("a list of objects",))
    yield Bad("lines.json", whole, (".jsonl",))
    yield Bad("list.jsonl", json.dumps(ROWS).encode(), (":1", "expected an object"))
    yield Bad("pretty.jsonl", write("json", ROWS), (":1", "JSON"))
    yield Bad("deep.json", b"[" * 100_000, ("",))


def _columns() -> Iterator[Bad]:
    for form in ("jsonl", "json", "csv", "parquet"):
        named = [
            {"prompt": r["prompt"], "chosn": r["chosen"], "rejected": r["rejected"]} for r in ROWS
        ]
        yield Bad(f"near.{form}", write(form, named), ("'chosen'", "did you mean chosn"))
        upper = [{key.upper(): value for key, value in r.items()} for r in ROWS]
        yield Bad(f"upper.{form}", write(form, upper), ("'chosen'", "did you mean CHOSEN"))
        lost = [{"prompt": r["prompt"], "answer": r["chosen"]} for r in ROWS]
        yield Bad(f"lost.{form}", write(form, lost), ("'chosen'", "there is prompt, answer"))
        words = ("data.columns={prompt: qustion}",)
        asked = [{"question": r["prompt"], **r} for r in ROWS]
        yield Bad(f"mapped.{form}", write(form, asked), ("qustion", "did you mean question"), words)


def _lines() -> Iterator[Bad]:
    def line(name: str, data: bytes, *says: str, field: str | None = None) -> Bad:
        return Bad(f"{name}.jsonl", lines(data), (":2", *says), (), ((2, field),))

    yield line("cut", LINES[1][:20], "JSON")
    yield line("comma", LINES[1][:-1] + b",}", "JSON")
    yield line("single", LINES[1].replace(b'"', b"'"), "JSON")
    yield line("two", LINES[1] + b" " + LINES[1], "JSON")
    yield line("blank", b"", "blank line")
    yield line("list", b"[1]", "expected an object", "a list")
    yield line("number", b"7", "expected an object", "a number")
    yield line("text", b'"x"', "expected an object", "text")
    yield line("null", b"null", "expected an object", "null")
    yield line("comment", b"// x", "JSON")
    yield line("twice", LINES[1][:-1] + b', "chosen": "z"}', "chosen", "twice", field="chosen")
    yield line("inner", LINES[1][:-1] + b', "m": {"a": 1, "a": 2}}', "a", "twice", field="a")
    for name in ("NaN", "Infinity", "-Infinity"):
        yield line(f"{name}", LINES[1][:-1] + f', "x": {name}}}'.encode(), name)
    yield line("latin", LINES[1].replace(b"a1", b"\xe9"), "UTF-8", "0xe9")
    yield line("nul_byte", LINES[1].replace(b"a1", b"\0"), "NUL")
    yield line("control", LINES[1].replace(b"a1", b"\x01"), "JSON")
    yield line("deep", b'{"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply")
    yield line("digits", b'{"x": ' + b"9" * 5000 + b"}", "JSON")
    yield Bad("last.jsonl", lines(LINES[2][:30], at=2)[:-1], (":3", "cut short"), (), ((3, None),))


def _values() -> Iterator[Bad]:
    def value(name: str, given: Any, *says: str, side: str = "chosen") -> Bad:
        return Bad(
            f"{name}_{side}.jsonl", row(**{side: given}), (":2", side, *says), (), ((2, side),)
        )

    for side in ("prompt", "chosen", "rejected"):
        yield value("null", None, "null", side=side)
        yield value("empty", "", "empty", side=side)
        yield value("blank", " \n\u3000", "blank", side=side)
        yield value("lost", ..., "missing", side=side)
    yield value("int", 7, "a number")
    yield value("float", 0.5, "a number")
    yield value("bool", True, "true or false")
    yield value("list", ["a"], "a list")
    yield value("object", {"a": 1}, "an object")
    yield value("nul", "a\0b", "NUL")
    yield value("surrogate", "a\ud83d", "surrogate")
    same = json.dumps({"prompt": "q", "chosen": "same", "rejected": "same"}).encode()
    yield Bad("same.jsonl", lines(same), (":2", "rejected", "identical"), (), ((2, "rejected"),))
    array = json.dumps([ROWS[0], {**ROWS[1], "chosen": None}, ROWS[2]]).encode()
    yield Bad("null.json", array, (":2", "chosen", "null"), (), ((2, "chosen"),))
    mixed = json.dumps(
        {"prompt": "q", "conversations": [], "chosen": "a", "rejected": "b"}
    ).encode()
    yield Bad("mixed.jsonl", lines(mixed), (":2", "mixed shapes"), (), ((2, "conversations"),))
    huge = {**ROWS[1], "chosen": ["x" * 5_000_000]}
    yield Bad("huge.jsonl", lines(json.dumps(huge).encode()), (":2", "chosen", "a list"), (),
              ((2, "chosen"),))  # fmt: skip
    every = b"\n".join([b"{"] * 5000)
    yield Bad("all.jsonl", every, ("all 5,000 rows", ":1:", "4,990 more"))


def _csv() -> Iterator[Bad]:
    head = b"prompt,chosen,rejected\n"

    def line(name: str, data: bytes, *says: str, field: str | None = None) -> Bad:
        made = head + b"q0,a0,b0\n" + data + b"\nq2,a2,b2\n"
        return Bad(f"{name}.csv", made, (":3", *says), (), ((3, field),))

    yield line("ragged", b"q1,a1", "2 cells", "3", field="rejected")
    yield line("wide", b"q1,a1,b1,c1", "4 cells")
    yield line("gap", b"", "blank line")
    yield line("empty_cell", b"q1,,b1", "chosen", "empty", field="chosen")
    yield line("same", b"q1,a1,a1", "identical", field="rejected")
    yield line("nul", b"q1,a\0,b1", "NUL", field="chosen")
    yield Bad("header.csv", head, ("no rows",))
    yield Bad("twice.csv", b"prompt,chosen,chosen,rejected\nq,a,a,b\n", (":1", "chosen", "twice"))
    yield Bad("open.csv", head + b'q0,a0,b0\nq1,"a1,b1\n', (":3", "never closed"))
    yield Bad("after_quote.csv", head + b'q0,"a"x,b0\n', (":2", "csv"))
    yield Bad("semicolons.csv", head.replace(b",", b";") + b"q;a;b\n", ("no column",))
    yield Bad("tabs.csv", head.replace(b",", b"\t") + b"q\ta\tb\n", ("no column",))
    yield Bad("no_header.csv", b"q0,a0,b0\nq1,a1,b1\n", ("no column",))
    yield Bad("mac.csv", b"prompt,chosen,rejected\rq,a,b\r", ("carriage return",))


def _chats() -> Iterator[Bad]:
    user, yes, no = "user: hi", "assistant: yes", "assistant: no"
    base = {"prompt": chat(user), "chosen": chat(yes), "rejected": chat(no)}

    def turns(name: str, field: str, says: str, **changes: Any) -> Bad:
        rows = [base, {**base, **changes}, base]
        said = (":2", field, says)
        return Bad(f"chat_{name}.jsonl", write("jsonl", rows), said, ("data=chat",), ((2, field),))

    yield turns("assistant_first", "prompt[0]", "out of order", prompt=chat(yes, user))
    yield turns("two_users", "prompt[1]", "out of order", prompt=chat(user, user))
    yield turns("late_system", "prompt[1]", "out of order", prompt=chat(user, "system: x", user))
    yield turns("ends", "prompt", "must end with", prompt=chat(user, yes))
    yield turns("nobody", "prompt", "empty list", prompt=[])
    yield turns("role", "prompt[0].role", "is no role", prompt=chat("bot: hi"))
    yield turns("no_content", "prompt[0]", "has no content", prompt=[{"role": "user"}])
    yield turns("null", "prompt[0].content", "null", prompt=[{"role": "user", "content": None}])
    yield turns("parts", "prompt[0].content", "a list",
                prompt=[{"role": "user", "content": [{"type": "text", "text": "x"}]}])  # fmt: skip
    yield turns("strings", "prompt[0]", "text", prompt=["hi"])
    yield turns("blank", "chosen[0].content", "blank", chosen=chat("assistant:  \t"))
    yield turns("goes_on", "chosen", "one assistant turn", chosen=chat(yes, user, no))
    yield turns("same", "rejected", "identical", rejected=chat(yes))
    yield turns("calls", "chosen[0].tool_calls", "lost",
                chosen=[{"role": "assistant", "content": "x", "tool_calls": [1]}])  # fmt: skip
    human = {"from": "human", "value": "hi"}
    gpt, other = {"from": "gpt", "value": "yes"}, {"from": "gpt", "value": "no"}
    shared = {"conversations": [human], "chosen": gpt, "rejected": other}

    def talk(name: str, field: str, says: str, **changes: Any) -> Bad:
        rows = [shared, {**shared, **changes}, shared]
        said = (":2", field, says)
        return Bad(
            f"share_{name}.json", write("json", rows), said, ("data=sharegpt",), ((2, field),)
        )

    yield talk(
        "role", "conversations[0].from", "is no role", conversations=[{**human, "from": "user"}]
    )
    yield talk("ends", "conversations", "must end", conversations=[human, gpt])
    yield talk("human", "chosen", "one assistant turn", chosen=human)
    yield talk("list", "chosen", "a list", chosen=[gpt])
    start = "\n\nHuman: q\n\nAssistant:"
    for name, chosen, field, says in (
        ("blank", f"{start} ", "chosen", "blank"),
        ("start", "Human: q", "chosen", "begins with"),
        ("other", "\n\nHuman: z\n\nAssistant: x", "rejected", "shares no prompt"),
        ("goes_on", f"{start} a\n\nHuman: b", "chosen", "goes on"),
    ):
        rows = [{"chosen": f"{start} a", "rejected": f"{start} b"} for _ in range(3)]
        rows[1]["chosen"] = chosen
        said = (":2", field, says)
        yield Bad(f"hh_{name}.jsonl", write("jsonl", rows), said, ("data=hh",), ((2, field),))


def _parquet() -> Iterator[Bad]:
    def table(columns: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        pq.write_table(pa.table(columns), out)
        return out.getvalue()

    texts = {
        "prompt": ["q0", "q1", "q2"],
        "chosen": ["a0", "a1", "a2"],
        "rejected": ["b0", "b1", "b2"],
    }
    null = table({**texts, "chosen": ["a", None, "c"]})
    yield Bad("null.parquet", null, (":2", "chosen", "null"), (), ((2, "chosen"),))
    yield Bad("numbers.parquet", table({**texts, "chosen": [1, 2, 3]}), ("chosen", "int64"))
    yield Bad("bytes.parquet", table({**texts, "chosen": [b"a", b"b", b"c"]}), ("chosen", "binary"))
    yield Bad("nested.parquet", table({**texts, "chosen": [[["x"]]] * 3}), ("chosen",))
    yield Bad("struct.parquet", table({**texts, "chosen": [{"text": "x"}] * 3}), ("chosen",))
    yield Bad(
        "no_rows.parquet", table({name: pa.array([], pa.string()) for name in texts}), ("no rows",)
    )
    whole = table(texts)
    yield Bad("cut.parquet", whole[: len(whole) // 2], ("parquet",))
    yield Bad("tail.parquet", whole[:-4], ("parquet",))
    yield Bad("middle.parquet", whole[:30] + b"\xff" * 60 + whole[90:], ("parquet",))
    yield Bad("cut.parquet.gz", gzip.compress(whole)[:-20], ("cut short",))


def _tokens() -> Iterator[Bad]:
    long = {"prompt": "word " * 400, "chosen": "yes", "rejected": "no"}
    words = ("tokens.max_length=16", "tokens.truncation=keep_start")
    data = write("jsonl", [ROWS[0], long, ROWS[2]])
    yield Bad("no_room.jsonl", data, (":2", "prompt", "max_length"), words)
