"""The shapes of rows of preference data, and each one's way to (prompt, chosen, rejected).

- `pairs`: prompt, chosen and rejected are text.
- `chat`: prompt is a list of {role, content}; chosen and rejected are lists of them, or text. Also
  with prompt as text where the responses are lists.
- `whole_chat`: no prompt; chosen and rejected are whole chats, the prompt is the turns they share.
- `sharegpt`: conversations of {from, value}, then chosen and rejected {from, value}; system, tools.
- `hh`: no prompt; chosen and rejected are whole dialogues in text, marked `Human:`, `Assistant:`.
- `instruction`: instruction and input (may be blank) make the prompt; chosen, rejected.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dpo_lab.batch import Message, Text
from dpo_lab.rows import BadRow, kind_of, shorten
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

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
Sides = tuple[Text, Text, Text]
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape of rows: the fields it must and may have, and how they become a pair."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    build: Callable[[Fields], Sides]

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of the shape."""
        return self.required + self.optional


def pair(fields: Fields, shape: Shape) -> Sides:
    """Turn the fields of one row into prompt, chosen and rejected. Raises `BadRow`."""
    prompt, chosen, rejected = shape.build(fields)
    if chosen == rejected:
        raise BadRow("rejected", "is identical to chosen")
    return prompt, chosen, rejected


def _pairs(fields: Fields) -> Sides:
    return (
        text(fields["prompt"], "prompt"),
        text(fields["chosen"], "chosen"),
        text(fields["rejected"], "rejected"),
    )


def _instruction(fields: Fields) -> Sides:
    prompt = text(fields["instruction"], "instruction")
    if fields.get("input") is not None and text(fields["input"], "input", blank=True).strip():
        prompt = f"{prompt}\n\n{fields['input']}"
    return prompt, text(fields["chosen"], "chosen"), text(fields["rejected"], "rejected")


def _hh(fields: Fields) -> Sides:
    chosen, rejected = text(fields["chosen"], "chosen"), text(fields["rejected"], "rejected")
    for field, dialogue in (("chosen", chosen), ("rejected", rejected)):
        if not dialogue.startswith((HUMAN, ASSISTANT)):
            raise BadRow(field, f"a dialogue begins with {HUMAN!r}, got {shorten(dialogue)}")
    shared = chosen[: common_prefix(chosen, rejected)]
    end = shared.rfind(ASSISTANT) + len(ASSISTANT)
    if ASSISTANT not in shared:
        raise BadRow("rejected", f"shares no prompt with chosen: no common {ASSISTANT!r}")
    prompt = shared[:end]
    if not prompt.replace(HUMAN, "").replace(ASSISTANT, "").strip():
        raise BadRow("prompt", "is blank: the shared part of chosen and rejected says nothing")
    if chosen == rejected:
        raise BadRow("rejected", "is identical to chosen")
    for field, dialogue in (("chosen", chosen), ("rejected", rejected)):
        if not dialogue[end:].strip():
            raise BadRow(field, "is blank after the shared prompt")
        if HUMAN in dialogue[end:]:
            raise BadRow(
                field, f"goes on with {HUMAN!r} after the shared prompt; that would be scored"
            )
    return prompt, chosen[end:], rejected[end:]


def _messages(value: Any, field: str) -> tuple[Message, ...]:
    return turns(value, field, MESSAGES)


def _chat(fields: Fields) -> Sides:
    """Responses are lists that begin with the assistant, repeat the prompt's turns, or are text."""
    sides = {}
    for field in ("chosen", "rejected"):
        value = fields[field]
        if isinstance(value, str):
            sides[field] = (Message("assistant", text(value, field)),)
        else:
            sides[field] = _messages(value, field)
    given = fields["prompt"]
    if not isinstance(given, str):
        prompt = _messages(given, "prompt")
    elif isinstance(fields["chosen"], str) and isinstance(fields["rejected"], str):
        raise BadRow("prompt", "expected a list of {role, content} objects, got text")
    elif sides["chosen"][0].role == "assistant":
        prompt = (Message("user", text(given, "prompt")),)
    else:
        prompt = sides["chosen"][: common_prefix(sides["chosen"], sides["rejected"])]
        if Message("user", text(given, "prompt")) not in prompt:
            raise BadRow("prompt", "is no user turn that chosen and rejected share")
    check_prompt(prompt, "prompt")
    for field, side in sides.items():
        if side[0].role != "assistant":
            if side[: len(prompt)] != prompt:
                raise BadRow(field, "begins neither with the assistant nor with the prompt's turns")
            sides[field] = side[len(prompt) :]
        check_response(sides[field], field)
    return prompt, sides["chosen"], sides["rejected"]


