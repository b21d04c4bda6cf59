"""Order of rows: a pure function of seed, epoch and position."""

from collections import Counter

import pytest

from dpo_lab.loader import Loader


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 17, 30])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_every_row_comes_once_an_epoch(batch_size, epochs):
    loader = Loader(17, batch_size, epochs=epochs, seed=3)
    rows = [row for step in range(loader.steps) for row in loader.take(step)]
    assert Counter(rows) == Counter(list(range(17)) * epochs)
    for epoch in range(epochs):
        assert sorted(rows[17 * epoch : 17 * (epoch + 1)]) == list(range(17))


def test_any_step_can_be_taken_alone():
    loader, other = Loader(17, 4, epochs=2, seed=1), Loader(17, 4, epochs=2, seed=1)
    in_order = [loader.take(step) for step in range(loader.steps)]
    backwards = [other.take(step) for step in reversed(range(loader.steps))]
    assert in_order == backwards[::-1]


def test_seeds_and_epochs_have_orders_of_their_own():
    rows = [tuple(Loader(50, 50, epochs=2, seed=seed).take(e)) for seed in (0, 1) for e in (0, 1)]
    assert len(set(rows)) == 4


def test_without_shuffling_the_order_is_the_files():
    loader = Loader(5, 2, steps=4, shuffle=False)
    assert [loader.take(step) for step in range(4)] == [[0, 1], [2, 3], [4, 0], [1, 2]]


def test_steps_go_on_over_epochs_and_the_last_update_of_epochs_may_be_short():
    assert Loader(5, 2, epochs=1).steps == 3
    assert len(Loader(5, 2, epochs=1).take(2)) == 1
    assert Loader(5, 2, steps=7).steps == 7


def test_used_names_exactly_the_rows_of_the_run():
    loader = Loader(100, 4, steps=3, seed=5)
    taken = {row for step in range(3) for row in loader.take(step)}
    assert loader.used() == sorted(taken)
    assert Loader(5, 2, steps=3).used() == [0, 1, 2, 3, 4]
