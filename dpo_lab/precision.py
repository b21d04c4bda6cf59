"""float64 that is float64 throughout.

transformers' RMS norms compute in float32 whatever comes in. Sums that run in another order, as the
gradient of a shared prompt does, would then differ by float32 rounding in a float64 network.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def widen_norms(network: nn.Module) -> None:
    """Let RMS norms of a known formula compute in float64 in a float64 network."""
    for module in network.modules():
        if not type(module).__name__.endswith("RMSNorm") or not hasattr(module, "weight"):
            continue
        for offset in (0.0, 1.0):  # Gemma's weights are kept as their distance from 1
            wide = _wide(type(module), offset)
            if _agree(module, wide):
                module.__class__ = wide
                break


@cache
def _wide(kind: type[nn.Module], offset: float) -> type[nn.Module]:
    """The same class with a forward in the precision of its input."""

    def forward(self: Any, x: Tensor) -> Tensor:
        eps = self.eps if hasattr(self, "eps") else self.variance_epsilon
        normed = x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()
        return normed * (offset + self.weight)

    return type(kind.__name__, (kind,), {"forward": forward, "__doc__": kind.__doc__})


def _agree(module: nn.Module, wide: type[nn.Module]) -> bool:
    weight = module.get_parameter("weight")
    x = torch.linspace(-1, 2, 3 * len(weight), dtype=torch.float64, device=weight.device)
    x = x.view(3, len(weight))
    with torch.no_grad():
        expected = module(x)
        ours = wide.forward(module, x)
    return bool(torch.allclose(ours, expected, rtol=1e-5, atol=1e-6))
