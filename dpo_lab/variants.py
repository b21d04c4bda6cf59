"""All jobs of a sweep, composed and checked: what they share is composed once.

Hydra composes one job in a few tenths of a second, nearly all of it spent on choosing and merging
yamls, which jobs that differ in values only have in common. Such values are put into a copy of the
common config by the same OmegaConf call that Hydra makes. Anything else, and anything that goes
wrong, is left to `compose`, whose answers are the measure.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import OmegaConf

from dpo_lab import compose
from dpo_lab.config import Config
from dpo_lab.verbatim import verbatim

Common = dict[tuple[str, ...], compose.Composed]


def compose_all(
    lists: Sequence[Sequence[str]], config_dir: str | None = None, common: Common | None = None
) -> list[Config]:
    """`compose` of every list of overrides. Raises `Refused` for one that is not acceptable.

    - `common`: what earlier calls have composed, for a caller whose lists come one by one.
    """
    compose.prepare(config_dir)
    groups = compose.groups(config_dir)
    common = {} if common is None else common
    configs = []
    for overrides in lists:
        overrides = verbatim(overrides, compose.calls(config_dir))
        parsed = compose.typed(overrides, config_dir)
        values = [item for item in parsed if _is_value(item, groups)]
        choices = [item for item in parsed if item not in values]
        try:
            if not all(_is_choice(item, groups) for item in choices):
                raise NotImplementedError
            words = tuple(str(item.input_line) for item in choices)
            if words not in common:
                common[words] = compose.choose(choices, words, config_dir)
            job = copy.deepcopy(common[words])
            for item in values:
                OmegaConf.update(job.config, item.key_or_group, item.value(), merge=True)
            configs.append(compose._checked(job, overrides, config_dir))
        except Exception:  # of whatever kind: what `compose` says of it is what the user is told
            configs.append(compose.compose(overrides, config_dir))
    return configs


def _is_value(item: Override, groups: dict[str, list[str]]) -> bool:
    """Whether an override sets a number, a word or a list."""
    plain = item.type == OverrideType.CHANGE and item.package is None
    return plain and item.key_or_group not in groups and not isinstance(item.value(), dict)


def _is_choice(item: Override, groups: dict[str, list[str]]) -> bool:
    """Whether an override chooses an option of a group."""
    plain = item.type == OverrideType.CHANGE and item.package is None
    return plain and item.key_or_group in groups
