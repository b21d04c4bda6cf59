"""Rows scored under a policy that does not change: what the cache may give back, and what not."""

import numpy as np
import pytest
import torch
from networks import ROWS, VOCAB, Tokens, every_layout, tiny

from dpo_lab.cache import Cache
from dpo_lab.policy import Policy
from dpo_lab.scorer import Scorer
from dpo_lab.scoring import logps


def make(dtype="float64", layout="shared", legal=None, dropout=0.0, **changes):
    model = tiny("llama", attention_dropout=dropout, **changes)
    return Policy(model, Tokens(), dtype=dtype, layout=layout, legal=legal)


def scored(folder, policy, weights="w", rows=ROWS):
    """The table, and how many rows were computed for it."""
    cache = Cache(folder)
    table = Scorer(rows, range(len(rows)), cache, lambda done, total: None)(policy, weights)
    return table, cache.counts["reference_rows_computed"]


def test_values_are_those_of_the_batch_without_dropout(tmp_path):
    policy = make(dropout=0.5)
    policy.train()
    table, computed = scored(tmp_path, policy)
    assert computed == len(ROWS) and table.totals.dtype == torch.float64
    policy.eval()
    batch = every_layout(policy, ROWS)["padded"]
    with torch.no_grad():
        expected = logps(policy, batch)
    ours = table.logps(batch)
    for side in ("chosen", "rejected"):
        got, wanted = getattr(ours, side).total, getattr(expected, side).total
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("knobs", "weights"),
    [
        ({"dtype": "float32"}, "w"),
        ({"dtype": "bfloat16"}, "w"),
        ({"layout": "padded"}, "w"),
        ({"legal": list(range(1, VOCAB))}, "w"),
        ({}, "other weights"),
        ({"rms_norm_eps": 1e-3}, "w"),  # the same weights, in another network
    ],
)
def test_what_decides_a_value_is_in_its_key(tmp_path, knobs, weights):
    rows = ROWS[:2]
    before, _ = scored(tmp_path, make(), rows=rows)
    again, computed = scored(tmp_path, make(), rows=rows)
    assert computed == 0 and again.digest == before.digest
    _, computed = scored(tmp_path, make(**knobs), weights, rows)
    assert computed == len(rows)
