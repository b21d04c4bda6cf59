"""Optimizers by hand, and their state through a file."""

import inspect
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import nn

from dpo_lab import optimizers
from dpo_lab.errors import Refused
from dpo_lab.optimizers import adamw, load_state_by_name, rmsprop, sgd, state_by_name

CONF = Path(__file__).parents[1] / "conf" / "optimizer"
ADAMW = partial(adamw, lr=0.01, weight_decay=0.1, beta1=0.9, beta2=0.99, eps=1e-8)
EVERY = {
    "adamw": ADAMW,
    "rmsprop": partial(rmsprop, lr=0.01, weight_decay=0.1),
    "rmsprop with momentum": partial(rmsprop, lr=0.01, momentum=0.9),
    "sgd": partial(sgd, lr=0.01),
    "sgd with momentum": partial(sgd, lr=0.01, momentum=0.9, nesterov=True),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for matrices this small, a second thread only waits
    yield
    torch.set_num_threads(threads)


class Tiny(nn.Module):
    """A layer of each kind that decay treats on its own."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.embed = nn.Embedding(5, 4, dtype=dtype)
        self.q_norm = nn.LayerNorm((2, 2), dtype=dtype)
        self.proj = nn.Linear(4, 4, dtype=dtype)
        self.experts_bias = nn.Parameter(torch.zeros(3, 4, dtype=dtype))
        self.scale = nn.Parameter(torch.ones(4, dtype=dtype))
        self.head = nn.Linear(4, 5, bias=False, dtype=dtype)

    def forward(self, ids):
        states = self.q_norm(self.embed(ids).view(-1, 2, 2)).view(-1, 4)
        return self.head(torch.tanh(self.proj(states * self.scale) + self.experts_bias.sum(0)))


def tiny(dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    return Tiny(dtype)


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())


def update(model: Tiny, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        ids = torch.tensor([step % 5, (step + 2) % 5])
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids), ids).backward()
        optimizer.step()


@pytest.mark.parametrize("optimizer", [ADAMW, EVERY["rmsprop"], partial(sgd, lr=1, weight_decay=1)])
def test_two_groups_in_the_order_given(optimizer):
    model = tiny()
    names = {id(parameter): name for name, parameter in named(model)}
    decayed, others = optimizer(named(model)).param_groups
    assert decayed["weight_decay"] > 0
    assert others["weight_decay"] == 0
    assert [names[id(p)] for p in decayed["params"]] == [
        "embed.weight",
        "proj.weight",
        "head.weight",
    ]
    assert [names[id(p)] for p in others["params"]] == [
        "experts_bias",
        "scale",
        "q_norm.weight",
        "q_norm.bias",
        "proj.bias",
    ]


def test_an_empty_group_is_left_out():
    matrix = [("logits", nn.Parameter(torch.zeros(3, 4)))]
    (group,) = ADAMW(matrix).param_groups
    assert group["weight_decay"] == 0.1


def first_update(optimizer) -> tuple[float, float]:
    """A weight and a bias after one update, from 2 and 2, by gradients 0.5 and 0.5."""
    weight = nn.Parameter(torch.full((1, 1), 2.0, dtype=torch.float64))
    bias = nn.Parameter(torch.full((1,), 2.0, dtype=torch.float64))
    weight.grad, bias.grad = torch.full_like(weight, 0.5), torch.full_like(bias, 0.5)
    optimizer([("layer.weight", weight), ("layer.bias", bias)]).step()
    return weight.item(), bias.item()


def test_first_update_by_hand():
    # SGD: decay joins the gradient, 0.5 + 0.1 * 2.
    assert first_update(partial(sgd, lr=0.1, weight_decay=0.1)) == pytest.approx((1.93, 1.95))
    # AdamW: decay scales the weight by 1 - 0.1 * 0.1, then both move by lr times the sign.
    small = partial(adamw, lr=0.1, weight_decay=0.1, eps=1e-12)
    assert first_update(small) == pytest.approx((2 * 0.99 - 0.1, 1.9))
    # RMSprop divides by the root of a mean that still holds 1 % of g^2: ten times lr.
    assert first_update(partial(rmsprop, lr=0.01, eps=1e-12)) == pytest.approx((1.9, 1.9))
    assert first_update(partial(rmsprop, lr=0.05, alpha=0.75)) == pytest.approx((1.9, 1.9))
    # Nesterov's first update is g + momentum * g.
    assert first_update(partial(sgd, lr=0.1, momentum=0.9, nesterov=True)) == pytest.approx(
        (2 - 0.1 * 0.95, 2 - 0.1 * 0.95)
    )


def test_two_updates_of_adamw_by_hand():
    weight = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    optimizer = adamw([("weight", weight)], lr=0.1, beta1=0.5, beta2=0.75, eps=1e-12)
    for gradient in (0.5, 1.0):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    # Means of g and g^2, each over what its weights sum to: 1 - 0.5^2 and 1 - 0.75^2.
    mean = (0.5 * 0.5 * 0.5 + 0.5 * 1.0) / 0.75
    square = (0.75 * 0.25 * 0.5**2 + 0.25 * 1.0) / 0.4375
    assert weight.item() == pytest.approx(-0.1 - 0.1 * mean / square**0.5)


@pytest.mark.parametrize(
    ("dtype", "fused"), [(torch.float32, True), (torch.float64, True), (torch.bfloat16, False)]
)
def test_adamw_is_fused_where_weights_are_full_precision(dtype, fused):
    for group in ADAMW(named(tiny(dtype))).param_groups:
        assert group["fused"] is fused


def test_fused_adamw_equals_the_plain_one():
    fused, plain = tiny(torch.float64), tiny(torch.float64)
    optimizer, loop = ADAMW(named(fused)), ADAMW(named(plain))
    for group in loop.param_groups:
        group["fused"] = False
    update(fused, optimizer, range(10))
    update(plain, loop, range(10))
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_goes_on_bit_for_bit_from_a_file(make, dtype, tmp_path):
    model = tiny(dtype)
    optimizer = make(named(model))
    assert state_by_name(optimizer, named(model)) == {}
    update(model, optimizer, range(5))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    save_file(state_by_name(optimizer, named(model)), tmp_path / "optimizer.safetensors")
    update(model, optimizer, range(5, 12))

    def resumed(with_state: bool) -> Tiny:
        other = Tiny(dtype)
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        follower = make(named(other))
        if with_state:
            tensors = load_file(tmp_path / "optimizer.safetensors")
            # Names count, not the order in which parameters are listed.
            load_state_by_name(follower, named(other)[::-1], tensors)
        update(other, follower, range(5, 12))
        return other

    assert same(model, resumed(with_state=True))
    # Without the state it is another run, unless there is none: what the file holds is needed.
    stateless = not load_file(tmp_path / "optimizer.safetensors")
    assert same(model, resumed(with_state=False)) == stateless
    assert stateless == (make is EVERY["sgd"])


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def test_names_and_tensors_of_the_state():
    model = tiny()
    optimizer = ADAMW(named(model))
    update(model, optimizer, range(3))
    state = state_by_name(optimizer, named(model))
    names = [name for name, _ in named(model)]
    expected = {f"{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq") for name in names}
    assert set(state) == expected
    assert state["step.q_norm.bias"] == 3
    assert state["exp_avg.embed.weight"].shape == (5, 4)


def test_a_loaded_state_is_a_copy():
    model, other = tiny(), tiny()
    optimizer, follower = ADAMW(named(model)), ADAMW(named(other))
    update(model, optimizer, range(3))
    load_state_by_name(follower, named(other), state_by_name(optimizer, named(model)))
    before = {name: t.clone() for name, t in state_by_name(follower, named(other)).items()}
    update(model, optimizer, range(3, 6))
    after = state_by_name(follower, named(other))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_state_of_unknown_parameters():
    model = tiny()
    with pytest.raises(KeyError, match=r"lora_A\.weight"):
        load_state_by_name(
            ADAMW(named(model)), named(model), {"step.lora_A.weight": torch.ones(())}
        )


def test_nesterov_needs_momentum():
    with pytest.raises(Refused, match="momentum above 0"):
        sgd(named(tiny()), lr=0.1, nesterov=True)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_is_a_call_that_works(path):
    node = OmegaConf.to_container(OmegaConf.load(path))
    assert node.pop("defaults") == [f"/schema/optimizer/{path.stem}@_here_"]
    make = getattr(optimizers, node.pop("_target_").removeprefix("dpo_lab.optimizers."))
    parameters = inspect.signature(make).parameters.values()
    assert list(node) == [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    model = tiny()
    update(model, make(named(model), **node), range(2))
    assert not same(model, tiny())
