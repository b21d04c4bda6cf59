"""Every experiment that is shipped: it says what it must, composes in all its forms, and draws."""

import json
import subprocess
import sys

import pytest

from dpo_lab import experiment as experiments
from dpo_lab.compose import compose, jobs
from dpo_lab.errors import Refused
from dpo_lab.variants import compose_all
from tests.browser import Browser

NAMES = [*experiments.names()]
TRAINED = [name for name in NAMES if experiments.load(name).sweeps]
# runs as small as this draw everything; what is claimed then holds by chance or not at all
SMALL = (
    "data=world_nano data.depth=3 data.pairs=200 data.eval_pairs=60 data.sft_rows=200 "
    "start.steps=4 start.batch_size=32 train.steps=3 train.batch_size=16 "
    "schedule.warmup_steps=1 launcher.jobs=2"
).split()


def first(words: list[str]) -> list[str]:
    """The overrides of the first job of a sweep."""
    return jobs([experiments.placeholder(word) for word in words])[0]


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_must(name):
    one = experiments.load(name)
    for text in (one.title, one.paper, one.figure, one.claim, one.expect):
        assert isinstance(text, str) and text.strip()
    assert one.path.with_suffix(".py").is_file()
    assert one.path.read_text().startswith("# ")
    assert all({"what", "value", "source", "verified"} == set(fact) for fact in one.facts)
    if one.sweeps:
        assert one.seconds > 0
        full, quick = (
            sum(len(jobs([experiments.placeholder(word) for word in words])) for words in form)
            for form in (one.words().values(), one.words(quick=True).values())
        )
        assert 0 < quick <= 30 and quick < full <= 300


def test_rankings_stand_on_five_seeds_in_the_full_form():
    for name in TRAINED:
        for sweep, words in experiments.load(name).words().items():
            seeds = [word for word in words if word.startswith("seed=")]
            exact = "loss=exact_rl" in words  # it sees every response: nothing is left to chance
            assert exact or seeds in (["seed=0,1,2,3,4"], ["seed=100"]), f"{name}: {sweep}"


def test_every_method_of_the_frontier_may_choose_from_the_same_rates():
    one = experiments.load("dpo_frontier")
    for form in (one.words(), one.words(quick=True), one.real_words()):
        tuned = {name: words for name, words in form.items() if name.startswith("tune_")}
        rates = {
            tuple(word for word in words if "optimizer.lr" in word) for words in tuned.values()
        }
        assert len(rates) == 1
        assert {name.removeprefix("tune_") for name in tuned} == form.keys() - tuned.keys()


@pytest.mark.parametrize("name", TRAINED)
def test_the_longest_sweep_composes_in_every_form(name):
    one = experiments.load(name)
    sweep = max(one.real_words(), key=lambda key: len(one.sweeps[key]))
    for words in (one.words()[sweep], one.real_words()[sweep]):
        config = compose(first(words))
        assert config.name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_all_sweeps_compose_in_every_form(name):
    one = experiments.load(name)
    for form in (one.words(), one.words(quick=True), one.real_words()):
        for words in form.values():
            made = compose_all(jobs([experiments.placeholder(word) for word in words]))
            assert len({repr(config.plain) for config in made}) == len(made)  # all of them differ


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_draws(name, tmp_path):
    words = [f"outputs_dir={tmp_path}"]
    if name == "dialogues":
        words = [*DIALOGUES, f"data.path={dialogues(tmp_path / 'dialogues.jsonl')}", *words]
    elif name in TRAINED:
        words = [*SMALL, *LONGER.get(name, ()), *words]
    small = [word for word in words if not word.startswith(KEPT.get(name, ("-",)))]
    done = subprocess.run(
        [sys.executable, "-m", "dpo_lab", "reproduce", name, "--quick", *small],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "verdict" in done.stdout
    for kind in ("png", "svg", "csv", "json"):
        assert (tmp_path / name / f"{name}-quick.{kind}").stat().st_size > 200
    if name in TRAINED:
        again = subprocess.run(
            [sys.executable, "-m", "dpo_lab", "reproduce", name, "--quick", *small],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert "begins" not in again.stderr and "all done before" in again.stdout
        assert again.stdout.split("claim")[1] == done.stdout.split("claim")[1]


# on data of one's own there is no small world to take
DIALOGUES = (
    "model.hidden_size=16 model.num_layers=1 model.intermediate_size=16 model.vocab_size=300 "
    "start.epochs=1 eval.every=2 launcher.jobs=2"
).split()


def dialogues(path):
    """Sixty pairs of whole dialogues that share their prompt."""
    said = "\n\nHuman: what is {0} and {0}?\n\nAssistant: {1}"
    rows = [
        {"chosen": said.format(n, 2 * n), "rejected": said.format(n, f"no {2 * n + 1}")}
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# words of SMALL that would take the place of what an experiment varies
KEPT = {"data_scaling": ("data.pairs", "train.steps", "train.batch_size")}


CURVE = "return document.querySelector('#value path[data-loss=dpo]').getAttribute('d')"


@pytest.mark.slow
def test_the_page_of_losses_follows_its_slider(tmp_path):
    words = ["reproduce", "loss_shapes", f"outputs_dir={tmp_path}"]
    subprocess.run([sys.executable, "-m", "dpo_lab", *words], check=True, capture_output=True)
    page = tmp_path / "loss_shapes" / "loss_shapes.html"
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(page)
        before = browser.run(CURVE)
        browser.type("#beta", "\ue012" * 3)  # the left arrow: three values down from 1
        assert browser.run("return document.querySelector('#said').textContent") == "0.3"
        assert browser.run(CURVE) != before
        browser.click("#choose input")
        assert browser.run("return document.querySelectorAll('#value path').length") == 4
        assert "-0.3946" in browser.run("return document.querySelector('#exercises').textContent")
        assert browser.console() == []
        assert browser.requests() == [page.resolve().as_uri()]
    finally:
        browser.close()


def test_an_unknown_one_is_named():
    with pytest.raises(Refused, match="did you mean dpo_frontier"):
        experiments.load("dpo_fronteer")


# words on top of SMALL: a reference that follows the policy every 100 updates needs a run as long
LONGER = {"reference_ablation": ("train.steps=101",)}
