"""Rows of each shape -> prompt, chosen, rejected."""

import pytest

from dpo_lab.batch import Message
from dpo_lab.rows import BadRow
from dpo_lab.shapes import SHAPES, pair, recognise


def said(*turns):
    """`said("user: hi")` -> the messages as objects of a row."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def heard(*turns):
    """The same as our turns."""
    return tuple(Message(*turn.split(": ", 1)) for turn in turns)


def shared(*turns):
    """The same in ShareGPT's words."""
    return [dict(zip(("from", "value"), turn.split(": ", 1), strict=True)) for turn in turns]


YES, NO = said("assistant: yes"), said("assistant: no")
OURS = heard("assistant: yes"), heard("assistant: no")
GPT = {"chosen": shared("gpt: yes")[0], "rejected": shared("gpt: no")[0]}

GOOD = [
    ("pairs", {"prompt": "q", "chosen": "NA", "rejected": "007"}, ("q", "NA", "007")),
    ("pairs", {"prompt": " q ", "chosen": "x ", "rejected": "x"}, (" q ", "x ", "x")),
    (
        "instruction",
        {"instruction": "do", "input": "this", "chosen": "a", "rejected": "b"},
        ("do\n\nthis", "a", "b"),
    ),
    (
        "instruction",
        {"instruction": "do", "input": " \n", "chosen": "a", "rejected": "b"},
        ("do", "a", "b"),
    ),
    ("instruction", {"instruction": "do", "chosen": "a", "rejected": "b"}, ("do", "a", "b")),
    (
        "instruction",
        {"instruction": "do", "input": None, "chosen": "a", "rejected": "b"},
        ("do", "a", "b"),
    ),
    (
        "hh",
        {
            "chosen": "\n\nHuman: hi\n\nAssistant: hello",
            "rejected": "\n\nHuman: hi\n\nAssistant: go",
        },
        ("\n\nHuman: hi\n\nAssistant:", " hello", " go"),
    ),
    (  # the shared text goes on into both responses, and ends with a turn of its own
        "hh",
        {
            "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: The end",
            "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: The start",
        },
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " The end", " The start"),
    ),
    (  # one response is a beginning of the other
        "hh",
        {
            "chosen": "\n\nHuman: a\n\nAssistant: yes",
            "rejected": "\n\nHuman: a\n\nAssistant: yes, but",
        },
        ("\n\nHuman: a\n\nAssistant:", " yes", " yes, but"),
    ),
    (
        "chat",
        {"prompt": said("system: s", "user: u"), "chosen": YES, "rejected": NO},
        (heard("system: s", "user: u"), *OURS),
    ),
    (
        "chat",
        {"prompt": said("user: u"), "chosen": "yes", "rejected": "no"},
        (heard("user: u"), *OURS),
    ),
    (
        "chat",
        {
            "prompt": said("user: u"),
            "chosen": said("user: u", "assistant: yes"),
            "rejected": said("user: u", "assistant: no"),
        },
        (heard("user: u"), *OURS),
    ),
    ("chat", {"prompt": "u", "chosen": YES, "rejected": NO}, (heard("user: u"), *OURS)),
    (
        "chat",
        {
            "prompt": "u",
            "chosen": said("system: s", "user: u", "assistant: yes"),
            "rejected": said("system: s", "user: u", "assistant: no"),
        },
        (heard("system: s", "user: u"), *OURS),
    ),
    (
        "chat",
        {
            "prompt": said("user: u", "assistant: call", "tool: "),
            "chosen": YES,
            "rejected": NO,
        },
        (heard("user: u", "assistant: call", "tool: "), *OURS),
    ),
    (
        "whole_chat",
        {
            "chosen": said("user: a", "assistant: b", "user: c", "assistant: yes"),
            "rejected": said("user: a", "assistant: b", "user: c", "assistant: no"),
        },
        (heard("user: a", "assistant: b", "user: c"), *OURS),
    ),
    (
        "sharegpt",
        {"conversations": shared("system: s", "human: u"), **GPT},
        (heard("system: s", "user: u"), *OURS),
    ),
    (
        "sharegpt",
        {"conversations": shared("human: u", "function_call: f()", "observation: 1"), **GPT},
        (heard("user: u", "assistant: f()", "tool: 1"), *OURS),
    ),
    (
        "sharegpt",
        {"conversations": shared("human: u"), "system": "s", "tools": "[f]", **GPT},
        (heard("system: Tools:\n[f]\n\ns", "user: u"), *OURS),
    ),
    (
        "sharegpt",
        {"conversations": shared("system: s", "human: u"), "tools": [{"name": "f"}], **GPT},
        (heard('system: Tools:\n[{"name": "f"}]\n\ns', "user: u"), *OURS),
    ),
    (
        "sharegpt",
        {"conversations": shared("human: u"), "system": "", "tools": "[]", **GPT},
        (heard("user: u"), *OURS),
    ),
    (
        "sharegpt",
        {"conversations": shared("human: u"), "system": None, "tools": "t", **GPT},
        (heard("system: Tools:\nt", "user: u"), *OURS),
    ),
]


