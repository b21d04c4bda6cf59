from __future__ import annotations

import pytest
import torch
import transformers
from networks import tiny
from torch import nn

from dpo_lab import segments as ways
from dpo_lab.attention import SEGMENTS, Attention, Unsupported, segment_attention
from dpo_lab.segments import Segments

LENGTHS = ((3, 2, 4), (1, 1, 1), (5, 3, 0), (2, 6, 1))
MODULE = nn.Identity()


def dense_mask(lengths: tuple[tuple[int, int, int], ...]) -> torch.Tensor:
    """Who sees whom, token by token."""
    what = [
        (segment, part, place)
        for segment, parts in enumerate(lengths)
        for part, size in enumerate(parts)
        for place in range(size)
    ]
    return torch.tensor(
        [
            [
                segment == other and (part, place) >= (theirs, there) and (part, theirs) != (2, 1)
                for other, theirs, there in what
            ]
            for segment, part, place in what
        ]
    )


def inputs(key_heads: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = Segments(LENGTHS).tokens
    heads = (4, key_heads, key_heads)
    return tuple(
        torch.randn(1, h, tokens, 8, dtype=torch.float64, generator=generator, requires_grad=True)
        for h in heads
    )


def oracle(query, key, value, scaling=None):
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
    scores = scores.masked_fill(~dense_mask(LENGTHS), -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def test_a_segment_by_hand():
    # prompt a b, first branch c d, second branch e
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0],
            [1, 1, 0, 0, 1],
        ]
    ).bool()
    segments = Segments(((2, 2, 1),))
    assert torch.equal(segments.together(torch.device("cpu")).mask[0, 0], expected)
    assert torch.equal(dense_mask(((2, 2, 1),)), expected)
    assert torch.equal(
        segments.second_masks(torch.device("cpu"))[0], torch.tensor([[True, True, True]])
    )
    assert (segments.tokens, segments.size, segments.longest) == (5, 5, 4)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_both_ways_equal_a_dense_mask(monkeypatch, together, key_heads, scaling):
    monkeypatch.setattr(ways, "TOGETHER", 64 if together else 0)
    parts = inputs(key_heads)
    out, weights = segment_attention(
        MODULE, *parts, None, scaling=scaling, segments=Segments(LENGTHS)
    )
    assert weights is None
    expected = oracle(*parts, scaling)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    push = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((out * push).sum(), parts)
    theirs = torch.autograd.grad((expected * push).sum(), parts)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_segments_just_short_of_a_block_are_padded_to_it():
    """A CPU takes blocks of 16; what is padded is seen by nobody, and its gradient is nobody's."""
    cpu = torch.device("cpu")
    places = [Segments(((size, 0, 0),)).together(cpu).mask.shape[-1] for size in range(9, 33)]
    assert places == [9, 10, *[16] * 6, *range(17, 27), *[32] * 6]
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, 2, 13 + 5, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)
    )
    segments = Segments(((4, 6, 3), (2, 1, 2)))
    padded = ways.attend_together(query, key, value, segments.together(cpu), 0.0, None)
    plain = ways.attend_one_by_one(query, key, value, segments, 0.0, None)
    torch.testing.assert_close(padded, plain, rtol=0, atol=1e-12)
    push = torch.randn_like(plain)
    ours, theirs = (
        torch.autograd.grad((out * push).sum(), (query, key, value)) for out in (padded, plain)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("together", [True, False])
def test_dropout_drops_attention_weights(monkeypatch, together):
    monkeypatch.setattr(ways, "TOGETHER", 64 if together else 0)
    query, key, _ = (x.detach() for x in inputs())
    ones = torch.ones_like(key)
    segments = Segments(LENGTHS)
    torch.manual_seed(0)
    draws = torch.stack(
        [
            segment_attention(MODULE, query, key, ones, None, dropout=0.5, segments=segments)[0]
            for _ in range(200)
        ]
    )
    assert draws.std() > 0.1
    assert abs(draws.mean() - 1) < 0.01  # the kept ones are scaled up to the same expectation


def test_indices_and_masks_are_made_once():
    segments, device = Segments(LENGTHS), torch.device("cpu")
    assert segments.together(device) is segments.together(device)
    assert segments.second_masks(device) is segments.second_masks(device)


def test_harmless_keywords_pass():
    segments = Segments(LENGTHS)
    segment_attention(
        MODULE,
        *inputs(),
        None,
        segments=segments,
        position_ids=torch.arange(3),
        use_cache=False,
        output_attentions=False,
        is_causal=True,
        softcap=None,
        sliding_window=segments.longest,
    )


@pytest.mark.parametrize(
    ("keyword", "argument"),
    [
        ("sliding_window", 7),
        ("softcap", 50.0),
        ("s_aux", torch.zeros(4)),
        ("position_bias", torch.zeros(1)),
        ("is_causal", False),
        ("output_attentions", True),
        ("a_later_invention", 0),
    ],
)
def test_what_is_not_honoured_is_named(keyword, argument):
    with pytest.raises(Unsupported, match=keyword):
        segment_attention(
            MODULE, *inputs(), None, segments=Segments(LENGTHS), **{keyword: argument}
        )


def test_masks_caches_and_missing_segments_are_refused():
    query, key, value = inputs()
    segments = Segments(LENGTHS)
    with pytest.raises(Unsupported, match="attention_mask"):
        segment_attention(MODULE, query, key, value, torch.ones(1), segments=segments)
    with pytest.raises(Unsupported, match="past_key_values"):
        segment_attention(MODULE, query[:, :, -1:], key, value, None, segments=segments)
    with pytest.raises(Unsupported, match="segments"):
        segment_attention(MODULE, query, key, value, None)
    module = nn.Identity()
    module.is_causal = False
    with pytest.raises(Unsupported, match="is_causal"):
        segment_attention(module, query, key, value, None, segments=segments)


def test_a_chunk_that_reaches_attention_only_through_the_mask_is_refused():
    module = nn.Identity()
    module.config = transformers.Llama4TextConfig(attention_chunk_size=4)
    with pytest.raises(Unsupported, match="attention_chunk_size=4"):
        segment_attention(module, *inputs(), None, segments=Segments(LENGTHS))


def test_a_window_must_hold_what_is_allowed_for():
    wide = Segments(LENGTHS, allow_for=30)
    assert wide.longest == 30
    with pytest.raises(Unsupported, match="sequence of 30"):
        segment_attention(MODULE, *inputs(), None, segments=wide, sliding_window=29)


def test_one_long_segment_among_many_short_ones_is_waste():
    assert Segments(((4, 2, 2),) * 9).waste == 1
    assert Segments(((1, 1, 1),) * 99 + ((100, 50, 50),)).waste > ways.WASTE


def test_the_implementation_is_put_back_after_an_error():
    config = tiny("llama").config
    before = config._attn_implementation
    with pytest.raises(KeyError), Attention(config, SEGMENTS):
        assert config._attn_implementation == SEGMENTS
        raise KeyError
    assert config._attn_implementation == before
