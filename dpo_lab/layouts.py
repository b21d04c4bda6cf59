"""Rows of token ids laid out for one forward pass.

| layout | one row of the batch holds | tokens of a pair |
|---|---|---|
| shared | all pairs: prompt, chosen, rejected, the prompt once for both | P + C + R, or less |
| packed | all responses one after another, each with its own prompt | 2P + C + R |
| padded | one response with its prompt, padded to the longest | 2 max(P + C or P + R) |

`shared` and `packed` need no padding; who sees whom is said by `Segments`. Where a batch has pairs
of the same prompt, `shared` may compute what their responses begin with once (`trees`). `padded` is
what every model understands, and the oracle of the other two.

Targets are ordered by response: those of the chosen response of every row, then those of the
rejected ones, each in the order of its tokens. They are the same list in every layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
import torch

from dpo_lab.batch import Batch, Encoded
from dpo_lab.segments import Segments
from dpo_lab.trees import Trees, grow

Ids = list[int]


class Placed(NamedTuple):
    """Where a layout put the tokens.

    - `ids`, `places`: (R, T) token ids and their positions in their own sequence.
    - `mask`: (R, T) which are no padding; None where none is.
    - `positions`: (N,) flat index of the token that predicts each target.
    """

    ids: np.ndarray
    places: np.ndarray
    mask: np.ndarray | None
    segments: Segments | Trees | None
    positions: np.ndarray


def lay_out(
    rows: Sequence[Encoded],
    indices: Sequence[int],
    layout: str,
    *,
    pad_id: int,
    paired: bool,
    pad_side: Literal["left", "right"] = "right",
) -> Batch:
    """Lay out the rows at `indices` for one forward pass.

    - `layout`: a name in `LAYOUTS`.
    - `pad_id`, `pad_side`: what fills the padded layout, and where. The mask is built from lengths,
      so the pad token may be any, the end of sequence included.
    - `paired`: both responses, chosen ones first; otherwise the chosen ones alone.

    Every prompt and every response holds at least one token.
    """
    taken = [rows[i] for i in indices]
    prompts = [row.prompt for row in taken]
    responses = [row.chosen for row in taken]
    if paired:
        responses += [row.rejected or [] for row in taken]
    lengths = _lengths(responses)
    placed = LAYOUTS[layout](prompts, responses, pad_id, pad_side)
    return Batch(
        rows=list(indices),
        paired=paired,
        input_ids=torch.from_numpy(placed.ids),
        position_ids=torch.from_numpy(placed.places),
        attention_mask=None
        if placed.mask is None
        else torch.from_numpy(placed.mask.astype(np.int64)),
        segments=placed.segments,
        positions=torch.from_numpy(placed.positions),
        targets=torch.from_numpy(_join(responses)),
        owners=torch.from_numpy(np.repeat(np.arange(len(responses)), lengths)),
        tokens=torch.from_numpy(lengths),
    )


def shared(prompts: list[Ids], responses: list[Ids], pad_id: int, pad_side: str) -> Placed:
    """All pairs in one row, the prompt once; the second branch restarts at the prompt's end."""
    if (grown := grow(prompts, responses)) is not None:
        trees = grown.trees
        return Placed(grown.ids[None], trees.places[None], None, trees, grown.positions)
    rows = len(prompts)
    prompt = _lengths(prompts)
    first = _lengths(responses[:rows])
    seconds = responses[rows:] or [[]] * rows
    second = _lengths(seconds)
    pieces = np.stack([prompt, first, second], 1)
    ids = _join(chain.from_iterable(zip(prompts, responses[:rows], seconds, strict=True)))
    places = _ranges(np.stack([np.zeros_like(prompt), prompt, prompt], 1).ravel(), pieces.ravel())
    start = np.cumsum(pieces.sum(1)) - pieces.sum(1)
    before = start + prompt - 1
    inside = start + prompt
    if len(responses) > rows:
        before = np.concatenate([before, before])
        inside = np.concatenate([inside, inside + first])
    segments = Segments(tuple((p, c, r) for p, c, r in pieces.tolist()))
    positions = _predicting(before, inside, responses)
    return Placed(ids[None], places[None], None, segments, positions)


