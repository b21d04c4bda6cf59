"""Rows of text -> rows of token ids.

Prompt and response are encoded apart and put together, so there is one boundary between them, the
same for both responses; a leading space belongs to the response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dpo_lab.batch import Encoded, Example, Message, Text
from dpo_lab.errors import Refused
from dpo_lab.templates import Response, Unfit, prompt_text, response_text
from dpo_lab.tokenizer import BREAK, Tokenizer
from dpo_lab.truncation import Truncation, truncate

__all__ = ["Encoding", "Problem", "Tokenizer", "encode", "refuse_problems"]

SHOWN = 10  # problems that a message lists


class Problem(NamedTuple):
    """A row that has no tokens: its position, the field at fault and the reason."""

    index: int
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Encoding:
    """Examples as token ids.

    - `rows`: the encoded rows, without those that have a problem.
    - `indices`: the position of each of them in the examples.
    - `problems`: what is wrong with the others.
    - `report`: counts over `rows`. `truncated`: rows that lost tokens; `prompts_cut` lost some of
      the prompt, `responses_cut` of a response. `identical_after_truncation`: pairs whose responses
      differ as text but not as tokens, so that their gradient is 0: `count`, `share` of the pairs,
      and the `first` rows. `control_texts`: prompts and responses in which the text of a control
      token stood; it was encoded as text. `tokens`: of prompt, chosen and rejected, in total.
    """

    rows: list[Encoded]
    indices: list[int]
    problems: list[Problem]
    report: dict[str, Any]


class _Texts(NamedTuple):
    """A row as the texts that are encoded, `responses` one or two."""

    prompt: str
    responses: list[Response]
    bos: bool


def encode(
    examples: Sequence[Example], tokenizer: Tokenizer, *, max_length: int, truncation: Truncation
) -> Encoding:
    """Encode and truncate rows.

    Plain text: BOS, where the tokenizer starts a text with it, and the prompt; response and EOS.
    A chat (a row with messages; in it a plain prompt is a turn of the user, a plain response one of
    the assistant): what the tokenizer's chat template writes, with no BOS but the template's, and
    EOS where it writes no end-of-turn token. A response that was cut off (`chosen_ends` False) gets
    no end. Text of the data never becomes a control token.

    - `max_length`: tokens of the prompt with its longer response, at most.
    - `truncation`: see `dpo_lab.truncation.truncate`.

    Raises `Refused` for chats where the tokenizer has no chat template.
    """
    problems: list[Problem] = []
    texts: dict[int, _Texts] = {}
    for index, example in enumerate(examples):
        try:
            texts[index] = (
                _chat(example, tokenizer) if _is_chat(example) else _plain(example, tokenizer)
            )
        except Unfit as unfit:
            problems.append(Problem(index, unfit.field, unfit.reason))
    prompts = tokenizer.encode([row.prompt for row in texts.values()])
    answers = iter(
        tokenizer.encode(
            [one.text for row in texts.values() for one in row.responses], continues=True
        )
    )
    rows: dict[int, Encoded] = {}
    prompts_cut, responses_cut, truncated = 0, 0, 0
    for (index, row), prompt in zip(texts.items(), prompts, strict=True):
        start = [tokenizer.bos_id] if row.bos and tokenizer.bos_id is not None else []
        chosen, *others = [next(answers) + [tokenizer.eos_id] * one.eos for one in row.responses]
        whole = Encoded(start + prompt, chosen, others[0] if others else None)
        try:
            rows[index] = _fit(whole, tokenizer, max_length, truncation)
        except Unfit as unfit:
            problems.append(Problem(index, unfit.field, unfit.reason))
            continue
        prompt_cut = rows[index].prompt != whole.prompt
        response_cut = rows[index][1:] != whole[1:]
        prompts_cut += prompt_cut
        responses_cut += response_cut
        truncated += prompt_cut or response_cut
    report = {
        "rows": len(rows),
        "truncated": truncated,
        "prompts_cut": prompts_cut,
        "responses_cut": responses_cut,
        "identical_after_truncation": _identical(examples, rows),
        "control_texts": sum(_control_texts(texts[index]) for index in rows),
        "tokens": {
            "prompt": sum(len(row.prompt) for row in rows.values()),
            "chosen": sum(len(row.chosen) for row in rows.values()),
            "rejected": sum(len(row.rejected or []) for row in rows.values()),
        },
    }
    return Encoding(list(rows.values()), list(rows), sorted(problems), report)


def refuse_problems(examples: Sequence[Example], problems: Sequence[Problem]) -> None:
    """Raise `Refused` with the rows that have no tokens, ten at most, if there are any."""
    if not problems:
        return
    lines = [
        f"{examples[index].row}: {field}: {reason}" for index, field, reason in problems[:SHOWN]
    ]
    if len(problems) > SHOWN:
        lines.append(f"and {len(problems) - SHOWN} more")
    count = f"{len(problems)} of {len(examples)} rows cannot become tokens"
    raise Refused("\n".join([*lines, f"{count}; data.on_bad_row=skip leaves them out"]))


def _is_chat(example: Example) -> bool:
    return (
        isinstance(example.prompt, tuple)
        or isinstance(example.chosen, tuple)
        or isinstance(example.rejected, tuple)
    )


def _sides(example: Example) -> list[tuple[str, Text, bool]]:
    """The responses: field, text, and whether it ends."""
    chosen = ("chosen", example.chosen, example.chosen_ends)
    if example.rejected is None:
        return [chosen]
    return [chosen, ("rejected", example.rejected, example.rejected_ends)]


def _plain(example: Example, tokenizer: Tokenizer) -> _Texts:
    assert isinstance(example.prompt, str)
    responses = []
    for _, text, ends in _sides(example):
        assert isinstance(text, str)
        responses.append(Response(tokenizer.as_text(text), ends))
    return _Texts(tokenizer.as_text(example.prompt), responses, bos=True)


def _chat(example: Example, tokenizer: Tokenizer) -> _Texts:
    if tokenizer.chat_template is None:
        raise Refused(
            f"{example.row} is a chat, but the tokenizer has no chat template\n"
            "type tokens.chat_template=chatml (or plain), or the path of a jinja file"
        )
    prompt = _turns(example.prompt, "user", tokenizer)
    before = prompt_text(tokenizer, prompt)
    responses = []
    for field, text, ends in _sides(example):
        response = _turns(text, "assistant", tokenizer)
        responses.append(response_text(tokenizer, prompt, response, before, field=field, ends=ends))
    return _Texts(before, responses, bos=False)


def _turns(text: Text, role: str, tokenizer: Tokenizer) -> list[Message]:
    messages = (Message(role, text),) if isinstance(text, str) else text
    return [Message(one.role, tokenizer.as_text(one.content)) for one in messages]


def _fit(whole: Encoded, tokenizer: Tokenizer, max_length: int, truncation: Truncation) -> Encoded:
    """The row within `max_length`. Raises `Unfit` where nothing could be predicted or scored."""
    if not whole.prompt:
        raise Unfit("prompt", "it holds no token, so nothing predicts the response's first one")
    for field in ("chosen", "rejected"):
        if getattr(whole, field) == []:
            raise Unfit(field, "it holds no token to score")
    # a chat template may write a BOS where the tokenizer itself starts a text with none
    bos_id = tokenizer.named_ids.get("bos_token", tokenizer.bos_id)
    row = truncate(*whole, max_length, truncation, bos_id=bos_id)
    if row is None:
        raise Unfit(
            "prompt",
            f"truncation at max_length {max_length} leaves nothing of the response "
            f"(the prompt has {len(whole.prompt)} tokens, tokens.truncation={truncation})",
        )
    return row


def _identical(examples: Sequence[Example], rows: dict[int, Encoded]) -> dict[str, Any]:
    """The pairs whose responses differ as text, or in whether they end, but not as tokens."""
    pairs = [index for index, row in rows.items() if row.rejected is not None]
    found = []
    for index in pairs:
        if rows[index].chosen == rows[index].rejected:
            (_, *chosen), (_, *rejected) = _sides(examples[index])
            if chosen != rejected:
                found.append(index)
    return {
        "count": len(found),
        "share": len(found) / max(len(pairs), 1),
        "first": [examples[index].row for index in found[:SHOWN]],
    }


def _control_texts(row: _Texts) -> int:
    return (BREAK in row.prompt) + sum([BREAK in one.text for one in row.responses])
