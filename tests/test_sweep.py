"""Sweeps as a whole: what is done, what is left alone, and what the end says."""

import hashlib
import os
import re
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
    finish,
    jobs_of,
    until,
    write_faulty,
)

import dpo_lab
from dpo_lab import sweep
from dpo_lab.__main__ import main
from dpo_lab.folder import read_json, write_json
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


def files(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


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
        dpo_lab.train([*NANO, f"loss.beta={beta}", where])
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


@pytest.mark.slow
def test_jobs_that_begin_together_share_their_start(tmp_path, monkeypatch):
    words = [
        "seed=0,1,2,3",
        f"outputs_dir={tmp_path / 'out'}",
        f"cache_dir={tmp_path / 'cache'}",
        "launcher.jobs=4",
        "start.steps=40",
    ]
    status, out, err = finish(command(*words))
    assert status == 0, err
    assert "450 rows tokenised, 1 starts trained, 0 reference rows computed" in out
    records = [read_json(path) for path in tmp_path.glob("out/*/*/record.json")]
    assert sorted(r["cache"].get("starts_trained", 0) for r in records) == [0, 0, 0, 1]
    assert len({r["start"] for r in records}) == 1


REASONS = {
    "raise": "ArithmeticError: this loss is broken",
    "exit": "SystemExit: 3",
    "kill": "killed by SIGKILL",
    "memory": "can't allocate memory",
    "file": "File too large",
    "hang": "ran longer than launcher.timeout=40 s",
}


@pytest.mark.slow
def test_six_good_jobs_and_six_faulty_ones(tmp_path):
    mine = write_faulty(tmp_path / "mine")
    words = [
        "loss=faulty",
        "loss.beta=0.1,0.2",
        f"loss.how={','.join(REASONS)}",
        f"outputs_dir={tmp_path / 'out'}",
        "launcher.jobs=2",
        "launcher.timeout=40",
        "launcher.grace=1",
        "launcher.memory_mb=24000",
    ]
    status, out, err = finish(command(*words, config_dir=mine))
    assert status == 1 and "12 runs" in out and "6 done now, 6 failed" in out, err
    for how, reason in REASONS.items():
        told = re.search(rf"failed: loss.beta=0.2,loss.how={how}\n(.*)\n", out)
        assert told and reason in told[1]
    good = files(tmp_path / "out")
    good = {name: what for name, what in good.items() if "beta=0.1" in name}
    (mine / "mended").touch()
    status, out, err = finish(command(*words, config_dir=mine))
    assert status == 0 and "6 were done before, 6 done now" in out, err
    began = re.findall(r"begins   (\S+)", err)
    assert sorted(began) == sorted(f"loss.beta=0.2,loss.how={how}" for how in REASONS)
    after = files(tmp_path / "out")
    assert {name: what for name, what in after.items() if "beta=0.1" in name} == good
    assert {run.state for run in map(Run, (tmp_path / "out" / "world_nano-faulty").iterdir())} == {
        "done"
    }


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
def test_many_starts_of_the_same_sweep_share_no_folder(tmp_path):
    words = ["loss.beta=0.1", f"outputs_dir={tmp_path}", "train.steps=3"]
    processes = [command(*words) for _ in range(20)]
    ended = [finish(process) for process in processes]
    assert [status for status, _, _ in ended].count(0) >= 1
    for status, out, err in ended:
        assert "done now" in out or "done before" in out or "in use by process" in out, err
        assert status == ("in use" in out)
    (folder,) = tmp_path.glob("*/*")
    steps = [event["step"] for event in Run(folder).events if event["event"] == "train"]
    assert Run(folder).state == "done" and steps == [2, 3]
    assert sum("1 done now" in out for _, out, _ in ended) == 1
