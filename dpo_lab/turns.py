"""Texts and turns of a row, checked: what may stand in a prompt or a response.

A chat is a system turn, if any, then user and assistant in turn; a tool turn answers an assistant's
call and may follow another tool turn. A prompt ends with a user or tool turn. A response is one
assistant turn: turns of others within it would be scored as if the policy had said them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dpo_lab.batch import Message
from dpo_lab.rows import BadRow, kind_of, names_of, near, shorten


class Dialect(NamedTuple):
    """How a message object is written: its two keys, and its role names -> ours."""

    role: str
    content: str
    roles: dict[str, str]


MESSAGES = Dialect(
    "role", "content", {role: role for role in ("system", "user", "assistant", "tool")}
)
SHAREGPT = Dialect(
    "from",
    "value",
    {
        "system": "system",
        "human": "user",
        "gpt": "assistant",
        "function_call": "assistant",
        "observation": "tool",
    },
)
LOST = ("tool_calls", "function_call", "reasoning_content")  # keys that say something, too
_MAY_FOLLOW = {  # None: the start
    "system": (None,),
    "user": (None, "system", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def text(value: Any, field: str, *, blank: bool = False) -> str:
    """Return `value` if it is text that can be used: no NUL, no lone surrogate, not blank."""
    if not isinstance(value, str):
        raise BadRow(field, f"expected text, got {kind_of(value)}: {shorten(value)}")
    if not blank and not value.strip():
        raise BadRow(field, f"is blank: {shorten(value)}" if value else "is empty")
    if "\0" in value:
        raise BadRow(field, f"holds a NUL character at position {value.index(chr(0)) + 1}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code = f"\\u{ord(value[error.start]):04x}"
            raise BadRow(field, f"half a surrogate pair, {code}, is no character") from None
    return value


def turns(value: Any, field: str, dialect: Dialect) -> tuple[Message, ...]:
    """Read a list of message objects."""
    if not isinstance(value, list | tuple):
        expected = f"expected a list of {{{dialect.role}, {dialect.content}}} objects"
        raise BadRow(field, f"{expected}, got {kind_of(value)}: {shorten(value)}")
    if not value:
        raise BadRow(field, "an empty list of turns")
    return tuple(turn(item, f"{field}[{index}]", dialect) for index, item in enumerate(value))


def turn(value: Any, field: str, dialect: Dialect) -> Message:
    """Read one message object. Only a tool's answer may be blank."""
    if not isinstance(value, dict):
        expected = f"expected {{{dialect.role}, {dialect.content}}}"
        raise BadRow(field, f"{expected}, got {kind_of(value)}: {shorten(value)}")
    for key in (dialect.role, dialect.content):
        if key not in value:
            raise BadRow(field, f"has no {key}, it has {names_of(value)}{near(key, value)}")
    name = value[dialect.role]
    role = dialect.roles.get(name) if isinstance(name, str) else None
    if role is None:
        allowed = ", ".join(dialect.roles)
        raise BadRow(f"{field}.{dialect.role}", f"{shorten(name)} is no role; roles: {allowed}")
    for key in LOST:
        if value.get(key):
            raise BadRow(f"{field}.{key}", "would be lost; write it as text in content")
    content = text(value[dialect.content], f"{field}.{dialect.content}", blank=role == "tool")
    return Message(role, content)


def check_prompt(prompt: tuple[Message, ...], field: str) -> None:
    """Refuse turns out of order, and a prompt that leaves no turn to the assistant."""
    before = None
    for index, message in enumerate(prompt):
        if before not in _MAY_FOLLOW[message.role]:
            after = f"after {before}" if before else "as the first turn"
            raise BadRow(f"{field}[{index}]", f"roles out of order: {message.role} {after}")
        before = message.role
    if before not in ("user", "tool"):
        raise BadRow(field, f"must end with a user or tool turn, ends with {before or 'nothing'}")


def check_response(response: tuple[Message, ...], field: str) -> None:
    """Refuse a response that is not one assistant turn."""
    roles = [message.role for message in response]
    if roles != ["assistant"]:
        came = ", ".join(roles[:8]) + (", ..." if len(roles) > 8 else "") or "none"
        raise BadRow(field, f"a response is one assistant turn after the prompt; got {came}")


def common_prefix(first: Any, second: Any) -> int:
    """How many leading items two texts, or two tuples, share; by halving, quick on megabytes."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
