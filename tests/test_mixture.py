"""Several sources as one."""

import json
from collections import Counter

import pytest

from dpo_lab.batch import Example
from dpo_lab.errors import Refused
from dpo_lab.mixture import mix
from dpo_lab.source import Source


def write(folder, name, number):
    rows = [{"prompt": f"{name}{i}", "chosen": "a", "rejected": "b"} for i in range(number)]
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return {"_target_": "dpo_lab.data.file", "path": str(path), "eval_share": 0.0}


@pytest.fixture
def sources(tmp_path):
    return {"many": write(tmp_path, "m", 300), "few": write(tmp_path, "f", 100)}


def counts(source):
    return dict(Counter(row.row.split("/")[0] for row in source.train))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, {"many": 300, "few": 100}),
        ({"many": 1, "few": 1}, {"many": 100, "few": 100}),
        ({"many": 2, "few": 1}, {"many": 200, "few": 100}),
        ({"many": 3, "few": 1}, {"many": 300, "few": 100}),
        ({"many": 6, "few": 1}, {"many": 300, "few": 50}),
        ({"many": 0.75, "few": 0.25}, {"many": 300, "few": 100}),
        ({"many": 1 / 3, "few": 2 / 3}, {"many": 50, "few": 100}),
    ],
)
def test_the_largest_mixture_without_repeats(sources, weights, expected):
    mixed = mix(sources=sources, weights=weights)
    assert counts(mixed) == expected
    assert mixed.report["taken"] == expected
    assert len({row.row for row in mixed.train}) == len(mixed.train)


def test_rows_keep_their_order_and_carry_their_source(sources):
    mixed = mix(sources=sources, weights={"many": 1, "few": 1})
    assert mixed.train[-1].row == "few/f.jsonl:100"
    lines = [int(row.row.split(":")[1]) for row in mixed.train[:100]]
    assert lines == sorted(lines)
    assert lines != list(range(1, 101))


def test_the_seed_chooses_the_rows(sources):
    weights = {"many": 1, "few": 1}
    first, again = (mix(sources=sources, weights=weights, seed=1) for _ in range(2))
    other = mix(sources=sources, weights=weights, seed=2)
    assert first.train == again.train
    assert first.digest == again.digest
    assert other.train != first.train
    assert other.digest != first.digest


def test_held_out_rows_and_rejects_of_all(tmp_path):
    first, second = write(tmp_path, "a", 40), write(tmp_path, "b", 40)
    with open(second["path"], "a") as file:
        file.write('\n{"broken"')
    second |= {"on_bad_row": "skip", "eval_share": 0.5}
    mixed = mix(sources={"a": first, "b": second}, weights={"a": 1, "b": 1})
    taken = mixed.report["taken"]
    assert taken["a"] == taken["b"] == 40 - len(mixed.eval)
    assert {row.row.split("/")[0] for row in mixed.eval} == {"b"}
    assert [reject.line for reject in mixed.rejects] == [41]
    assert mixed.report["skipped"] == 1
    assert mixed.report["sources"]["b"]["read"] == 41
    assert len(mixed.files) == 2


def test_mixtures_nest(sources, tmp_path):
    inner = {"_target_": "dpo_lab.data.mix", "sources": sources}
    mixed = mix(sources={"inner": inner, "more": write(tmp_path, "x", 10)})
    assert counts(mixed) == {"inner": 400, "more": 10}
    assert mixed.train[0].row == "inner/many/m.jsonl:1"


def own_source(*, rows=2):
    sft = [Example("own:1", "q", "only this")]
    return Source([Example(f"own:{i}", "q", "a", f"b{i}") for i in range(rows)], [], "d", sft=sft)


def test_a_source_of_the_users_own_module_and_its_sft_rows(sources):
    own = {"_target_": f"{__name__}.own_source", "rows": 3}
    mixed = mix(sources={"own": own, "few": sources["few"]})
    assert counts(mixed) == {"own": 3, "few": 100}
    assert mixed.sft is not None
    assert [row.chosen for row in mixed.sft] == ["only this"] + ["a"] * 100
    assert all(row.rejected is None for row in mixed.sft)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"many": 1}, "no weight for few"),
        ({"many": 1, "few": 1, "fwe": 1}, "there is no source fwe; did you mean few?"),
        ({"many": 1, "few": 0}, "data.weights.few must be a number > 0, got 0"),
        ({"many": 1, "few": -1}, "must be a number > 0"),
        ({"many": 1, "few": float("nan")}, "must be a number > 0"),
        ({"many": 1, "few": "much"}, "must be a number > 0, got 'much'"),
        ({"many": 1, "few": 1e-9}, "too small a share"),
        ({}, "no weight for many"),
        ("many", "must map sources to numbers"),
    ],
)
def test_weights_that_cannot_be(sources, weights, message):
    with pytest.raises(Refused) as refused:
        mix(sources=sources, weights=weights)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("hh", "data.sources.a is no data source; type +data@data.sources.a=file"),
        ({"path": "x"}, "is no data source"),
        ({"_target_": "dpo_lab.data.hhh"}, "data.sources.a cannot be called"),
        ({"_target_": "nowhere.hh"}, "No module named 'nowhere'"),
        ({"_target_": "dpo_lab.data.hh", "pth": "x"}, "data.sources.a cannot be called"),
        ({"_target_": "dpo_lab.data.hh", "path": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
    ],
)
def test_sources_that_cannot_be(node, message):
    with pytest.raises(Refused) as refused:
        mix(sources={"a": node})
    assert message in str(refused.value)


def test_a_mixture_of_nothing():
    with pytest.raises(Refused, match="data=mix needs sources"):
        mix(sources={})
