"""Where the jobs of a sweep run: the options of the group `launcher`."""

from dpo_lab.launchers.local import local
from dpo_lab.launchers.slurm import slurm

__all__ = ["local", "slurm"]
