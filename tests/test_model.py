from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from networks import ROWS, VOCAB, Tokens, every_layout, in_double, one_by_one, tiny
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from dpo_lab import model as models
from dpo_lab.errors import Refused
from dpo_lab.model import llama, pretrained
from dpo_lab.policy import Policy, choose_layout
from dpo_lab.scoring import token_logps

CONF = Path(__file__).parents[1] / "conf" / "model"
SHAPE = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 48,
    "max_positions": 64,
}


@pytest.fixture
def folder(tmp_path):
    Policy(tiny("llama"), Tokens()).save(tmp_path / "good")
    return tmp_path / "good"


def lines_of(refused: pytest.ExceptionInfo) -> str:
    assert len(str(refused.value).splitlines()) <= 3
    return str(refused.value)


# ------------------------------------------------------------------------------ from a config


def test_the_seed_decides_the_weights_and_the_global_state_stays():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    digests = [Policy(llama(Tokens(), **SHAPE, seed=seed), Tokens()).digest() for seed in (0, 0, 1)]
    assert torch.equal(state, torch.random.get_rng_state())
    assert digests[0] == digests[1] != digests[2]


def test_a_llama_is_what_its_knobs_say():
    model = llama(Tokens(bos_id=2), **SHAPE, num_key_value_heads=2, dropout=0.25, vocab_size=50)
    config = model.config
    assert (config.vocab_size, config.num_key_value_heads) == (50, 2)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (2, 1, 0)
    assert config.attention_dropout == 0.25
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    tied = llama(Tokens(), **SHAPE, tie_embeddings=True)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert tied.config.vocab_size == VOCAB
    assert {p.dtype for p in tied.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 30}, ["hidden_size", "30"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads", "3"]),
        ({"vocab_size": 39}, ["39 tokens", "40", "model.vocab_size"]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(Refused) as refused:
        llama(Tokens(), **SHAPE | changes)
    message = lines_of(refused)
    assert all(word in message for word in words)


@pytest.mark.parametrize(("name", "millions"), [("tiny", 0.087), ("small", 9.3), ("medium", 58.5)])
def test_the_sizes_of_the_presets(name, millions):
    knobs = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    del knobs["defaults"], knobs["_target_"]
    with torch.device("meta"):
        model = llama(Tokens(), **knobs)
    assert model.num_parameters() / 1e6 == pytest.approx(millions, rel=0.06)


# ------------------------------------------------------------------------------ from a folder


def test_a_folder_round_trip_in_float32(folder, capfd):
    model = pretrained(Tokens(), path=str(folder))
    assert capfd.readouterr().err == ""
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert Policy(model, Tokens()).digest() == Policy(tiny("llama"), Tokens()).digest()


def test_half_precision_weights_are_loaded_in_float32(folder):
    weights = load_file(folder / "model.safetensors")
    half = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    model = pretrained(Tokens(), path=str(folder))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_pickles_are_not_read(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(Refused, match="found none"):
        pretrained(Tokens(), path=str(folder))
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(Refused) as refused:
        pretrained(Tokens(), path=str(folder))
    assert "pytorch_model.bin, a pickle" in lines_of(refused)


def test_code_of_a_folder_is_never_run(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "modeling_mine.py").write_text(f"open({str(canary)!r}, 'w')")
    with pytest.raises(Refused, match=r"code of its own \(modeling_mine.py\)"):
        pretrained(Tokens(), path=str(folder))
    (folder / "modeling_mine.py").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_mine.Mine"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Refused) as refused:
        pretrained(Tokens(), path=str(folder))
    assert "auto_map" in lines_of(refused)
    assert not canary.exists()


def test_weights_that_do_not_fill_the_model_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused) as refused:
        pretrained(Tokens(), path=str(folder))
    assert "model.norm.weight" in lines_of(refused)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"model_type": "clip"}, "Unrecognized configuration"), ({"model_type": "novel"}, "novel")],
)
def test_what_is_no_causal_language_model_is_refused(folder, change, word):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(Refused) as refused:
        pretrained(Tokens(), path=str(folder))
    assert word in lines_of(refused)


def test_a_damaged_file_is_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(Refused) as refused:
        pretrained(Tokens(), path=str(folder))
    assert "SafetensorError" in lines_of(refused)


