"""The language-model head on the rows that are scored, and nothing kept that need not be.

log p(target) = logit[target] - logsumexp(logits). The matrix products run in the precision of the
network (bfloat16 under autocast), the log-softmax always in float32 or better: sums of hundreds of
log-probabilities rounded to bfloat16 are off by whole nats.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax
from torch.utils.checkpoint import checkpoint

CHUNK = 2**23  # logits computed at once (rows times vocabulary): 32 MB in float32
KEPT = 2**28  # bytes of log-probabilities kept for the backward pass; above it they are recomputed


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of log-probabilities: float64 where the network's is, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def gather_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities (N,) of `targets` (N,) under `logits` (N, V), in nats."""
    logps = log_softmax(logits, -1, dtype=wide(logits.dtype))
    return logps.gather(1, targets[:, None])[:, 0]


def linear_logps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
) -> Tensor:
    """Log-probabilities (N,) of `targets` (N,) under the head `weight` (V, H), `bias` (V,).

    - `hidden`: (N, H), the states that predict the targets.
    - `dtype`: of the matrix products.

    Works through chunks of rows, forwards and backwards, so that at most `KEPT` bytes of (N, V)
    live at a time. Twice differentiable it is not.
    """
    size = len(hidden) * len(weight) * wide(dtype).itemsize
    keep = torch.is_grad_enabled() and size <= KEPT
    with torch.autocast(hidden.device.type, enabled=False):
        return _LinearLogps.apply(hidden, weight, bias, targets, dtype, keep)


def module_logps(head: nn.Module, hidden: Tensor, targets: Tensor, legal: Tensor | None) -> Tensor:
    """The same under any module that maps (n, H) to (n, V), called chunk by chunk.

    - `legal`: the token ids among which the targets count; None for all.
    """

    def logps(rows: Tensor, wanted: Tensor) -> Tensor:
        logits = head(rows)
        return gather_logps(logits if legal is None else logits[:, legal], wanted)

    # Checkpointed: each chunk's logits are dropped, and recomputed in the backward pass.
    rows = max(1, CHUNK // cast(int, head.out_features))
    chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(logps, *chunk, use_reentrant=False) for chunk in chunks])


class _LinearLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
        keep: bool,
    ) -> Tensor:
        out = hidden.new_empty(len(hidden), dtype=wide(dtype))
        head = _cast(weight, bias, dtype)
        step = max(1, CHUNK // len(weight))
        kept: list[Tensor | None] = []
        for start in range(0, len(hidden), step):
            logps = _log_softmax(hidden[start : start + step], head)
            wanted = targets[start : start + step, None]
            out[start : start + step] = logps.gather(1, wanted)[:, 0]
            kept.append(logps if keep else None)
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.dtype, ctx.step, ctx.kept = dtype, step, kept
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """d logp / d logits = one at the target, less the probabilities."""
        hidden, weight, bias, targets = ctx.saved_tensors
        head = _cast(weight, bias, ctx.dtype)
        rows_needed, weight_needed, bias_needed, *_ = ctx.needs_input_grad
        of_hidden = torch.empty_like(hidden) if rows_needed else None
        of_weight = torch.zeros_like(weight) if weight_needed else None
        of_bias = torch.zeros_like(bias) if bias_needed else None
        for i, start in enumerate(range(0, len(hidden), ctx.step)):
            chunk = slice(start, start + ctx.step)
            rows = hidden[chunk].to(ctx.dtype)
            logps, ctx.kept[i] = ctx.kept[i], None  # used up below; a second pass recomputes it
            if logps is None:
                logps = _log_softmax(rows, head)
            grad = grads[0][chunk, None]
            of_logits = logps.exp_().mul_(-grad).scatter_add_(1, targets[chunk, None], grad)
            if of_bias is not None:
                of_bias += of_logits.sum(0)
            of_logits = of_logits.to(ctx.dtype)
            if of_hidden is not None:
                of_hidden[chunk] = of_logits @ head[0]
            if of_weight is not None:
                if of_weight.dtype == ctx.dtype:
                    of_weight.addmm_(of_logits.T, rows)
                else:
                    of_weight += of_logits.T @ rows
        return of_hidden, of_weight, of_bias, None, None, None


def _cast(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def _log_softmax(rows: Tensor, head: tuple[Tensor, Tensor | None]) -> Tensor:
    weight, bias = head
    logits = linear(rows.to(weight.dtype), weight, bias)
    return log_softmax(logits, -1, dtype=wide(logits.dtype))
