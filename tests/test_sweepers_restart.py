"""Searches with real runs in real processes, killed and started again."""

import json
import signal
from pathlib import Path

import pytest
from sweeps import alive, children, command, end, finish, until

from dpo_lab.folder import read_json

pytestmark = pytest.mark.slow

WORDS = [
    *("loss.beta=tag(log,interval(0.1,3))", "optimizer.lr=tag(log,interval(1e-4,1e-2))"),
    *("sweeper=optuna", "sweeper.trials=8", "sweeper.startup=2", "launcher.jobs=2"),
    *("sweeper.maximize=[world/reward]", "sweeper.at_most={world/kl: 3}"),
    *("train.steps=60", "eval.every=5", "sweeper.pruner=median", "sweeper.warmup=20"),
]


def found(root: Path) -> dict:
    (path,) = root.glob("*/search-*/search.json")
    return json.loads(path.read_text())


def test_a_search_that_is_killed_goes_on_with_new_suggestions(tmp_path):
    where = f"outputs_dir={tmp_path}"
    process = command(*WORDS, where)
    try:
        until(lambda: list(tmp_path.glob("*/search-*/search.json")), 300)
        until(lambda: sum(row["state"] == "done" for row in found(tmp_path)["trials"]) >= 2, 300)
        until(lambda: list(tmp_path.glob("*/*/status.json"))[3:], 300)
        below = children(process.pid)
        process.kill()
        finish(process)
        until(lambda: not any(alive(pid) for pid in below), 60)
    finally:
        end([process.pid])
    before = [row for row in found(tmp_path)["trials"] if row["state"] in ("done", "pruned")]
    status, out, err = finish(command(*WORDS, where), 600)
    assert status == 0, err
    after = found(tmp_path)
    assert [row for row in after["trials"] if row in before] == before
    assert sum(after["ended"].values()) == 8 and set(after["ended"]) <= {"done", "pruned"}
    # what was cut off is tried again once, and every other suggestion is new
    lost = [tuple(row["overrides"]) for row in after["trials"] if row["state"] == "lost"]
    kept = [tuple(row["overrides"]) for row in after["trials"] if row["state"] != "lost"]
    assert lost and len(set(kept)) == len(kept) == 8 and set(lost) <= set(kept)
    best = after["best"][0]
    assert best["measured"]["world/kl"] <= 3 and best["command"] in out
    # the same once more has nothing to do
    status, out, err = finish(command(*WORDS, where), 300)
    assert status == 0 and "begins" not in err and found(tmp_path) == after


def test_a_run_that_is_pruned_has_saved_and_can_be_finished(tmp_path):
    words = [*WORDS, f"outputs_dir={tmp_path}", "sweeper.sampler=random", "launcher.jobs=1"]
    status, out, err = finish(command(*words), 900)
    assert status == 0, err
    content = found(tmp_path)
    pruned = [row for row in content["trials"] if row["state"] == "pruned"]
    assert pruned and f"{len(pruned)} pruned" in out.splitlines()[0]
    row = pruned[0]
    folder = Path(row["folder"])
    told = read_json(folder / "status.json")
    assert told["state"] == "stopped" and told["reason"] == row["reason"]
    (saved,) = (folder / "checkpoints").glob("step_*")
    assert int(saved.name[5:]) == row["steps"] < 60
    # a grid that has this run in it takes it up where it was left
    fixed = [word for word in WORDS if word.startswith(("train.", "eval."))]
    status, out, err = finish(command(*fixed, *row["overrides"], f"outputs_dir={tmp_path}"))
    assert status == 0 and "1 done now" in out, err
    assert f"continuing {folder} after step {row['steps']}" in (folder / "train.log").read_text()
    assert read_json(folder / "status.json")["state"] == "done"


def test_a_signal_ends_a_search_and_the_next_command_continues_the_run(tmp_path):
    words = [*WORDS, f"outputs_dir={tmp_path}", "launcher.jobs=1", "sweeper.trials=2"]
    process = command(*words, "train.steps=400")
    try:
        log = until(lambda: list(tmp_path.glob("*/*/metrics.jsonl")), 300)[0]
        until(lambda: '"step": 10' in log.read_text(), 300)
        process.send_signal(signal.SIGINT)
        status, out, _ = finish(process, 120)
    finally:
        end([process.pid])
    assert status == 130 and "1 stopped" in out and "1 not ended" in out
    status, out, err = finish(command(*words, "train.steps=400"), 600)
    assert status == 0, err
    content = found(tmp_path)
    assert content["trials"][0]["state"] == "lost" and sum(content["ended"].values()) == 2
    assert content["trials"][1]["overrides"] == content["trials"][0]["overrides"]
    assert "continuing" in (log.parent / "train.log").read_text()
    # what the two commands have trained is counted once
    done = sum(row["steps"] for row in content["trials"])
    assert content["steps"] == done <= 800