def test_a_small_vocabulary_is_refused(folder):
    with pytest.raises(Refused, match="its tokenizer writes 41"):
        pretrained(Tokens(vocab_size=41), path=str(folder))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(Refused, match="is no model"):
        pretrained(Tokens(), path=str(tmp_path))


def test_a_missing_folder_is_refused_with_near_names(folder):
    with pytest.raises(Refused) as refused:
        pretrained(Tokens(), path=str(folder.parent / "god"))
    assert "good" in lines_of(refused)


def test_the_hub_gives_no_pickles_and_no_code(folder, monkeypatch):
    asked = {}

    def download(name, revision, patterns):
        asked.update(name=name, revision=revision, patterns=patterns)
        return folder

    monkeypatch.setattr(models, "download", download)
    pretrained(Tokens(), path="who/what", revision="v1")
    assert (asked["name"], asked["revision"]) == ("who/what", "v1")
    assert all(pattern.endswith((".json", ".safetensors")) for pattern in asked["patterns"])


def test_the_config_given_to_transformers_stays_as_it_was(folder):
    before = (folder / "config.json").read_text()
    config = AutoConfig.from_pretrained(folder)
    model = pretrained(Tokens(), path=str(folder), dropout=0.5)
    assert model.config.attention_dropout == 0.5
    assert config.attention_dropout == 0.0
    assert (folder / "config.json").read_text() == before


# ------------------------------------------------------------------------------ dropout


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("gpt2", ["attn_pdrop", "embd_pdrop", "resid_pdrop"]),
        ("gpt_neox", ["attention_dropout", "hidden_dropout"]),
        ("phi", ["attention_dropout", "embd_pdrop", "resid_pdrop"]),
    ],
)
def test_every_dropout_is_set(tmp_path, kind, names, dropout):
    Policy(tiny(kind, **dict.fromkeys(names, 0.1)), Tokens()).save(tmp_path / "model")
    model = pretrained(Tokens(), path=str(tmp_path / "model"), dropout=dropout)
    assert {getattr(model.config, name) for name in names} == {dropout}
    inside = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert inside <= {dropout}


def test_dropout_of_an_architecture_without_any_is_refused():
    config = AutoConfig.for_model("mamba")
    models._set_dropout(config, 0.0)
    with pytest.raises(Refused, match="a mamba has no dropout"):
        models._set_dropout(config, 0.1)


# ------------------------------------------------------------------------------ presets

ARCHITECTURES = {
    "gpt2_large": "gpt2",
    "pythia_410m": "gpt_neox",
    "pythia_2_8b": "gpt_neox",
    "smollm2_135m": "llama",
    "qwen2_5_0_5b": "qwen2",
    "llama3_8b": "llama",
}
# What distinguishes the real configs from the defaults of their class, at toy width.
DETAILS = {
    "gpt2_large": {},
    "pythia_410m": {"rotary_pct": 0.25, "use_parallel_residual": True},
    "pythia_2_8b": {"rotary_pct": 0.25, "use_parallel_residual": True},
    "smollm2_135m": {
        "tie_word_embeddings": True,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
    },
    "qwen2_5_0_5b": {"tie_word_embeddings": True, "use_sliding_window": False},
    "llama3_8b": {
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_preset_at_toy_width(name, tmp_path):
    """Built, saved, loaded as the preset would be, and the same in every layout."""
    knobs = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert knobs["_target_"] == "dpo_lab.model.pretrained"
    assert knobs["path"].count("/") == 1
    Policy(tiny(ARCHITECTURES[name], **DETAILS[name]), Tokens()).save(tmp_path / name)
    knobs = {"revision": knobs["revision"], "dropout": knobs["dropout"]}
    model = pretrained(Tokens(), path=str(tmp_path / name), **knobs)
    policy = Policy(in_double(model), Tokens(), dtype="float64")
    assert choose_layout(policy, "shared", 64) == ("shared", None)
    assert policy.head is not None
    expected = one_by_one(policy.model, ROWS)
    for way, batch in every_layout(policy, ROWS).items():
        torch.testing.assert_close(
            token_logps(policy, batch), expected, rtol=0, atol=1e-10, msg=way
        )


def test_every_pretrained_preset_has_its_architecture_tested():
    presets = {
        path.stem
        for path in CONF.glob("*.yaml")
        if "dpo_lab.model.pretrained" in path.read_text() and path.stem != "pretrained"
    }
    assert presets == set(ARCHITECTURES)
