"""Networks: a Llama made from a config, or any causal language model of a folder or the hub.

Nothing a model folder brings is ever run: weights come from safetensors alone, code from
transformers alone. All weights are loaded in float32.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from dpo_lab.errors import Refused
from dpo_lab.hub import download
from dpo_lab.ranges import Count, Dropout, Seed

if TYPE_CHECKING:
    from dpo_lab.tokenizer import Tokenizer

# The files of a hub model that are read: no pickles, no code.
FILES = [
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model*.safetensors.index.json",
]
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]


def quiet_libraries() -> None:
    """No progress bars and no advice from transformers and the hub; errors still speak."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def llama(
    tokenizer: Tokenizer,
    *,
    hidden_size: Annotated[int, Count],
    num_layers: Annotated[int, Count],
    num_heads: Annotated[int, Count],
    num_key_value_heads: Annotated[int | None, Count] = None,
    intermediate_size: Annotated[int, Count],
    max_positions: Annotated[int, Count],
    tie_embeddings: bool = False,
    vocab_size: Annotated[int | None, Count] = None,
    dropout: Annotated[float, Dropout] = 0.0,
    seed: Annotated[int, Seed] = 0,
) -> PreTrainedModel:
    """A Llama with random weights (arXiv 2302.13971, 2307.09288).

    - `hidden_size`, `intermediate_size`: width of the residual stream and of the MLP.
    - `num_heads`: attention heads, `num_key_value_heads` of which have keys and values (null: all).
    - `max_positions`: tokens of the longest sequence.
    - `tie_embeddings`: one matrix for input and output tokens.
    - `vocab_size`: rows of these matrices; null: one for each token of the tokenizer. A tokenizer
      that is trained for the run is asked for this many.
    - `dropout`: of attention weights, the only dropout a Llama has.
    - `seed`: of the weights. The global random state stays as it is.

    Raises `Refused` where the numbers do not divide or the vocabulary is too small.
    """
    key_value_heads = num_key_value_heads or num_heads
    if hidden_size % (2 * num_heads) or num_heads % key_value_heads:
        raise Refused(
            "expected model.hidden_size to be a multiple of 2 * model.num_heads, and "
            "model.num_heads one of model.num_key_value_heads\n"
            f"got {hidden_size}, {num_heads} and {key_value_heads}"
        )
    config = LlamaConfig(
        vocab_size=vocab_size or tokenizer.vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=tie_embeddings,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    _set_dropout(config, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    _check_vocabulary(model, tokenizer)
    return model.float()


def pretrained(
    tokenizer: Tokenizer,
    *,
    path: str,
    revision: str | None = None,
    dropout: Annotated[float, Dropout] = 0.0,
) -> PreTrainedModel:
    """A causal language model of a local folder or the Hugging Face hub.

    - `path`: a folder with config.json and safetensors, or a hub name such as `Qwen/Qwen2.5-0.5B`.
      The folder of an exported adapter gives its base with the adapter merged into it.
    - `revision`: branch, tag or commit on the hub; null: main.
    - `dropout`: of everything the architecture has dropout for.

    Raises `Refused` for a folder that is missing, holds pickles only or brings code of its own, for
    weights that do not fill the model, and for a vocabulary smaller than the tokenizer's.
    """
    quiet_libraries()
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = download(path, revision, FILES + ADAPTER_FILES)
    _refuse_unsafe(folder)
    if (folder / "adapter_config.json").is_file():
        return _merged(tokenizer, folder, dropout)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _set_dropout(config, dropout)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Refused:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise Refused(
            f"{folder} cannot be loaded as a causal language model\n"
            f"{type(error).__name__}: {reason}"
        ) from error
    model, loading = loaded
    absent = sorted(loading["missing_keys"]) + sorted(map(str, loading["mismatched_keys"]))
    if absent:
        raise Refused(
            f"the weights in {folder} do not fill a {type(model).__name__}\n"
            f"{len(absent)} are missing or of another shape, first {absent[0]}"
        )
    _check_vocabulary(model, tokenizer)
    return model


def _merged(tokenizer: Tokenizer, folder: Path, dropout: float) -> PreTrainedModel:
    from peft import PeftModel

    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = pretrained(tokenizer, path=base, dropout=dropout)
    with warnings.catch_warnings():
        # peft still asks transformers for attributes by their former names
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()


def _refuse_unsafe(folder: Path) -> None:
    """Refuse a folder that is no model, or that could only be loaded by running its own code."""
    config = folder / "config.json"
    adapter = folder / "adapter_config.json"
    if not config.is_file() and not adapter.is_file():
        raise Refused(f"{folder} is no model: expected config.json and *.safetensors in it")
    code = sorted(path.name for path in folder.glob("*.py"))
    if not code and config.is_file() and "auto_map" in json.loads(config.read_text()):
        code = ["auto_map in config.json"]
    if code:
        raise Refused(
            f"{folder} brings code of its own ({code[0]}), which is never run here\n"
            "use a model whose architecture is part of transformers"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = [path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind)]
        found = (
            f"only {pickles[0]}, a pickle, which could run code when read" if pickles else "none"
        )
        raise Refused(
            f"expected weights as *.safetensors in {folder}; found {found}\n"
            "convert where you trust it: AutoModelForCausalLM.from_pretrained(A).save_pretrained(B)"
        )


def _check_vocabulary(model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    embeddings: Any = model.get_input_embeddings()
    size = embeddings.weight.shape[0]
    if size < tokenizer.vocab_size:
        raise Refused(
            f"the model knows {size} tokens, but its tokenizer writes {tokenizer.vocab_size}\n"
            "use the model's own tokenizer, or model.vocab_size=null for one made from a config"
        )


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Set every dropout the architecture has; `layerdrop`, which skips layers, is always off."""
    names = [
        name
        for name, value in config.to_dict().items()
        if isinstance(value, (int, float))
        and ("dropout" in name or name.endswith("pdrop"))
        # of heads for other tasks than language modelling
        and not name.startswith(("classifier", "summary"))
    ]
    if dropout > 0 and not names:
        raise Refused(
            f"model.dropout={dropout:g}, but a {config.model_type} has no dropout\n"
            "type model.dropout=0"
        )
    for name in names:
        setattr(config, name, dropout)
    if hasattr(config, "layerdrop"):
        config.layerdrop = 0.0
