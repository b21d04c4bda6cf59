"""What is typed is taken apart, or refused in one or two lines."""

import pytest

from dpo_lab.errors import Refused
from dpo_lab.overrides import parse, values

GROUPS = {"loss": ["dpo", "ipo", "simpo"], "data": ["file", "mix"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("=1", "sets nothing"),
        ("loss=DPO", "did you mean loss=dpo?"),
        ("loss=dpo.yaml", "there is no loss=dpo.yaml"),
        ("loss={beta: 1}", "loss takes one option"),
        ("+loss=ipo", "type loss=ipo"),
        ("train={}", "train.NAME=VALUE"),
        ("data={_target_: os.system}", "not for the command line"),
        ("+data.sources.a={path: {_target_: x}}", "not for the command line"),
        ("data.path=a=b", "\"data.path='a=b'\""),
        ("loss.beta==1", "write NAME=VALUE"),
        ("lo ss=1", "a name is written in letters"),
        ("x" * 201 + "=1", "unknown option"),
        ("loss.beta=" + "9" * 5000, "cannot read"),
        ("loss.beta=" + "[" * 3000 + "]" * 3000, "cannot read"),
    ],
)
def test_is_refused(text, says):
    with pytest.raises(Refused) as caught:
        parse([text], GROUPS)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 500 and str(caught.value).count("\n") <= 1


def test_a_nested_option_is_taken():
    (item,) = parse(["+data@data.sources.a=file"], GROUPS)
    assert (item.key_or_group, item.package, item.value()) == ("data", "data.sources.a", "file")


def test_the_values_of_a_sweep():
    listed, pattern, span = parse(["loss=dpo,ipo", "loss=glob(*po)", "seed=range(0,3)"], GROUPS)
    assert values(listed, GROUPS) == ["dpo", "ipo"]
    assert values(pattern, GROUPS) == ["dpo", "ipo", "simpo"]
    assert values(span, GROUPS) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("seed=range(0)", "no value at all"), ("seed=glob(*)", "glob is for groups")],
)
def test_a_sweep_of_nothing_is_refused(text, says):
    with pytest.raises(Refused, match=says):
        values(parse([text], GROUPS)[0], GROUPS)
