"""What this machine has to share out among jobs."""

from __future__ import annotations

import os
import re
import subprocess


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def accelerators(device: str) -> list[str]:
    """The CUDA devices that a run with `train.device=DEVICE` may use, as `CUDA_VISIBLE_DEVICES`
    names them; empty where there are none or none is wanted. Torch, which knows too, is not loaded.
    """
    if device not in ("auto", "cuda"):
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    slices = re.findall(r"UUID: (MIG-[\w/-]+)", done.stdout)
    return slices or re.findall(r"^GPU (\d+):", done.stdout, re.M)
