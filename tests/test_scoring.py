from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from networks import (
    ROWS,
    VOCAB,
    Tokens,
    every_layout,
    gradients,
    in_double,
    one_by_one,
    tiny,
)

from dpo_lab import segments
from dpo_lab.adapters import lora
from dpo_lab.batch import Encoded, Logps
from dpo_lab.layouts import lay_out
from dpo_lab.policy import Policy
from dpo_lab.scoring import logps, token_logps

EXACT = {"rtol": 0, "atol": 1e-10}
KINDS = ["llama", "gpt2", "gpt_neox", "qwen2"]


def policy(kind: str, adapter: bool = False, **settings: object) -> Policy:
    """In float64 through and through; with an adapter whose B is not zero."""
    model = in_double(tiny(kind))
    if adapter:
        model = lora(model, r=4, alpha=8, target_modules=["all-linear"], modules_to_save=[])
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return Policy(model, Tokens(), dtype="float64", **settings)


def weighted(values: torch.Tensor) -> torch.Tensor:
    """A loss in which every token counts differently."""
    return (values * torch.linspace(0.5, 2.0, len(values), dtype=values.dtype)).sum()


# ------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_equals_plain_transformers(
    kind, adapter, checkpointing, together, monkeypatch
):
    monkeypatch.setattr(segments, "TOGETHER", 64 if together else 0)
    scored = policy(kind, adapter, gradient_checkpointing=checkpointing)
    scored.train()  # no dropout here, but checkpointing wants it
    expected = one_by_one(scored.model, ROWS)
    push = gradients(scored.model, weighted(expected))
    assert push and all(grad.abs().max() > 1e-8 for grad in push.values())
    for way, batch in every_layout(scored, ROWS).items():
        values = token_logps(scored, batch)
        torch.testing.assert_close(values, expected, **EXACT, msg=way)
        ours = gradients(scored.model, weighted(values))
        torch.testing.assert_close(ours, push, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_in_float64_is_exact_in_values_and_gradients(kind):
    scored = Policy(tiny(kind), Tokens(), dtype="float64")
    expected = one_by_one(scored.model, ROWS)
    push = gradients(scored.model, weighted(expected))
    for way, batch in every_layout(scored, ROWS).items():
        values = token_logps(scored, batch)
        torch.testing.assert_close(values, expected, **EXACT, msg=way)
        ours = gradients(scored.model, weighted(values))
        for name, grad in push.items():
            assert (ours[name] - grad).norm() <= 1e-12 * grad.norm(), (way, name)


@pytest.mark.parametrize("kind", ["qwen3", "gemma", "phi", "granite", "cohere"])
def test_more_architectures_share_prompts(kind):
    scored = policy(kind)
    scored.eval()
    expected = one_by_one(scored.model, ROWS)
    for way, batch in every_layout(scored, ROWS).items():
        torch.testing.assert_close(token_logps(scored, batch), expected, **EXACT, msg=way)


def test_a_row_does_not_depend_on_its_neighbours():
    scored = policy("llama")
    for layout in ("shared", "packed", "padded"):
        whole = lay_out(ROWS, range(4), layout, pad_id=0, paired=True)
        together = token_logps(scored, whole)
        for i in range(4):
            alone = token_logps(scored, lay_out(ROWS, [i], layout, pad_id=0, paired=True))
            mine = (whole.owners == i) | (whole.owners == 4 + i)
            torch.testing.assert_close(together[mine], alone, **EXACT)


def test_checkpointing_recomputes_with_the_attention_of_the_forward_pass():
    # shared, then padded, then both backwards: the model's attention has changed in between
    scored, kept = policy("llama", gradient_checkpointing=True), policy("llama")
    pushes = []
    for each in (scored, kept):
        each.train()
        batches = every_layout(each, ROWS)
        losses = [
            weighted(token_logps(each, batches[way])) for way in ("shared", "padded", "packed")
        ]
        pushes.append(gradients(each.model, sum(losses)))
    torch.testing.assert_close(*pushes, **EXACT)


# ------------------------------------------------------------------------------ sums


def test_logps_are_sums_per_response():
    scored = policy("gpt2")
    batch = every_layout(scored, ROWS)["shared"]
    values, pair = token_logps(scored, batch), logps(scored, batch)
    start = 0
    for total, tokens, response in zip(
        [*pair.chosen.total, *pair.rejected.total],
        [*pair.chosen.tokens, *pair.rejected.tokens],
        [row.chosen for row in ROWS] + [row.rejected for row in ROWS],
        strict=True,
    ):
        assert tokens == len(response)
        torch.testing.assert_close(total, values[start : start + tokens].sum(), **EXACT)
        start += tokens
    chosen = logps(scored, every_layout(scored, ROWS, paired=False)["shared"])
    assert isinstance(chosen, Logps)
    torch.testing.assert_close(chosen.total, pair.chosen.total, **EXACT)


def test_swapped_responses_negate_margins_exactly():
    scored = policy("gpt_neox")
    swapped = [Encoded(row.prompt, row.rejected, row.chosen) for row in ROWS]
    for layout in ("packed", "padded"):
        one, other = (
            logps(scored, lay_out(rows, range(4), layout, pad_id=0, paired=True))
            for rows in (ROWS, swapped)
        )
        margin = one.chosen.total - one.rejected.total
        torch.testing.assert_close(other.chosen.total - other.rejected.total, -margin, **EXACT)


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_a_model_that_counts_upwards(layout):
    """A network whose logits put probability p on the token after this one: every response that
    counts on from its prompt has n log p, and not a token more or less is scored."""
    shape = {"num_hidden_layers": 0, "hidden_size": VOCAB, "head_dim": 8, "rms_norm_eps": 0.0}
    model = in_double(tiny("llama", **shape))
    sharp = 3.0
    one_hot = torch.eye(VOCAB, dtype=torch.float64)  # the norm scales it by the root of its width
    model.model.embed_tokens.weight.data = one_hot
    model.model.norm.weight.data = torch.ones(VOCAB, dtype=torch.float64)
    model.lm_head.weight.data = sharp / math.sqrt(VOCAB) * one_hot.roll(1, 0)
    counting = Policy(model, Tokens(), dtype="float64")
    log_p = sharp - math.log(math.exp(sharp) + VOCAB - 1)

    right = [Encoded([3, 4], [5, 6, 7], [5]), Encoded([10], [11, 12], [11, 12, 13, 14])]
    expected = log_p * torch.tensor([3, 2, 1, 4], dtype=torch.float64)
    torch.testing.assert_close(totals(counting, right, layout), expected, **EXACT)
    # the first token of each is a miss, and the others count on from it
    wrong = [Encoded([3, 4], [6, 7, 8], [4, 5]), Encoded([10], [12, 13], [10, 11, 12])]
    expected = log_p * torch.tensor([3, 2, 2, 3], dtype=torch.float64) - sharp
    torch.testing.assert_close(totals(counting, wrong, layout), expected, **EXACT)


def totals(scored: Policy, rows: list[Encoded], layout: str) -> torch.Tensor:
    pair = logps(scored, lay_out(rows, range(len(rows)), layout, pad_id=0, paired=True))
    return torch.cat([pair.chosen.total, pair.rejected.total])


# ------------------------------------------------------------------------------ legal tokens


@pytest.mark.parametrize("kind", ["llama", "phi", "granite"])
def test_probabilities_are_of_legal_tokens_alone(kind):
    legal = [1, *range(7, 37)]
    rows = [row for row in ROWS if {*row.chosen, *row.rejected} <= {*legal}]
    assert len(rows) == 4
    limited = policy(kind, legal=legal)
    limited.eval()
    batch = every_layout(limited, rows)["shared"]
    everything = Policy(limited.model, Tokens(), dtype="float64")
    # log-probability of the legal tokens as a whole, at every scored position
    each = [replace(batch, targets=torch.full_like(batch.targets, token)) for token in legal]
    mass = torch.stack([token_logps(everything, one) for one in each]).logsumexp(0)
    expected = token_logps(everything, batch) - mass
    torch.testing.assert_close(token_logps(limited, batch), expected, **EXACT)
    ours = gradients(limited.model, weighted(token_logps(limited, batch)))
    theirs = gradients(limited.model, weighted(expected))
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_an_illegal_response_is_an_error():
    limited = policy("llama", legal=[1, 7, 8])
    with pytest.raises(RuntimeError, match="out of bounds"):
        token_logps(limited, every_layout(limited, ROWS)["shared"])


# ------------------------------------------------------------------------------ precision


def test_bfloat16_is_autocast_over_float32():
    scored = Policy(tiny("llama"), Tokens(), dtype="bfloat16")
    assert all(p.dtype == torch.float32 for _, p in scored.trainable())
    exact = one_by_one(scored.model, ROWS)
    for batch in every_layout(scored, ROWS).values():
        values = token_logps(scored, batch)
        assert values.dtype == torch.float32
        assert 0 < (values - exact).abs().max() < 0.1
        push = gradients(scored.model, weighted(values))
        assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in push.values())


def test_float32_agrees_with_float64():
    exact = one_by_one(policy("llama").model, ROWS)
    scored = Policy(tiny("llama"), Tokens())
    for batch in every_layout(scored, ROWS).values():
        values = token_logps(scored, batch)
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), exact, rtol=0, atol=1e-5)
