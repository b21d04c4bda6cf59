"""Sweeps as a whole: what is done, what is left alone, and what the end says."""

import os
import signal
from pathlib import Path

import pytest
from sweeps import (
    NANO,
    alive,
    assembled,
    children,
    command,
    end,
    files,
    finish,
    jobs_of,
    until,
    write_faulty,
)

import dpo_lab
from dpo_lab import sweep
from dpo_lab.__main__ import main
from dpo_lab.cache import Cache
from dpo_lab.compose import compose
from dpo_lab.folder import read_json, write_json
from dpo_lab.intake import prepare, read
from dpo_lab.live import View
from dpo_lab.results import Run
from dpo_lab.sweepers.grid import Grid


class Puppet:
    """A launcher whose jobs end when `poll` is called, as the test says: state by label."""

    def __init__(self, size: int = 2, states: dict[str, str] | None = None):
        self.size = size
        self.states = states or {}
        self.at_once: list[int] = []
        self.began: list[str] = []
        self.jobs = []
        self.stopped = []

    def free(self):
        return self.size - len(self.jobs)

    def running(self):
        return list(self.jobs)

    def start(self, jobs):
        for job in jobs:
            job.state, job.began = "running", 1.0
            self.began.append(job.label)
        self.jobs += jobs

    def poll(self, seconds):
        self.at_once.append(len(self.jobs))
        job = self.jobs.pop(0)
        job.state, job.ended = self.states.get(job.label, "done"), 2.0
        return [job]

    def stop(self, job, reason):
        self.stopped.append(job.label)
        self.states[job.label] = "stopped"

    def close(self):
        assert not self.jobs


def test_as_many_at_once_as_there_is_room_for(tmp_path):
    jobs = jobs_of(["seed=0,1,2,3,4", f"outputs_dir={tmp_path}"])
    puppet = Puppet(2)
    sweep.drive(Grid(jobs), puppet, View(jobs, live=False), [])
    assert puppet.at_once == [2, 2, 2, 2, 1]
    assert [job.state for job in jobs] == ["done"] * 5


def test_a_signal_stops_what_runs_and_what_waits(tmp_path, capsys):
    jobs = jobs_of(["seed=0,1,2,3", f"outputs_dir={tmp_path}"])
    puppet, pressed = Puppet(2), []
    view = View(jobs, live=False)
    view.ended = lambda job: pressed.append(signal.SIGTERM)
    sweep.drive(Grid(jobs), puppet, view, pressed)
    assert puppet.began == ["seed=0", "seed=1"] and puppet.stopped == ["seed=1"]
    assert [job.state for job in jobs] == ["done", "stopped", "waiting", "waiting"]
    text = sweep.summary(jobs, 0, {}, 61)
    assert "not begun" in text and "the same command again runs what is missing" in text


def test_a_run_that_was_done_meanwhile_is_not_done_again(tmp_path):
    jobs = jobs_of(["seed=0,1", f"outputs_dir={tmp_path}"])
    write_json(jobs[1].folder / "record.json", {"identity": jobs[1].identity})
    write_json(jobs[1].folder / "status.json", {"state": "done"})
    puppet = Puppet()
    sweep.drive(Grid(jobs), puppet, View(jobs, live=False), [])
    assert puppet.began == ["seed=0"] and jobs[1].state == "finished"


def test_the_summary_says_what_became_of_all(tmp_path):
    jobs = jobs_of(["seed=0,1,2", f"outputs_dir={tmp_path}"])
    jobs[0].state = "finished"
    jobs[1].state, jobs[1].began = "done", 1.0
    counts = {"rows_tokenised": 3, "starts_trained": 1, "reference_rows_computed": 40}
    write_json(jobs[1].folder / "record.json", {"cache": counts})
    jobs[2].state, jobs[2].began, jobs[2].reason = "failed", 1.0, "ArithmeticError: no"
    assert sweep.summary(jobs, 2, {"rows_tokenised": 250}, 75).splitlines() == [
        "3 runs in 1:15: 1 were done before, 1 done now, 1 failed (2 more are the same runs)",
        "253 rows tokenised, 1 starts trained, 40 reference rows computed",
        f"{jobs[0].folder.parent}/",
        "failed: seed=2",
        "  ArithmeticError: no",
        f"  {jobs[2].folder}/",
        "the same command again runs what is missing",
    ]


