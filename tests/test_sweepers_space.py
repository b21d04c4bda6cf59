"""What can be searched, and what a search is after."""

import itertools
import math

import pytest

from dpo_lab.compose import compose
from dpo_lab.errors import Refused
from dpo_lab.jobs import jobs_of
from dpo_lab.sweepers.goal import Goal
from dpo_lab.sweepers.space import Dimension, Space, first


def dimension(word: str) -> Dimension:
    (one,) = Space.of([word]).dimensions
    return one


@pytest.mark.parametrize(
    ("word", "ends"),
    [
        ("loss=dpo,hinge", ("dpo", "hinge")),
        ("loss=choice(dpo,hinge)", ("dpo", "hinge")),
        ("loss=glob([dpo,hin*])", ("dpo", "hinge")),
        ("loss.beta=0.1,0.5,1e-3", ("0.1", "0.5", "0.001")),
        ("loss.beta=interval(0.05,2)", ("0.05", "2")),
        ("optimizer.lr=tag(log,interval(1e-5,1e-2))", ("1e-05", "0.01")),
        ("train.batch_size=range(1,10,4)", ("1", "9")),
        ("train.batch_size=range(10,1,-3)", ("4", "10")),
        ("loss.beta=range(0.5,1.5,0.25)", ("0.5", "1.25")),
        ("train.batch_size=int(interval(4,64))", ("4", "64")),
    ],
)
def test_what_is_searched(word, ends):
    assert dimension(word).ends() == ends


def test_a_range_is_typed_as_in_a_grid():
    one = dimension("loss.beta=range(0,1,0.1)")
    assert [one.text(value / 10 + 1e-9) for value in range(10)] == list(one.words)
    assert [dimension("seed=range(1,10,4)").text(value) for value in (1, 5, 9)] == ["1", "5", "9"]


def test_a_number_between_two_others_has_four_digits_and_stays_between():
    one = dimension("optimizer.lr=tag(log,interval(1e-5,1e-2))")
    assert one.log and one.text(0.00123456) == "0.001235" and one.text(1e-5) == "1e-05"
    narrow = dimension("loss.beta=interval(0.100004,0.100006)")
    assert float(narrow.text(0.100005)) == 0.100005


def test_an_option_that_is_a_whole_number_is_searched_in_whole_numbers():
    words = ["data=world_nano", "train.batch_size=interval(8,64)", "loss.beta=interval(1,2)"]
    space = Space.of([*words, "seed=tag(log,interval(1,9))"])
    settled = space.settled(compose(space.corners()[0]))
    whole = {one.key: one.whole for one in settled.dimensions}
    assert whole == {"train.batch_size": True, "loss.beta": False, "seed": True}
    assert settled.typed({"train.batch_size": 9, "loss.beta": 1.5, "seed": 2}) == [
        "train.batch_size=9",
        "loss.beta=1.5",
        "seed=2",
    ]


def test_corners_hold_both_ends_with_every_option():
    space = Space.of(["seed=3", "loss.beta=interval(0.05,2)", "loss=dpo,hinge", "name=a,b,c"])
    found = [tuple(words) for words in space.corners()]
    assert len(found) == 6 and all(words[0] == "seed=3" for words in found)
    for loss in ("dpo", "hinge"):
        mine = [words for words in found if words[2] == f"loss={loss}"]
        assert {words[1] for words in mine} == {"loss.beta=0.05", "loss.beta=2"}
        assert {words[3] for words in mine} == {"name=a", "name=b", "name=c"}


def test_the_first_of_several_values_stands_for_all():
    words = ["seed=3", "loss.beta=interval(0.05,2)", "loss=hinge,dpo", "train.steps=range(5,9)"]
    assert first(words) == ["seed=3", "loss.beta=0.05", "loss=hinge", "train.steps=5"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("loss.beta=interval(2,0.05)", "from a smaller number to a larger one"),
        ("loss.beta=interval(2,2)", "from a smaller number to a larger one"),
        ("loss.beta=tag(log,interval(0,2))", "numbers > 0 only"),
        ("seed=tag(log,range(1,100,5))", "log does not go with steps"),
        ("loss=tag(log,choice(dpo,hinge))", "log is for an interval"),
        ("loss.beta=tag(uniform,interval(1,2))", "the only tag is log"),
        ("seed=shuffle(range(1,9))", "leave shuffle out"),
        ("seed=range(9,1)", "no value"),
        ("sweeper.trials=10,20", "one sweeper"),
        ("launcher.jobs=interval(1,2)", "one launcher"),
        ("seed=1", "nothing to search"),
    ],
)
def test_what_cannot_be_searched(word, says):
    with pytest.raises(Refused, match=says) as refused:
        Space.of([word])
    assert len(str(refused.value).splitlines()) <= 3


