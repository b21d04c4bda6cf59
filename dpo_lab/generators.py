"""The states of the generators that dropout draws from."""

from __future__ import annotations

import torch


def states(device: str) -> dict[str, torch.Tensor]:
    """Of the CPU and of the device."""
    found = {"cpu": torch.get_rng_state()}
    if device == "cuda":
        found["cuda"] = torch.cuda.get_rng_state()
    if device == "mps":
        found["mps"] = torch.mps.get_rng_state()
    return found


def set_states(states: dict[str, torch.Tensor], device: str) -> None:
    """Put them back."""
    torch.set_rng_state(states["cpu"])
    if device == "cuda":
        torch.cuda.set_rng_state(states["cuda"])
    if device == "mps":
        torch.mps.set_rng_state(states["mps"])
