"""A table of log-probabilities of rows under one fixed policy, kept on disk per token.

The values of an entry never depend on what else was computed with it: each row (a prompt with its
answers) is scored in a batch of its own. So a run repeats bit for bit whoever filled the cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from dpo_lab.batch import Batch, Encoded, Logps, Pair
from dpo_lab.cache import Cache

SCORER_VERSION = 1


class Table:
    """Log-probabilities of the rows of one run: `totals` (rows, 2), chosen and rejected, in nats.

    Rows that were not asked for are NaN, so that a use of one shows at once. `leaves` (P, n) are
    those of every response of a world, where someone has computed them.
    """

    leaves: np.ndarray | None = None

    def __init__(self, totals: Tensor, digest: str, is_start: bool = False):
        self.totals = totals
        self.digest = digest
        self.is_start = is_start

    def logps(self, batch: Batch) -> Pair[Logps] | Logps:
        """The batch's rows, each (B,), on the device of the table."""
        size = len(batch.rows)
        totals = self.totals[batch.rows]
        chosen = Logps(totals[:, 0], batch.tokens[:size])
        return Pair(chosen, Logps(totals[:, 1], batch.tokens[size:])) if batch.paired else chosen

    def after_step(self, policy: object, step: int) -> None:
        """Nothing: the table is of a policy that does not change."""


def fill(
    rows: Sequence[Encoded],
    wanted: Sequence[int],
    score: Callable[[Encoded], np.ndarray],
    cache: Cache,
    key: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, str]:
    """Sums of log-probabilities (rows, 2) of the `wanted` rows, and a digest of them.

    - `score(row)`: per-token log-probabilities of the chosen then the rejected answer of one row.
    - `key`: what determines the values: weights, precision, layout, version of the scorer.

    What the cache holds is read; the rest is scored and added to it. Entries that fail their
    checksum are dropped and computed again.
    """
    names = {index: _name(rows[index]) for index in wanted}
    with cache.lock("reference", key):
        folder = cache.place("reference", key)
        known = _read(folder)
        missing = {names[i]: i for i in wanted if names[i] not in known}
        fresh: dict[bytes, np.ndarray] = {}
        try:
            for done, (name, index) in enumerate(missing.items()):
                fresh[name] = _ordered(rows[index], score)
                progress(done + 1, len(missing))
        finally:  # an interrupted run keeps what it has, too
            if fresh:
                _write(folder, fresh)
                known |= fresh
    cache.count("reference_rows_computed", len(fresh))
    cache.count("reference_rows_cached", len(set(names.values())) - len(fresh))
    totals = np.full((len(rows), 2), np.nan, np.float64)
    sha = hashlib.sha256()
    for index in wanted:
        values = known[names[index]]
        first, _ = _sides(rows[index])
        parts = values[: len(first)], values[len(first) :]
        sha.update(values.tobytes())
        sums = [float(part.sum(dtype=np.float64)) for part in parts]
        totals[index] = sums if first is rows[index].chosen else sums[::-1]
    return totals, sha.hexdigest()


def _sides(row: Encoded) -> tuple[list[int], list[int]]:
    """Both answers in an order of their own, so that a flipped label finds the same entry."""
    rejected = row.rejected if row.rejected is not None else []
    if row.rejected is None or row.chosen <= rejected:
        return row.chosen, rejected
    return rejected, row.chosen


def _ordered(row: Encoded, score: Callable[[Encoded], np.ndarray]) -> np.ndarray:
    first, second = _sides(row)
    return score(Encoded(row.prompt, first, second if row.rejected is not None else None))


def _name(row: Encoded) -> bytes:
    sha = hashlib.blake2b(digest_size=16)
    for ids in (row.prompt, *_sides(row)):
        sha.update(np.asarray([len(ids), *ids], np.int64).tobytes())
    return sha.digest()


def _read(folder: Path) -> dict[bytes, np.ndarray]:
    known: dict[bytes, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            arrays = load_file(path)
            if hashlib.sha256(_content(arrays)).hexdigest()[:32] != path.stem:
                raise ValueError("checksum")
        except Exception:  # whatever is wrong with the file, its values are computed again
            path.unlink()
            continue
        ends = arrays["ends"]
        starts = np.concatenate([[0], ends[:-1]])
        for name, start, end in zip(arrays["names"], starts, ends, strict=True):
            known[name.tobytes()] = arrays["values"][start:end]
    return known


def _write(folder: Path, entries: dict[bytes, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "names": np.stack([np.frombuffer(name, np.uint8) for name in entries]),
        "ends": np.cumsum([len(values) for values in entries.values()], dtype=np.int64),
        "values": np.concatenate(list(entries.values())),
    }
    stem = hashlib.sha256(_content(arrays)).hexdigest()[:32]
    work = folder / f".{stem}.tmp"
    save_file(arrays, work, metadata={"about": json.dumps({"scorer": SCORER_VERSION})})
    work.rename(folder / f"{stem}.safetensors")


def _content(arrays: dict[str, np.ndarray]) -> bytes:
    return b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays))


def as_table(totals: np.ndarray, digest: str, dtype: torch.dtype, device: str) -> Table:
    """The sums as a table in the precision and on the device of the policy."""
    return Table(torch.from_numpy(totals).to(device=device, dtype=dtype), digest)
