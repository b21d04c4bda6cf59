"""Twelve jobs, six of which go wrong in six ways; and the sweep itself is killed."""

from contextlib import suppress
from pathlib import Path

from sweeps import REASONS, alive, assembled, children, command, files, finish, until, write_faulty

from dpo_lab.results import Run

ID = "R8"


def test_six_good_jobs_and_six_faulty_ones(tally, tmp_path):
    mine, out = write_faulty(tmp_path / "mine"), tmp_path / "out"
    words = ["loss=faulty", "loss.beta=0.1,0.2", f"loss.how={','.join(REASONS)}"]
    words += [f"outputs_dir={out}", "launcher.jobs=2", "launcher.timeout=40", "launcher.grace=1"]
    words += ["launcher.memory_mb=24000"]

    def folders(beta: float) -> list[Path]:
        return sorted(out.glob(f"*/loss.beta={beta}*"))

    def begun(err: str) -> list[str]:
        lines = [line.split() for line in err.splitlines()]
        return sorted(words[words.index("begins") + 1] for words in lines if "begins" in words)

    def left_alone(call: str) -> None:
        tally(files(*folders(0.1)) == good, f"{call} changed a finished folder")

    status, said, err = finish(command(*words, config_dir=mine), 900)
    for folder in folders(0.1):
        tally(Run(folder).state == "done", f"{folder.name} is not done:\n{err}")
    tally(len(folders(0.1)) == 6 and "12 runs" in said, said)
    told = said.splitlines()
    for how, reason in REASONS.items():
        label = f"failed: loss.beta=0.2,loss.how={how}"
        place = told.index(label) if label in told else -1
        tally(place > 0 and reason in told[place + 1], f"{how}: no reason in\n{said}")
    tally(status == 1, f"exit status {status}")

    good, faulty = files(*folders(0.1)), sorted(f"loss.beta=0.2,loss.how={how}" for how in REASONS)
    status, said, err = finish(command(*words, config_dir=mine), 900)
    tally(begun(err) == faulty, f"the second call began {begun(err)}")
    tally(status == 1 and "6 were done before, 6 failed" in said, said)
    left_alone("the second call")

    (hangs,) = out.glob("*/loss.beta=0.2,loss.how=hang*")
    process = command(*words, config_dir=mine)
    until(lambda: assembled(hangs), 300)
    below = children(process.pid)
    process.kill()
    finish(process)
    with suppress(AssertionError):
        until(lambda: not any(map(alive, below)), 10)
    tally(len(below) > 1 and not any(map(alive, below)), "processes outlive the sweep")
    left_alone("a sweep that was killed")

    (mine / "mended").touch()
    status, said, err = finish(command(*words, config_dir=mine), 900)
    tally(begun(err) == faulty, f"the last call began {begun(err)}")
    tally(status == 0 and "6 were done before, 6 done now" in said, said + err)
    states = [Run(folder).state for folder in (*folders(0.1), *folders(0.2))]
    tally(states == ["done"] * 12, str(states))
    left_alone("the last call")
