from __future__ import annotations

import pytest
import torch
from networks import Tokens, tiny
from torch import nn

from dpo_lab import head
from dpo_lab.head import gather_logps, linear_logps, module_logps
from dpo_lab.policy import Policy

EXACT = {"rtol": 0, "atol": 1e-10}


def weighted(values: torch.Tensor) -> torch.Tensor:
    """A loss in which every token counts differently."""
    return (values * torch.linspace(0.5, 2.0, len(values), dtype=values.dtype)).sum()


@pytest.mark.parametrize("kept", [2**28, 0], ids=["kept", "recomputed"])
@pytest.mark.parametrize("chunk", [2**23, 100])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_head_equals_autograd(monkeypatch, kept, chunk, bias, frozen):
    monkeypatch.setattr(head, "KEPT", kept)
    monkeypatch.setattr(head, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, weight = draw(23, 8).requires_grad_(), draw(31, 8).requires_grad_(not frozen)
    offset = draw(31).requires_grad_(not frozen) if bias else None
    targets = torch.randint(31, (23,), generator=generator)
    ours = linear_logps(hidden, weight, offset, targets, torch.float64)
    logits = hidden @ weight.T + (0 if offset is None else offset)
    theirs = gather_logps(logits, targets)
    torch.testing.assert_close(ours, theirs, **EXACT)
    wanted = [x for x in (hidden, weight, offset) if x is not None and x.requires_grad]
    ours_grad = torch.autograd.grad(weighted(ours), wanted, retain_graph=True)
    torch.testing.assert_close(ours_grad, torch.autograd.grad(weighted(theirs), wanted), **EXACT)
    again = torch.autograd.grad(weighted(ours), wanted)  # what was kept is gone: recomputed
    torch.testing.assert_close(again, ours_grad, **EXACT)


def test_a_module_as_head_in_chunks_equals_one_call(monkeypatch):
    monkeypatch.setattr(head, "CHUNK", 100)
    torch.manual_seed(0)
    module = nn.Linear(8, 31).double()
    hidden = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    targets, legal = torch.randint(5, (23,)), torch.tensor([1, 4, 9, 20, 30])
    ours = module_logps(module, hidden, targets, legal)
    theirs = gather_logps(module(hidden)[:, legal], targets)
    torch.testing.assert_close(ours, theirs, **EXACT)
    wanted = [hidden, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(weighted(ours), wanted),
        torch.autograd.grad(weighted(theirs), wanted),
        **EXACT,
    )


@pytest.mark.parametrize(
    ("kind", "plain"),
    [("llama", True), ("phi", True), ("gemma2", False), ("cohere", False), ("granite", False)],
)
def test_a_head_that_is_not_all_of_it_is_not_used_alone(kind, plain):
    assert (Policy(tiny(kind), Tokens()).head is not None) == plain
    # nor where the weights are so small that a soft cap does not show in the logits
    small = tiny(kind)
    for parameter in small.parameters():
        parameter.data *= 0.05
    assert (Policy(small, Tokens()).head is not None) == plain


def test_log_softmax_of_bfloat16_logits_is_float32():
    # Logits as bfloat16 gives them; the log-softmax of these must not be rounded again.
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(400, 64, generator=generator)
    weight = 0.3 * torch.randn(5000, 64, generator=generator)
    targets = torch.randint(5000, (400,), generator=generator)
    ours = linear_logps(hidden, weight, None, targets, torch.bfloat16)
    assert ours.dtype == torch.float32
    logits = (hidden.bfloat16() @ weight.bfloat16().T).double()
    exact = gather_logps(logits, targets)
    assert exact.dtype == torch.float64
    for part, whole in zip(ours.split(100), exact.split(100), strict=True):
        assert abs(part.double().sum() - whole.sum()) < 0.02


def test_full_logits_in_bfloat16_are_not_rounded_again():
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(200, 5000, generator=generator)).bfloat16()
    targets = torch.randint(5000, (200,), generator=generator)
    ours = gather_logps(logits, targets)
    assert ours.dtype == torch.float32
    exact = gather_logps(logits.double(), targets)
    assert (ours.double() - exact).abs().max() < 1e-5
