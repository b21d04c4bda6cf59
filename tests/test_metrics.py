"""Names and means of metrics."""

import pytest
import torch

from dpo_lab.batch import Logps, Outcome, Pair, Scores
from dpo_lab.metrics import Meter, accuracy


def outcome(margins, losses=None):
    margins = torch.tensor(margins)
    tokens = torch.ones(len(margins), dtype=torch.long)
    policy = Pair(Logps(margins - 5, tokens), Logps(torch.full_like(margins, -5.0), tokens))
    base = Pair(Logps(torch.full_like(margins, -5.0), tokens), Logps(policy.rejected.total, tokens))
    loss = torch.tensor(losses) if losses else -margins
    return Outcome(Scores(loss, margins, torch.zeros_like(margins)), policy, base, base)


def test_a_tie_counts_one_half():
    assert accuracy(torch.tensor([1.0, 0.0, -1.0, 1e-30])).tolist() == [1, 0.5, 0, 1]


def test_means_do_not_depend_on_how_pairs_are_cut():
    whole, parts = Meter(), Meter()
    whole.add(outcome([1.0, 2.0, 0.0, -4.0, 3.0]), 5)
    parts.add(outcome([1.0, 2.0]), 2)
    parts.add(outcome([0.0]), 1)
    parts.add(outcome([-4.0, 3.0]), 2)
    first, second = whole.read("train/"), parts.read("train/")
    assert first == pytest.approx(second)
    assert first["train/rewards/accuracies"] == pytest.approx(0.7)
    assert first["train/rewards/margins"] == pytest.approx(0.4)
    assert first["train/logratios/chosen"] == pytest.approx(0.4)
    assert first["train/ref_logps/rejected"] == -5
    assert whole.read("train/") == {}


def test_the_loss_of_sft_is_divided_by_tokens():
    meter = Meter()
    meter.add(Outcome(Scores(torch.tensor([6.0, 4.0])), *_single(), None, None), 20)
    assert meter.read("")["loss"] == 0.5


def _single():
    return (Logps(torch.tensor([-6.0, -4.0]), torch.tensor([12, 8])),)


def test_log_ratios_are_against_the_start_whatever_the_reference():
    tokens = torch.ones(2, dtype=torch.long)
    policy, moved, start = (
        Pair(Logps(torch.tensor([-3.0, -4.0]) * scale, tokens), Logps(-tokens * scale, tokens))
        for scale in (1.0, 2.0, 4.0)
    )
    zeros = torch.zeros(2)
    meter = Meter()
    meter.add(Outcome(Scores(zeros, zeros, zeros), policy, moved, start), 2)
    read = meter.read("")
    assert read["ref_logps/chosen"] == -7.0 and read["ref_logps/rejected"] == -2.0
    assert read["logratios/chosen"] == 10.5 and read["logratios/rejected"] == 3.0
    assert read["logratios/margins"] == 7.5
