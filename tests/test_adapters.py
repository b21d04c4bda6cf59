from __future__ import annotations

import copy

import pytest
import torch
from networks import ROWS, Tokens, every_layout, in_double, tiny
from transformers import AutoModelForCausalLM

from dpo_lab.adapters import lora, none
from dpo_lab.errors import Refused
from dpo_lab.model import pretrained
from dpo_lab.policy import Policy, choose_layout
from dpo_lab.scoring import token_logps

KNOBS = {"r": 4, "alpha": 8, "target_modules": ["all-linear"], "modules_to_save": []}


def trained(policy: Policy, steps: int = 5) -> None:
    policy.train()
    optimizer = torch.optim.AdamW([p for _, p in policy.trainable()], lr=1e-2)
    for _ in range(steps):
        (-token_logps(policy, every_layout(policy, ROWS)["shared"]).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_none_is_the_model_itself():
    model = tiny("llama")
    assert none(model) is model


@pytest.mark.parametrize("saved", [[], ["lm_head"], ["lm_head", "embed_tokens"]])
def test_adapter_off_is_the_base_before_and_after_training(saved):
    model = in_double(tiny("llama"))
    base = Policy(copy.deepcopy(model), Tokens(), dtype="float64")
    adapted = lora(model, **KNOBS | {"modules_to_save": saved}, dropout=0.5)
    policy = Policy(adapted, Tokens(), dtype="float64")
    assert policy.has_adapter and not base.has_adapter
    batch = every_layout(policy, ROWS)["shared"]
    expected = token_logps(base, batch)
    policy.eval()
    assert torch.equal(token_logps(policy, batch), expected)  # B is zero
    trained(policy)
    with policy.adapter_off():
        assert not policy.model.training
        assert torch.equal(token_logps(policy, batch), expected)
    assert policy.model.training
    policy.eval()
    assert (token_logps(policy, batch) - expected).abs().max() > 0.01


def test_the_adapter_is_on_again_after_an_error():
    policy = Policy(lora(tiny("llama"), **KNOBS), Tokens())
    trained(policy)
    batch = every_layout(policy, ROWS)["shared"]
    policy.eval()
    before = token_logps(policy, batch)
    names = [name for name, _ in policy.trainable()]
    for training in (True, False):
        policy.model.train(training)
        with pytest.raises(KeyError), policy.adapter_off():
            raise KeyError
        assert policy.model.training == training
    assert torch.equal(token_logps(policy, batch), before)
    assert [name for name, _ in policy.trainable()] == names


def test_only_the_adapter_and_saved_modules_are_trained():
    policy = Policy(lora(tiny("gpt2", tie_word_embeddings=False), **KNOBS), Tokens())
    names = [name for name, _ in policy.trainable()]
    assert names and all("lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)
    policy = Policy(lora(tiny("llama"), **KNOBS | {"modules_to_save": ["lm_head"]}), Tokens())
    assert sum("lm_head" in name for name, _ in policy.trainable()) == 1
    assert all(p.dtype == torch.float32 for _, p in policy.trainable())


def test_the_seed_decides_and_the_global_state_stays():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (
        Policy(lora(tiny("llama"), **KNOBS, seed=seed), Tokens()).digest() for seed in (0, 0, 1)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert first == again != other


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["self_attn.q_proj"], ["lm_head"]])
def test_layers_are_named_by_the_ends_of_their_names(targets):
    model = lora(tiny("llama"), **KNOBS | {"target_modules": targets})
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted and all(name.endswith(tuple(targets)) for name in adapted)
    assert choose_layout(Policy(model, Tokens()), "shared", 20) == ("shared", None)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"target_modules": ["q_prj"]}, ["target_modules", "q_prj", "did you mean q_proj"]),
        ({"target_modules": ["all-linaer"]}, ["did you mean all-linear"]),
        ({"target_modules": []}, ["empty", "all-linear"]),
        ({"modules_to_save": ["lm_haed"]}, ["modules_to_save", "did you mean lm_head"]),
        ({"merge_on_export": False}, ["merge_on_export=true"]),
    ],
)
def test_what_is_refused(knobs, words):
    with pytest.raises(Refused) as refused:
        lora(tiny("llama"), **KNOBS | knobs)
    assert len(str(refused.value).splitlines()) <= 3
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize("knob", ["target_modules", "modules_to_save"])
def test_tied_weights_are_not_parted(knob):
    with pytest.raises(Refused, match="lm_head shares its weights"):
        lora(tiny("llama", tie_word_embeddings=True), **KNOBS | {knob: ["lm_head"]})


@pytest.mark.parametrize(
    ("kind", "saved"), [("llama", []), ("llama", ["lm_head", "embed_tokens"]), ("gpt2", [])]
)
def test_a_merged_export_gives_the_same_log_probabilities(tmp_path, kind, saved):
    policy = Policy(
        lora(tiny(kind), **KNOBS | {"modules_to_save": saved}), Tokens(), dtype="float64"
    )
    trained(policy)
    policy.eval()
    before = policy.digest()
    policy.save(tmp_path / "final")
    assert policy.digest() == before
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "final", dtype=torch.float64)
    again = Policy(loaded, Tokens(), dtype="float64")
    batch = every_layout(policy, ROWS)["shared"]
    assert not again.has_adapter
    torch.testing.assert_close(
        token_logps(again, batch), token_logps(policy, batch), rtol=0, atol=1e-10
    )


def test_an_adapter_exported_alone_refers_to_its_base(tmp_path):
    Policy(tiny("llama"), Tokens()).save(tmp_path / "base")
    base = pretrained(Tokens(), path=str(tmp_path / "base"))
    policy = Policy(lora(base, **KNOBS, merge_on_export=False), Tokens())
    trained(policy)
    policy.eval()
    policy.save(tmp_path / "final")
    assert {path.name for path in (tmp_path / "final").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    }
    assert not (tmp_path / "final" / "model.safetensors").exists()
    batch = every_layout(policy, ROWS)["shared"]
    expected = token_logps(policy, batch)
    for load in (
        lambda: AutoModelForCausalLM.from_pretrained(tmp_path / "final"),
        lambda: pretrained(Tokens(), path=str(tmp_path / "final")),
    ):
        again = Policy(load(), Tokens())
        torch.testing.assert_close(token_logps(again, batch), expected, rtol=0, atol=1e-5)


def test_a_layer_adds_alpha_over_r_times_b_a_by_hand():
    policy = Policy(lora(tiny("llama"), **KNOBS | {"r": 2, "alpha": 6}), Tokens(), dtype="float64")
    layer = policy.network.get_submodule("model.layers.0.mlp.down_proj")
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(b, generator=torch.Generator().manual_seed(0))
    policy.eval()
    x = torch.linspace(-1, 1, 5 * a.shape[1], dtype=torch.float64).view(5, -1)
    expected = x @ layer.base_layer.weight.T + 6 / 2 * x @ a.T @ b.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_dropout_of_an_adapter_is_felt_in_training_alone():
    policy = Policy(lora(tiny("llama"), **KNOBS, dropout=0.5), Tokens())
    trained(policy, steps=1)
    batch = every_layout(policy, ROWS)["shared"]
    policy.train()
    assert not torch.equal(token_logps(policy, batch), token_logps(policy, batch))
    policy.eval()
    assert torch.equal(token_logps(policy, batch), token_logps(policy, batch))