@pytest.mark.parametrize(("shape", "row", "expected"), GOOD)
def test_good_rows(shape, row, expected):
    assert pair(row, SHAPES[shape]) == expected


@pytest.mark.parametrize(("shape", "row", "expected"), GOOD)
def test_good_rows_are_recognised(shape, row, expected):
    found = recognise(row, tuple(SHAPES))
    assert found is not None
    assert found.name == shape


HI = "\n\nHuman: hi\n\nAssistant:"
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
CHAT = {"prompt": said("user: u"), "chosen": YES, "rejected": NO}
WHOLE = {
    "chosen": said("user: u", "assistant: yes"),
    "rejected": said("user: u", "assistant: no"),
}
SHARED = {"conversations": shared("human: u"), **GPT}

BAD = [
    ("pairs", {**PAIR, "prompt": " "}, "prompt", "blank"),
    ("pairs", {**PAIR, "chosen": ""}, "chosen", "empty"),
    ("pairs", {**PAIR, "rejected": None}, "rejected", "null"),
    ("pairs", {**PAIR, "rejected": "a"}, "rejected", "identical to chosen"),
    ("pairs", {**PAIR, "prompt": said("user: u")}, "prompt", "got a list"),
    ("instruction", {"instruction": " ", "chosen": "a", "rejected": "b"}, "instruction", "blank"),
    (
        "instruction",
        {"instruction": "i", "input": 3, "chosen": "a", "rejected": "b"},
        *("input", "got a number"),
    ),
    ("hh", {"chosen": HI + " \n", "rejected": HI + " no"}, "chosen", "blank"),
    ("hh", {"chosen": HI + " yes", "rejected": HI}, "rejected", "blank"),
    ("hh", {"chosen": HI + " yes", "rejected": HI + " yes"}, "rejected", "identical"),
    ("hh", {"chosen": "Human: hi", "rejected": HI + " no"}, "chosen", "begins with"),
    (
        "hh",
        {"chosen": HI + " yes", "rejected": "\n\nHuman: bye\n\nAssistant: no"},
        *("rejected", "shares no prompt"),
    ),
    (
        "hh",
        {"chosen": "\n\nHuman: \n\nAssistant: a", "rejected": "\n\nHuman: \n\nAssistant: b"},
        *("prompt", "blank"),
    ),
    (
        "hh",
        {"chosen": HI + " a\n\nHuman: x\n\nAssistant: y", "rejected": HI + " b"},
        *("chosen", "goes on with"),
    ),
    ("chat", {**CHAT, "prompt": []}, "prompt", "empty list"),
    ("chat", {**CHAT, "prompt": None}, "prompt", "null"),
    ("chat", {**CHAT, "prompt": said("user: u", "assistant: a")}, "prompt", "must end with"),
    ("chat", {**CHAT, "chosen": said("assistant: a", "user: b")}, "chosen", "one assistant turn"),
    ("chat", {**CHAT, "chosen": said("user: x", "assistant: a")}, "chosen", "begins neither"),
    ("chat", {**CHAT, "rejected": YES}, "rejected", "identical"),
    ("chat", {**CHAT, "rejected": 5}, "rejected", "a number"),
    ("chat", PAIR, "prompt", "expected a list of {role, content} objects, got text"),
    ("chat", {**WHOLE, "prompt": "other"}, "prompt", "is no user turn that chosen and rejected"),
    ("whole_chat", {**WHOLE, "rejected": said("user: v", "assistant: no")}, "rejected", "no turn"),
    ("whole_chat", {**WHOLE, "rejected": said("user: u")}, "rejected", "got none"),
    ("whole_chat", {**WHOLE, "rejected": WHOLE["chosen"]}, "rejected", "identical"),
    (
        "whole_chat",
        {
            "chosen": said("user: a", "assistant: b", "user: c", "assistant: d"),
            "rejected": said("user: a", "assistant: b", "user: x", "assistant: y"),
        },
        *("prompt", "must end with a user or tool turn"),
    ),
    ("sharegpt", {**SHARED, "chosen": shared("human: x")[0]}, "chosen", "one assistant turn"),
    ("sharegpt", {**SHARED, "chosen": "yes"}, "chosen", "expected {from, value}, got text"),
    ("sharegpt", {**SHARED, "chosen": shared("gpt: ")[0]}, "chosen.value", "empty"),
    ("sharegpt", {**SHARED, "conversations": said("user: u")}, "conversations[0]", "has no from"),
    ("sharegpt", {**SHARED, "conversations": shared("gpt: a")}, "conversations[0]", "out of order"),
    ("sharegpt", {**SHARED, "system": 5}, "system", "a number"),
    (
        "sharegpt",
        {**SHARED, "conversations": shared("system: s", "human: u"), "system": "t"},
        *("system", "twice"),
    ),
]


@pytest.mark.parametrize(("shape", "row", "field", "reason"), BAD)
def test_bad_rows(shape, row, field, reason):
    with pytest.raises(BadRow) as bad:
        pair(row, SHAPES[shape])
    assert bad.value.field == field
    assert reason in bad.value.reason


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a"},
        {"conversations": shared("human: u")},
        {},
    ],
)
def test_rows_without_a_shape(row):
    assert recognise(row, tuple(SHAPES)) is None