def test_an_option_is_searched_once():
    with pytest.raises(Refused, match=r"loss\.beta is searched already"):
        Space.of(["loss.beta=1,2", "loss.beta=interval(1,2)"])


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("loss.beta=interval(0,2)", "loss.beta must be > 0, got 0"),
        ("loss.label_smoothing=interval(0,0.5)", "loss.label_smoothing must be"),
        ("train.batch_size=interval(1.5,8)", "train.batch_size must be"),
        ("loss=interval(0,1)", "loss takes one option"),
        ("loss.betta=interval(0,1)", "loss.betta"),
        ("loss.gamma=interval(0,1)", "loss.gamma"),
        ("loss=dpo,ippo", "did you mean loss=ipo"),
    ],
)
def test_both_ends_are_checked_against_the_option(word, says):
    words = [word, "loss.beta=1,2"] if word.startswith("loss=") else ["loss=dpo,ipo", word]
    with pytest.raises(Refused, match=says.replace(".", r"\.")):
        jobs_of(Space.of(["data=world_nano", *words]).corners())


def test_an_option_that_only_some_have_is_searched_for_those():
    words = ["loss.beta=interval(0.05,2)", "loss=dpo,ipo", "loss.tau=interval(0.1,1)", "seed=3"]
    space = Space.of(words)
    assert [one.key for one in space.dimensions] == ["loss", "loss.beta", "loss.tau"]
    assert space.corners() == [
        ["loss.beta=0.05", "loss=dpo", "seed=3"],
        ["loss.beta=2", "loss=dpo", "seed=3"],
        ["loss=ipo", "loss.tau=0.1", "seed=3"],
        ["loss=ipo", "loss.tau=1", "seed=3"],
    ]
    assert len(jobs_of([["data=world_nano", *one] for one in space.corners()])) == 4
    mine = space.typed({"loss": "ipo", "loss.tau": 0.25})
    assert mine == ["loss=ipo", "loss.tau=0.25"]
    assert space.fill(mine) == ["loss=ipo", "loss.tau=0.25", "seed=3"]
    assert first(words) == ["loss.beta=0.05", "loss=dpo", "seed=3"]
    both = Space.of(["loss.beta=interval(0.05,2)", "loss=dpo,hinge"])
    assert len(both.corners()) == 4 and not both.having


# --------------------------------------------------------------------------------------- goals


def test_the_best_run_keeps_every_bound():
    goal = Goal.of(["a/x"], [], {"a/kl": 3})
    runs = [
        {"a/x": 0.9, "a/kl": 3.1},  # beyond the bound
        {"a/x": 0.7, "a/kl": 3.0},
        {"a/x": 0.8},  # not known to keep it
        {"a/kl": 1.0},  # no value
        {"a/x": 0.7, "a/kl": 2.0},
    ]
    assert goal.best(runs) == [1]
    assert goal.best(runs[:1]) == []
    assert Goal.of([], ["a/x"], {}).best(runs) == [1]
    assert Goal.of([], [], {}).metrics == ("eval/loss",)


def test_the_front_of_several_metrics():
    goal = Goal.of(["a/reward"], ["a/kl"], {})
    points = [(1, 1), (2, 2), (1, 2), (3, 3), (2, 3), (0, 0.5)]
    runs = [{"a/reward": reward, "a/kl": kl} for reward, kl in points]
    assert [points[place] for place in goal.best(runs)] == [(1, 1), (2, 2), (3, 3), (0, 0.5)]
    assert goal.directions == ["maximize", "minimize"]


def test_what_is_not_finite_was_not_measured():
    goal = Goal.of(["a/x"], [], {"a/kl": 3})
    assert goal.measured({"a/x": math.nan, "a/kl": math.inf, "a/z": 1.0}) == {}
    assert goal.broken({"a/x": 1.0}) == ["a/kl"]


def test_a_bound_recedes_where_it_is_broken_twice_and_not_less():
    goal = Goal.of(["a/x"], [], {"a/kl": 3})
    kl = [{"a/kl": value} for value in (2.0, 3.5, 3.4, 3.4, 2.9)]
    receding = [goal.receding(before, now) for before, now in itertools.pairwise(kl)]
    assert receding == ["", "", "a/kl", ""]
    assert goal.receding({}, {"a/kl": 9.0}) == ""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((["loss"], [], {}), "loss is no metric of an evaluation"),
        ((["train/loss"], [], {}), "train/loss is no metric of an evaluation"),
        (([], ["eval/loss"], {"kl": 3}), "kl is no metric"),
        ((["eval/x"], ["eval/x"], {}), "named twice"),
        (([], [], {"world/kl": "three"}), "at most a number, got three"),
        (([], [], {"world/kl": math.inf}), "at most a number"),
        (([], [], 3), "written {METRIC: NUMBER}, got 3"),
    ],
)
def test_a_goal_that_makes_no_sense(given, says):
    with pytest.raises(Refused, match=says):
        Goal.of(*given)


def test_a_metric_that_is_not_measured_is_refused_at_the_first_evaluation():
    event = {"event": "eval", "step": 5, "world/kl": 1.0, "eval/loss": 0.5}
    Goal.of(["world/optimal_share"], [], {"world/kl": 3}).check(event)  # not defined below some KL
    with pytest.raises(Refused, match="did you mean world/kl"):
        Goal.of([], ["world/kk"], {}).check(event)
