"""Where reference log-probabilities come from.

A reference is what a loss compares the policy with. Those that never change (`frozen`,
`checkpoint`, `adapter_off`) are tables of log-probabilities, computed once into the cache before
the first step; the network that gave them is then not needed. `ema` follows the policy, `uniform`
is zero.
"""

from dpo_lab.references.leaves import LeafTable
from dpo_lab.references.moving import Moving, Uniform, ema, uniform
from dpo_lab.references.reference import Changing, Reference, Stage
from dpo_lab.references.static import adapter_off, auto, checkpoint, frozen, none
from dpo_lab.references.table import Table, fill

__all__ = [
    "Changing",
    "LeafTable",
    "Moving",
    "Reference",
    "Stage",
    "Table",
    "Uniform",
    "adapter_off",
    "auto",
    "checkpoint",
    "ema",
    "fill",
    "frozen",
    "none",
    "uniform",
]
