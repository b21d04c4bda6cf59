"""The check before the first step: where policy equals reference, nothing may differ.

A reference that was scored with dropout on, in another precision, with other tokens or from other
weights than the policy shows here, and nowhere else until the paper is out.
"""

from __future__ import annotations

import torch

from dpo_lab.batch import Batch, Logps, Pair, Prompts
from dpo_lab.errors import Stopped
from dpo_lab.objective import Objective
from dpo_lab.policy import Policy
from dpo_lab.references import Reference
from dpo_lab.scoring import logps

# nats that one token's log-probability may differ by when it is computed in another batch
PER_TOKEN = {"float64": 1e-10, "float32": 5e-5, "bfloat16": 0.15}
# and the rounding of their sum, relative to it
OF_SUM = {"float64": 1e-13, "float32": 2e-6, "bfloat16": 2e-3}


def check_step_zero(
    policy: Policy,
    objective: Objective,
    batch: Batch | Prompts,
    names: list[str],
) -> None:
    """Stop the run where the policy is not its reference before training, though it should be.

    The log-probability of each response may differ by the rounding of its tokens, which grows with
    the root of their number, and of their sum; the loss by no more than that moves it from its
    initial value, which is the loss of the reference against itself (log 2 for DPO).
    """
    reference = objective.reference
    if reference is None or not reference.is_start:
        return
    if isinstance(batch, Prompts):
        return _check_leaves(policy, reference, batch, names)
    policy.eval()
    with torch.no_grad(), policy.autocast():
        outcome = objective(policy, batch)
    scored, known = outcome.policy, reference.logps(batch)
    assert scored is not None
    per_token = PER_TOKEN[policy.dtype]
    slack: dict[str, torch.Tensor] = {}
    for side, ours, theirs in _sides(scored, known):
        slack[side] = per_token * theirs.tokens.sqrt() + OF_SUM[policy.dtype] * theirs.total.abs()
        off = (ours.total - theirs.total).abs()
        worst = int((off - slack[side]).argmax())
        if lost := (~torch.isfinite(off)).nonzero()[:10, 0].tolist():
            raise Stopped(
                f"step 0: log-probabilities of {side} answers are not finite; "
                f"rows [{', '.join(names[row] for row in lost)}]"
            )
        if not bool((off <= slack[side]).all()):
            raise Stopped(
                f"step 0: the policy should equal its reference, but the {side} answer of "
                f"{names[worst]} has logp {float(ours.total[worst]):.6f} under the policy and "
                f"{float(theirs.total[worst]):.6f} under the reference\n"
                "a damaged cache or a changed model: try once more with cache_dir=NEW_FOLDER"
            )
    if not objective.takes_reference:
        return
    expected = objective.loss(*_twice(known, objective)).loss
    moved = [
        objective.loss(_moved(known, slack, sign, objective), _seen(known, objective)).loss
        for sign in (1.0, -1.0)
    ]
    allowed = (
        torch.stack([(loss - expected).abs() for loss in moved]).amax(0) + 1e-6 * expected.abs()
    )
    off = (outcome.scores.loss - expected).abs()
    if not bool((off <= allowed).all()):
        raise Stopped(
            f"step 0: the loss should have its initial value {float(expected.mean()):.6f}, "
            f"but is {float(outcome.scores.loss.mean()):.6f}"
        )


def _check_leaves(policy: Policy, reference: Reference, batch: Prompts, names: list[str]) -> None:
    policy.eval()
    with torch.no_grad(), policy.autocast():
        ours = logps(policy, batch)
    theirs = reference.logps(batch).total
    slack = PER_TOKEN[policy.dtype] * ours.tokens.sqrt() + OF_SUM[policy.dtype] * theirs.abs()
    over = ((ours.total - theirs).abs() - slack).amax(1)
    if not bool((over <= 0).all()):
        raise Stopped(
            f"step 0: the policy should equal its reference, but after {names[int(over.argmax())]} "
            f"the log-probability of a response differs by {float(over.max()):.2g} more than it may"
        )


def _sides(
    ours: Pair[Logps] | Logps, theirs: Pair[Logps] | Logps
) -> list[tuple[str, Logps, Logps]]:
    if isinstance(ours, Logps) or isinstance(theirs, Logps):
        assert isinstance(ours, Logps) and isinstance(theirs, Logps)
        return [("chosen", ours, theirs)]
    return [("chosen", ours.chosen, theirs.chosen), ("rejected", ours.rejected, theirs.rejected)]


def _seen(logps: Pair[Logps] | Logps, objective: Objective) -> Pair[Logps] | Logps:
    return logps if objective.pairs or isinstance(logps, Logps) else logps.chosen


def _twice(logps: Pair[Logps] | Logps, objective: Objective) -> tuple:
    return _seen(logps, objective), _seen(logps, objective)


def _moved(
    logps: Pair[Logps] | Logps, slack: dict[str, torch.Tensor], sign: float, objective: Objective
) -> Pair[Logps] | Logps:
    """The log-probabilities as far apart as rounding may put them."""
    seen = _seen(logps, objective)
    if isinstance(seen, Logps):
        return Logps(seen.total + sign * slack["chosen"], seen.tokens)
    return Pair(
        Logps(seen.chosen.total + sign * slack["chosen"], seen.chosen.tokens),
        Logps(seen.rejected.total - sign * slack["rejected"], seen.rejected.tokens),
    )
