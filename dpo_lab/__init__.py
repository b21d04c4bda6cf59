"""dpo_lab: a config-driven laboratory for preference optimisation.

`train(overrides)` runs what the command line runs; `runs(folder)` reads finished runs as a table.
Nothing heavy is imported here: torch is loaded only once a run has been accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from dpo_lab.results import Run

__version__ = "0.1.0"
__all__ = ["runs", "train"]


def train(
    overrides: Sequence[str] = (), *, config_dir: str | None = None, from_: str | None = None
) -> Run:
    """Run one configuration, as `dpo-lab train OVERRIDES` does, and return the finished run.

    - `overrides`: what one would type on the command line, e.g. `["loss.beta=0.5", "seed=1"]`.
    - `config_dir`: a folder with the user's own yamls, as `--config-dir`.
    - `from_`: the folder of a run to repeat in a new one, as `--from`; `overrides` go on top.

    Raises `dpo_lab.errors.Refused` (a `ValueError`) where config or data are not acceptable.
    """
    from dpo_lab.origin import chosen

    config, folder, origin = chosen(list(overrides), config_dir, from_)
    from dpo_lab.cache import Cache
    from dpo_lab.intake import prepare, read

    cache = Cache(config.cache_dir)
    intake = prepare(config, read(config), cache)
    if origin is not None:
        origin.check(config, intake)
    from dpo_lab.run import run  # torch is loaded here, once nothing can be refused any more

    return run(config, intake, cache, folder, origin=origin)


def runs(folder: str | Path) -> pd.DataFrame:
    """Read every run folder below `folder` into a table, one row a run."""
    from dpo_lab.results import table

    return table(folder)
