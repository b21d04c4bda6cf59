"""The comparison of R1 and R2 can fail: it does wherever a checkpoint leaves something out."""

import pytest
import torch
from in_one_process import Place
from survival import differences

from dpo_lab import snapshot

ID = "control"
PUT_BACK = snapshot.put_back


def without_random(state, step, tensors, plain):
    random = torch.get_rng_state()
    PUT_BACK(state, step, tensors, plain)
    torch.set_rng_state(random)


def without_optimizer(state, step, tensors, plain):
    PUT_BACK(state, step, tensors | {"optimizer": {}}, plain)


def without_position(state, step, tensors, plain):
    PUT_BACK(state, step, tensors, plain)
    take = state.loader.take
    state.loader.take = lambda number: take(number - step)


def without_schedule(state, step, tensors, plain):
    PUT_BACK(state, step, tensors, plain)
    schedule = state.schedule
    state.schedule = lambda number: schedule(number - step)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield Place(tmp_path_factory.mktemp("controls"), patch)


@pytest.mark.parametrize(
    "broken", [without_random, without_optimizer, without_position, without_schedule]
)
def test_what_is_left_out_shows(place, tally, monkeypatch, broken):
    expected = place.train()
    folder = place.stopped(5)
    monkeypatch.setattr(snapshot, "put_back", broken)
    found = differences(place.resumed(folder), expected)
    tally("final/model.safetensors" in str(found), f"{broken.__name__} shows nothing")


def test_a_moving_reference_left_out_shows(place, tally, monkeypatch):
    words = ["reference=ema", "reference.decay=0.6", "reference.every=3"]
    expected = place.train(*words)
    folder = place.stopped(5, *words)

    def broken(state, step, tensors, plain):
        PUT_BACK(state, step, {k: v for k, v in tensors.items() if k != "reference"}, plain)

    monkeypatch.setattr(snapshot, "put_back", broken)
    found = differences(place.resumed(folder), expected)
    tally("final/model.safetensors" in str(found), "the reference left out shows nothing")