def packed(prompts: list[Ids], responses: list[Ids], pad_id: int, pad_side: str) -> Placed:
    """All responses in one row, each after a prompt of its own, those of a pair side by side."""
    rows = len(prompts)
    sides = len(responses) // rows
    prompt = np.repeat(_lengths(prompts), sides)
    beside = [responses[side * rows + row] for row in range(rows) for side in range(sides)]
    response = _lengths(beside)
    pieces = np.stack([prompt, response], 1)
    twice = [each for each in prompts for _ in range(sides)]
    ids = _join(chain.from_iterable(zip(twice, beside, strict=True)))
    start = np.cumsum(pieces.sum(1)) - pieces.sum(1)
    places = _ranges(np.zeros_like(start), pieces.sum(1))
    inside = (start + prompt).reshape(rows, sides).T.ravel()  # chosen ones first
    segments = Segments(tuple((p, c, 0) for p, c in pieces.tolist()))
    positions = _predicting(inside - 1, inside, responses)
    return Placed(ids[None], places[None], None, segments, positions)


def padded(prompts: list[Ids], responses: list[Ids], pad_id: int, pad_side: str) -> Placed:
    """One response a row, its prompt before it, filled up to the longest."""
    sides = len(responses) // len(prompts)
    prompt = np.tile(_lengths(prompts), sides)
    total = prompt + _lengths(responses)
    longest = int(total.max())
    skipped = longest - total if pad_side == "left" else np.zeros_like(total)
    places = np.arange(longest) - skipped[:, None]
    mask = (places >= 0) & (places < total[:, None])
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = _join(chain.from_iterable(zip(prompts * sides, responses, strict=True)))
    # Padding repeats a position inside the sequence: learned position tables may end with it.
    places = np.clip(places, 0, total[:, None] - 1)
    inside = np.arange(len(responses)) * longest + skipped + prompt
    return Placed(ids, places, mask, None, _predicting(inside - 1, inside, responses))


LAYOUTS = {"shared": shared, "packed": packed, "padded": padded}


def count_tokens(rows: Sequence[Encoded], indices: Sequence[int], layout: str, paired: bool) -> int:
    """Tokens the network computes for these rows in this layout, padding included."""
    sizes = [_sizes(rows[i], layout, paired) for i in indices]
    if layout == "padded":
        return sum(n for n, _ in sizes) * max((longest for _, longest in sizes), default=0)
    return sum(n for n, _ in sizes)


def split(
    rows: Sequence[Encoded],
    indices: Sequence[int],
    layout: str,
    budget_tokens: int,
    paired: bool,
) -> list[list[int]]:
    """Cut one update into micro-batches of at most `budget_tokens` tokens, in order.

    A row that is longer than the budget gets a micro-batch of its own.
    """
    batches: list[list[int]] = []
    number = longest = 0
    for i in indices:
        n, size = _sizes(rows[i], layout, paired)
        number, longest = number + n, max(longest, size)
        tokens = number * longest if layout == "padded" else number
        if not batches or tokens > budget_tokens:
            batches.append([])
            number, longest = n, size
        batches[-1].append(i)
    return batches


def _sizes(row: Encoded, layout: str, paired: bool) -> tuple[int, int]:
    """Padded: sequences and tokens of the longer one; otherwise: tokens and nothing."""
    prompt, chosen = len(row.prompt), len(row.chosen)
    rejected = len(row.rejected or ()) if paired else 0
    if layout == "padded":
        return 2 if paired else 1, prompt + max(chosen, rejected)
    prompts = 2 if paired and layout == "packed" else 1
    return prompts * prompt + chosen + rejected, 0


def _predicting(before: np.ndarray, inside: np.ndarray, responses: list[Ids]) -> np.ndarray:
    """(N,) flat index of the token that predicts each target, where responses lie in one piece.

    - `before`: (responses,) of the token that predicts a response's first token.
    - `inside`: (responses,) of a response's first token; its others follow.
    """
    lengths = _lengths(responses)
    positions = _ranges(inside - 1, lengths)
    positions[np.cumsum(lengths) - lengths] = before
    return positions


def _lengths(lists: list[Ids]) -> np.ndarray:
    return np.fromiter(map(len, lists), np.int64, len(lists))


def _join(lists: Iterable[Ids]) -> np.ndarray:
    return np.array(list(chain.from_iterable(lists)), np.int64)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`start, start + 1, ...` of each length, one after another."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
