from __future__ import annotations

import copy
import json
import os

import pytest
import torch
from networks import ROWS, Tokens, every_layout, in_double, one_by_one, tiny
from transformers import AutoModelForCausalLM

from dpo_lab.adapters import lora
from dpo_lab.errors import Refused
from dpo_lab.layouts import lay_out
from dpo_lab.policy import Policy, choose_layout
from dpo_lab.scoring import token_logps

EXACT = {"rtol": 0, "atol": 1e-10}


# ------------------------------------------------------------------------------ layout


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen2", "phi", "granite", "gemma"])
@pytest.mark.parametrize("wanted", ["shared", "packed", "padded"])
def test_most_architectures_take_every_layout(kind, wanted):
    policy = Policy(tiny(kind), Tokens())
    assert choose_layout(policy, wanted, 64) == (wanted, None)
    assert policy.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("kind", "reason", "exact"),
    [
        ("mistral", "sliding_window=6, shorter than a sequence of 11", 1e-10),
        # Its own attention takes the softmax in float32 whatever the precision.
        ("gemma2", "softcap", 1e-6),
        ("gptj", "see each other", 1e-6),
    ],
)
def test_where_sharing_is_not_honoured_padded_rows_are_and_stay_right(kind, reason, exact):
    policy = Policy(in_double(tiny(kind)), Tokens(), dtype="float64")
    for wanted in ("shared", "packed"):
        layout, why = choose_layout(policy, wanted, 11)
        assert layout == "padded"
        assert reason in why
    assert policy.model.training  # as it was
    policy.eval()
    batch = lay_out(ROWS, range(4), "padded", pad_id=0, paired=True)
    expected = one_by_one(policy.model, ROWS)
    torch.testing.assert_close(token_logps(policy, batch), expected, rtol=0, atol=exact)


def test_a_window_as_long_as_the_data_is_honoured():
    policy = Policy(in_double(tiny("mistral", sliding_window=12)), Tokens(), dtype="float64")
    assert choose_layout(policy, "shared", 12) == ("shared", None)
    assert choose_layout(policy, "shared", 13)[0] == "padded"
    expected = one_by_one(policy.model, ROWS)
    for batch in every_layout(policy, ROWS).values():
        torch.testing.assert_close(token_logps(policy, batch), expected, **EXACT)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, 64),
        (
            {
                "rope_parameters": {
                    "rope_type": "dynamic",
                    "factor": 2.0,
                    "rope_theta": 10000.0,
                    "original_max_position_embeddings": 32,
                }
            },
            32,
        ),
    ],
)
def test_sequences_beyond_the_positions_are_refused(changes, limit):
    policy = Policy(tiny("llama", **changes), Tokens())
    assert choose_layout(policy, "shared", limit)[0] == "shared"
    with pytest.raises(Refused, match=f"tokens.max_length={limit}") as refused:
        choose_layout(policy, "padded", limit + 1)
    assert len(str(refused.value).splitlines()) <= 3


# ------------------------------------------------------------------------------ state


def test_precision_of_parameters():
    half = tiny("llama").to(torch.bfloat16)
    for dtype, stored in (
        ("float32", torch.float32),
        ("bfloat16", torch.float32),
        ("float64", torch.float64),
    ):
        policy = Policy(copy.deepcopy(half), Tokens(), dtype=dtype)
        assert {p.dtype for _, p in policy.trainable()} == {stored}
        with policy.autocast():
            out = torch.ones(2, 2) @ torch.ones(2, 2)
        assert out.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)


def test_the_digest_is_of_every_weight():
    policy, same, other = (Policy(tiny("llama", seed=seed), Tokens()) for seed in (0, 0, 1))
    assert policy.digest() == same.digest() != other.digest()
    with torch.no_grad():
        policy.model.lm_head.weight[3, 5] += 1e-6
    assert policy.digest() != same.digest()
    half = Policy(tiny("llama"), Tokens())
    half.model.lm_head.to(torch.bfloat16)
    assert half.digest() != same.digest()


