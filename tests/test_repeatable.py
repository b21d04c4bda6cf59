"""Torch's settings for runs that repeat on a GPU. What they do there is in `test_gpu`."""

import pytest
import torch

from dpo_lab.errors import Stopped
from dpo_lab.repeatable import repeatable


def settings():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")


def test_settings_are_made_for_a_gpu_alone_and_put_back():
    before = settings()
    for device, wanted in (("cpu", True), ("cuda", False), ("mps", True)):
        with repeatable(device, wanted):
            assert settings() == before
    with pytest.raises(KeyError), repeatable("cuda", True):
        assert settings() == (True, False)
        raise KeyError
    assert settings() == before


def test_an_operation_that_cannot_repeat_is_refused_with_what_to_type():
    with (
        pytest.raises(Stopped, match=r"kthvalue CUDA does not .*\ntype train.deterministic=false"),
        repeatable("cuda", True),
    ):
        raise RuntimeError(
            "kthvalue CUDA does not have a deterministic implementation, but you set it. You can "
            "turn it off."
        )
    with pytest.raises(RuntimeError, match="out of memory"), repeatable("cuda", True):
        raise RuntimeError("out of memory")
