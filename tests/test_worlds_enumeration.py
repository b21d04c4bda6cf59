"""Every response scored through the KV cache, against scoring them plainly."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from dpo_lab.layouts import lay_out
from dpo_lab.policy import Policy
from dpo_lab.scoring import logps
from dpo_lab.tokenizer import Tokenizer
from dpo_lab.tokens import encode
from dpo_lab.worlds import world
from dpo_lab.worlds.enumeration import conditionals, leaf_logps, leaves, response_logps

torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other

SIZE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}


@pytest.fixture(scope="module")
def truth():
    return world(words="good bad not film", depth=4, pairs=200, eval_pairs=1, sft_rows=1).world


def policy_of(truth, kind=LlamaForCausalLM, config=LlamaConfig, dtype=torch.float64, **more):
    torch.manual_seed(0)
    model = kind(config(vocab_size=len(truth.vocabulary), **SIZE, **more)).to(dtype)
    for parameter in model.parameters():
        parameter.data *= 3  # far from uniform
    return SimpleNamespace(
        model=model, device="cpu", layout="padded", plain=nullcontext, autocast=nullcontext
    )


def one_by_one(policy, truth):
    """(P, n) log-probabilities, each response in a full forward of its own length."""
    model, eos = policy.model.eval(), truth.token_ids[truth.eos]
    out = np.empty(truth.reward.shape)
    words = [truth.token_ids[word] for word in truth.words]
    for level in range(truth.tree.depth + 1):
        leaves = np.flatnonzero(truth.tree.words(np.arange(truth.tree.num_leaves)) == level)
        said = [[words[d] for d in row[:level]] for row in truth.tree.digits(leaves)]
        if level < truth.tree.depth:
            said = [[*row, eos] for row in said]
        targets = torch.tensor(said)
        starts = torch.tensor(truth.prompt_ids).repeat_interleave(len(leaves), 0)
        targets = targets.repeat(len(truth.prompts), 1)
        with torch.no_grad():
            logits = model(torch.cat([starts, targets], 1)).logits[:, starts.shape[1] - 1 : -1]
        legal = torch.full_like(logits, -torch.inf)
        legal[..., truth.legal_ids] = logits[..., truth.legal_ids]
        logps = legal.log_softmax(-1).gather(2, targets[:, :, None]).sum((1, 2))
        out[:, leaves] = logps.reshape(len(truth.prompts), -1).numpy()
    return out


def test_every_leaf_is_scored_as_by_itself(truth):
    policy = policy_of(truth)
    logps = leaf_logps(policy, truth)
    assert logps.dtype == np.float64
    np.testing.assert_allclose(logps, one_by_one(policy, truth), atol=1e-9)
    np.testing.assert_allclose(np.exp(logps).sum(1), 1, atol=1e-9)
    assert np.ptp(logps[0]) > 1


def test_a_sliding_window_is_kept(truth):
    policy = policy_of(truth, MistralForCausalLM, MistralConfig, sliding_window=3)
    np.testing.assert_allclose(leaf_logps(policy, truth), one_by_one(policy, truth), atol=1e-9)


def test_float32_sums_to_one_too(truth):
    logps = leaf_logps(policy_of(truth, dtype=torch.float32), truth)
    np.testing.assert_allclose(np.exp(logps).sum(1), 1, atol=1e-9)


@pytest.mark.parametrize("max_rows", [13, 28, 100])
def test_the_size_of_a_block_changes_nothing(max_rows):
    truth = world(words="good bad not film", depth=3, pairs=1, eval_pairs=1, sft_rows=1).world
    policy = policy_of(truth)
    whole = conditionals(policy, truth)
    blocks = conditionals(policy, truth, max_rows=max_rows)
    assert [level.shape for level in whole] == [(8, 4**level, 5) for level in range(3)]
    for one, other in zip(whole, blocks, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_single_responses_are_looked_up(truth):
    tables = conditionals(policy_of(truth), truth)
    leaves = truth.tree.fold(tables)
    prompts = np.repeat(np.arange(8), truth.tree.num_leaves)
    index = np.tile(np.arange(truth.tree.num_leaves), 8)
    tokens, counts = response_logps(tables, truth, prompts, index)
    np.testing.assert_allclose(tokens.sum(1), leaves.ravel(), atol=1e-12)
    assert tokens.shape == (8 * 341, 4) and counts.max() == 4
    assert (tokens[counts == 1, 1:] == 0).all()


def test_a_policy_in_training_stays_in_training_but_is_scored_without_dropout(truth):
    policy = policy_of(truth, attention_dropout=0.5)
    policy.model.train()
    first, second = leaf_logps(policy, truth), leaf_logps(policy, truth)
    assert policy.model.training
    np.testing.assert_array_equal(first, second)
    assert all(parameter.grad is None for parameter in policy.model.parameters())


def test_a_tree_of_one_word_needs_no_cache():
    truth = world(words="good bad", depth=1, pairs=5, eval_pairs=1, sft_rows=1).world
    policy = policy_of(truth)
    np.testing.assert_allclose(leaf_logps(policy, truth), one_by_one(policy, truth), atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "config"), [(LlamaForCausalLM, LlamaConfig), (MistralForCausalLM, MistralConfig)]
)
def test_with_gradient_leaves_are_the_same(truth, kind, config):
    more = {"sliding_window": 3} if kind is MistralForCausalLM else {}
    policy = policy_of(truth, kind, config, **more)
    prompts = [5, 0, 2]
    found = leaves(policy, truth, prompts)
    assert found.requires_grad and found.dtype == torch.float64
    np.testing.assert_allclose(found.detach(), leaf_logps(policy, truth)[prompts], atol=1e-12)


def test_the_gradient_is_that_of_scoring_rows():
    source = world(words="good bad not film", depth=4, pairs=32, eval_pairs=1, sft_rows=1)
    truth = source.world
    tokenizer = Tokenizer.from_words(truth.vocabulary[3:], truth.bos, truth.eos, truth.pad)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(truth.vocabulary), **SIZE))
    policy = Policy(model, tokenizer, layout="padded", dtype="float64", legal=truth.legal_ids)
    rows = encode(source.train, tokenizer, max_length=32, truncation="keep_start").rows
    batch = lay_out(rows, list(range(32)), "padded", pad_id=tokenizer.pad_id, paired=True)
    weights, table = torch.linspace(-1, 2, 32).double(), truth.locate(source.train)

    def gradient(total):
        policy.model.zero_grad()
        (weights * total).sum().backward()
        return torch.cat([p.grad.flatten() for _, p in policy.trainable()])

    every = leaves(policy, truth, range(8))
    ours = gradient(every[torch.tensor(table.prompt), torch.tensor(table.chosen)])
    theirs = gradient(logps(policy, batch).chosen.total)
    assert theirs.abs().max() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def whole(truth, kind=LlamaForCausalLM, config=LlamaConfig, **more):
    """A policy that takes everything that can be said in one row."""
    tokenizer = Tokenizer.from_words(truth.vocabulary[3:], truth.bos, truth.eos, truth.pad)
    model = policy_of(truth, kind, config, **more).model
    return Policy(model, tokenizer, layout="shared", dtype="float64", legal=truth.legal_ids)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize(
    ("kind", "config"),
    [(LlamaForCausalLM, LlamaConfig), (Qwen2ForCausalLM, Qwen2Config)],
)
def test_in_one_row_leaves_and_gradient_are_those_of_one_level_after_another(kind, config, depth):
    truth = world(words="good bad film", depth=depth, pairs=5, eval_pairs=1, sft_rows=1).world
    policy = whole(truth, kind, config)
    prompts = [5, 0, 2]
    weights = torch.linspace(-1, 2, truth.tree.num_leaves).double()

    def found(layout):
        policy.layout = layout
        policy.model.zero_grad()
        logps = leaves(policy, truth, prompts)
        (logps * weights).sum().backward()
        grads = [p.grad.flatten() for _, p in policy.trainable()]
        return logps.detach(), torch.cat(grads)

    ours, theirs = found("shared"), found("padded")
    assert theirs[1].abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours[0], leaf_logps(policy, truth)[prompts], atol=1e-9)


def test_in_one_row_dropout_and_windows_are_honoured(truth):
    policy = whole(truth, attention_dropout=0.5)
    policy.model.train()
    drawn = [leaves(policy, truth, [1]).detach() for _ in range(2)]
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3
    policy.model.eval()
    assert torch.equal(leaves(policy, truth, [1]), leaves(policy, truth, [1]))
    narrow = whole(truth, MistralForCausalLM, MistralConfig, sliding_window=3)
    narrow.model.eval()
    expected = leaf_logps(narrow, truth)[[1]]
    np.testing.assert_allclose(leaves(narrow, truth, [1]).detach(), expected, atol=1e-10)


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_training_scores_a_row_as_the_tree_does(layout):
    source = world(words="good bad not film", depth=4, pairs=64, eval_pairs=1, sft_rows=1)
    truth = source.world
    tokenizer = Tokenizer.from_words(truth.vocabulary[3:], truth.bos, truth.eos, truth.pad)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(truth.vocabulary), **SIZE))
    policy = Policy(model, tokenizer, layout=layout, dtype="float64", legal=truth.legal_ids)
    rows = encode(source.train, tokenizer, max_length=32, truncation="keep_start").rows
    batch = lay_out(rows, list(range(64)), layout, pad_id=tokenizer.pad_id, paired=True)
    with torch.no_grad():
        scored = logps(policy, batch)
    leaves, table = leaf_logps(policy, truth), truth.locate(source.train)
    for side, index in ((scored.chosen, table.chosen), (scored.rejected, table.rejected)):
        np.testing.assert_allclose(side.total, leaves[table.prompt, index], atol=1e-10)
        assert side.tokens.tolist() == truth.tree.tokens[index].tolist()
