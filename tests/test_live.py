"""The table that lives while a sweep runs, and the lines elsewhere."""

import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from dpo_lab.compose import compose
from dpo_lab.folder import write_json
from dpo_lab.launchers.job import Job
from dpo_lab.live import Tail, View, clock


@pytest.fixture(scope="module")
def config():
    return compose(["data=world_nano"])


@pytest.fixture
def jobs(config, tmp_path):
    made = [Job(n, f"loss.beta=0.{n}", config, "", tmp_path / str(n)) for n in range(1, 5)]
    for job in made:
        job.folder.mkdir()
    return made


def write(folder: Path, *events: dict) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        for event in events:
            file.write(json.dumps(event) + "\n")


def event(step: int, when: float, part: str = "train", loss: float = 0.5) -> dict:
    values = {f"{part}/loss": loss, f"{part}/rewards/accuracies": 0.75}
    return {"event": part, "step": step, "time": when, **values, f"{part}/rewards/margins": 0.125}


def shown(view: View, room: int = 20) -> list[str]:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(view.table(room))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_the_tail_of_a_run(tmp_path):
    now = time.time()
    tail = Tail(tmp_path, now)
    tail.read()
    assert (tail.step, tail.steps, tail.values, tail.left()) == (0, None, {}, None)
    write_json(tmp_path / "status.json", {"state": "running", "steps": 100})
    write(tmp_path, event(0, now - 100, "eval"), event(10, now - 90))  # by an earlier process
    tail.read()
    assert (tail.step, tail.steps, tail.left()) == (10, 100, None)
    write(tmp_path, event(20, now), event(30, now + 5, loss=0.4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')  # half a line: not yet
    tail.read()
    assert tail.values == {"loss": 0.4, "accuracy": 0.75, "margin": 0.125} and tail.step == 30
    assert 35 < tail.left() <= 41  # 70 steps at 2 a second, from now + 5
    (tmp_path / "metrics.jsonl").write_text("")
    write(tmp_path, event(10, now + 6))
    tail.read()
    assert tail.step == 10


def test_the_table(jobs, tmp_path):
    now = time.time()
    view = View(jobs, live=False)
    for job in jobs[:3]:
        job.state, job.began = "running", now - 10
        view.started(job)
    write_json(jobs[0].folder / "status.json", {"state": "running", "steps": 40})
    write(jobs[0].folder, event(10, now - 5), event(20, now))
    (jobs[1].folder / "train.log").write_text("12:00:00 training the start\n")
    jobs[2].state, jobs[2].reason, jobs[2].ended = "failed", "ArithmeticError: no", now - 5
    for tail in view.tails.values():
        tail.read()
    lines = shown(view)
    assert lines[0].split() == ["job", "state", "step", "loss", "accuracy", "margin", "left"]
    squeezed = [" ".join(line.split()) for line in lines]
    assert squeezed[1] == "1 loss.beta=0.1 running 20/40 0.5000 0.7500 0.1250 0:10"
    assert squeezed[2] == "2 loss.beta=0.2 training the start running"
    assert squeezed[3] == "3 loss.beta=0.3 ArithmeticError: no failed took 0:05"
    assert squeezed[4] == "4 loss.beta=0.4 waiting"
    assert lines[5].strip() == "0 of 4 done, 2 running, 1 waiting, 1 failed"
    few = shown(view, room=2)  # who failed and who runs come first
    assert [line.split()[0] for line in few[1:3]] == ["1", "3"] and "2 not shown" in few[3]


def test_what_is_left_of_the_sweep(jobs):
    now = time.time()
    view = View(jobs, live=False)
    jobs[0].state, jobs[0].began, jobs[0].ended = "done", now - 30, now - 10
    jobs[1].state, jobs[1].began = "running", now - 10
    view.started(jobs[1])
    write_json(jobs[1].folder / "status.json", {"state": "running", "steps": 40})
    write(jobs[1].folder, event(10, now - 5), event(20, now))
    view.tails[2].read()
    # 10 s of what runs, and two more jobs of 20 s each, one at a time
    assert "1 of 4 done, 1 running, 2 waiting; 0:50 left" in shown(view)[-1]


def test_plain_lines_elsewhere(jobs, capsys):
    now = time.time()
    with View(jobs, live=False) as view:
        jobs[0].state, jobs[0].began = "running", now - 2
        view.started(jobs[0])
        write(jobs[0].folder, event(20, now))
        jobs[0].state, jobs[0].ended = "done", now
        view.ended(jobs[0])
        jobs[1].state, jobs[1].reason = "in use", "it is in use by process 7"
        view.ended(jobs[1])
        view.tick()
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == [
        "[1/4] begins   loss.beta=0.1",
        "[1/4] done     loss.beta=0.1  2.0 s  loss 0.5000  accuracy 0.7500  margin 0.1250",
        "[2/4] in use   loss.beta=0.2  it is in use by process 7",
    ]


def test_the_live_table_on_a_terminal(jobs, capsys):
    with View(jobs, live=True) as view:
        jobs[0].state, jobs[0].began = "running", time.time()
        view.started(jobs[0])
        view.tick()
        view.say("a line that stays")
    err = capsys.readouterr().err
    assert "a line that stays" in err and "0 of 4 done, 1 running, 3 waiting" in err


def test_clocks():
    assert [clock(None), clock(0.4), clock(61), clock(3723)] == ["", "0:00", "1:01", "1:02:03"]
