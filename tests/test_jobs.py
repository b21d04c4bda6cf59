"""Which jobs a sweep has, which folders are theirs, and what is missing."""

import dataclasses
import json
from pathlib import Path

import pytest
from sweeps import NANO

from dpo_lab.errors import Refused
from dpo_lab.folder import RunFolder, write_json
from dpo_lab.identity import folder_digest
from dpo_lab.jobs import Desk, claim, expand, folder_name, labels, look, make_parent
from dpo_lab.launchers.job import PRINTED, Verdict, ending_of, settle


@pytest.fixture
def job(tmp_path):
    jobs = expand([*NANO, f"outputs_dir={tmp_path}", "loss.beta=0.1,0.2"])
    return Desk().identify(jobs)[0]


def test_labels_say_what_differs():
    lists = [["a=1", "b=1", "+c=x"], ["a=1", "b=2", "+c=x"], ["a=1", "b=2", "+c=y"]]
    assert labels(lists) == ["b=1,c=x", "b=2,c=x", "b=2,c=y"]
    assert labels([["a=1"]]) == ["run"]


def test_folder_names_are_safe_and_short():
    assert folder_name("loss.beta=0.1,seed=0", "0123456789") == "loss.beta=0.1,seed=0-01234567"
    assert folder_name("data.path='/a b/*.x'", "0123456789") == "data.path=_a_b_.x_-01234567"
    name = folder_name(",".join(f"group.name.knob{n}=0.001" for n in range(20)), "0123456789")
    assert name.startswith("knob0=0.001,knob1=0.001,") and len(name) == 109


def test_the_identity_is_of_what_determines_the_result(tmp_path):
    def identities(*words: str) -> list[str]:
        return [job.identity for job in Desk().identify(expand([*NANO, *words]))]

    one, two = identities("loss.beta=0.1,0.2")
    assert one != two
    same = ["launcher.jobs=7", f"outputs_dir={tmp_path}", "name=other", "train.log_every=1"]
    assert identities("loss.beta=0.1,0.2", *same) == [one, two]
    assert identities("loss.beta=0.1", "data.seed=1,2") != [one, one]


def test_a_file_is_known_by_its_content(tmp_path):
    def identity(name: str) -> str:
        words = ["data=file", f"data.path={tmp_path / name}", "model.vocab_size=300"]
        return (
            Desk().identify(expand([*words, f"outputs_dir={tmp_path}", "start=as_is"]))[0].identity
        )

    rows = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 20
    for name, text in {"a": rows, "b": rows, "c": rows.replace("b", "d")}.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    assert identity("a.jsonl") == identity("b.jsonl") != identity("c.jsonl")