def _whole_chat(fields: Fields) -> Sides:
    chosen, rejected = (
        _messages(fields["chosen"], "chosen"),
        _messages(fields["rejected"], "rejected"),
    )
    if chosen == rejected:
        raise BadRow("rejected", "is identical to chosen")
    end = common_prefix(chosen, rejected)
    if not end:
        raise BadRow("rejected", "shares no turn with chosen, so there is no prompt")
    check_prompt(chosen[:end], "prompt")
    check_response(chosen[end:], "chosen")
    check_response(rejected[end:], "rejected")
    return chosen[:end], chosen[end:], rejected[end:]


def _sharegpt(fields: Fields) -> Sides:
    prompt = turns(fields["conversations"], "conversations", SHAREGPT)
    system = _optional_text(fields.get("system"), "system")
    if system and prompt[0].role == "system":
        raise BadRow("system", "is given twice: as a column and as the first turn")
    check_prompt(prompt, "conversations")
    if prompt[0].role == "system":
        system, prompt = prompt[0].content, prompt[1:]
    tools = fields.get("tools")
    if isinstance(tools, list | dict):
        tools = json.dumps(tools, ensure_ascii=False) if tools else ""
    tools = _optional_text(tools, "tools")
    if tools and tools.strip() != "[]":
        system = f"Tools:\n{tools}" + (f"\n\n{system}" if system else "")
    if system:
        prompt = (Message("system", system), *prompt)
    sides = []
    for field in ("chosen", "rejected"):
        side = (turn(fields[field], field, SHAREGPT),)
        check_response(side, field)
        sides.append(side)
    return prompt, sides[0], sides[1]


def _optional_text(value: Any, field: str) -> str:
    """A column that may be missing, null or blank; then it is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(field, f"expected text, got {kind_of(value)}: {shorten(value)}")
    return text(value, field) if value.strip() else ""


_SIDES = ("chosen", "rejected")
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("pairs", ("prompt", *_SIDES), (), _pairs),
        Shape("chat", ("prompt", *_SIDES), (), _chat),
        Shape("whole_chat", _SIDES, (), _whole_chat),
        Shape("sharegpt", ("conversations", *_SIDES), ("system", "tools"), _sharegpt),
        Shape("hh", _SIDES, (), _hh),
        Shape("instruction", ("instruction", *_SIDES), ("input",), _instruction),
    )
}
DECIDING = ("prompt", "conversations", "instruction")
FIELDS = tuple(dict.fromkeys(name for shape in SHAPES.values() for name in shape.fields))


def recognise(fields: Fields, allowed: tuple[str, ...]) -> Shape | None:
    """The shape of a row by its columns, among `allowed` ones; None where it has none of them.

    Where only one shape is allowed, its columns are enough. Else conversations, prompt and
    instruction decide, in this order; without any, lists are chats and text is a dialogue. A column
    that is null, or conversations that are no list, decide nothing where others do.
    """
    fitting = [SHAPES[name] for name in allowed if fields.keys() >= set(SHAPES[name].required)]
    if len(allowed) == 1 or not fitting:
        return fitting[0] if fitting else None
    telling = {name for name, value in fields.items() if value is not None}
    if not isinstance(fields.get("conversations"), list | tuple):
        telling.discard("conversations")
    fitting = [shape for shape in fitting if telling >= set(shape.required)] or fitting
    lists = any(isinstance(fields.get(name), list | tuple) for name in ("prompt", *_SIDES))
    dialogue = any(str(fields[name]).startswith((HUMAN, ASSISTANT)) for name in _SIDES)
    order = ["sharegpt", "chat" if lists else "pairs", "instruction"]
    if lists or dialogue:
        order.append("whole_chat" if lists else "hh")
    names = {shape.name for shape in fitting}
    return next((SHAPES[name] for name in order if name in names), None)


def unclear(fields: Fields) -> bool:
    """Whether a row's lists are no chats, so that it cannot say what the others are."""
    return any(
        isinstance(value, list | tuple) and not (value and isinstance(value[0], dict))
        for value in map(fields.get, ("prompt", *_SIDES))
    )
