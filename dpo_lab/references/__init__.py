"""Where reference log-probabilities come from.

A reference is what a loss compares the policy with. Those that never change (`frozen`,
`checkpoint`, `adapter_off`) are tables of log-probabilities, computed once into the cache before
the first step; the network that gave them is then not needed.
"""

from dpo_lab.references.reference import Reference, Stage
from dpo_lab.references.static import adapter_off, auto, checkpoint, frozen, none
from dpo_lab.references.table import Table, fill

__all__ = [
    "Reference",
    "Stage",
    "Table",
    "adapter_off",
    "auto",
    "checkpoint",
    "fill",
    "frozen",
    "none",
]