def test_a_model_is_known_by_its_files(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1")
    one = folder_digest(folder)
    assert folder_digest(folder) == one
    (folder / "weights").write_text("22")
    two = folder_digest(folder)
    (folder / ".cache").write_text("ignored")
    assert folder_digest(folder) == two != one
    folder.rename(tmp_path / "moved")
    assert folder_digest(tmp_path / "moved") == two


def test_jobs_that_are_the_same_are_done_once():
    assert len(Desk().identify(expand([*NANO, "seed=0,0,1", "name=a,b"]))) == 2


def test_what_a_job_is_told():
    words = [*NANO, "seed=1,2", "logger=wandb", "launcher.jobs=2", "name=study"]
    for number, job in enumerate(expand(words), 1):
        assert job.number == number and job.label == f"seed={number}"
        assert job.config.nodes["logger"]["group"] == "study"
        assert "launcher.jobs=2" not in job.config.overrides
        assert f"seed={number}" in job.config.overrides
    mine = expand([*words, "logger.group=mine"])
    assert mine[0].config.nodes["logger"]["group"] == "mine"


@pytest.mark.parametrize("word", ["launcher.jobs=1,2", "launcher=local,slurm", "train.resume=x"])
def test_refused(word):
    with pytest.raises(Refused, match=r"one launcher|train\.resume continues one run"):
        expand([*NANO, word])


def test_a_finished_folder_is_found_whatever_it_is_called(job):
    parent = job.folder.parent
    for name in (f"20260101-120000-{job.identity[:8]}", f"anything-{job.identity[:8]}-3"):
        folder = parent / name
        folder.mkdir(parents=True)
        write_json(folder / "record.json", {"identity": job.identity})
        write_json(folder / "status.json", {"state": "failed", "pid": 1})
        look(job)
        assert (job.state, job.folder) == ("waiting", folder)
        write_json(folder / "status.json", {"state": "done", "pid": 1})
        look(job)
        assert (job.state, job.folder) == ("finished", folder)
        write_json(folder / "record.json", {"identity": job.identity[:8] + "0" * 56})
        look(job)
        assert job.state == "waiting" and job.folder != folder


def test_a_folder_without_a_record_goes_by_its_name(job):
    assert claim(job)
    made = job.folder
    job.folder = Path("elsewhere")
    look(job)
    assert (job.state, job.folder) == ("waiting", made)


def test_a_folder_in_use_is_refused_with_the_pid(job):
    import os

    assert claim(job)
    other = dataclasses.replace(job)
    held = RunFolder.existing(job.folder)
    assert not claim(other)
    assert other.state == "in use" and f"in use by process {os.getpid()}" in other.reason
    held.close()
    assert claim(other) and other.folder == job.folder


def test_a_folder_that_cannot_be_made_is_said_at_once_or_by_its_job(job, tmp_path):
    (tmp_path / "file").write_text("")
    config = dataclasses.replace(job.config, outputs_dir=str(tmp_path / "file"))
    with pytest.raises(Refused, match="outputs_dir="):
        make_parent(config)
    other = dataclasses.replace(job, config=config)
    assert not claim(other) and other.state == "failed" and "outputs_dir=" in other.reason


def test_a_damaged_folder_stops_no_sweep(job):
    assert claim(job)
    for name in ("status.json", "record.json"):
        (job.folder / name).write_text("{")
        assert claim(job)  # the run itself says that it cannot go on
    (job.folder / ".lock").unlink()
    (job.folder / ".lock").mkdir()
    assert not claim(job)
    assert job.state == "failed" and "Is a directory" in job.reason


TIMEOUT = Verdict("failed", "ran longer than launcher.timeout=1 s")
STOP = Verdict("stopped", "the sweep was ended by SIGINT")
ENDINGS = [
    # status.json, pid of the process, verdict -> state, reason
    ({"state": "done", "pid": 7}, 7, None, "done", ""),
    ({"state": "done", "pid": 7}, 7, TIMEOUT, "done", ""),
    ({"state": "done", "pid": 6}, 7, None, "finished", ""),
    ({"state": "failed", "pid": 7, "reason": "no"}, 7, None, "failed", "no"),
    ({"state": "failed", "pid": 7, "reason": "no"}, 7, STOP, "failed", "no"),
    ({"state": "failed", "pid": 7, "reason": "no"}, 7, TIMEOUT, "failed", TIMEOUT.reason),
    ({"state": "failed", "pid": 6, "reason": "no"}, 7, None, "failed", "killed by SIGKILL"),
    ({"state": "stopped", "pid": 7, "reason": "saved"}, 7, None, "stopped", "saved"),
    ({"state": "stopped", "pid": 7, "reason": "saved"}, 7, STOP, "stopped", STOP.reason),
    ({"state": "stopped", "pid": 7, "reason": "saved"}, 7, TIMEOUT, "failed", TIMEOUT.reason),
    ({"state": "running", "pid": 7}, 7, None, "failed", "killed by SIGKILL"),
    ({"state": "running", "pid": 7}, 7, STOP, "stopped", STOP.reason),
    ({"state": "running", "pid": 7}, None, None, "failed", "killed by SIGKILL"),
    ({}, 7, None, "failed", "killed by SIGKILL"),
]


@pytest.mark.parametrize("said, pid, verdict, state, reason", ENDINGS)
def test_what_became_of_a_job(job, said, pid, verdict, state, reason):
    assert claim(job)
    if said:
        write_json(job.folder / "status.json", said)
    settle(job, "killed by SIGKILL", pid, verdict)
    assert (job.state, job.reason) == (state, reason)
    written = json.loads((job.folder / "status.json").read_text())
    assert written["state"] == ("done" if state == "finished" else state)
    assert written.get("reason", "") == reason


def test_the_last_words_of_a_job_that_died_are_its_reason(job):
    assert claim(job)
    (job.folder / PRINTED).write_text("a traceback\nterminate called: std::bad_alloc\n\n")
    settle(job, "killed by SIGABRT", 7)
    assert job.reason == "killed by SIGABRT: terminate called: std::bad_alloc"


def test_words_of_an_earlier_process_are_not_taken_for_this_ones(job):
    """Even where it had the same number."""
    assert claim(job)
    write_json(job.folder / "status.json", {"state": "failed", "pid": 7, "reason": "no"})
    (job.folder / PRINTED).write_text("a traceback\n")
    assert claim(job)
    settle(job, "killed by SIGKILL", 7)
    assert (job.state, job.reason) == ("failed", "killed by SIGKILL")
    assert claim(job)
    with (job.folder / PRINTED).open("a") as file:
        file.write("terminate called\n")
    settle(job, "killed by SIGABRT", 7)
    assert job.reason == "killed by SIGABRT: terminate called"


def test_a_full_disk_hurts_one_job(job, monkeypatch):
    def full(self, state, **more):
        raise OSError(28, "No space left on device")

    assert claim(job)
    monkeypatch.setattr(RunFolder, "status", full)
    settle(job, "killed by SIGKILL", 7)
    assert job.state == "failed" and job.reason.startswith("killed by SIGKILL (and its folder")
    assert "No space left" in job.reason


def test_a_folder_that_another_process_has_is_not_touched(job):
    assert claim(job)
    held = RunFolder.existing(job.folder)
    held.status("running")
    before = (job.folder / "status.json").read_bytes()
    settle(job, "ended with status 2", 7)
    assert job.state == "in use" and "is in use by process" in job.reason
    assert (job.folder / "status.json").read_bytes() == before
    held.close()


def test_endings_in_words():
    assert ending_of(9) == "killed by SIGKILL (out of memory?)"
    assert ending_of(6) == "killed by SIGABRT"
    assert ending_of(3 << 8) == "ended with status 3 before it was done"
