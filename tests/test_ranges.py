"""Ranges hold what they say, and never what is no number."""

import math

import pytest

from dpo_lab.ranges import NAMED, Range


@pytest.mark.parametrize("name", sorted(NAMED))
def test_what_is_no_number_is_in_no_range(name):
    for value in (math.nan, math.inf, -math.inf):
        assert not NAMED[name].holds(value)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("Finite", [-1e300, 0, 1e300], []),
        ("Positive", [1e-300, 1], [0, -0.0, -1e-300]),
        ("NonNegative", [0, 1e300], [-1e-300]),
        ("Share", [0, 1], [-1e-12, 1 + 1e-12]),
        ("Dropout", [0, 0.999], [1, -0.1]),
        ("Smoothing", [0, 0.499], [0.5, -0.1]),
        ("Count", [1, 10**9], [0, -1]),
        ("Seed", [0, 2**63 - 1], [-1, 2**63]),
    ],
)
def test_ends_belong_to_a_range_or_do_not(name, inside, outside):
    assert all(NAMED[name].holds(value) for value in inside)
    assert not any(NAMED[name].holds(value) for value in outside)


def test_a_range_says_its_ends():
    assert str(Range(gt=0, le=0.5)) == "> 0 and <= 0.5" and str(Range()) == "a finite number"
