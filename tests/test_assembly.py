"""What a run is made of: a start is found again only where all that it depends on is the same."""

import pytest

from dpo_lab.assembly import Assembly
from dpo_lab.cache import Cache
from dpo_lab.compose import compose
from dpo_lab.intake import prepare, read

NANO = (
    "data=world_nano data.pairs=20 data.eval_pairs=5 data.sft_rows=40 start.steps=2 "
    "start.batch_size=16 train.steps=1"
).split()


@pytest.fixture
def started(tmp_path):
    """Makes the start of a run: its digest, and what the cache was good for."""

    def make(*words):
        config, cache = compose([*NANO, *words]), Cache(tmp_path)
        intake = prepare(config, read(config), cache)
        assembly = Assembly(config, intake, cache, lambda text: None, lambda *stage: None)
        return assembly.policy().digest(), cache.counts

    return make


def test_another_start_is_trained_for_other_knobs(started):
    first, counts = started("start.lr=1e-2")
    assert counts["starts_trained"] == 1
    for words in ([], ["loss.beta=0.7", "seed=3"]):
        again, counts = started("start.lr=1e-2", *words)
        assert again == first and "starts_trained" not in counts
    # two heads have the same random weights as four, and dropout has none at all
    for knob in (
        "start.lr=1e-3",
        "model.seed=1",
        "train.dtype=float64",
        "model.num_heads=2",
        "model.dropout=0.1",
    ):
        other, counts = started("start.lr=1e-2", knob)
        assert counts["starts_trained"] == 1 and other != first, knob


def test_a_start_is_shared_by_whoever_trains_it_on_the_same_sequences(started):
    first, counts = started()
    assert counts["rows_tokenised"] == 20 + 5 + 40 and counts["starts_trained"] == 1
    other_pairs, counts = started("data.seed=1", "data.flips=0.3", "data.pairs=30")
    assert other_pairs == first and counts["rows_tokenised"] == 30 + 5
    assert "starts_trained" not in counts
    for knob in ("data.world_seed=1", "data.stop=0.4", "data.sft_rows=50", "data.depth=3"):
        other, counts = started(knob)
        assert other != first and counts["starts_trained"] == 1, knob
