"""Searches as a whole, over runs that are a formula; with real runs in test_sweepers_restart."""

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from searches import EVERY, STEPS, Formula, measure, searcher
from sweeps import NANO

from dpo_lab import launchers
from dpo_lab.__main__ import main, usage
from dpo_lab.__main__ import parse as parse_line
from dpo_lab.compose import compose
from dpo_lab.jobs import Desk, expand
from dpo_lab.live import View


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
    return searcher(tmp_path, monkeypatch, capsys)


def folders(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("*/*/status.json"))


def test_a_search_from_end_to_end(search, tmp_path):
    status, found, out, err = search("sweeper.trials=6", "sweeper.at_most={world/kl: 3}")
    assert status == 0 and found["ended"] == {"done": 6} and found["steps"] == 6 * STEPS
    assert "[1/6] begins" in err and "[6/6] done" in err
    kept = [row for row in found["trials"] if row["measured"]["world/kl"] <= 3]
    beyond = [row for row in found["trials"] if row not in kept]
    best = max(kept, key=lambda row: row["measured"]["world/optimal_share"])
    assert found["best"] == [best | {"command": found["best"][0]["command"]}]
    assert beyond, "the space should offer runs beyond the bound"
    # the command that is printed is the run that it is printed for
    command = shlex.split(found["best"][0]["command"])
    assert command[0] == "dpo-lab" and not [word for word in command if "sweeper" in word]
    (job,) = Desk().identify(expand(command[1:]))
    assert (job.state, str(job.folder)) == ("finished", best["folder"])
    lines = out.splitlines()
    assert re.match("6 runs in [0-9:]+: 6 done now", lines[0])
    assert "search: 6 trials: 6 done; 240 steps trained" in lines
    assert found["best"][0]["command"] in out and lines[-1].endswith("search.json")
    assert len(folders(tmp_path)) == 6


@pytest.mark.slow
def test_a_configuration_that_cannot_be_is_a_failed_trial(search):
    words = ["reference=frozen,none", "loss.beta=0.5,1", "sweeper.trials=4"]
    status, _, _, err = search(*words)
    assert status == 2 and "reference=none gives it none" in err  # a corner: before anything starts
    either = "train.steps=6,null"  # with epochs null as well it is refused, but no corner is
    status, found, out, _ = search(
        either, "train.epochs=null,1", "loss.beta=1", "sweeper.trials=8", "sweeper.sampler=random"
    )
    states = {row["state"] for row in found["trials"]}
    assert status == 1 and states == {"done", "failed"}
    assert "exactly one of train.steps and train.epochs" in out


@pytest.mark.parametrize(
    "pruner", ["median", pytest.param("successive_halving", marks=pytest.mark.slow)]
)
def test_runs_that_fall_behind_end_early(search, tmp_path, pruner):
    words = [f"sweeper.pruner={pruner}", "sweeper.startup=2", "sweeper.warmup=20"]
    status, found, out, err = search("sweeper.trials=8", "launcher.jobs=2", *words)
    pruned = [row for row in found["trials"] if row["state"] == "pruned"]
    assert status == 0 and pruned and found["ended"]["done"] == 8 - len(pruned)
    assert found["steps"] == sum(row["steps"] for row in found["trials"]) < 8 * STEPS
    best = found["best"][0]
    for row in pruned:
        assert 20 <= row["steps"] < STEPS and row["reason"].startswith("pruned at step ")
        told = json.loads((Path(row["folder"]) / "status.json").read_text())
        assert told == {"state": "stopped", "reason": row["reason"]}
        share = row["measured"]["world/optimal_share"] * STEPS / row["steps"]
        assert share <= best["measured"]["world/optimal_share"]
    assert f"{len(pruned)} pruned" in out.splitlines()[0] and "] pruned " in err
    assert "runs what is missing" not in out


@pytest.mark.slow
def test_a_run_that_stays_beyond_a_bound_ends_early(search):
    words = ["sweeper.at_most={world/kl: 0.2}", "sweeper.pruner=median", "sweeper.startup=9"]
    _, found, _, _ = search("sweeper.trials=6", *words)
    for row in found["trials"]:
        kl = 1 / float(row["overrides"][0].split("=")[1])
        if kl / 2 > 0.2 and row["state"] != "pruned":
            raise AssertionError(row)
        assert (row["state"] == "pruned") == ("world/kl" in row["reason"])
    assert found["ended"].get("pruned")


@pytest.mark.slow
def test_a_bound_that_is_broken_only_at_first_ends_no_run(search):
    def falling(config, step):
        return measure(config, step) | {"world/kl": (STEPS - step) / EVERY}

    words = ["sweeper.at_most={world/kl: 0.5}", "sweeper.pruner=median", "sweeper.startup=9"]
    _, found, _, _ = search("sweeper.trials=3", *words, measured=falling)
    assert found["ended"] == {"done": 3} and found["best"]


@pytest.mark.slow
def test_several_metrics_have_a_front(search):
    words = ["sweeper.minimize=[world/kl]", "sweeper.trials=8", "sweeper.startup=3"]
    status, found, out, _ = search(*words)
    assert status == 0 and len(found["best"]) > 1
    points = [tuple(row["measured"].values()) for row in found["trials"]]
    for share, kl in [tuple(row["measured"].values()) for row in found["best"]]:
        assert not any(s >= share and k <= kl and (s, k) != (share, kl) for s, k in points)
    assert f"Pareto front of world/optimal_share and world/kl, {len(found['best'])} runs:" in out
    status, _, _, err = search(*words, "sweeper.pruner=median")
    assert status == 2 and "compares runs by one metric" in err


