"""Jobs through submitit, as plain processes here: the same code as on a cluster."""

import builtins
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from sweeps import NANO, assembled, command, finish, jobs_of, until, write_faulty

import dpo_lab
from dpo_lab.compose import compose
from dpo_lab.errors import Refused
from dpo_lab.folder import RunFolder, read_json
from dpo_lab.launchers import slurm
from dpo_lab.launchers.slurm import Slurm
from dpo_lab.options import bind
from dpo_lab.results import Run


def test_without_submitit_it_is_said_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "submitit":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Refused, match=r"pip install 'dpo-lab\[slurm\]'"):
        slurm(compose(NANO), 1)


def test_without_slurm_it_is_said(tmp_path):
    with pytest.raises(Refused, match=r"launcher\.cluster=local needs no SLURM"):
        slurm(compose([*NANO, f"outputs_dir={tmp_path}"]), 1)


def test_what_the_cluster_is_asked_for(tmp_path, monkeypatch):
    """The batch file that would be submitted."""
    from submitit.slurm import slurm as theirs

    monkeypatch.setattr(theirs.shutil, "which", lambda name: "/usr/bin/" + name)
    words = [
        "launcher=slurm",
        "launcher.partition=gpu",
        "launcher.minutes=30",
        "launcher.gpus=2",
        "launcher.memory_gb=32",
        "launcher.parallel=5",
        "launcher.setup=[module load cuda]",
        "launcher.options={account: mine}",
    ]
    config = compose([*NANO, *words, f"outputs_dir={tmp_path}", "name=study"])
    made = bind(config.nodes["launcher"])(config, 12)
    assert made.threads is None and made.free() > 1000
    executor = made.executor._executor
    executor.parameters["map_count"] = 12
    text = executor._make_submission_file_text("python", "uid")
    for line in (
        "--partition=gpu",
        "--time=30",
        "--gpus-per-node=2",
        "--mem=32GB",
        "--cpus-per-task=4",
        "--array=0-11%5",
        "--signal=USR2@90",
        "--job-name=study",
        "--account=mine",
    ):
        assert f"#SBATCH {line}\n" in text
    assert "\nmodule load cuda\n" in text and f"{tmp_path}/.submitit/%A_%a" in text


def submit(tmp_path, *words, config_dir=None):
    here = ["launcher=slurm", "launcher.cluster=local", "launcher.minutes=10"]
    return command(*here, f"outputs_dir={tmp_path / 'out'}", *words, config_dir=config_dir)


@pytest.mark.slow
def test_an_array_of_jobs_one_of_which_fails(tmp_path):
    mine = write_faulty(tmp_path / "mine")
    words = ["loss=faulty", "loss.how=raise", "loss.beta=0.1,0.11,0.12,0.2"]
    status, out, err = finish(submit(tmp_path, *words, config_dir=mine))
    assert status == 1 and "4 runs" in out and "3 done now, 1 failed" in out, err
    assert "failed: loss.beta=0.2\n  ArithmeticError: this loss is broken\n" in out
    (mine / "mended").touch()
    status, out, err = finish(submit(tmp_path, *words, config_dir=mine))
    assert status == 0 and "3 were done before, 1 done now" in out, err


@pytest.mark.slow
@pytest.mark.parametrize("every", ["2", "null"])
def test_a_preempted_job_comes_to_the_same_weights_as_an_undisturbed_one(tmp_path, every):
    mine = write_faulty(tmp_path / "mine")
    words = ["loss=faulty", "loss.wait=0.3", "model.dropout=0.1", "train.steps=8"]
    words += [f"checkpoint.every={every}", "train.log_every=1"]
    process = submit(tmp_path, *words, config_dir=mine)

    def training():
        return [
            path.parent
            for path in tmp_path.glob("out/*/*/metrics.jsonl")
            if '"train", "step": 3' in path.read_text()
        ]

    (folder,) = until(training, 200)
    first = read_json(folder / "status.json")["pid"]
    os.kill(first, signal.SIGUSR2)  # what SLURM sends when the time is up
    status, out, err = finish(process)
    assert status == 0 and "1 done now" in out, err
    run = Run(folder)
    assert read_json(folder / "status.json")["pid"] != first
    assert "continuing" in (folder / "train.log").read_text()
    steps = [event["step"] for event in run.events if event["event"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]
    whole = dpo_lab.train(
        [*NANO, *words, "loss.wait=0.0", f"outputs_dir={tmp_path / 'alone'}"], config_dir=str(mine)
    )
    ours, theirs = (
        load_file(path / "final" / "model.safetensors") for path in (folder, whole.folder)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


@pytest.mark.slow
def test_a_job_that_cannot_save_in_time_goes_back_into_the_queue_all_the_same(tmp_path):
    mine = write_faulty(tmp_path / "mine")
    words = ["loss=faulty", "loss.how=hang", "loss.beta=0.2", "launcher.notice=3"]
    process = submit(tmp_path, *words, config_dir=mine)
    (folder,) = until(lambda: [*filter(assembled, tmp_path.glob("out/*/run-*"))], 200)
    first = read_json(folder / "status.json")["pid"]
    (mine / "mended").touch()
    os.kill(first, signal.SIGUSR2)
    status, out, err = finish(process)
    assert status == 0 and "1 done now" in out, err
    assert read_json(folder / "status.json")["pid"] != first


class Cluster:
    """Takes no jobs."""

    def submit_array(self, tasks):
        raise RuntimeError("sbatch: error: invalid partition")


def test_jobs_that_the_cluster_does_not_take_have_failed(tmp_path):
    jobs = jobs_of(["seed=1,2,3", f"outputs_dir={tmp_path}"])
    held = RunFolder.existing(jobs[2].folder)
    launcher = Slurm(Cluster(), None, 90)
    launcher.start(jobs)
    assert launcher.poll(0) == [jobs[2], *jobs[:2]] and not launcher.running()
    held.close()
    assert [job.state for job in jobs] == ["failed", "failed", "in use"]
    assert jobs[0].reason == "not submitted: sbatch: error: invalid partition"
    assert Run(jobs[0].folder).state == "failed" and str(os.getpid()) in jobs[2].reason


@pytest.mark.slow
def test_ctrl_c_takes_the_jobs_off(tmp_path):
    mine = write_faulty(tmp_path / "mine")
    words = ["loss=faulty", "loss.how=hang", "loss.beta=0.2,0.3"]
    process = submit(tmp_path, *words, config_dir=mine)

    def both():
        folders = list(tmp_path.glob("out/*/loss*"))
        begun = [path for path in folders if assembled(path)]
        return begun if len(begun) == 2 else None

    folders = until(both, 200)
    process.send_signal(signal.SIGINT)
    status, out, _ = finish(process, 60)
    assert status == 130 and "2 stopped" in out
    for folder in folders:
        assert Run(folder).state == "stopped"
