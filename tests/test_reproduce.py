"""`dpo-lab reproduce`: what it reads, in which order it runs, what it keeps and says."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dpo_lab import experiment as experiments
from dpo_lab.errors import Refused
from dpo_lab.evidence import Check
from dpo_lab.experiment import merged, ready, resolved
from dpo_lab.finding import Finding, told
from dpo_lab.gallery import render
from dpo_lab.reproduce import _drawn, parse, real, reproduce
from tests.run_folders import fake
from tests.sweeps import NANO

YAML = """# a claim about nothing
title: A title
paper: A paper
figure: figure 1
claim: Later runs do better.
expect: A loss below 100.
seconds: 2
common: [COMMON, "seed=0,1"]
sweeps:
  first: [loss=dpo, "loss.beta=0.1,0.5"]
  teacher: [loss=dpo, seed=7]
  then:
    - loss=dpo
    - loss.beta={best:first:loss.beta}
    - reference=checkpoint
    - reference.path={final:teacher}
quick:
  common: [seed=0]
  first: [loss.beta=0.5]
real:
  common: [model=gpt2_large, data=file, data.path=x.jsonl, "seed=0,1"]
  parameters: 1.0e+9
  pairs: 1000
  tokens: 100
"""
CODE = """
from dpo_lab.drawing import Panel
from dpo_lab.evidence import option, per_seed, within
from dpo_lab.finding import Finding

def figure(runs):
    losses = per_seed(runs["then"], "eval/loss")
    rows = [{"sweep": name, "runs": len(some)} for name, some in runs.items()]
    path = option(runs["then"][0], "reference.path")
    assert path == str((runs["teacher"][0].folder / "final").resolve())
    panel = Panel("t", "what is seen", lambda axes: axes.plot([0, 1], [0, 1]))
    return Finding([panel], rows, [within("loss", losses, 0, 100)], "It came.")
"""


@pytest.fixture
def mine(tmp_path):
    """A user's folder with one experiment in it."""
    folder = tmp_path / "mine" / "experiments"
    folder.mkdir(parents=True)
    words = [*NANO, "launcher.jobs=1", f"outputs_dir={tmp_path / 'out'}"]
    (folder / "small.yaml").write_text(YAML.replace("COMMON", ", ".join(words)))
    (folder / "small.py").write_text(CODE)
    return tmp_path / "mine"


def test_words_of_one_key_the_last_counts_and_keeps_its_place():
    assert merged(["a=1", "b=2"], ["c=3"], ["a=4"]) == ["a=4", "b=2", "c=3"]
    assert merged(["a=1"], ["+a=2"]) == ["+a=2"]


def test_the_forms_of_an_experiment(mine):
    one = experiments.load("small", str(mine))
    full, quick = one.words(), one.words(quick=True, more=["train.steps=2"])
    assert "seed=0,1" in full["first"] and "seed=7" in full["teacher"]
    assert "seed=0" in quick["first"] and "loss.beta=0.5" in quick["first"]
    assert "seed=7" in quick["teacher"]  # its own word counts more than that of all
    assert "train.steps=2" in quick["then"] and "train.steps=6" not in quick["then"]
    assert "model=gpt2_large" in one.real_words()["first"]


def test_sweeps_wait_for_what_they_need(mine):
    words = experiments.load("small", str(mine)).words()
    assert ready(words, {}) == ["first", "teacher"]
    assert ready(words, {"first": []}) == ["teacher"]
    assert ready(words, {"first": [], "teacher": []}) == ["then"]


def test_what_comes_from_finished_sweeps(tmp_path):
    runs = [fake(tmp_path / f"{beta}", beta=beta) for beta in (0.1, 0.5)]
    runs[0].metrics["eval/loss"], runs[1].metrics["eval/loss"] = 0.7, 0.6
    words = resolved(["loss.beta={best:first:loss.beta}"], {"first": runs})
    assert words == ["loss.beta=0.5"]
    words = resolved(["reference.path={final:one}"], {"one": runs[:1]})
    assert words == [f"reference.path='{tmp_path / '0.1' / 'final'}'"]
    with pytest.raises(Refused, match="needs one run"):
        resolved(["reference.path={final:one}"], {"one": runs})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("claim:", "claims:"), "claim is missing"),
        (("{best:first:", "{best:frist:"), "needs frist; did you mean first"),
        (("quick:\n", "quick:\n  none: []\n"), "there is no sweep none"),
        (("seconds: 2", "seconds: 2\ncolour: red"), "unknown entry colour"),
        (("title: A", "title: ["), "small.yaml"),
        (("  tokens: 100", "  token: 100"), "real: unknown entry token; did you mean tokens"),
        (("  tokens: 100", ""), "real: tokens is missing"),
    ],
)
def test_a_yaml_that_is_not_right_is_refused(mine, change, reason):
    path = mine / "experiments" / "small.yaml"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(Refused, match=reason):
        experiments.load("small", str(mine))


