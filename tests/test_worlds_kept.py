"""Log-probabilities of every response, kept on disk: of whom, and whether they are sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import Tokens
from transformers import LlamaConfig, LlamaForCausalLM

from dpo_lab.cache import Cache
from dpo_lab.policy import Policy
from dpo_lab.worlds import kept, world
from dpo_lab.worlds.enumeration import leaf_logps
from dpo_lab.worlds.kept import kept_leaf_logps

SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def truth(**knobs):
    return world(**{"words": "good bad not film", "depth": 3, "pairs": 5} | knobs).world


def policy(seed=0, heads=4, dtype="float64"):
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=20, num_attention_heads=heads, **SIZE)
    return Policy(LlamaForCausalLM(config), Tokens(), dtype=dtype)


@pytest.fixture
def counted(monkeypatch):
    """How often a tree was walked."""
    walks = []

    def walk(policy, world):
        walks.append(1)
        return leaf_logps(policy, world)

    monkeypatch.setattr(kept, "leaf_logps", walk)
    return walks


def test_they_come_back_to_the_last_bit(tmp_path, counted):
    cache, nano = Cache(tmp_path), truth()
    expected = leaf_logps(policy(), nano)
    for _ in range(3):
        found = kept_leaf_logps(policy(), nano, cache)
        assert found.dtype == np.float64 and (found == expected).all()
    assert len(counted) == 1


def test_what_decides_a_value_is_in_its_key(tmp_path, counted):
    cache, nano = Cache(tmp_path), truth()
    first, second, *others = nano.prompts
    kept_leaf_logps(policy(), nano, cache)
    kept_leaf_logps(policy(), truth(flips=0.3, seed=4), cache)  # of pairs, not of what may be said
    assert len(counted) == 1
    differing = [
        (policy(seed=1), nano),
        (policy(heads=2), nano),  # with the same weights
        (policy(dtype="float32"), nano),
        (policy(), truth(words="good bad not")),
        (policy(), truth(depth=2)),
        (policy(), replace(nano, prompts=(second, first, *others))),
    ]
    for number, (who, what) in enumerate(differing):
        found = kept_leaf_logps(who, what, cache)
        assert len(counted) == number + 2
        np.testing.assert_array_equal(found, leaf_logps(who, what))


@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_damaged_ones_are_computed_again(tmp_path, counted, damage):
    cache, nano = Cache(tmp_path), truth()
    expected = kept_leaf_logps(policy(), nano, cache)
    (path,) = tmp_path.glob("leaves/*/leaves.safetensors")
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "bit" else content[:-8])
    for _ in range(2):
        assert (kept_leaf_logps(policy(), nano, cache) == expected).all()
    assert len(counted) == 2


def test_large_ones_are_not_kept(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(kept, "MOST_BYTES", 100)
    for _ in range(2):
        kept_leaf_logps(policy(), truth(), Cache(tmp_path))
    assert len(counted) == 2 and not list(tmp_path.iterdir())
