"""Named tensors on disk: safetensors, whole or not at all, never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpo_lab.errors import Stopped


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors to a file; names that share memory are written one by one.

    Raises `Stopped` for the first that holds NaN or infinity: nobody could go on from it.
    """
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise Stopped(f"{path.name}: {name} is not finite, so nothing is saved")
    flat = {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }
    save_file(flat, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read them back, on the CPU."""
    return load_file(path)


def size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes that they take."""
    return sum(value.numel() * value.element_size() for value in tensors.values())
