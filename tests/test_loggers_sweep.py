"""What W&B is told of the runs of a sweep, and how they are uploaded afterwards."""

import json
import os
import subprocess
import sys

import pytest
from sweeps import NANO, command, finish

import dpo_lab
from dpo_lab.page import uploads
from dpo_lab.results import Run

USUAL = [word for word in NANO if word != "logger=none"]

FAKE = """
import json
from pathlib import Path

class Settings:
    def __init__(self, **more):
        pass

class Live:
    def __init__(self, given):
        self.given, self.steps, self.summary = given, [], {}

    def log(self, metrics, step):
        self.steps.append(step)

    def finish(self, exit_code):
        del self.given["settings"]
        told = {**self.given, "steps": self.steps, "summary": self.summary, "exit_code": exit_code}
        Path(self.given["dir"], "told.json").write_text(json.dumps(told))

def init(**given):
    return Live(given)
"""


@pytest.mark.slow
def test_runs_of_a_sweep_share_a_group_and_say_what_differs(tmp_path):
    (tmp_path / "wandb.py").write_text(FAKE)
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    words = ["loss.beta=0.1,0.2", "name=study", "logger=wandb", "logger.tags=[paper,seeds]"]
    words += [f"outputs_dir={tmp_path / 'out'}"]
    status, out, err = finish(command(*words, usual=USUAL, env=environment))
    assert status == 0 and "2 done now" in out, err
    for beta in (0.1, 0.2):
        (path,) = (tmp_path / "out" / "study").glob(f"loss.beta={beta}-*/told.json")
        told, run = json.loads(path.read_text()), Run(path.parent)
        assert (told["group"], told["job_type"]) == ("study", "train")
        assert told["tags"] == ["paper", "seeds"] and told["name"] == path.parent.name
        assert told["config"]["loss"]["beta"] == beta and told["exit_code"] == 0
        assert told["steps"] == [event["step"] for event in run.events]
        assert told["summary"].items() >= run.metrics.items()
        assert "train/loss" in run.metrics and "world/reward" in run.metrics


@pytest.mark.slow
def test_the_command_that_the_report_shows_uploads_an_offline_run(tmp_path):
    """With the real client, as far as it goes without a network."""
    run = dpo_lab.train([*USUAL, "logger=wandb", f"outputs_dir={tmp_path}"])
    (line,) = uploads([run])
    environment = os.environ | {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = subprocess.run(
        f"{line} --dry-run", shell=True, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "Would sync 1 run(s)" in done.stdout + done.stderr
