"""Log-probabilities of every row that a run looks at, under a policy that does not change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from dpo_lab.batch import Encoded, Example
from dpo_lab.cache import Cache, digest
from dpo_lab.layouts import lay_out
from dpo_lab.policy import Policy
from dpo_lab.references import LeafTable
from dpo_lab.references.table import SCORER_VERSION, Table, as_table, fill
from dpo_lab.scoring import token_logps
from dpo_lab.worlds import World
from dpo_lab.worlds.enumeration import conditionals
from dpo_lab.worlds.kept import kept_leaf_logps

# A tree of more leaves than this a prompt is not enumerated to look up a few thousand rows.
MOST_LEAVES = 200_000


class Scorer:
    """Scores the rows `wanted`, through the cache; in an enumerable world from its tree instead.

    A row is scored in eval mode, in a batch of its own (see `references.table`).
    """

    def __init__(
        self,
        rows: Sequence[Encoded],
        wanted: Sequence[int],
        cache: Cache,
        progress: Callable[[int, int], None],
        world: World | None = None,
        examples: Sequence[Example] = (),
        everything: bool = False,
    ):
        self.rows = rows
        self.wanted = wanted
        self.cache = cache
        self.progress = progress
        self.world = world
        self.examples = examples
        self.everything = everything

    def __call__(self, policy: Policy, weights: str) -> Table | LeafTable:
        """A table of the wanted rows under `policy` as it is; `weights` is their digest. With
        `everything`, one of all responses of the world."""
        if self.everything:
            assert self.world is not None
            leaves = torch.from_numpy(kept_leaf_logps(policy, self.world, self.cache))
            sha = hashlib.sha256(leaves.numpy().tobytes()).hexdigest()
            return LeafTable(leaves.to(policy.device), sha)
        parts: list[Any] = [SCORER_VERSION, weights, policy.dtype, policy.layout]
        parts += [str(policy.device), policy.legal, policy.architecture()]
        score = partial(_alone, policy)
        if self.world is not None and self.world.tree.num_leaves <= MOST_LEAVES:
            parts.append("tree")
            score = self._from_tree(policy, self.world)
        totals, sha = fill(self.rows, self.wanted, score, self.cache, digest(*parts), self.progress)
        dtype = torch.float64 if policy.dtype == "float64" else torch.float32
        return as_table(totals, sha, dtype, str(policy.device))

    def _from_tree(self, policy: Policy, world: World) -> Callable[[Encoded], np.ndarray]:
        """Rows looked up among all responses of the world: one pass over the tree at the first."""
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], np.ndarray] = {}

        def pass_over() -> None:
            table = world.locate(self.examples)
            assert table.rejected is not None
            tree = conditionals(policy, world)
            for side, leaves in (("chosen", table.chosen), ("rejected", table.rejected)):
                logps, tokens = world.tree.gather(tree, table.prompt, leaves)
                for row, values, length in zip(self.rows, logps, tokens, strict=True):
                    found[tuple(row.prompt), tuple(getattr(row, side))] = values[:length]

        def score(row: Encoded) -> np.ndarray:
            if not found:
                pass_over()
            sides = (row.chosen, row.rejected or [])
            return np.concatenate([found[tuple(row.prompt), tuple(side)] for side in sides])

        return score


def _alone(policy: Policy, row: Encoded) -> np.ndarray:
    """Per-token log-probabilities of a row's answers, chosen first, in a batch of its own."""
    paired = row.rejected is not None
    batch = lay_out([row], [0], policy.layout, pad_id=policy.tokenizer.pad_id, paired=paired)
    policy.eval()
    with torch.no_grad(), policy.autocast():
        values = token_logps(policy, batch.to(policy.device))
    return values.cpu().numpy()