def test_networks_of_the_same_weights_differ_in_their_architecture():
    def made(**changes):
        return Policy(tiny("gpt2", **changes), Tokens())

    four, again, two = made(), made(), made(n_head=2)
    assert four.digest() == again.digest() == two.digest()
    assert four.architecture() == again.architecture() != two.architecture()

    def adapted(alpha):
        return Policy(
            lora(tiny("gpt2"), r=2, alpha=alpha, target_modules=["all-linear"], modules_to_save=[]),
            Tokens(),
        )

    assert adapted(4).digest() == adapted(8).digest()
    assert adapted(4).architecture() != adapted(8).architecture()
    assert json.dumps(adapted(4).architecture()) == json.dumps(adapted(4).architecture())


@pytest.mark.parametrize("tied", [True, False])
def test_weights_can_be_put_back(tied):
    policy = Policy(tiny("llama", tie_word_embeddings=tied), Tokens())
    before = policy.digest()
    kept = {name: value.clone() for name, value in policy.weights().items()}
    assert len({value.data_ptr() for value in policy.weights().values()}) == len(kept)
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.mul_(2)
    assert policy.digest() != before
    policy.load_weights(kept)
    assert policy.digest() == before


def test_train_and_eval_switch_dropout():
    policy = Policy(tiny("gpt2", resid_pdrop=0.5), Tokens())
    batch = every_layout(policy, ROWS)["shared"]
    policy.train()
    assert not torch.equal(token_logps(policy, batch), token_logps(policy, batch))
    policy.eval()
    assert torch.equal(token_logps(policy, batch), token_logps(policy, batch))


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_dropout_of_attention_is_felt_in_every_layout(kind):
    policy = Policy(tiny(kind, attention_dropout=0.5), Tokens())
    for way, batch in every_layout(policy, ROWS).items():
        policy.train()
        assert not torch.equal(token_logps(policy, batch), token_logps(policy, batch)), way
        policy.eval()
        assert torch.equal(token_logps(policy, batch), token_logps(policy, batch)), way


def test_the_model_runs_its_own_attention_unless_told_otherwise():
    policy = Policy(tiny("llama"), Tokens())
    ids = torch.tensor([[3, 4, 5]])
    expected = policy.model(input_ids=ids).logits
    with policy.segmented(), policy.plain():
        assert torch.equal(policy.model(input_ids=ids).logits, expected)
    assert torch.equal(policy.model(input_ids=ids).logits, expected)


# ------------------------------------------------------------------------------ export


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_export_reloads_with_the_same_log_probabilities(tmp_path, kind, tied):
    policy = Policy(tiny(kind, tie_word_embeddings=tied), Tokens())
    policy.eval()
    policy.save(tmp_path / "runs" / "final")
    assert os.listdir(tmp_path / "runs") == ["final"]  # nothing is left over
    again = Policy(AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / "final"), Tokens())
    assert again.digest() == policy.digest()
    for batch in every_layout(policy, ROWS).values():
        assert torch.equal(token_logps(again, batch), token_logps(policy, batch))
    saved = json.loads((tmp_path / "runs" / "final" / "config.json").read_text())
    assert "dpo_lab" not in json.dumps(saved)


def test_an_export_replaces_the_former_one_at_once(tmp_path, monkeypatch):
    first, second = (Policy(tiny("llama", seed=seed), Tokens()) for seed in (0, 1))
    first.save(tmp_path / "final")
    second.save(tmp_path / "final")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert Policy(loaded, Tokens()).digest() == second.digest()

    def fail(*args: object, **keywords: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(first.model, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        first.save(tmp_path / "final")
    assert os.listdir(tmp_path) == ["final"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert Policy(loaded, Tokens()).digest() == second.digest()


def test_an_export_generates_legal_tokens_only(tmp_path):
    legal = [1, 7, 8, 9]
    policy = Policy(tiny("llama"), Tokens(), legal=legal)
    policy.save(tmp_path / "final")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert set(model.generation_config.suppress_tokens) == set(range(40)) - set(legal)
    torch.manual_seed(0)
    ids = torch.tensor([[3, 4]] * 50)
    mask = torch.ones_like(ids)
    out = model.generate(
        ids, attention_mask=mask, do_sample=True, max_new_tokens=5, temperature=5.0
    )
    assert set(out[:, 2:].flatten().tolist()) <= {*legal, 0}  # 0 pads what has ended
    assert policy.model.generation_config.suppress_tokens is None


def test_saving_says_nothing(tmp_path, capfd):
    Policy(tiny("llama"), Tokens()).save(tmp_path / "final")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
