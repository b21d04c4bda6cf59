"""Texts and turns: what may stand in a prompt or a response."""

import pytest

from dpo_lab.batch import Message
from dpo_lab.rows import BadRow
from dpo_lab.turns import (
    MESSAGES,
    SHAREGPT,
    check_prompt,
    check_response,
    common_prefix,
    text,
    turn,
    turns,
)


@pytest.mark.parametrize("value", ["NA", "007", "null", " x ", "\u200b", "a\u2028b", "\x07", "😀"])
def test_text_comes_back_unchanged(value):
    assert text(value, "chosen") == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "expected text, got null"),
        (7, "expected text, got a number: 7"),
        (0.5, "expected text, got a number: 0.5"),
        (True, "expected text, got true or false"),
        (["x"], "expected text, got a list: ['x']"),
        ({"x": 1}, "expected text, got an object"),
        ("", "is empty"),
        (" \n\t\u3000", "is blank"),
        ("nul\0", "holds a NUL character at position 4"),
        ("\ud83d alone", "half a surrogate pair, \\ud83d"),
    ],
)
def test_what_is_no_text(value, reason):
    with pytest.raises(BadRow) as bad:
        text(value, "chosen")
    assert bad.value.field == "chosen"
    assert reason in bad.value.reason


def test_sharegpt_roles_are_mapped():
    theirs = ["system", "human", "function_call", "observation", "gpt"]
    read = turns([{"from": role, "value": "x"} for role in theirs], "conversations", SHAREGPT)
    assert [m.role for m in read] == ["system", "user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ("hi", "p", "expected a list of {role, content} objects, got text"),
        ([], "p", "an empty list"),
        (["hi"], "p[0]", "expected {role, content}, got text"),
        ([{"role": "user"}], "p[0]", "has no content, it has role"),
        ([{"role": "user", "contents": "x"}], "p[0]", "did you mean contents?"),
        ([{"role": "developer", "content": "x"}], "p[0].role", "system, user, assistant, tool"),
        ([{"role": None, "content": "x"}], "p[0].role", "None is no role"),
        ([{"role": "user", "content": "x"}, {"role": "user", "content": ""}], "p[1].content", "is"),
        ([{"role": "user", "content": [{"text": "x"}]}], "p[0].content", "got a list"),
        ([{"role": "assistant", "content": "x", "tool_calls": [1]}], "p[0].tool_calls", "be lost"),
        (
            [{"role": "user", "content": "x", "function_call": {"a": 1}}],
            "p[0].function_call",
            "lost",
        ),
    ],
)
def test_what_is_no_list_of_turns(value, field, reason):
    with pytest.raises(BadRow) as bad:
        turns(value, "p", MESSAGES)
    assert bad.value.field == field
    assert reason in bad.value.reason


def test_only_a_tool_may_answer_nothing():
    assert turn({"role": "tool", "content": ""}, "p", MESSAGES) == Message("tool", "")
    with pytest.raises(BadRow):
        turn({"role": "system", "content": ""}, "p", MESSAGES)


def chat(roles):
    """`su` -> a system turn and a user turn."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return tuple(Message(names[letter], "x") for letter in roles)


@pytest.mark.parametrize("roles", ["u", "su", "uau", "suauau", "uat", "uatt", "uatau"])
def test_prompts_in_order(roles):
    check_prompt(chat(roles), "prompt")


@pytest.mark.parametrize(
    ("roles", "field", "reason"),
    [
        ("us", "prompt[1]", "system after user"),
        ("ssu", "prompt[1]", "system after system"),
        ("uu", "prompt[1]", "user after user"),
        ("uaau", "prompt[2]", "assistant after assistant"),
        ("au", "prompt[0]", "assistant as the first turn"),
        ("sau", "prompt[1]", "assistant after system"),
        ("tu", "prompt[0]", "tool as the first turn"),
        ("ut", "prompt[1]", "tool after user"),
        ("uatu", "prompt[3]", "user after tool"),
        ("ua", "prompt", "must end with a user or tool turn, ends with assistant"),
        ("s", "prompt", "ends with system"),
        ("", "prompt", "ends with nothing"),
    ],
)
def test_prompts_out_of_order(roles, field, reason):
    with pytest.raises(BadRow) as bad:
        check_prompt(chat(roles), "prompt")
    assert bad.value.field == field
    assert reason in bad.value.reason


@pytest.mark.parametrize("roles", ["", "u", "au", "aua", "aa", "ata"])
def test_a_response_is_one_assistant_turn(roles):
    check_response(chat("a"), "chosen")
    with pytest.raises(BadRow, match="one assistant turn"):
        check_response(chat(roles), "chosen")


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [("", "", 0), ("", "a", 0), ("abc", "abd", 2), ("ab", "abc", 2), ("abc", "xbc", 0)],
)
def test_common_prefix(first, second, length):
    assert common_prefix(first, second) == common_prefix(second, first) == length
    assert common_prefix(tuple(first), tuple(second)) == length


def test_common_prefix_of_megabytes():
    assert common_prefix("x" * 10**7 + "a", "x" * 10**7 + "b") == 10**7
