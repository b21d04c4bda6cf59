"""Log-probabilities of everything that can be said, of policies that do not change: on disk.

The runs of a sweep begin at the same start, and one pass over the tree is a tenth of a small run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from dpo_lab.cache import Cache, digest
from dpo_lab.worlds.enumeration import leaf_logps
from dpo_lab.worlds.truth import World

if TYPE_CHECKING:
    from dpo_lab.policy import Policy

VERSION = 1
MOST_BYTES = 2**26  # above it a table is computed wherever it is needed


def kept_leaf_logps(policy: Policy, world: World, cache: Cache) -> np.ndarray:
    """`enumeration.leaf_logps` (P, n) of the policy as it is, to the last bit, through the cache.

    An entry that fails its checksum is dropped and computed again.
    """
    size = 8 * len(world.prompts) * world.tree.num_leaves
    if policy.layout == "table" or size > MOST_BYTES:
        return leaf_logps(policy, world)
    key = _key(policy, world)
    fresh: list[np.ndarray] = []

    def build(place: Path) -> None:
        fresh.append(leaf_logps(policy, world))
        logps = np.ascontiguousarray(fresh[0])
        save_file({"logps": logps, "sha256": _checksum(logps)}, place / "leaves.safetensors")

    for _ in range(2):
        place = cache.entry("leaves", key, build)
        logps = fresh[0] if fresh else _read(place / "leaves.safetensors")
        if logps is not None:
            return logps
        cache.drop("leaves", key)
    return leaf_logps(policy, world)


def _key(policy: Policy, world: World) -> str:
    """Of everything that the values depend on; threads decide about their last bits."""
    tree = world.tree
    return digest(
        VERSION,
        [policy.digest(), policy.architecture(), policy.dtype, str(policy.device)],
        [world.prompt_ids.tolist(), list(world.legal_ids), tree.num_words, tree.depth],
        torch.get_num_threads(),
        torch.__version__,
    )


def _read(path: Path) -> np.ndarray | None:
    """None where the file is damaged."""
    try:
        arrays = load_file(path)
        whole = (_checksum(arrays["logps"]) == arrays["sha256"]).all()
        return arrays["logps"] if whole else None
    except Exception:  # whatever is wrong with it
        return None


def _checksum(logps: np.ndarray) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(logps.data).digest(), np.uint8)
