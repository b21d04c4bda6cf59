"""The same run on the same GPU gives the same bits, as it does on a CPU."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from dpo_lab.errors import Stopped


@contextmanager
def repeatable(device: str, wanted: bool) -> Generator[None]:
    """Within, `wanted` lets CUDA use only algorithms that add in an order of their own.

    Afterwards torch's settings are as before. On a CPU there is nothing to do. Raises `Stopped`
    where the network asks for an operation that has no such algorithm.
    """
    if device != "cuda" or not wanted:
        yield
        return
    # read by cuBLAS at its first product; without it torch refuses to promise anything
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    filling: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        filling.fill_uninitialized_memory,
    )
    # not `warn_only`: attention would then take its faster algorithms, with a warning
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False  # for finding uses of such memory; it takes time
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise Stopped(
            f"{str(error).split('. ')[0]}\n"
            "type train.deterministic=false: on a GPU the run then repeats to rounding only"
        ) from None
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        filling.fill_uninitialized_memory = before[2]
