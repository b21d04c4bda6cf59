"""A policy without a network: a logit for every response to every prompt of a world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dpo_lab.policy import Policy
from dpo_lab.weights import save_tensors

if TYPE_CHECKING:
    from dpo_lab.tokenizer import Tokenizer
    from dpo_lab.worlds.truth import World


def tabular(world: World, tokenizer: Tokenizer, device: str) -> Tabular:
    """A policy that may say anything: what a loss does when no network stands in its way.

    It starts from the world's grammar, which is what SFT on endless sequences leads to, and trains
    in float64 on the loss's exact expectation over all pairs (see `population`). So it converges to
    the closed forms of `worlds.optimum`, and any distance left is the optimizer's.
    """
    return Tabular(world, tokenizer, device)


class Tabular(Policy):
    """Logits (P, n) in float64; their softmax over the n responses is the policy."""

    def __init__(self, world: World, tokenizer: Tokenizer, device: str):
        self.layout = "table"
        self.tokenizer = tokenizer
        self.dtype = "float64"
        self.device = torch.device(device)
        self.legal = world.legal_ids
        self.about = {"prompts": world.prompts, "words": world.words, "depth": world.tree.depth}
        drawn = world.grammar if world.source is None else world.source
        table: Any = _Table(world.grammar, drawn).to(self.device)
        self.model = self.network = table

    @property
    def has_adapter(self) -> bool:
        """Never."""
        return False

    def architecture(self) -> dict[str, Any]:
        """What its logits are of."""
        return self.about

    def plain(self) -> AbstractContextManager:
        """Nothing: there is no attention."""
        return nullcontext()

    def leaves(self, prompts: Sequence[int]) -> Tensor:
        """Log-probabilities (B, n) of every response to these prompts, with gradient."""
        return self.model.logits()[list(prompts)].log_softmax(1)

    def _write(self, folder: Path) -> None:
        """`table.safetensors` with `logps` (P, n) in the order of `Tree`; `table.json` names it."""
        with torch.no_grad():
            logps = self.leaves(range(len(self.model.start)))
        save_tensors(folder / "table.safetensors", {"logps": logps})
        (folder / "table.json").write_text(json.dumps(self.about))


class _Table(nn.Module):
    start: Tensor
    scale: Tensor

    """start + moved / sqrt(p), p the probability that a pair holds the response: a unit of `moved`
    matters as much for a rare response as for a common one. Measured in logits, a loss over pairs
    is a million times flatter along rare responses, and no gradient method gets there."""

    def __init__(self, start: np.ndarray, drawn: np.ndarray):
        super().__init__()
        self.moved = nn.Parameter(torch.zeros(start.shape, dtype=torch.float64))
        self.register_buffer("start", torch.tensor(start))
        self.register_buffer("scale", torch.tensor(np.exp(-drawn / 2)))

    def logits(self) -> Tensor:
        return self.start + self.scale * self.moved
