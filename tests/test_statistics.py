"""Means over seeds and Student's t."""

import math

import pytest

from dpo_lab.statistics import estimate, student_t


@pytest.mark.parametrize(
    ("freedom", "t95", "t99"),
    [  # as printed in tables of the two-sided quantiles
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (3, 3.182, 5.841),
        (4, 2.776, 4.604),
        (5, 2.571, 4.032),
        (9, 2.262, 3.250),
        (10, 2.228, 3.169),
        (29, 2.045, 2.756),
        (30, 2.042, 2.750),
        (120, 1.980, 2.617),
    ],
)
def test_quantiles_are_those_of_the_tables(freedom, t95, t99):
    assert student_t(freedom) == pytest.approx(t95, abs=5.1e-4)
    assert student_t(freedom, 0.99) == pytest.approx(t99, abs=5.1e-4)


def test_one_and_two_degrees_have_closed_forms():
    for level in (0.5, 0.9, 0.95, 0.999):
        assert student_t(1, level) == pytest.approx(math.tan(math.pi * level / 2), rel=1e-12)
        closed = level * math.sqrt(2 / (1 - level**2))
        assert student_t(2, level) == pytest.approx(closed, rel=1e-12)


def test_many_degrees_are_normal():
    assert student_t(100_000) == pytest.approx(1.959964, abs=5e-5)


def test_an_interval_by_hand():
    # mean 2, squares of differences 1 + 0 + 1, s = 1, standard error 1 / sqrt(3), t(2) = 4.3027
    mean, half, n = estimate([1.0, 2.0, 3.0])
    assert (mean, n) == (2.0, 3)
    assert half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_a_single_value_has_no_interval():
    assert estimate([0.25]) == (0.25, None, 1)


def test_equal_values_have_an_interval_of_width_zero():
    assert estimate([0.1] * 5) == (0.1, 0.0, 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e308])
def test_what_cannot_be_squared_is_not_hidden(bad):
    mean, half, n = estimate([1.0, bad, bad])
    assert not abs(mean) < 1e100 and math.isnan(half) and n == 3
    assert estimate([1e308]) == (1e308, None, 1)