def test_nothing_is_started_where_anything_is_wrong(tmp_path, capsys):
    words = ["-m", *NANO, "loss.beta=0.1,-1", f"outputs_dir={tmp_path}"]
    assert main(words) == 2
    assert "loss.beta must be > 0, got -1" in capsys.readouterr().err
    assert main(["launcher.jobs=2"]) == 2
    assert "add -m" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_sweep_again_does_nothing_and_one_value_more_does_one_run(tmp_path, capsys):
    """Two runs, made by single commands; then a sweep that has them and one more."""
    where = f"outputs_dir={tmp_path}"
    for beta in (0.1, 0.2):
        run = dpo_lab.train([*NANO, f"loss.beta={beta}", where])
        counts = read_json(run.folder / "record.json")["cache"]
        assert counts["reference_rows_computed"] + counts["reference_rows_cached"] > 100
    before = files(tmp_path)
    assert main(["-m", *NANO, "loss.beta=0.1,0.2", where]) == 0
    assert "2 runs in 0:0" in (out := capsys.readouterr().out) and "2 were done before" in out
    assert files(tmp_path) == before
    status, out, err = finish(command("loss.beta=0.1,0.2,0.3", where))
    assert status == 0, err
    assert "2 were done before, 1 done now" in out
    assert "0 rows tokenised, 0 starts trained, 0 reference rows computed" in out
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    fresh = {Path(name).relative_to(tmp_path).parts[1] for name in after.keys() - before.keys()}
    assert len(fresh) == 1 and fresh.pop().startswith("loss.beta=0.3-")


ROWS = "".join(
    f'{{"prompt": "say {n}", "chosen": "yes {n}", "rejected": "no {n}"}}\n' for n in range(60)
)
WORLD = [*NANO, "train.steps=13"]  # every pair is looked at, whatever the seed
FILE = [word for word in NANO if not word.startswith("data")]
FILE += ["data=file", "model.vocab_size=300", "start=sft", "start.epochs=null", "train.epochs=null"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [WORLD, FILE], ids=["world", "file"])
def test_jobs_that_begin_together_share_what_is_computed(tmp_path, words):
    """Then one beta more: nothing is computed again, and its runs alone are done."""
    (tmp_path / "rows.jsonl").write_text(ROWS)
    path = [f"data.path={tmp_path / 'rows.jsonl'}"] if words is FILE else []
    words = [*words, *path, f"cache_dir={tmp_path / 'cache'}", f"outputs_dir={tmp_path / 'out'}"]
    config = compose(words)
    rows = prepare(config, read(config), Cache(tmp_path / "another")).rows
    sides = {(*row.prompt, -1, *sorted([(*row.chosen,), (*row.rejected,)])) for row in rows}
    swept = ["seed=0,1,2,3", "launcher.jobs=4"]
    status, out, err = finish(command(*swept, *words, usual=[]))
    assert status == 0, err
    sft = 200 if words[0] == NANO[0] else 0
    line = f"{len(rows) + sft} rows tokenised, 1 starts trained, {len(sides)} reference rows"
    assert line in out
    records = [read_json(path) for path in tmp_path.glob("out/*/*/record.json")]
    assert sorted(r["cache"].get("starts_trained", 0) for r in records) == [0, 0, 0, 1]
    assert sum(r["cache"]["reference_rows_computed"] for r in records) == len(sides)
    assert len({(r["start"], r["start_logps"]) for r in records}) == 1
    before = files(tmp_path / "out")
    status, out, err = finish(command("loss.beta=0.1,0.7", *swept, *words, usual=[]))
    assert status == 0 and "8 runs" in out and "4 were done before, 4 done now" in out, err
    assert "0 rows tokenised, 0 starts trained, 0 reference rows computed" in out
    after = files(tmp_path / "out")
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_two_good_jobs_and_two_faulty_ones(tmp_path):
    """The twelve of them are in the battery."""
    mine, out = write_faulty(tmp_path / "mine"), tmp_path / "out"
    words = ["loss=faulty", "loss.beta=0.1,0.2", "loss.how=raise,kill", f"outputs_dir={out}"]
    status, said, err = finish(command(*words, "launcher.jobs=2", config_dir=mine))
    assert status == 1 and "4 runs" in said and "2 done now, 2 failed" in said, err
    assert said.splitlines()[-1] == "the same command again runs what is missing"
    lines = said.splitlines()[3:-1]
    labels = [f"failed: loss.beta=0.2,loss.how={how}" for how in ("raise", "kill")]
    assert lines[::3] == labels and len(lines) == 6
    reasons = ["ArithmeticError: this loss is broken", "killed by SIGKILL (out of memory?)"]
    assert [line.strip() for line in lines[1::3]] == reasons
    assert "Traceback" not in said + err and len(err.splitlines()) == 8  # begins and ends
    before = files(*out.glob("*/loss.beta=0.1*"))
    (mine / "mended").touch()
    status, said, err = finish(command(*words, config_dir=mine))
    assert status == 0 and "2 were done before, 2 done now" in said, err
    assert files(*out.glob("*/loss.beta=0.1*")) == before


