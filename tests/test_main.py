"""The command line as a user meets it: processes, exit statuses, messages."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

NANO = (
    "data=world_nano data.pairs=200 data.eval_pairs=50 data.sft_rows=200 start.steps=5 "
    "start.batch_size=32 train.steps=4 train.batch_size=16 schedule.warmup_steps=1 logger=none"
).split()
ROW = '{"prompt": "say", "chosen": "yes please", "rejected": "no thanks"}\n'
# a process that also says on its last line whether torch was loaded
WATCHED = (
    "import sys; from dpo_lab.__main__ import main; status = main(sys.argv[1:]); "
    "print('torch._C' in sys.modules, file=sys.stderr); sys.exit(status)"
)


def dpo_lab(*words, code=None, cwd=None, **environment):
    command = (
        [sys.executable, "-c", code, *words] if code else [sys.executable, "-m", "dpo_lab", *words]
    )
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["loss.betta=1"], "did you mean loss.beta?"),
        (["-m", "loss.beta=0.1,-1"], "loss.beta must be > 0"),
        (["loss.beta=0.1,-1", "-m"], "loss.beta must be > 0"),
        (["loss=dpo", "reference=none"], "compares with a reference"),
        (["data=file", "data.path=missing.jsonl"], "missing.jsonl: no such file"),
        (["data=file", "data.path=broken.jsonl"], "broken.jsonl:3: not valid JSON"),
        (["chek"], "did you mean check?"),
        (["--frobnicate"], "unknown option --frobnicate"),
        (["check", "data=file", "data.path=missing.jsonl"], "no such file"),
        (["check", "-m", "seed=0,1"], "runs none"),
        (["report"], "report needs a folder of runs"),
        (["report", "nowhere"], "nowhere"),
        (["report", ".", "metrik=x"], "unknown option metrik; did you mean metric?"),
        (["--config-dir", "nowhere"], "there is no such folder"),
    ],
)
def test_is_refused_with_status_2_and_without_torch(tmp_path, words, says):
    (tmp_path / "broken.jsonl").write_text(ROW * 2 + '{"prompt": \n' + ROW)
    done = dpo_lab(*words, code=WATCHED, cwd=tmp_path)
    *said, torch = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == ""
    assert 1 <= len(said) <= 3 and says in "\n".join(said)
    assert torch == "False"
    assert sorted(os.listdir(tmp_path)) == ["broken.jsonl"]


def test_help_shows_the_groups_and_the_composed_config():
    done = dpo_lab("--help", "loss=simpo", code=WATCHED)
    assert done.returncode == 0 and done.stderr.strip() == "False"
    assert "reference_free_dpo" in done.stdout and "gamma_beta_ratio" in done.stdout


def test_check_prints_a_card_and_trains_nothing(tmp_path):
    rows = "".join(ROW.replace("say", f"say {number}") for number in range(20))
    (tmp_path / "pairs.jsonl").write_text(rows)
    words = ["check", "data=file", "data.path=pairs.jsonl", "model.vocab_size=null"]
    words += [f"cache_dir={tmp_path / 'cache'}", "model.vocab_size=300"]
    done = dpo_lab(*words, code=WATCHED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "False"
    assert "texts_sha256=" in done.stdout and "duplicates" in done.stdout
    facts = json.loads(dpo_lab(*words, "--json", cwd=tmp_path).stdout)
    assert facts["rows"]["train"] + facts["rows"]["eval"] == 20
    assert not (tmp_path / "outputs").exists()


def test_train_ends_with_a_table_and_the_folder(tmp_path):
    done = dpo_lab(*NANO, f"outputs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "share of the optimal reward" in done.stdout or "exact KL" in done.stdout
    folder = done.stdout.splitlines()[-1].split("  ")[0]
    assert os.path.isfile(os.path.join(folder, "curves.png"))
    drawn = dpo_lab("report", str(tmp_path))
    assert drawn.returncode == 0 and os.path.isfile(drawn.stdout.strip())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_can_go_on(tmp_path, number, status):
    words = [*NANO, "train.steps=2000", f"outputs_dir={tmp_path}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dpo_lab", *words], stderr=subprocess.PIPE, text=True
    )
    metrics = None
    while metrics is None and process.poll() is None:
        time.sleep(0.1)
        metrics = next(
            (path for path in tmp_path.glob("*/*/metrics.jsonl") if '"train"' in path.read_text()),
            None,
        )
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    folder = metrics.parent
    assert json.loads((folder / "status.json").read_text())["state"] == "stopped"
    (saved,) = (folder / "checkpoints").iterdir()
    assert f"train.resume={folder}" in said and saved.name[5:].lstrip("0") in said


def test_a_running_folder_is_refused_with_its_pid(tmp_path):
    words = [*NANO, "train.steps=100000", f"outputs_dir={tmp_path}", "checkpoint.every=5"]
    process = subprocess.Popen([sys.executable, "-m", "dpo_lab", *words], stderr=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob("*/*/record.json")):
            time.sleep(0.1)
        (folder,) = tmp_path.glob("*/*")
        done = dpo_lab(f"train.resume={folder}")
        assert done.returncode == 2
        assert f"in use by process {process.pid}" in done.stderr
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("line", "expected"),
    [("dpo-lab loss=si", "loss=simpo"), ("dpo-lab train loss=si", "loss=simpo")],
)
def test_completion_works_with_and_without_a_verb(line, expected):
    done = dpo_lab("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert expected in done.stdout.split()


def test_help_is_the_same_from_python_m_and_version_is_printed():
    from dpo_lab import __version__

    assert dpo_lab("--version").stdout.strip() == f"dpo-lab {__version__}"
