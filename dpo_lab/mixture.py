"""A mixture of data sources with given shares."""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from math import isfinite
from typing import Any

from dpo_lab.batch import Example
from dpo_lab.errors import Refused
from dpo_lab.rows import near, shorten
from dpo_lab.source import Source, digest_of


def mix(
    *, sources: dict[str, Any], weights: dict[str, float] | None = None, seed: int = 0
) -> Source:
    """Several sources as one.

    - `sources`: name -> a source as it stands in the config: `_target_` and its knobs.
    - `weights`: name -> share of the mixture, > 0, to any sum. Taken is the largest mixture with
      these shares that repeats no row; which rows, `seed` decides. None: all rows of each.

    Training rows keep their order within a source; the sources follow one another. Held-out rows
    are those of all sources. A row is named `source/file:line`.
    """
    if not sources:
        raise Refused(
            "data=mix needs sources; for example\n"
            "+data@data.sources.harmless=hh data.sources.harmless.path=FILE"
        )
    parts = {name: _called(name, node) for name, node in sources.items()}
    empty = next((name for name, part in parts.items() if not part.train), None)
    if empty is not None:
        raise Refused(f"data.sources.{empty} gives no pairs to mix")
    taken = _taken({name: len(part.train) for name, part in parts.items()}, weights, seed)
    train = {
        name: [_named(name, part.train[index]) for index in taken[name]]
        for name, part in parts.items()
    }
    sft = None
    if any(part.sft is not None for part in parts.values()):
        sft = [
            _named(name, row) if part.sft is not None else replace(row, rejected=None)
            for name, part in parts.items()
            for row in (train[name] if part.sft is None else part.sft)
        ]
    return Source(
        train=[row for rows in train.values() for row in rows],
        eval=[_named(name, row) for name, part in parts.items() for row in part.eval],
        sft=sft,
        digest=digest_of("mix", {n: part.digest for n, part in parts.items()}, weights, seed),
        report={
            "taken": {name: len(rows) for name, rows in train.items()},
            "skipped": sum(part.report.get("skipped", 0) for part in parts.values()),
            "sources": {name: part.report for name, part in parts.items()},
        },
        files={path: sha for part in parts.values() for path, sha in part.files.items()},
        rejects=[row for part in parts.values() for row in part.rejects],
    )


def _called(name: str, node: Any) -> Source:
    """Call the function that a config node names."""
    where = f"data.sources.{name}"
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise Refused(f"{where} is no data source; type +data@{where}=file")
    module, _, function = str(node["_target_"]).rpartition(".")
    knobs = {key: value for key, value in node.items() if key != "_target_"}
    try:
        call = getattr(import_module(module), function)
        inspect.signature(call).bind(**knobs)
    except (ImportError, ValueError, AttributeError, TypeError) as error:
        raise Refused(f"{where} cannot be called: {error}") from None
    return call(**knobs)


def _taken(sizes: dict[str, int], weights: Any, seed: int) -> dict[str, list[int]]:
    """Which rows of each source are in the mixture, in order."""
    if weights is None:
        return {name: list(range(size)) for name, size in sizes.items()}
    if not isinstance(weights, Mapping):
        raise Refused(f"data.weights must map sources to numbers, got {shorten(weights)}")
    for name in [*weights, *sizes]:
        if name not in sizes:
            hint = near(name, sizes) or f"; there is {', '.join(sizes)}"
            raise Refused(f"data.weights: there is no source {name}{hint}")
        if name not in weights:
            raise Refused(f"data.weights: no weight for {name}; give every source one, or none")
        weight = weights[name]
        if not (isinstance(weight, int | float) and isfinite(weight) and weight > 0):
            raise Refused(f"data.weights.{name} must be a number > 0, got {shorten(weight)}")
    whole = min(sizes[name] / weights[name] for name in sizes)
    taken = {}
    for name, size in sizes.items():
        count = min(size, int(whole * weights[name] + 1e-9))
        if not count:
            raise Refused(
                f"data.weights.{name}={weights[name]:g} is too small a share: "
                "the largest mixture without repeats has none of its rows"
            )
        taken[name] = sorted(random.Random(f"{seed} {name}").sample(range(size), count))
    return taken


def _named(name: str, row: Example) -> Example:
    return replace(row, row=f"{name}/{row.row}")
