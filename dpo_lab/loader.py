"""The order of rows, as a pure function of (seed, epoch, position).

Nothing is remembered between steps: the rows of update k are the same whether the run came to k in
one go or was stopped and resumed on the way.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


class Loader:
    """Rows of each update. With `epochs`, every row comes exactly that many times; the last update
    may be smaller. With `steps`, epochs follow each other without a gap until the steps are done.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
    ):
        assert rows > 0 and (steps is None) != (epochs is None)
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.end = steps * batch_size if steps is not None else rows * (epochs or 0)
        self.steps = -(-self.end // batch_size)

    def take(self, step: int) -> list[int]:
        """The rows of update number `step`, counted from 0."""
        first = step * self.batch_size
        last = min(first + self.batch_size, self.end)
        return [self._row(position) for position in range(first, last)]

    def used(self) -> list[int]:
        """Every row that the run will look at, in ascending order."""
        if self.end >= self.rows:
            return list(range(self.rows))
        return sorted(self._row(position) for position in range(self.end))

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, self.rows)
        return int(order(self.rows, self.seed, epoch)[place]) if self.shuffle else place


@lru_cache(maxsize=4)
def order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of `rows` rows that depends on nothing but its arguments."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)