def test_what_was_run_before_is_told_and_not_run_again(search, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launchers, "local", Formula)
    grid = ["-m", *NANO, "eval.every=20", f"outputs_dir={tmp_path}", "loss.beta=0.5,1"]
    assert main([*grid, "optimizer.lr=1e-3"]) == 0
    capsys.readouterr()
    words = ["loss.beta=0.5,1,2", "optimizer.lr=1e-3", "sweeper.trials=6", "launcher.jobs=2"]
    status, found, out, err = search(*words)
    assert status == 0 and err.count("begins") == 1, "only beta 2 is new"
    assert found["ended"] == {"done": 6} and found["steps"] == STEPS
    assert {row["overrides"][0] for row in found["trials"]} == {
        f"loss.beta={b}" for b in (0.5, 1, 2)
    }
    assert found["best"][0]["overrides"] == ["loss.beta=1"]
    assert "1 done now" in out and "the same run as trial" in err


@pytest.mark.slow
def test_losses_are_searched_each_with_its_own_options(search):
    def either(config, step):
        loss = config.nodes["loss"]
        share = loss.get("beta", 1) / 4 if "beta" in loss else loss["tau"]
        return {"world/optimal_share": share * step / STEPS, "world/kl": 1.0}

    words = ["loss=dpo,ipo", "loss.beta=interval(0.1,1)", "loss.tau=interval(0.1,1)"]
    status, found, _, _ = search(*words, "sweeper.trials=8", "sweeper.startup=4", measured=either)
    assert status == 0 and found["ended"] == {"done": 8}
    for row in found["trials"]:
        loss = row["overrides"][0]
        own = {"loss=dpo": "loss.beta", "loss=ipo": "loss.tau"}[loss]
        assert [word.partition("=")[0] for word in row["overrides"]] == ["loss", own]
    assert found["best"][0]["overrides"][0] == "loss=ipo"


@pytest.mark.slow
def test_a_run_without_a_value_is_not_best_and_not_failed(search):
    def late(config, step):
        found = measure(config, step)
        return found if found["world/kl"] > 0.5 else {"world/kl": found["world/kl"]}

    status, found, out, _ = search("sweeper.trials=6", measured=late)
    without = [row for row in found["trials"] if row["state"] == "no value"]
    assert status == 0 and without and found["ended"]["no value"] == len(without)
    assert all(row["reason"] == "ended without world/optimal_share" for row in without)
    assert f"{len(without)} no value" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["optimizer.lr=interval(0,1)"], "optimizer.lr must be > 0"),
        (["sweeper.trials=0"], "sweeper.trials must be >= 1"),
        (["sweeper.sampler=cmaes"], "sweeper.sampler must be one of tpe, random"),
        (["sweeper.trial=3"], "did you mean sweeper.trials"),
        (["sweeper.maximize=[loss]"], "loss is no metric of an evaluation"),
        (["sweeper.pruner=median", "eval.every=null"], "sees a run at its evaluations"),
        (["launcher.jobs=1,2"], "one launcher"),
        (["sweeper.warmup=5"], "is for a pruner"),
    ],
)
def test_is_refused_before_anything_starts(search, tmp_path, words, says):
    status, _, out, err = search("loss.beta=interval(1,2)", *words)
    assert status == 2 and says in err and out == "" and len(err.splitlines()) <= 3
    assert not list(tmp_path.iterdir())


def test_a_metric_that_no_run_measures_is_refused_at_the_first_evaluation(search):
    status, found, _, err = search("sweeper.maximize=[world/optimal_sher]")
    assert status == 2 and "did you mean world/optimal_share?" in err and not found
    assert err.count("begins") == 1


@pytest.mark.slow
def test_a_queue_that_takes_all_jobs_needs_a_bound(search):
    status, _, _, err = search("sweeper.trials=3", room=sys.maxsize)
    assert status == 2 and "type for example sweeper.parallel=4" in err
    status, found, _, _ = search("sweeper.trials=3", "sweeper.parallel=2", room=sys.maxsize)
    assert status == 0 and found["ended"] == {"done": 3}


def test_a_grid_says_what_searches(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launchers, "local", None)
    assert main(["-m", *NANO, "loss.beta=interval(1,2)", f"outputs_dir={tmp_path}"]) == 2
    assert "sweeper=optuna" in capsys.readouterr().err


def test_without_optuna_it_says_what_to_install(search, monkeypatch):
    monkeypatch.setattr("dpo_lab.sweepers.search.find_spec", lambda name: None)
    status, _, _, err = search()
    assert status == 2 and "pip install 'dpo-lab[sweep]'" in err


def test_it_is_an_option_like_any_other(capsys):
    assert main(["sweeper=optuna"]) == 2 and "add -m" in capsys.readouterr().err
    text = usage(parse_line(["--help", "sweeper=optuna"]))
    assert "grid, optuna" in text and "successive_halving" not in text and "startup: 5" in text
    assert compose([]).choices["sweeper"] == "grid"


def test_the_sweeper_is_not_part_of_a_run():
    words = [*NANO, "loss.beta=0.5"]
    (plain,) = Desk().identify(expand(words))
    (other,) = Desk().identify(expand([*words, "sweeper=optuna", "sweeper.seed=7"]))
    assert other.identity == plain.identity
    assert not [word for word in other.config.overrides if "sweeper" in word]


def test_the_table_of_a_search_counts_runs_that_are_still_to_come(tmp_path):
    from rich.console import Console

    jobs = expand([*NANO, "seed=0,1", f"outputs_dir={tmp_path}"])
    view = View(jobs, live=False, most=20)
    view.started(jobs[0])
    jobs[0].state, jobs[0].reason = "pruned", "pruned at step 24"
    jobs[1].state = "done"
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(view.table(9))
    text = console.export_text()
    assert "seed=0  pruned at step 24" in text and "1 of 20 done, 1 pruned" in text
