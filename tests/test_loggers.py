"""What follows a run reads everything, and cannot hold it up."""

import json
import resource
import signal
import subprocess
import sys

import pytest

from dpo_lab.disk import DiskFull
from dpo_lab.errors import Refused
from dpo_lab.loggers import MetricsLog, follow, upload, wandb

FAKE = """
import json, os, time
class Run:
    summary = {}
    def log(self, metrics, step):
        with open(os.environ["GIVEN"], "a") as file: file.write(json.dumps(metrics) + "\\n")
    def finish(self, exit_code):
        with open(os.environ["GIVEN"], "a") as file: file.write(f"{exit_code}\\n")
def Settings(**named): pass
def init(**named):
    if named["project"] == "hangs": time.sleep(600)
    if named["project"] == "fails": raise OSError("no such place")
    return Run()
"""


@pytest.fixture
def given(tmp_path, monkeypatch):
    """A W&B that writes down what it is given."""
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shim"))
    monkeypatch.setenv("GIVEN", str(tmp_path / "given"))
    return tmp_path / "given"


def logged(folder, project, patience=60.0, failed=False):
    """Three events, the first before anybody follows; what was said, and the follower."""
    said = []
    log = MetricsLog(folder / "metrics.jsonl", said.append)
    log.write("eval", 0, {"eval/loss": 0.5, "note": "text"})
    run = {"folder": str(folder), "name": "run", "config": {}}
    follower = log.follower = follow(lambda run: wandb(run, project=project), run, said.append)
    follower.patience = patience
    log.write("train", 1, {"train/loss": 0.25})
    log.write("train", 2, {"train/loss": 0.125})
    log.close(failed)
    return said, follower


@pytest.mark.parametrize("failed", [False, True])
def test_everything_is_given_from_the_beginning_of_the_file(tmp_path, given, failed):
    said, _ = logged(tmp_path, "fine", failed=failed)
    assert said == []
    *metrics, status = given.read_text().splitlines()
    assert [json.loads(line) for line in metrics] == [
        {"step": 0, "eval/loss": 0.5},
        {"step": 1, "train/loss": 0.25},
        {"step": 2, "train/loss": 0.125},
    ]
    assert status == str(int(failed))


@pytest.mark.parametrize(
    ("project", "patience", "why"),
    [("hangs", 0.2, "did not answer"), ("fails", 60.0, "OSError: no such place")],
)
def test_what_goes_wrong_is_said_once_and_nothing_is_left(tmp_path, given, project, patience, why):
    (line,), follower = logged(tmp_path, project, patience)
    assert why in line and "metrics.jsonl has everything" in line
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert follower.process.returncode is not None


def test_upload_wants_a_run(tmp_path):
    with pytest.raises(Refused, match=r"no metrics\.jsonl"):
        upload(tmp_path, {})


def test_the_follower_needs_nothing_of_the_lab():
    code = (
        "import sys, dpo_lab.follower; sys.exit('torch' in sys.modules or 'wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_came_after_a_checkpoint_is_forgotten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, print)
    log.write("train", 1, {"train/loss": 0.5})
    then = log.offset()
    kept = path.read_bytes()
    log.write("train", 2, {"train/loss": 0.25})
    log.close()
    again = MetricsLog(path, print)
    again.cut(then)
    assert path.read_bytes() == kept
    again.write("train", 2, {"train/loss": 0.25})
    again.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    beyond = MetricsLog(path, print)
    with pytest.raises(Refused, match="lines were lost"):
        beyond.cut(path.stat().st_size + 1)
    beyond.close()


def test_a_line_that_does_not_fit_leaves_nothing_of_itself(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, print)
    log.write("train", 1, {"train/loss": 0.5})
    kept = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    sign = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + 20, before[1]))
    try:
        with pytest.raises(DiskFull, match=r"metrics\.jsonl"):
            log.write("train", 2, {"train/loss": 0.25})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, sign)
    assert path.read_bytes() == kept
    log.close()
