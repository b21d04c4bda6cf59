"""Named tensors on disk: safetensors, whole or not at all, never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors to a file; names that share memory are written one by one."""
    flat = {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }
    save_file(flat, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read them back, on the CPU."""
    return load_file(path)
