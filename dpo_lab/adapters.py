"""Adapters: small trained additions to a network whose own weights stay as they are."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dpo_lab.errors import Refused
from dpo_lab.ranges import Count, Dropout, Seed
from dpo_lab.spelling import did_you_mean

if TYPE_CHECKING:
    from peft import PeftModel

ALL_LINEAR = "all-linear"


def none(model: PreTrainedModel) -> PreTrainedModel:
    """No adapter: all weights are trained."""
    return model


def lora(
    model: PreTrainedModel,
    *,
    r: Annotated[int, Count],
    alpha: Annotated[int, Count],
    dropout: Annotated[float, Dropout] = 0.0,
    target_modules: list[str],
    modules_to_save: list[str],
    merge_on_export: bool = True,
    seed: Annotated[int, Seed] = 0,
) -> PeftModel:
    """LoRA (arXiv 2106.09685): W + (alpha / r) B A, with A random, B zero, and W frozen.

    The network starts as exactly the one it is put on, and is that one again with the adapter off.

    - `r`: rank of A (r, in) and B (out, r). `alpha`: scale of their product, before division by r.
    - `dropout`: on what goes into A.
    - `target_modules`: last parts of the names of the layers that get an adapter, such as `q_proj`;
      or `all-linear` alone, every linear layer but the head.
    - `modules_to_save`: modules that are trained in full beside it.
    - `merge_on_export`: export W + (alpha / r) B A as an ordinary model; false: the adapter alone,
      which refers to the model it was put on.
    - `seed`: of A. The global random state stays as it is.

    Raises `Refused` for names that no layer has, and for what cannot be exported.
    """
    from peft import LoraConfig, get_peft_model  # takes a while, and most runs have no adapter

    _check_names(model, target_modules, modules_to_save)
    if not merge_on_export and not model.name_or_path:
        raise Refused(
            "adapter.merge_on_export=false exports an adapter that refers to its base, but this "
            "model comes from no folder\ntype adapter.merge_on_export=true"
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=ALL_LINEAR if target_modules == [ALL_LINEAR] else target_modules,
        modules_to_save=modules_to_save or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft still asks transformers for attributes by their former names
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(model, config)
    adapted.merge_on_export = merge_on_export
    return adapted


def _check_names(model: PreTrainedModel, targets: list[str], saved: list[str]) -> None:
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Embedding, Conv1D))
    }
    modules = dict(model.named_modules())
    tied = [model.get_input_embeddings(), model.get_output_embeddings()]
    for knob, names, known in (
        ("target_modules", targets, layers),
        ("modules_to_save", saved, modules),
    ):
        if knob == "target_modules" and targets == [ALL_LINEAR]:
            continue
        for wanted in names:
            found = [m for name, m in known.items() if f".{name}".endswith(f".{wanted}")]
            if not found:
                ends = dict.fromkeys(name.rpartition(".")[2] for name in layers)
                hint = did_you_mean(wanted, [*ends, ALL_LINEAR])
                raise Refused(f"adapter.{knob}: no layer is named {wanted!r}{hint}")
            if model.config.tie_word_embeddings and any(m is t for m in found for t in tied):
                raise Refused(
                    f"adapter.{knob}: {wanted} shares its weights with the other end of the "
                    "network; an adapter would part them\n"
                    "leave it out, or use a model with tie_embeddings=false"
                )
    if not targets:
        raise Refused(
            f"adapter.target_modules is empty\ntype adapter.target_modules=[{ALL_LINEAR}]"
        )
