"""Learning-rate schedules: pure functions of the update's number, so that resuming needs no state.

`schedule(step, steps)` is what the peak learning rate is multiplied by in update `step`, which
runs from 0 to `steps - 1`.

Warm-up of W updates: the multiplier is `(step + 1) / W` for step < W, so that the first update
gets 1 / W and update W - 1 the peak. transformers and TRL use `step / W`: their first update
moves nothing, and their warm-up lags ours by one update. From step = W on, linear and cosine
equal theirs, with progress `p = (step - W) / (steps - W)`: 0 at step W, and just short of 1 in
the last update.

W is `warmup_steps`, or the share `warmup_share` of all updates, rounded up; both null mean none,
both set are refused. Where W exceeds `steps`, the run ends before the peak. Everything but
`constant` with `warmup_steps` depends on `steps`: another length is another schedule, in its past
too.
"""

from __future__ import annotations

import math
from typing import Annotated

from dpo_lab.errors import Refused
from dpo_lab.ranges import Range, Share, exclusive


@exclusive("warmup_share", "warmup_steps")
def constant(
    step: int,
    steps: int,
    *,
    warmup_share: Annotated[float | None, Range(ge=0, lt=1)] = None,
    warmup_steps: Annotated[int | None, Range(ge=0)] = None,
) -> float:
    """Return 1 after the warm-up. The DPO paper has this, with 150 updates of warm-up.

    - `step`, `steps`: this update's number, from 0, and how many there are.
    - `warmup_share`, in [0, 1), or `warmup_steps`, >= 0: length of the warm-up.
    """
    warmup = _warmup(steps, warmup_share, warmup_steps)
    return (step + 1) / warmup if step < warmup else 1.0


@exclusive("warmup_share", "warmup_steps")
def linear(
    step: int,
    steps: int,
    *,
    warmup_share: Annotated[float | None, Range(ge=0, lt=1)] = None,
    warmup_steps: Annotated[int | None, Range(ge=0)] = None,
    floor: Annotated[float, Share] = 0.0,
) -> float:
    """Return `floor + (1 - floor) (1 - p)` after the warm-up: a straight line.

    - `step`, `steps`: this update's number, from 0, and how many there are.
    - `warmup_share`, in [0, 1), or `warmup_steps`, >= 0: length of the warm-up.
    - `floor`: share of the peak that the line ends at, in [0, 1]; reached one update after the
      last.
    """
    warmup = _warmup(steps, warmup_share, warmup_steps)
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * (steps - step) / (steps - warmup)


@exclusive("warmup_share", "warmup_steps")
def cosine(
    step: int,
    steps: int,
    *,
    warmup_share: Annotated[float | None, Range(ge=0, lt=1)] = None,
    warmup_steps: Annotated[int | None, Range(ge=0)] = None,
    floor: Annotated[float, Share] = 0.0,
) -> float:
    """Return `floor + (1 - floor) (1 + cos(pi p)) / 2` after the warm-up: half a cosine.

    arXiv 1608.03983 eq. 5 without restarts. SimPO and most chat recipes use it with a share of
    0.1.

    - `step`, `steps`: this update's number, from 0, and how many there are.
    - `warmup_share`, in [0, 1), or `warmup_steps`, >= 0: length of the warm-up.
    - `floor`: share of the peak that the curve ends at, in [0, 1]; reached one update after the
      last.
    """
    warmup = _warmup(steps, warmup_share, warmup_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def _warmup(steps: int, share: float | None, count: int | None) -> int:
    """Return the number of warm-up updates."""
    if share is not None and count is not None:
        raise Refused(
            "schedule: expected one of warmup_share and warmup_steps, "
            f"got {share:g} and {count}; set one of them to null"
        )
    if share is not None:
        # 0.07 * 100 is 7.000000000000001, which must not become 8.
        return math.ceil(round(share * steps, 6))
    return count or 0