def test_the_line_is_taken_apart():
    asked = parse(["launcher.jobs=1", "small", "--quick", "--config-dir", "mine"])
    assert asked == ("small", ["launcher.jobs=1"], {"--quick"}, "mine")
    for words in (["--quick"], ["a", "b"], ["a", "--quik"], ["a", "name=b"], ["seed=1"]):
        with pytest.raises(Refused):
            parse(words)


def test_alone_it_lists_claims_and_costs(capsys, mine):
    assert reproduce(["--config-dir", str(mine)]) == 0
    out = capsys.readouterr().out
    assert "small  (7 runs, 0:14; --quick 3 runs, 0:06)" in out
    assert "Later runs do better." in out and "dpo_frontier" in out


def test_real_data_are_only_costed(mine):
    text = real(experiments.load("small", str(mine)))
    # 8 * 1e9 * 1000 * 100 flop at 0.4 * 312e12 a second are 6.41 s, times 7 runs
    assert "7 runs of 1,000M parameters" in text and "about 0.0018 hours each" in text
    assert text.count("dpo-lab -m ") == 3


def test_a_verdict_can_fail_and_says_on_how_much_it_stands(mine):
    yes, no = Check("a", "1", True, 5), Check("b", "2", False, None)
    few = Check("c", "3", True, 2)
    assert Finding([], [], [yes], "").verdict == "holds"
    assert Finding([], [], [yes, no], "").verdict == "does not hold"
    assert Finding([], [], [yes, few], "").verdict == "holds (an indication: 2 of 5 seeds)"
    text = told(Finding([], [], [yes, no], "It came."), experiments.load("small", str(mine)))
    assert "yes  a: 1" in text and " no  b: 2" in text and "verdict   does not hold" in text


def test_the_gallery_shows_what_was_found_and_what_was_not(mine):
    one = experiments.load("small", str(mine))
    found = {
        "verdict": "holds",
        "runs": 4,
        "form": "quick",
        "came": "It came | so, to pi*.",
        "claim": "As it was.",
        "expect": "What was asked then.",
        "alt": ["seen"],
        "checks": [{"expected": "a", "came": "1", "holds": False}],
    }
    page = render([(one, found), (one, None)])
    assert "| holds | 4, 0:08 |" in page and "| not run yet | none |" in page
    assert "![seen](gallery/small.png)" in page and "It came \\| so, to pi\\*." in page
    assert "| As it was. |" in page and "Expected: What was asked then." in page
    assert "- **no**: a: 1" in page and "dpo-lab reproduce small --quick" in page


def lab(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dpo_lab", "reproduce", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_it_runs_in_order_and_draws_again_without_training(mine, tmp_path):
    words = ["small", "--quick", "--config-dir", str(mine)]
    done = lab(*words)
    assert done.returncode == 0, done.stderr
    assert "quick form: 3 runs in 3 sweeps" in done.stdout
    assert "yes  loss between 0 and 100" in done.stdout
    assert "verdict   holds (an indication: 1 of 5 seeds)" in done.stdout
    stem = tmp_path / "out" / "small" / "small-quick"
    rows = [*csv.DictReader(Path(f"{stem}.csv").read_text().splitlines())]
    assert [row["sweep"] for row in rows] == ["first", "teacher", "then"]
    kept = json.loads(Path(f"{stem}.json").read_text())
    assert kept["form"] == "quick" and kept["overrides"] == [] and kept["runs"] == 3
    assert Path(f"{stem}.png").read_bytes()[:4] == b"\x89PNG"
    first = Path(f"{stem}.svg").read_bytes()
    again = lab(*words)
    assert again.returncode == 0 and "begins" not in again.stderr
    assert Path(f"{stem}.svg").read_bytes() == first
    assert lab("--gallery", f"outputs_dir={tmp_path / 'out'}", *words[2:]).returncode == 0
    page = (mine / "experiments" / "README.md").read_text()
    assert "**Holds (an indication: 1 of 5 seeds)**" in page
    assert (mine / "experiments" / "gallery" / "small.png").stat().st_size < 60_000


def test_overrides_that_take_points_away_are_named(mine):
    one = experiments.load("small", str(mine))
    with pytest.raises(Refused, match=r"KeyError: 'then'(.|\n)*leave out.*loss.beta=3"):
        _drawn(one, {}, ["loss.beta=3"])
    with pytest.raises(KeyError):  # nobody's words: a mistake in the figure's own code
        _drawn(one, {}, [])


@pytest.mark.slow
def test_a_failed_run_ends_it_with_the_reason(mine):
    done = lab("small", "--quick", "--config-dir", str(mine), "optimizer.lr=1e30")
    assert done.returncode == 1
    assert "failed" in done.stdout and "verdict" not in done.stdout
    assert "Traceback" not in done.stderr
