"""Signatures read from source text."""

import sys
import textwrap

import pytest

from dpo_lab.errors import Refused
from dpo_lab.options import bind, check, schema, signature


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a user's, found on the path and never imported by reading it."""

    def write(body: str, name: str = "mine") -> str:
        text = textwrap.dedent(body)
        (tmp_path / f"{name}.py").write_text(
            "from __future__ import annotations\nraise_if_imported = 1 / 0\n" + text
        )
        return name

    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    signature.cache_clear()
    from dpo_lab import options

    options._module.cache_clear()
    return write


def test_a_signature_is_read_without_importing(module):
    name = module(
        """
        def loss(policy: Pair[Logps], reference: Pair[Logps], *,
                 beta: Annotated[float, Positive],
                 gamma: Annotated[float | None, Range(ge=0, lt=2)] = None,
                 kind: Literal["sum", "mean"] = "sum",
                 names: list[str] = [],
                 weights: dict[str, float] = {}): ...
        """
    )
    found = signature(f"{name}.loss")
    assert found.inputs == {"policy": "Pair[Logps]", "reference": "Pair[Logps]"}
    assert list(found.knobs) == ["beta", "gamma", "kind", "names", "weights"]
    assert found.knobs["gamma"].optional and not found.knobs["beta"].optional
    assert found.knobs["kind"].choices == ("sum", "mean")
    assert "mine" not in sys.modules
    assert schema(f"{name}.loss")().kind.name == "sum"


def test_a_re_export_is_followed():
    assert signature("dpo_lab.losses.dpo").inputs.keys() == {"policy", "reference"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def f(*, beta): ...", "beta has no type"),
        ("def f(*, beta: Tensor): ...", "Tensor is no type of a knob"),
        ("def f(*, beta: Annotated[float, Big]): ...", "Big is no range"),
        ("def f(*, beta: float = sqrt(2)): ...", "not a literal"),
        ("def g(): ...", "no public function f; there is g"),
        ("def f(:", "invalid syntax"),
    ],
)
def test_what_cannot_be_read_is_said(module, body, says):
    name = module(body)
    with pytest.raises(Refused, match=says):
        signature(f"{name}.f")


def test_a_missing_module_is_named():
    with pytest.raises(Refused, match="no module nowhere_at_all"):
        signature("nowhere_at_all.f")


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"beta": 1.0, "gama": 1}, r"unknown option loss.gama; did you mean loss.gamma\?"),
        ({"beta": 0.0, "gamma": None}, "loss.beta must be > 0, got 0.0"),
        ({"beta": float("nan"), "gamma": None}, "loss.beta must be > 0, got nan"),
        ({"beta": None, "gamma": None}, "loss.beta must be a number > 0, got null"),
        ({"beta": "???", "gamma": None}, "loss.beta is needed"),
        ({"gamma": None}, "loss.beta was removed"),
        ({"beta": 1.0, "gamma": 1.0, "ratio": 2.0}, "exclude each other"),
    ],
)
def test_nodes_are_checked(module, node, says):
    name = module(
        """
        @exclusive("gamma", "ratio")
        def f(*, beta: Annotated[float, Positive], gamma: float | None = None,
              ratio: float | None = None): ...
        """
    )
    node = {"ratio": None} | node if "ratio" not in node else node
    with pytest.raises(Refused, match=says):
        check(node, "loss", f"{name}.f")


def test_bind_calls_the_function_with_its_knobs():
    bound = bind({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 3})
    assert bound() * 3 == 1
