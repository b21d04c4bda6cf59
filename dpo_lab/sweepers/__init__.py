"""Which runs a sweep has: the options of the group `sweeper`."""

from dpo_lab.sweepers.grid import grid
from dpo_lab.sweepers.search import optuna

__all__ = ["grid", "optuna"]
