"""Finished runs of a world, as distributions over all of its responses. Loads torch when called."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dpo_lab.results import Run
from dpo_lab.worlds import World

if TYPE_CHECKING:
    from dpo_lab.assembly import Assembly


class Enumerated(NamedTuple):
    """A world with the sources of its pairs, and what a run started from: (P, n) logps."""

    world: World
    start: np.ndarray


def start(run: Run) -> Enumerated:
    """The world and the start of a run, from the cache; the start is trained again if it is gone.

    Nothing is written into the run's folder.
    """
    from dpo_lab.worlds.kept import kept_leaf_logps

    assembly = _assembly(run)
    policy = assembly.policy()
    world = assembly.intake.source.world
    assert world is not None
    return Enumerated(world, kept_leaf_logps(policy, world, assembly.cache))


def end(run: Run, world: World) -> np.ndarray:
    """Log-probabilities (P, n) of a run's final policy, from its folder."""
    from dpo_lab.worlds.enumeration import leaf_logps

    return leaf_logps(_assembly(run)._other(str(run.folder / "final")), world)


def conditionals_of(run: Run, world: World, start: bool = False) -> list[np.ndarray]:
    """Next-token log-probabilities of a run's final policy, or of its start, after every prefix.

    As `worlds.enumeration.conditionals`.
    """
    from dpo_lab.worlds.enumeration import conditionals

    assembly = _assembly(run)
    policy = assembly.policy() if start else assembly._other(str(run.folder / "final"))
    return conditionals(policy, world)


def _assembly(run: Run) -> Assembly:
    from dpo_lab.assembly import Assembly
    from dpo_lab.cache import Cache
    from dpo_lab.compose import compose
    from dpo_lab.intake import prepare, read

    config = compose(run.overrides, run.record.get("config_dir"))
    cache = Cache(config.cache_dir)
    intake = prepare(config, read(config), cache)
    return Assembly(config, intake, cache, lambda text: None, lambda *stage: None)
