"""Every loss at 25 margins, 3 betas and 3 smoothings against NumPy; exchanged sides, exactly."""

import torch
from test_losses_oracle import CASES, MARGINS, logps_with_margins
from test_losses_oracle import test_value_reward_and_gradient as check

from dpo_lab import losses
from dpo_lab.batch import Logps, Pair
from dpo_lab.options import signature

ID = "R13"


def test_values_rewards_and_gradients(tally):
    for case in CASES:
        oracle, knobs = case.values[:2]
        failure = ""
        try:
            check(*case.values)
        except AssertionError as error:
            failure = str(error)[:200]
        tally(not failure, f"{oracle.__name__} {knobs}, {len(MARGINS)} margins: {failure}")


def test_exchanged_sides_exchange_rewards_to_the_last_bit(tally):
    values, n, m = logps_with_margins()
    pw, pl, rw, rl = map(torch.tensor, values)
    n, m = torch.tensor(n), torch.tensor(m)
    given = [Pair(Logps(pw, n), Logps(pl, m)), Pair(Logps(rw, n), Logps(rl, m))]
    turned = [Pair(pair.rejected, pair.chosen) for pair in given]
    for case in CASES:
        oracle, knobs = case.values[:2]
        needs = signature(f"dpo_lab.losses.{oracle.__name__}").inputs
        used = 2 if "reference" in needs else 1
        loss = getattr(losses, oracle.__name__)
        one, other = loss(*given[:used], **knobs), loss(*turned[:used], **knobs)
        if one.chosen_reward is None:
            continue
        same = torch.equal(one.chosen_reward, other.rejected_reward)
        same &= torch.equal(one.rejected_reward, other.chosen_reward)
        margins = one.chosen_reward - one.rejected_reward
        same &= torch.equal(margins, -(other.chosen_reward - other.rejected_reward))
        tally(same, f"{oracle.__name__} {knobs}")
