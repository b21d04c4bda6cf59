"""Attention of an unmodified decoder over several sequences that lie in one row.

What lies there, and who sees whom, travels as the keyword `segments=` of the model call, through
decoder layers, gradient checkpointing and LoRA, to the function registered here with transformers
as `SEGMENTS`.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SEGMENTS = "dpo_lab_segments"

# Keywords that say nothing about who sees whom, or (positions) have done their work before.
HARMLESS = {"position_ids", "cache_position", "use_cache", "output_hidden_states", "return_dict"}


class Unsupported(Exception):
    """The model asks of attention what segments do not honour; the message names the keyword."""


class Row(Protocol):
    """What lies in a row of `tokens` tokens, and how they see each other.

    `longest`: tokens of the longest sequence. A model with a shorter sliding window is refused.
    """

    @property
    def tokens(self) -> int:
        """T."""
        ...

    @property
    def longest(self) -> int:
        """At least 1."""
        ...

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None
    ) -> Tensor:
        """`query`, `key` and `value`, (1, heads, T, d) each, to (1, T, heads, d)."""
        ...


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Row | None = None,
    **keywords: Any,
) -> tuple[Tensor, None]:
    """Attention within segments; `query` is (1, heads, T, d), `key` and `value` may have fewer
    heads.

    Returns (1, T, heads, d) and no weights. Raises `Unsupported` for anything that would change the
    result and is not honoured here.
    """
    if segments is None:
        raise Unsupported("segments: none were given")
    _refuse_unknown(module, query, key, attention_mask, segments, keywords)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return segments.attend(query, key, value, dropout, scaling), None


def _refuse_unknown(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | None,
    segments: Row,
    keywords: dict[str, Any],
) -> None:
    if attention_mask is not None:
        raise Unsupported("attention_mask")
    if not query.shape[2] == key.shape[2] == segments.tokens or query.shape[0] != 1:
        raise Unsupported("past_key_values: one whole row is needed")
    if keywords.pop("is_causal", None) is False or getattr(module, "is_causal", True) is False:
        raise Unsupported("is_causal")
    # Windows reach attention as a keyword, chunks (Llama 4) only through the mask.
    chunk = getattr(getattr(module, "config", None), "attention_chunk_size", None)
    windows = {
        "sliding_window": keywords.pop("sliding_window", None),
        "attention_chunk_size": chunk,
    }
    for name, reach in windows.items():
        if reach is not None and reach < segments.longest:
            raise Unsupported(f"{name}={reach}, shorter than a sequence of {segments.longest}")
    if keywords.pop("output_attentions", None):
        raise Unsupported("output_attentions")
    for name, argument in keywords.items():
        if argument is not None and name not in HARMLESS:
            raise Unsupported(name)


# Segments say who sees whom: transformers builds no mask for an attention that it knows none for.
ALL_ATTENTION_FUNCTIONS.register(SEGMENTS, segment_attention)


class Attention:
    """Within `with Attention(config, name):`, models of this `config` run the attention registered
    as `name`. May be entered again, one after another."""

    def __init__(self, config: PreTrainedConfig, name: str):
        self.config = config
        self.name = name

    def __enter__(self) -> None:
        self.before = self.config._attn_implementation
        self.config._attn_implementation = self.name

    def __exit__(self, *exception: object) -> None:
        self.config._attn_implementation = self.before
