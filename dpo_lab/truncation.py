"""Truncation: one function, the same prompt for both sides of a pair."""

from __future__ import annotations

from typing import Literal

from dpo_lab.batch import Encoded

Truncation = Literal["keep_start", "keep_end"]


def truncate(
    prompt: list[int],
    chosen: list[int],
    rejected: list[int] | None,
    max_length: int,
    mode: Truncation,
    *,
    bos_id: int | None = None,
) -> Encoded | None:
    """Cut a row so that its prompt with either response has at most `max_length` tokens.

    - `keep_start`: the prompt stays whole, and each response loses its end.
    - `keep_end`: the prompt loses its start until the longer response fits; its last token stays,
      and a BOS (`bos_id`) in front of it. Then a response that is still too long loses its end.

    A cut response gets no end of its own, and both responses follow the same prompt. Prompt and
    responses come with at least one token each and keep at least one; None where that cannot be.
    """
    assert prompt and chosen and (rejected is None or rejected)
    if mode == "keep_end":
        head = 1 if prompt[0] == bos_id else 0
        least = min(len(prompt), head + 1)
        longest = max(len(chosen), len(rejected or []))
        keep = max(least, max_length - longest)
        prompt = prompt[:head] + prompt[len(prompt) - min(keep, len(prompt)) + head :]
    room = max_length - len(prompt)
    if room < 1:
        return None
    return Encoded(prompt, chosen[:room], None if rejected is None else rejected[:room])
