"""Synthetic preference worlds whose truth is known exactly.

`world` is the source behind `data=world`, `judged(reward)` the same with a reward of one's own; a
world of one's own is a `World` given to `as_source`.
Scoring a policy on every response needs torch and lives in `dpo_lab.worlds.enumeration`; the
optima of the losses, in closed form, are in `dpo_lab.worlds.optimum`.
"""

from dpo_lab.worlds.frontier import Frontier
from dpo_lab.worlds.source import as_source, judged, with_pairs, world
from dpo_lab.worlds.truth import Recipe, World
from dpo_lab.worlds.worth import exact

__all__ = ["Frontier", "Recipe", "World", "as_source", "exact", "judged", "with_pairs", "world"]
