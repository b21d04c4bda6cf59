"""A float64 network computes in float64, and is the same network."""

import copy

import pytest
import torch
from networks import tiny

from dpo_lab.precision import widen_norms

KINDS = ["llama", "qwen2", "gemma2"]


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_exact_and_otherwise_the_same(kind):
    model = tiny(kind).double().eval()
    wide = copy.deepcopy(model)
    widen_norms(wide)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    torch.testing.assert_close(wide(ids).logits, model(ids).logits, rtol=0, atol=1e-4)
    names = [
        name for name, module in wide.named_modules() if type(module).__name__.endswith("RMSNorm")
    ]
    assert names
    for name in names:
        norm, narrow = wide.get_submodule(name), model.get_submodule(name)
        assert isinstance(norm, type(narrow)) and type(norm) is not type(narrow)
        x = torch.randn(4, norm.weight.shape[0], dtype=torch.float64)
        offset = 1.0 if kind == "gemma2" else 0.0
        eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        expected = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * (offset + norm.weight)
        assert (norm(x) - expected).abs().max() < 1e-14
    assert model.state_dict().keys() == wide.state_dict().keys()
    again = copy.deepcopy(wide)
    again.state_dict()[f"{names[0]}.weight"].mul_(2)
    assert not torch.equal(again(ids).logits, wide(ids).logits)
