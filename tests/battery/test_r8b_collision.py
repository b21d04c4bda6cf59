"""Many starts at once, each with a folder of its own; the same job twice, of which one is done."""

import re
import subprocess
import sys
from pathlib import Path

from sweeps import NANO, assembled, command, end, finish, until, write_faulty

from dpo_lab.folder import read_json
from dpo_lab.results import Run

ID = "R8b"


def single(*words: str) -> subprocess.Popen:
    """`dpo-lab`, one run."""
    return subprocess.Popen(
        [sys.executable, "-m", "dpo_lab", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_twenty_starts_get_twenty_folders(tally, tmp_path):
    words = [*NANO, "train.steps=2", f"outputs_dir={tmp_path}"]
    ended = [finish(process, 900) for process in [single(*words) for _ in range(20)]]
    for number, (status, _, err) in enumerate(ended):
        tally(status == 0, f"start {number} ended with {status}:\n{err}")
    said = [
        Path(found[1]) for _, out, _ in ended if (found := re.search(r"^(/.+?)/  \(", out, re.M))
    ]
    folders = sorted(tmp_path.glob("*/*"))
    tally(len(said) == 20 and sorted(said) == folders, f"{len(said)} said, {len(folders)} there")
    runs = [Run(folder) for folder in folders]
    steps = [[event["step"] for event in run.events if event["event"] == "train"] for run in runs]
    tally([run.state for run in runs] == ["done"] * 20 and steps == [[2]] * 20, str(steps))


def test_the_same_sweep_thrice_at_once_does_each_job_once(tally, tmp_path):
    words = ["loss.beta=0.1,0.2,0.3,0.4", "train.steps=4", f"outputs_dir={tmp_path}"]
    words += ["train.log_every=1", "launcher.jobs=2"]
    ended = [finish(process, 900) for process in [command(*words) for _ in range(3)]]
    done = [int(found[1]) for _, out, _ in ended if (found := re.search(r"(\d+) done now", out))]
    tally(sum(done) == 4, f"{done} done now:\n" + "\n".join(out for _, out, _ in ended))
    for status, out, _ in ended:
        tally(status == ("in use" in out) and "failed" not in out, out)
    folders = list(tmp_path.glob("*/*"))
    tally(len(folders) == 4, f"{len(folders)} folders for 4 jobs")
    for folder in folders:
        steps = [event["step"] for event in Run(folder).events if event["event"] == "train"]
        tally(Run(folder).state == "done" and steps == [1, 2, 3, 4], f"{folder.name}: {steps}")


def test_a_job_that_runs_is_refused_with_its_process(tally, tmp_path):
    mine, out = write_faulty(tmp_path / "mine"), tmp_path / "out"
    words = ["loss=faulty", "loss.how=hang", "loss.beta=0.2", f"outputs_dir={out}"]
    first = command(*words, config_dir=mine)
    try:
        (folder,) = until(lambda: [*filter(assembled, out.glob("*/*"))], 200)
        pid = read_json(folder / "status.json")["pid"]
        code, said, _ = finish(command(*words, config_dir=mine))
        tally(code == 1 and f"in use by process {pid}" in said, said)
        code, _, err = finish(single(f"train.resume={folder}", "--config-dir", str(mine)))
        tally(code == 2 and f"in use by process {pid}" in err, err)
        tally(read_json(folder / "status.json")["pid"] == pid, "a running job's folder was changed")
    finally:
        end([first.pid])
        finish(first)
