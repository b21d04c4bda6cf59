"""Estimates from drawn responses agree with what a world knows exactly, within three errors."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import Tokens, tiny

from dpo_lab import estimates
from dpo_lab.errors import Refused
from dpo_lab.estimates import Estimate
from dpo_lab.model import llama
from dpo_lab.policy import Policy
from dpo_lab.sampling import Drawn, draw
from dpo_lab.tokenizer import Tokenizer
from dpo_lab.worlds import exact, world
from dpo_lab.worlds.enumeration import leaf_logps

SIZE = dict(hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48, max_positions=32)


@pytest.fixture(scope="module")
def truth():
    return world(words="good bad not film", depth=4, pairs=1, eval_pairs=1, sft_rows=1).world


def network(truth, seed: int) -> Policy:
    tokenizer = Tokenizer.from_words(truth.vocabulary[3:], truth.bos, truth.eos, truth.pad)
    model = llama(tokenizer, **SIZE, seed=seed)
    for parameter in model.parameters():
        parameter.data *= 3  # far from uniform
    return Policy(model, tokenizer, dtype="float64", legal=truth.legal_ids)


@pytest.fixture(scope="module")
def both(truth):
    """Two policies, 500 responses of each to every prompt, and exact metrics of the first."""
    policy, other = network(truth, 0), network(truth, 1)
    drawn = [
        draw(one, truth.prompt_ids.tolist(), each=500, max_tokens=4, seed=seed, at_once=1000)
        for seed, one in enumerate((policy, other))
    ]
    metrics = exact(truth, leaf_logps(policy, truth), leaf_logps(other, truth))
    return policy, other, drawn, metrics


def rewards(truth, drawn: Drawn) -> list[float]:
    return [
        truth.reward[prompt, truth.leaf(response)]
        for prompt, response in zip(drawn.of, drawn.responses, strict=True)
    ]


def assert_within(estimate: Estimate, value: float, errors: float = 3):
    assert 0 < estimate.error < 0.2
    assert abs(estimate.mean - value) < errors * estimate.error


def test_responses_come_with_their_probabilities(truth, both):
    policy, _, (drawn, _), _ = both
    for response in drawn.responses:
        ends = response[-1] == truth.token_ids[truth.eos]
        assert ends or len(response) == 4
        assert truth.token_ids[truth.eos] not in response[:-1]
    found = np.zeros(truth.reward.shape)
    for prompt, response in zip(drawn.of, drawn.responses, strict=True):
        found[prompt, truth.leaf(response)] += 1
    expected = 500 * np.exp(leaf_logps(policy, truth))
    often = expected > 5
    chi2 = ((found - expected)[often] ** 2 / expected[often]).sum()
    assert abs(chi2 - often.sum()) < 4 * np.sqrt(2 * often.sum())


def test_both_estimates_of_kl_agree_with_the_exact_one(truth, both):
    policy, other, (ours, theirs), metrics = both
    found = estimates.kl(other, ours, drawn_prompts=False)
    assert metrics["world/kl"] > 0.3
    assert_within(found["per_step"], metrics["world/kl"])
    assert_within(found["log_ratio"], metrics["world/kl"])
    assert found["per_step"].error < found["log_ratio"].error / 1.5
    reverse = estimates.kl(policy, theirs, drawn_prompts=False)
    assert_within(reverse["per_step"], metrics["world/reverse_kl"])
    assert_within(reverse["log_ratio"], metrics["world/reverse_kl"])
    assert abs(reverse["per_step"].mean - metrics["world/kl"]) > 5 * reverse["per_step"].error


def test_reward_and_win_rate_agree_too(truth, both):
    _, _, (ours, theirs), metrics = both
    mine, others = rewards(truth, ours), rewards(truth, theirs)
    assert_within(estimates.mean(mine, ours.of, drawn_prompts=False), metrics["world/reward"])
    won = estimates.win_rate(mine, others, ours.of, drawn_prompts=False)
    assert_within(won, metrics["world/win_rate"])


def test_the_kl_to_itself_is_nothing(both):
    policy, _, (drawn, _), _ = both
    small = replace(drawn, of=drawn.of[::50], responses=drawn.responses[::50])
    found = estimates.kl(policy, small)
    assert found["per_step"] == (0, 0) and found["log_ratio"] == (0, 0)


def test_errors_by_hand():
    values, of = [1.0, 3.0, 10.0, 10.0], [0, 0, 1, 1]
    assert estimates.mean(values, of) == (6.0, 4.0)  # means 2 and 10: 5.66 / sqrt 2
    mean, error = estimates.mean(values, of, drawn_prompts=False)
    assert (mean, error) == (6.0, pytest.approx(0.5))  # variances 2 / 2 and 0: 1 / 2
    assert estimates.win_rate([1, 0, 2, 5], [0, 0, 3, 4], of)[0] == 0.625
    with pytest.raises(Refused, match="two prompts"):
        estimates.mean([1.0, 2.0], [0, 0])
    with pytest.raises(Refused, match="two responses"):
        estimates.mean([1.0, 2.0], [0, 1], drawn_prompts=False)


def test_what_would_be_biased_is_refused(truth, both):
    _, other, (drawn, _), _ = both
    with pytest.raises(Refused, match=r"temperature 1, got 0\.5"):
        estimates.kl(other, replace(drawn, temperature=0.5))
    free = copy.copy(other)
    free.legal = None
    with pytest.raises(Refused, match="may say the same tokens"):
        estimates.kl(free, drawn)
    strange = copy.copy(other)
    strange.tokenizer = Tokenizer.from_words(["else"], truth.bos, truth.eos, truth.pad)
    with pytest.raises(Refused, match="one tokenizer"):
        estimates.kl(strange, drawn)


# ------------------------------------------------------------------------ any causal network

PROMPTS = [[3, 4, 5, 6], [12], [5, 5, 2, 9, 30, 31], [20, 21]]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen3"])
def test_padding_changes_nothing(kind):
    policy = Policy(tiny(kind), Tokens(), dtype="float64")
    likeliest = {"each": 2, "max_tokens": 6, "seed": 0, "temperature": 1e-6}
    together = draw(policy, PROMPTS, **likeliest).responses
    alone = draw(policy, PROMPTS, at_once=1, **likeliest).responses
    assert together == alone
    for (prompt, response), index in zip(
        zip([p for p in PROMPTS for _ in range(2)], together, strict=True), range(8), strict=True
    ):
        ids = list(prompt)
        for token in response:
            with torch.no_grad():
                expected = int(policy.model(torch.tensor([ids])).logits[0, -1].argmax())
            assert token == expected, index
            ids.append(token)


def test_the_settings_of_a_folder_are_not_followed():
    """Many models' own generation settings cut the tail off, and KL with it."""
    policy = Policy(tiny("llama"), Tokens(), dtype="float64")
    before = draw(policy, PROMPTS, each=20, max_tokens=5, seed=3)
    policy.model.generation_config.update(top_k=1, top_p=0.1, repetition_penalty=5.0)
    state = torch.random.get_rng_state()
    policy.train()
    after = draw(policy, PROMPTS, each=20, max_tokens=5, seed=3)
    assert after.responses == before.responses and policy.model.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert draw(policy, PROMPTS, each=20, max_tokens=5, seed=4).responses != before.responses


def test_a_whole_vocabulary_in_another_layout():
    tokens = Tokens()
    policy, other = (Policy(tiny("llama", seed), tokens, layout="padded") for seed in (0, 1))
    other.layout = "shared"
    drawn = draw(policy, PROMPTS, each=100, max_tokens=6, seed=0)
    found = estimates.kl(other, drawn, drawn_prompts=False)
    gap = found["per_step"].mean - found["log_ratio"].mean
    assert abs(gap) < 3 * found["log_ratio"].error
    assert found["per_step"].error < found["log_ratio"].error


def test_a_prompt_counts_once_however_many_responses_it_has():
    found = estimates.mean([1.0, 3.0, 2.0, 10.0], [0, 0, 0, 1])
    assert found == (6.0, 4.0)  # means 2 and 10
