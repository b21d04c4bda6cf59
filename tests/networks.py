"""Tiny networks of the architectures people use, and what plain transformers makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from dpo_lab.batch import Encoded
from dpo_lab.layouts import LAYOUTS, lay_out
from dpo_lab.policy import Policy

torch.set_num_threads(1)  # these networks are too small for more

VOCAB = 40
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCAB}
GPT2 |= {
    "bos_token_id": 1,
    "eos_token_id": 1,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
}

CONFIGS = {
    "llama": (transformers.LlamaConfig, GROUPED),
    "gpt2": (transformers.GPT2Config, GPT2),
    "gpt_neox": (transformers.GPTNeoXConfig, SIZES),
    "qwen2": (transformers.Qwen2Config, GROUPED),
    "qwen3": (transformers.Qwen3Config, GROUPED | {"head_dim": 8}),
    "gemma": (transformers.GemmaConfig, GROUPED | {"head_dim": 8}),
    "phi": (transformers.PhiConfig, SIZES),
    "mistral": (transformers.MistralConfig, GROUPED | {"sliding_window": 6}),
    "gemma2": (transformers.Gemma2Config, GROUPED | {"head_dim": 8}),
    "granite": (transformers.GraniteConfig, GROUPED | {"logits_scaling": 4.0}),
    "cohere": (transformers.CohereConfig, GROUPED),
    "gptj": (transformers.GPTJConfig, GPT2 | {"rotary_dim": 4}),
}

# Four pairs of different lengths; the second has one-token responses, the last shares a first
# token.
ROWS = [
    Encoded([3, 4, 5, 6], [7, 8, 9, 1], [10, 11, 1]),
    Encoded([12], [13], [14]),
    Encoded([5, 5, 2, 9, 30, 31], [1], [32, 33, 34, 35, 36, 1]),
    Encoded([20, 21, 0, 22, 23, 24, 25, 26, 27], [28, 29, 1], [28, 1]),
]


@dataclass
class Tokens:
    """As much of a tokenizer as a network asks for."""

    chat_template = None

    vocab_size: int = VOCAB
    bos_id: int | None = None
    eos_id: int = 1
    pad_id: int = 0

    def save(self, folder: Path) -> None:
        (Path(folder) / "tokenizer.json").write_text("{}")


def tiny(kind: str, seed: int = 0, **changes: object) -> transformers.PreTrainedModel:
    """A tiny network of one architecture, with weights large enough that attention matters."""
    make, sizes = CONFIGS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(make(**sizes | changes))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def in_double(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The model in float64 throughout: transformers' RMS norms compute in float32 whatever comes
    in, so that gradients which are summed in another order would differ by float32 rounding."""
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, Norm(module))
    return model.double()


class Norm(nn.Module):
    def __init__(self, norm: nn.Module):
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        self.offset = 1.0 if type(norm).__name__.startswith("Gemma") else 0.0

    def forward(self, x: Tensor) -> Tensor:
        return (
            x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * (self.offset + self.weight)
        )


def one_by_one(model: nn.Module, rows: list[Encoded], paired: bool = True) -> Tensor:
    """Per-token log-probabilities in the order of `Batch.targets`: plain transformers, one sequence
    at a time, full logits, full log-softmax."""
    sides = [row.chosen for row in rows] + ([row.rejected for row in rows] if paired else [])
    parts = []
    for prompt, response in zip([row.prompt for row in rows] * 2, sides, strict=False):
        ids = torch.tensor([prompt + response])
        logits = model(input_ids=ids, use_cache=False).logits[0]
        logps = logits.to(next(model.parameters()).dtype).log_softmax(-1)
        start = len(prompt)
        parts.append(logps[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0])
    return torch.cat(parts)


def every_layout(policy: Policy, rows: list[Encoded], paired: bool = True) -> dict:
    """The rows laid out in each way, padded on both sides."""
    ways = {name: (name, "right") for name in LAYOUTS} | {"left": ("padded", "left")}
    return {
        way: lay_out(
            rows,
            range(len(rows)),
            layout,
            pad_id=policy.tokenizer.pad_id,
            paired=paired,
            pad_side=side,
        )
        for way, (layout, side) in ways.items()
    }


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of each trainable parameter, which has none afterwards."""
    model.zero_grad()
    loss.backward()
    out = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return out
