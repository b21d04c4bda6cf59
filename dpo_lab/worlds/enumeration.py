"""A policy's log-probability of everything that can be said: level by level with a KV cache or,
with gradient and where the policy honours who sees whom in a row, in one pass.

With `kept`, which puts that on disk, the only file of the worlds that needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dpo_lab.attention import Unsupported
from dpo_lab.tabular import Tabular
from dpo_lab.whole_tree import WholeTree
from dpo_lab.worlds.truth import World

if TYPE_CHECKING:
    from dpo_lab.policy import Policy

# prefixes that go through the model at once; on a CPU more of them are slower, on a GPU fewer
ROWS_ON_CPU = 2_048
ROWS_ELSEWHERE = 16_384
SEGMENTED = ("shared", "packed")  # layouts of policies that honour who sees whom in a row


def leaf_logps(policy: Policy, world: World) -> np.ndarray:
    """Log-probability (P, n), float64, of every response, leaves in the order of `world.tree`.

    Each row of probabilities sums to one, whatever the policy.
    """
    if isinstance(policy, Tabular):
        with torch.no_grad():
            return policy.leaves(range(len(world.prompts))).cpu().numpy()
    return world.tree.fold(conditionals(policy, world))


def leaves(policy: Policy, world: World, prompts: Sequence[int]) -> Tensor:
    """The same for some prompts, (B, n) float64 with gradient.

    Every prefix of the tree is computed once, so memory grows with B times the prefixes. In the
    mode (training or not) that the model is in.
    """
    if isinstance(policy, Tabular):
        return policy.leaves(prompts)
    ids = torch.as_tensor(world.prompt_ids[list(prompts)], device=policy.device)
    levels = _in_one_row(policy, world, ids) if policy.layout in SEGMENTED else None
    prefix = torch.zeros(len(ids), 1, dtype=torch.float64, device=policy.device)
    parts = []
    for table in levels or _level_by_level(policy, world, ids):
        table = table.double().log_softmax(-1).view(len(ids), -1, world.tree.num_words + 1)
        parts.append(prefix + table[:, :, 0])
        prefix = (prefix[:, :, None] + table[:, :, 1:]).flatten(1)
    return torch.cat([*parts, prefix], 1)


def _in_one_row(policy: Policy, world: World, ids: Tensor) -> list[Tensor] | None:
    """Logits of the legal tokens after every prefix, level by level, all in one forward pass.

    None where the network cannot see so far (a window shorter than the longest response).
    """
    tree, legal = world.tree, torch.as_tensor(world.legal_ids, device=policy.device)
    whole = WholeTree(*ids.shape, tree.num_words, tree.depth - 1)
    said = [legal[1:].repeat(size // tree.num_words) for size in whole.sizes[1:]]
    last = torch.arange(1, len(ids) + 1) * ids.shape[1] - 1
    row = {
        "input_ids": torch.cat([ids.flatten(), *said])[None],
        "segments": whole,
        "use_cache": False,
    }
    if policy.takes_positions:
        row["position_ids"] = whole.places().to(policy.device)[None]
    try:
        with policy.segmented():
            logits = policy.model(**row).logits[0][:, legal]
    except Unsupported:
        return None
    first, *others = logits.split(whole.sizes)
    return [first[last.to(policy.device)], *others]


def _level_by_level(policy: Policy, world: World, ids: Tensor) -> Iterator[Tensor]:
    """The same through the KV cache, one forward pass a level."""
    tree, legal = world.tree, torch.as_tensor(world.legal_ids, device=policy.device)
    cache = None
    for level in range(tree.depth):
        with policy.plain():
            out: Any = policy.model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
        yield out.logits[:, -1, legal]
        if level + 1 < tree.depth:
            cache = out.past_key_values
            cache.batch_repeat_interleave(tree.num_words)
            ids = legal[1:].repeat(len(ids))[:, None]


def conditionals(policy: Policy, world: World, *, max_rows: int | None = None) -> list[np.ndarray]:
    """Next-token log-probabilities after every prefix, for l = 0..T-1 words: (P, V**l, V + 1).

    Column 0 is EOS, columns 1..V the words; softmax over these legal tokens alone, in float64. The
    model runs in eval mode without gradients, and gets its mode back. `max_rows`: prefixes that go
    through the model at once; None: as many as suits the device.
    """
    on_cpu = torch.device(policy.device).type == "cpu"
    max_rows = max_rows or (ROWS_ON_CPU if on_cpu else ROWS_ELSEWHERE)
    assert max_rows >= world.tree.num_words
    walk = _Walk(policy, world, max_rows)
    training = policy.model.training
    policy.model.eval()
    try:
        with torch.no_grad(), policy.plain(), policy.autocast():
            walk.visit(0, 0, walk.prompts, None)
    finally:
        policy.model.train(training)
    num = len(world.prompts)
    return [level.reshape(num, len(level) // num, -1) for level in walk.levels]


def response_logps(
    tables: Sequence[np.ndarray], world: World, prompts: np.ndarray, leaves: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Per-token log-probabilities of N responses, looked up in what `conditionals` returned.

    - `prompts`, `leaves`: (N,) numbers, as `World.locate` gives them.

    Returns (N, T) float64, 0 after the last scored token, and (N,) scored tokens.
    """
    return world.tree.gather(tables, prompts, leaves)


class _Walk:
    """Depth-first over the tree, a block of neighbouring prefixes at a time.

    The P * V**l prefixes of level l are numbered prompt by prompt, so the children of the block
    [start, stop) are the block [start * V, stop * V) of the next level.
    """

    def __init__(self, policy: Policy, world: World, max_rows: int):
        self.model = policy.model
        self.max_rows = max_rows
        self.num_words, self.depth = world.tree.num_words, world.tree.depth
        self.prompts = torch.as_tensor(world.prompt_ids, device=policy.device)
        self.legal = torch.as_tensor(world.legal_ids, device=policy.device)
        sizes = [len(self.prompts) * self.num_words**level for level in range(self.depth)]
        self.levels = [np.empty((size, self.num_words + 1)) for size in sizes]

    def visit(self, level: int, start: int, ids: Tensor, cache: Any) -> None:
        """Score what follows the prefixes `start`.. of `level`, then walk on below them.

        `ids`: (rows, new tokens) of these prefixes; `cache`: keys and values of what precedes.
        """
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = out.logits[:, -1, self.legal].double()
        self.levels[level][start : start + len(ids)] = logits.log_softmax(-1).cpu().numpy()
        if level + 1 == self.depth:
            return
        step = self.max_rows // self.num_words
        for first in range(0, len(ids), step):
            rows = range(first, min(first + step, len(ids)))
            below = _rows_of(out.past_key_values, rows) if len(ids) > step else out.past_key_values
            below.batch_repeat_interleave(self.num_words)
            words = self.legal[1:].repeat(len(rows))[:, None]
            self.visit(level + 1, (start + first) * self.num_words, words, below)


def _rows_of(cache: Any, rows: range) -> Any:
    """A cache of some of the rows; the tensors of `cache` stay as they are."""
    part = copy(cache)
    part.layers = [copy(layer) for layer in cache.layers]
    part.batch_select_indices(torch.tensor(rows))
    return part
