"""The network that is trained or scored, and how it is run: precision, adapter, layout, export."""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from dpo_lab.attention import SEGMENTS, Attention
from dpo_lab.disk import sync
from dpo_lab.model import quiet_libraries
from dpo_lab.precision import widen_norms
from dpo_lab.probes import choose_layout, plain_head
from dpo_lab.templates import stop_ids

if TYPE_CHECKING:
    from peft import PeftModel

    from dpo_lab.tokenizer import Tokenizer

__all__ = ["Policy", "choose_layout"]

# of a config: what differs between networks that compute the same
_NAMES = {"_name_or_path", "architectures", "dtype", "transformers_version"}

MATMUL = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Policy:
    """A causal language model with all that scoring it takes.

    - `model`: as `dpo_lab.model` loads it, or with an adapter as `dpo_lab.adapters` wraps it.
    - `layout`: how its batches are laid out; see `choose_layout`.
    - `dtype`: float32; bfloat16, which is autocast over float32 parameters; or float64.
    - `legal`: the token ids that responses are made of; None for the whole vocabulary.
    - `gradient_checkpointing`: recompute each layer's activations in the backward pass.

    For scoring: `body` is the decoder under the head; `head` maps its states to logits, or is None
    where the model does more to them than that (soft caps, scales).
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: Tokenizer,
        *,
        layout: str = "shared",
        dtype: Literal["float32", "bfloat16", "float64"] = "float32",
        device: str = "cpu",
        legal: list[int] | None = None,
        gradient_checkpointing: bool = False,
    ):
        self.layout = layout
        self.tokenizer = tokenizer
        self.dtype = dtype
        self.device = torch.device(device)
        self.legal = legal
        self.matmul_dtype = MATMUL[dtype]
        stored = torch.float64 if dtype == "float64" else torch.float32
        self.model = model.to(device=self.device, dtype=stored)
        self.model.train()  # every module of it, so that its own mode is that of all
        plain = model if isinstance(model, PreTrainedModel) else model.get_base_model()
        self.network = cast(PreTrainedModel, plain)
        if dtype == "float64":
            widen_norms(self.network)
        self.config: Any = self.network.config
        self.body: nn.Module = self.network.base_model
        self.takes_positions = _takes(self.body, "position_ids")
        self.takes_logits_to_keep = _takes(self.network, "logits_to_keep")
        self.head = plain_head(self.network, self.body)
        self._own_attention = self.config._attn_implementation
        self.legal_ids: Tensor | None = None
        if legal is not None:
            self.legal_ids = torch.tensor(legal, device=self.device)
            # An illegal id maps to -1, out of bounds: scoring one is an error.
            places = torch.full((self.config.vocab_size,), -1, device=self.device)
            places[self.legal_ids] = torch.arange(len(legal), device=self.device)
            self.legal_places = places
        if gradient_checkpointing:
            self.network.activation_checkpointing_enable(
                {"use_reentrant": False, "context_fn": _recompute_as_run(self.config)}
            )

    @property
    def has_adapter(self) -> bool:
        """Whether the network carries an adapter that can be switched off."""
        return not isinstance(self.model, PreTrainedModel)  # peft takes long to import only to ask

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that training moves, tied ones once."""
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def train(self) -> None:
        """Dropout on, where the model has any."""
        if not self.model.training:  # a walk over all modules, for nothing in most steps
            self.model.train()

    def eval(self) -> None:
        """Dropout off."""
        if self.model.training:
            self.model.eval()

    def autocast(self) -> AbstractContextManager:
        """Within, matrix products run in bfloat16 where that is this policy's `dtype`."""
        enabled = self.dtype == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def plain(self) -> AbstractContextManager:
        """Within, as outside of `segmented`, the model runs its own attention: SDPA if it can."""
        return Attention(self.config, self._own_attention)

    def segmented(self) -> AbstractContextManager:
        """Within, every forward of the network needs the keyword `segments`."""
        return Attention(self.config, SEGMENTS)

    @contextmanager
    def adapter_off(self) -> Generator[None, None, None]:
        """Within, the network that the adapter was put on, in eval mode; modules trained in full
        (`modules_to_save`) are the original ones too. Afterwards as before, whatever happens."""
        assert self.has_adapter
        training = self.model.training
        self.model.eval()
        try:
            with self.model.disable_adapter():
                yield
        finally:
            self.model.train(training)

    def twin(self) -> Policy:
        """A copy in eval mode that is never trained. The weights that this policy trains are its
        own there; those that are frozen here (the base of an adapter) are the same tensors."""
        shared = [p for p in self.model.parameters() if not p.requires_grad]
        memo: dict[int, Any] = {id(kept): kept for kept in [*shared, self.tokenizer]}
        twin = copy.deepcopy(self, memo)
        twin.model.requires_grad_(False)
        twin.eval()
        return twin

    def weights(self) -> dict[str, Tensor]:
        """What training changes, by name, tied weights once: the trainable parameters."""
        return {name: p.detach() for name, p in self.trainable()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Put back what `weights` gave; the names must be the same."""
        own = self.weights()
        assert own.keys() == weights.keys(), sorted(own.keys() ^ weights.keys())[:5]
        for name, value in weights.items():
            own[name].copy_(value)

    def architecture(self) -> dict[str, Any]:
        """What the network computes with its weights, as plain data: two networks of the same
        weights may differ in the number of their heads, say, or in the scale of an adapter."""
        plain = {key: value for key, value in self.config.to_dict().items() if key not in _NAMES}
        for name, adapter in getattr(self.model, "peft_config", {}).items():
            plain[f"adapter {name}"] = {
                key: sorted(value) if isinstance(value, set) else value
                for key, value in adapter.to_dict().items()
            }
        return plain

    def digest(self) -> str:
        """SHA-256 over names, shapes, types and bytes of all weights, adapters included."""
        sha = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            sha.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            sha.update(flat.view(torch.uint8).numpy().data)
        return sha.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Export in Hugging Face format with the tokenizer, replacing `folder` at once when done.

        `AutoModelForCausalLM.from_pretrained(folder)` gives the same log-probabilities. An adapter
        is merged into its base, or exported alone where `merge_on_export` is false. Generation is
        told to suppress illegal tokens.
        """
        target = Path(folder).resolve()
        for stale in target.parent.glob(f".{target.name}.*"):  # of one that was killed
            shutil.rmtree(stale)
        work = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        work.mkdir(parents=True)
        try:
            self._write(work)
            for path in [*work.rglob("*"), work]:
                sync(path)
            if target.exists():
                old = work.with_suffix(".old")
                target.rename(old)
                work.rename(target)
                shutil.rmtree(old)
            else:
                work.rename(target)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise

    def _write(self, folder: Path) -> None:
        quiet_libraries()
        self.tokenizer.save(folder)
        model: Any = self.model
        if self.has_adapter:
            if not model.merge_on_export:
                # False: never ask the hub whether the base's vocabulary has changed.
                model.save_pretrained(folder, save_embedding_layers=False)
                return
            model = copy.deepcopy(model).merge_and_unload()
        model.save_pretrained(folder)
        generation = copy.deepcopy(model.generation_config)
        if self.tokenizer.chat_template is not None:
            generation.eos_token_id = stop_ids(self.tokenizer)  # a turn's end ends an answer too
        if self.legal is not None:
            illegal = set(range(self.config.vocab_size)) - set(self.legal)
            generation.suppress_tokens = sorted(illegal)
        generation.save_pretrained(folder)


def _takes(module: nn.Module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


def _recompute_as_run(config: PreTrainedConfig) -> Callable[[], tuple[Any, Any]]:
    """For gradient checkpointing: a layer that is recomputed in the backward pass runs the
    attention it ran forwards, though the model is back at its own by then."""

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), Attention(config, config._attn_implementation)

    return contexts
