"""Jobs in processes of their own: what they do to each other (nothing), and what is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sweeps import (
    alive,
    assembled,
    children,
    command,
    do,
    end,
    finish,
    jobs_of,
    until,
    write_faulty,
)

import dpo_lab
from dpo_lab.compose import compose
from dpo_lab.folder import RunFolder, read_json
from dpo_lab.launchers import local
from dpo_lab.launchers.local import Local
from dpo_lab.launchers.machine import accelerators, cores


@pytest.fixture(scope="module")
def launcher():
    """One warm server for all tests of this module."""
    made = Local(
        size=2,
        threads=1,
        accelerators=["3", "5"],
        timeout=600,
        grace=0.5,
        memory_mb=24_000,
        warm=True,
    )
    pids = [made.server.pid]
    yield made
    made.close()
    assert not any(alive(pid) for pid in pids)


@pytest.fixture
def make():
    """Launchers that are closed whatever happens."""
    made = []

    def local(**words) -> Local:
        usual = dict(size=1, threads=1, accelerators=[], timeout=600, grace=1, memory_mb=None)
        made.append(Local(**usual | words))
        return made[-1]

    yield local
    for launcher in made:
        launcher.close()


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # or the next test finds this one's module
    return write_faulty(tmp_path / "mine")


def test_jobs_fail_alone_each_with_its_reason(launcher, faulty, tmp_path):
    hows = "raise,exit,kill,memory,file"
    words = ["loss=faulty", "loss.beta=0.2", f"loss.how={hows}", f"outputs_dir={tmp_path}"]
    jobs = do(launcher, words, faulty)
    reasons = {job.label: job.reason for job in jobs}
    assert [job.state for job in jobs] == ["failed"] * 5
    assert reasons["loss.how=raise"] == "ArithmeticError: this loss is broken"
    assert reasons["loss.how=exit"] == "SystemExit: 3"
    assert reasons["loss.how=kill"] == "killed by SIGKILL (out of memory?)"
    assert "can't allocate memory" in reasons["loss.how=memory"]
    assert "File too large" in reasons["loss.how=file"]
    for job in jobs:
        status = read_json(job.folder / "status.json")
        assert (status["state"], status["reason"]) == ("failed", job.reason)
    assert "this loss is broken" in (jobs[0].folder / "stderr.log").read_text()
    starts = [read_json(job.folder / "record.json")["cache"] for job in jobs]
    assert sum(counts.get("starts_trained", 0) for counts in starts) <= 1


def test_a_job_is_the_run_that_one_command_does(launcher, faulty, tmp_path):
    """Forked, with an accelerator and threads of its own: the same weights, bit for bit."""
    words = ["loss=faulty", "loss.beta=0.2", "loss.how=note", "train.threads=null", "seed=3"]
    words += ["train.device=cpu"]  # the accelerators here are not really there
    (job,) = do(launcher, [*words, f"outputs_dir={tmp_path}"], faulty)
    assert job.state == "done" and job.began < job.ended
    assert (faulty / "seen-0.2").read_text() in ("('3', 1)", "('5', 1)")
    record = read_json(job.folder / "record.json")
    assert record["command"] == " ".join(sys.argv) and record["threads"] == 1
    alone = dpo_lab.train(list(job.config.overrides), config_dir=str(faulty))
    assert alone.folder != job.folder
    ours, theirs = (
        load_file(folder / "final" / "model.safetensors") for folder in (job.folder, alone.folder)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


@pytest.mark.slow
def test_jobs_share_out_accelerators_and_threads(tmp_path):
    """Two accelerators that are not really there: what matters is who is told of which."""
    mine = write_faulty(tmp_path / "mine")
    words = ["loss=faulty", "loss.beta=0.2,0.3", "loss.how=note", "train.threads=null"]
    there = os.environ | {"CUDA_VISIBLE_DEVICES": "7,8"}
    process = command(*words, f"outputs_dir={tmp_path / 'out'}", config_dir=mine, env=there)
    status, out, err = finish(process)
    assert status == 0 and "2 done now" in out, err
    each = max(1, cores() // 2)
    seen = {(mine / f"seen-{beta}").read_text() for beta in (0.2, 0.3)}
    assert seen == {f"('7', {each})", f"('8', {each})"}
    records = [read_json(path) for path in tmp_path.glob("out/*/*/record.json")]
    assert [record["threads"] for record in records] == [each, each]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_the_server_has_one_thread(launcher):
    until(lambda: launcher.poll(0.1) or launcher.ready)
    assert len(os.listdir(f"/proc/{launcher.server.pid}/task")) == 1


def test_data_that_changed_since_the_sweep_looked_are_refused(launcher, tmp_path):
    (job,) = jobs_of([f"outputs_dir={tmp_path}"])
    job.identity = "0" * 64
    launcher.start([job])
    until(lambda: launcher.poll(0.1))
    assert job.state == "failed" and "have changed since the sweep was started" in job.reason
    assert not (job.folder / "record.json").exists()


def test_a_job_that_hangs_has_failed(launcher, faulty, tmp_path):
    words = ["loss=faulty", "loss.beta=0.2", "loss.how=hang", f"outputs_dir={tmp_path}"]
    launcher.timeout = 3
    try:
        (job,) = do(launcher, words, faulty)
    finally:
        launcher.timeout = 600
    assert job.state == "failed" and job.reason == "ran longer than launcher.timeout=3 s"
    assert 3 < job.ended - job.began < 20


def test_a_job_is_stopped_and_continues(launcher, faulty, tmp_path):
    words = ["loss=faulty", "loss.wait=0.15", f"outputs_dir={tmp_path}"]
    (job,) = jobs_of(words, faulty)
    launcher.start([job])
    metrics = job.folder / "metrics.jsonl"
    until(lambda: launcher.poll(0.05) or (metrics.exists() and '"train"' in metrics.read_text()))
    launcher.grace = 30
    launcher.stop(job, "enough")
    until(lambda: launcher.poll(0.1))
    launcher.grace = 0.5
    assert (job.state, job.reason) == ("stopped", "enough")
    assert len(list((job.folder / "checkpoints").iterdir())) == 1
    (again,) = do(launcher, words, faulty)
    assert again.state == "done" and again.folder == job.folder
    assert "continuing" in (job.folder / "train.log").read_text()


def test_a_folder_that_another_process_took_meanwhile(launcher, tmp_path):
    (job,) = jobs_of([f"outputs_dir={tmp_path}"])
    held = RunFolder.existing(job.folder)
    held.status("running")
    before = (job.folder / "status.json").read_bytes()
    launcher.start([job])
    until(lambda: launcher.poll(0.1))
    assert job.state == "in use" and str(os.getpid()) in job.reason
    assert (job.folder / "status.json").read_bytes() == before
    held.close()


@pytest.mark.slow
def test_when_the_server_is_killed_its_jobs_end_and_the_next_get_a_new_one(make, faulty, tmp_path):
    launcher = make(warm=True)
    words = ["loss=faulty", "loss.beta=0.2", "loss.how=hang,raise", f"outputs_dir={tmp_path}"]
    hangs, raises = jobs_of(words, faulty)
    launcher.start([hangs])
    until(lambda: launcher.poll(0.1) or assembled(hangs.folder))
    below = children(launcher.server.pid)
    assert len(below) == 1
    os.kill(launcher.server.pid, signal.SIGKILL)
    assert until(lambda: launcher.poll(0.1)) == [hangs]
    assert hangs.state == "failed" and "the process that starts jobs was ended" in hangs.reason
    assert not any(alive(pid) for pid in below)
    launcher.start([raises])
    until(lambda: launcher.poll(0.1))
    assert raises.reason == "ArithmeticError: this loss is broken"


def test_close_ends_everything(make, faulty, tmp_path):
    launcher = make(grace=60, warm=False)
    words = ["loss=faulty", "loss.beta=0.2", "loss.how=hang", f"outputs_dir={tmp_path}"]
    (job,) = jobs_of(words, faulty)
    launcher.start([job])
    until(lambda: launcher.poll(0.1) or assembled(job.folder))
    pids = [launcher.server.pid, *children(launcher.server.pid)]
    assert len(pids) == 2
    launcher.close()
    assert not any(alive(pid) for pid in pids) and job.state == "failed"
    end(pids)


@pytest.mark.slow
def test_a_cold_start_does_the_same(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dpo-lab", "word" * 50_000])  # more than a pipe holds
    launcher = make(warm=False)
    (job,) = do(launcher, [f"outputs_dir={tmp_path}"])
    assert job.state == "done"


def test_what_the_machine_shares_out(monkeypatch):
    assert cores() >= 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    assert accelerators("auto") == ["2", "GPU-abc"] and accelerators("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert accelerators("cuda") == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    said = "GPU 0: H200 (UUID: GPU-1)\nGPU 1: H200 (UUID: GPU-2)\n"
    done = subprocess.CompletedProcess([], 0, stdout=said)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: done)
    assert accelerators("auto") == ["0", "1"]
    done.stdout += "  MIG 1g.10gb Device 0: (UUID: MIG-3/a)\n"
    assert accelerators("auto") == ["MIG-3/a"]


SHARES = [
    # cores, devices, threads asked for, jobs asked for, most -> size, threads, accelerators
    (16, [], None, None, 12, 4, 4, []),
    (16, [], 2, None, 12, 8, None, []),
    (2, [], None, None, 12, 1, 2, []),
    (16, [], None, 3, 12, 3, 5, []),
    (16, [], None, None, 2, 2, 8, []),
    (16, ["0", "1"], None, None, 12, 2, 8, ["0", "1"]),
    (16, ["0"], None, None, 12, 1, 16, []),
]


@pytest.mark.parametrize("there, devices, threads, jobs, most, size, each, slots", SHARES)
def test_shares(monkeypatch, there, devices, threads, jobs, most, size, each, slots):
    made = {}
    module = sys.modules["dpo_lab.launchers.local"]
    monkeypatch.setattr(module, "Local", lambda **words: made.update(words))
    monkeypatch.setattr(module, "cores", lambda: there)
    monkeypatch.setattr(module, "accelerators", lambda device: devices)
    local(
        compose(["train.threads=" + ("null" if threads is None else str(threads))]), most, jobs=jobs
    )
    assert (made["size"], made["threads"], made["accelerators"]) == (size, each, slots)
    assert made["warm"] == (sys.platform != "darwin") and made["timeout"] == float("inf")


def test_a_server_that_cannot_start_is_said(make, monkeypatch, tmp_path):
    from dpo_lab.errors import Stopped

    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    launcher = make(warm=True)
    with pytest.raises(Stopped, match="could not be started"):
        until(lambda: time.sleep(0.01) or launcher.poll(0.1))