def hanging(tmp_path: Path) -> tuple[list[str], Path]:
    """A sweep of two good jobs and four that hang until they are mended."""
    mine = write_faulty(tmp_path / "mine")
    words = ["loss=faulty", "loss.how=hang", "loss.beta=0.1,0.2,0.3", "seed=0,1"]
    return [*words, f"outputs_dir={tmp_path / 'out'}", "launcher.jobs=2"], mine


def two_hang(tmp_path: Path) -> bool:
    """Whether the first two jobs are done and the next two have come to their loss."""
    folders = sorted((tmp_path / "out").glob("*/*"))
    states = [Run(path).state for path in folders if Run(path).state == "done" or assembled(path)]
    return sorted(states) == ["done", "done", "running", "running"]


@pytest.mark.slow
def test_nothing_outlives_a_sweep_that_is_killed_and_a_third_call_completes_it(tmp_path):
    words, mine = hanging(tmp_path)
    process = command(*words, config_dir=mine)
    until(lambda: two_hang(tmp_path), 120)
    below = children(process.pid)
    assert len(below) == 3  # the server and two jobs
    process.kill()
    finish(process)
    until(lambda: not any(alive(pid) for pid in below), 10)
    process = command(*words, config_dir=mine)  # killed once more, this time with its server
    until(lambda: len(children(process.pid)) == 3, 60)
    below = children(process.pid)
    end([process.pid, *below[:1]])
    finish(process)
    until(lambda: not any(alive(pid) for pid in below), 10)
    (mine / "mended").touch()
    status, out, err = finish(command(*words, config_dir=mine))
    assert status == 0 and "2 were done before, 4 done now" in out, err


@pytest.mark.slow
@pytest.mark.parametrize("sign, expected", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_jobs_and_the_next_call_continues(tmp_path, sign, expected):
    words, mine = hanging(tmp_path)
    words += ["launcher.grace=1"]
    process = command(*words, config_dir=mine)
    until(lambda: two_hang(tmp_path), 120)
    below = children(process.pid)
    os.kill(process.pid, sign)
    status, out, _ = finish(process, 30)
    assert status == expected and not any(alive(pid) for pid in below)
    assert "2 done now, 2 stopped, 2 not begun" in out
    (mine / "mended").touch()
    status, out, err = finish(command(*words, config_dir=mine))
    assert status == 0 and "2 were done before, 4 done now" in out, err


@pytest.mark.slow
def test_a_signal_ends_jobs_that_train_the_start_or_wait_for_it(tmp_path):
    words = ["start.steps=1000000", "loss.beta=0.1,0.2", "launcher.jobs=2", "launcher.grace=200"]
    words += [f"outputs_dir={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}"]
    process = command(*words)
    until(lambda: len(list(tmp_path.glob("out/*/*/record.json"))) == 2, 120)
    until(lambda: list(tmp_path.glob("cache/start/.*")), 60)
    process.terminate()
    status, out, _ = finish(process, 60)  # long before the grace is over
    assert status == 143 and "2 runs" in out and "2 stopped" in out
    assert not list(tmp_path.glob("cache/start/.*"))
    said = [read_json(path)["state"] for path in tmp_path.glob("out/*/*/status.json")]
    assert said == ["stopped", "stopped"]
