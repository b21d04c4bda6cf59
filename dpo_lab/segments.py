"""Several sequences in one row, and attention within each.

A *segment* is a prompt of P tokens, a first branch of C and a second branch of R, one after
another. Every token sees itself and what stands before it in its segment, except that the second
branch does not see the first. Segments see nothing of each other. (Sharing a prompt between the two
responses of a pair: arXiv 2410.20305.) `trees` has segments of more branches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

# On a CPU, segments up to this long are computed together, padded to one length, and longer ones
# one by one. Measured at 1 and 2 threads: 64 segments of 11 tokens are 7 times faster together, 16
# of 120 up to twice as fast one by one. On a GPU a kernel's launch costs more than its arithmetic:
# there together, unless one long segment among short ones would make nearly all of it padding.
TOGETHER = 64
WASTE = 8

# A CPU takes blocks of 16 tokens: of 15 it takes twice as long as of 16, of 9 about as long.
BLOCK = 16
ROUND_UP = 11  # from so many tokens of a block on, padding to the whole of it is faster


class Together(NamedTuple):
    """Where tokens go when S segments are computed together, each padded to L tokens.

    - `block`: (S * L,) the token in each place; padding repeats the first token.
    - `row`: (T,) the place of each token.
    - `mask`: (S, 1, L, L) who sees whom; padding sees itself alone.
    """

    block: Tensor
    row: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Segments:
    """The segments of one row of T tokens, in order.

    - `lengths`: (P, C, R) of each, in tokens; R is 0 where there is no second branch.
    - `allow_for`: the longest sequence (P + C or P + R) the model must be able to see whole, if
      longer than these. A model with a shorter sliding window is refused.

    Index tensors and masks are made at their first use and kept for the other layers.
    """

    lengths: tuple[tuple[int, int, int], ...]
    allow_for: int = 0
    _kept: dict[tuple[str, torch.device], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def tokens(self) -> int:
        """T, the tokens of the row."""
        return sum(map(sum, self.lengths))

    @cached_property
    def size(self) -> int:
        """Tokens of the largest segment."""
        return max(map(sum, self.lengths))

    @cached_property
    def waste(self) -> float:
        """How many times more pairs of tokens are compared if all are padded to `size`."""
        return len(self.lengths) * self.size**2 / sum(sum(each) ** 2 for each in self.lengths)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.allow_for, *(p + max(c, r) for p, c, r in self.lengths))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None
    ) -> Tensor:
        """All at once, or one by one where that is faster."""
        if self.at_once(query.device):
            return attend_together(query, key, value, self.together(query.device), dropout, scale)
        return attend_one_by_one(query, key, value, self, dropout, scale)

    def at_once(self, device: torch.device) -> bool:
        """Whether it is faster to compute all segments at once than one by one."""
        return self.size <= TOGETHER or (device.type != "cpu" and self.waste <= WASTE)

    def together(self, device: torch.device) -> Together:
        """Indices and mask for computing all segments at once."""
        if ("together", device) not in self._kept:
            self._kept["together", device] = self._make_together(device)
        return self._kept["together", device]

    def second_masks(self, device: torch.device) -> list[Tensor]:
        """For each segment (R, P + R): the second branch sees the prompt and, causally, itself."""
        if ("second", device) not in self._kept:
            masks = []
            for p, _, r in self.lengths:
                mask = torch.ones(r, p + r, dtype=torch.bool, device=device)
                masks.append(mask.tril(diagonal=p))
            self._kept["second", device] = masks
        return self._kept["second", device]

    def _make_together(self, device: torch.device) -> Together:
        parts = np.array(self.lengths)
        ends = torch.from_numpy(parts.cumsum(1)).to(device)[:, :, None]  # (S, 3, 1)
        place = torch.arange(self.size, device=device)
        first = (place >= ends[:, 0]) & (place < ends[:, 1])
        second = place >= ends[:, 1]
        seen = (place <= place[:, None]) & ~(second[:, :, None] & first[:, None, :])
        return block(parts.sum(1), seen)


def block(sizes: np.ndarray, seen: Tensor) -> Together:
    """Places for S segments that lie in one row, all padded to one length.

    - `sizes`: (S,) tokens of each.
    - `seen`: (S, l, l) who sees whom, l the largest size; what it says of padding does not matter.
      All is made on its device: on a GPU the masks of long segments are large.
    """
    size = length = seen.shape[1]
    if seen.device.type == "cpu" and length % BLOCK >= ROUND_UP:
        length += -length % BLOCK
    place = np.arange(length)
    real = place < sizes[:, None]  # (S, L)
    taken = np.where(real, (sizes.cumsum() - sizes)[:, None] + place, 0).ravel()
    indices = (torch.from_numpy(part).to(seen.device) for part in (taken, np.flatnonzero(real)))
    there = torch.from_numpy(real).to(seen.device)
    mask = seen.new_zeros(len(sizes), length, length)
    mask[:, :size, :size] = seen
    mask &= there[:, :, None] & there[:, None, :]
    mask.diagonal(dim1=1, dim2=2).fill_(True)
    return Together(*indices, mask[:, None])


class _Move(torch.autograd.Function):
    """Rows of x in another order, where `there` repeats a row only to fill places nobody reads.

    The gradient is then a plain selection with `back` too, which a CPU does much faster than the
    scattered addition that autograd would use.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.back), None, None


def attend_together(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Together,
    dropout: float,
    scale: float | None,
) -> Tensor:
    """Attention within segments that are padded to one length."""
    size, length = plan.mask.shape[0], plan.mask.shape[-1]

    def spread(x: Tensor) -> Tensor:  # (1, heads, T, d) -> (S, heads, L, d)
        heads, tokens, width = x.shape[1:]
        rows = x[0].transpose(0, 1).reshape(tokens, heads * width)
        moved = _Move.apply(rows, plan.block, plan.row)
        return moved.view(size, length, heads, width).transpose(1, 2)

    out = sdpa(
        spread(query),
        spread(key),
        spread(value),
        attn_mask=plan.mask,
        dropout_p=dropout,
        scale=scale,
    )
    heads, width = out.shape[1], out.shape[3]
    rows = out.transpose(1, 2).reshape(size * length, heads * width)
    # Backwards this hands padding the gradient of the first token. It sees itself alone and is seen
    # by nobody, so that gradient reaches only padding, which `spread` drops.
    return _Move.apply(rows, plan.row, plan.block).view(1, -1, heads, width)


def attend_one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    dropout: float,
    scale: float | None,
) -> Tensor:
    """Attention within segments, one after another."""
    # One split for all segments: its gradient is one concatenation, that of a slice a full row.
    sizes = [size for p, c, r in segments.lengths for size in (p + c, r)]
    queries, keys, values = (x.split(sizes, 2) for x in (query, key, value))
    masks = segments.second_masks(query.device)
    out = []
    for i, (p, _, r) in enumerate(segments.lengths):
        q, k, v = queries[2 * i], keys[2 * i], values[2 * i]
        out.append(sdpa(q, k, v, is_causal=True, dropout_p=dropout, scale=scale))
        if r:
            k = torch.cat((k[:, :, :p], keys[2 * i + 1]), 2)
            v = torch.cat((v[:, :, :p], values[2 * i + 1]), 2)
            q = queries[2 * i + 1]
            out.append(sdpa(q, k, v, attn_mask=masks[i], dropout_p=dropout, scale=scale))
    return torch.cat(out, 2).transpose(1, 2)
