"""Overrides as people type them: what is wrong is named in three lines, what is odd is taken."""

import contextlib
import io
import json
import os
import subprocess
import sys

import pytest
from overrides_bad import BAD

from dpo_lab.__main__ import main
from dpo_lab.compose import compose, jobs

ID = "R7"
WATCHED = (
    "import sys; from dpo_lab.__main__ import main; status = main(sys.argv[1:]); "
    "print('torch._C' in sys.modules, file=sys.stderr); sys.exit(status)"
)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with one small data file."""
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    rows = [json.dumps({**row, "prompt": f"q{number}"}) for number in range(4)]
    (tmp_path / "here.jsonl").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wrong_with(line, status, out, err):
    """What is wrong with the answer to a bad line; nothing where it is as it should be."""
    wrong = [f"status {status}"] * (status != 2) + ["traceback"] * ("Traceback" in err)
    wrong += [f"{err.count(chr(10))} lines"] * (not 1 <= err.count("\n") <= 3)
    wrong += ["output"] * bool(out) + ["long"] * (len(err) > 1200)
    wrong += [f"does not say {BAD[line]!r}"] * (BAD[line] not in err)
    return f"{line[:80]!r}: {', '.join(wrong)}: {err[-400:]}" if wrong else ""


def test_bad_overrides_are_refused_and_named(desk, monkeypatch, tally):
    """In this process: whatever would import what trains is an error here."""

    monkeypatch.setitem(sys.modules, "dpo_lab.run", None)
    monkeypatch.setattr("dpo_lab.sweep.sweep", lambda *line: [compose(j) for j in jobs(line[0])])
    for line in BAD:
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(line.split(" "))
        except Exception as error:  # counted, so that the others are still tried
            status = f"{type(error).__name__}: {error}"
        said = wrong_with(line, status, out.getvalue(), err.getvalue())
        tally(not said, said)
    assert sorted(os.listdir(desk)) == ["here.jsonl"]


@pytest.mark.parametrize("line", [line for line in list(BAD)[::12] if "\0" not in line])
def test_in_a_process_of_its_own_no_torch_is_loaded(desk, tally, line):
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *line.split(" ")], capture_output=True, text=True
    )
    *said, torch = done.stderr.splitlines(keepends=True)
    wrong = wrong_with(line, done.returncode, done.stdout, "".join(said))
    tally(not wrong and torch.strip() == "False", f"{wrong} torch loaded: {torch}")


FILE = ["data=file", "data.path=x"]
ODD = [
    (["loss.beta=1"], "loss.beta", 1.0),
    (["loss.beta=1e-3"], "loss.beta", 0.001),
    (["loss.beta=.5"], "loss.beta", 0.5),
    (["loss.beta=1_000"], "loss.beta", 1000.0),
    (["loss.beta='0.25'"], "loss.beta", 0.25),
    (["loss.beta= 0.5 "], "loss.beta", 0.5),
    (["loss.beta=0.1", "loss.beta=0.2"], "loss.beta", 0.2),
    (["++loss.beta=2"], "loss.beta", 2.0),
    (["loss.beta=${optimizer.lr}"], "loss.beta", 0.001),
    (["train.steps=1_000"], "train.steps", 1000),
    (["seed=9223372036854775807"], "seed", 2**63 - 1),
    (["seed=${data.seed}"], "seed", 0),
    (["train.max_grad_norm=null"], "train.max_grad_norm", None),
    (["train.shuffle=no"], "train.shuffle", False),
    (["train.shuffle=1"], "train.shuffle", True),
    (["train.shuffle=FALSE"], "train.shuffle", False),
    (["logger.tags=[]"], "logger.tags", []),
    (["logger.tags=[a, 'b, c', 007]"], "logger.tags", ["a", "b, c", "007"]),
    (["logger.group='a b: c=d'"], "logger.group", "a b: c=d"),
    (["name=007"], "name", "007"),
    (["name=beta-0.1_x+y"], "name", "beta-0.1_x+y"),
    (["name=null"], "name", None),
    (["outputs_dir=a b/c"], "outputs_dir", "a b/c"),
    (["outputs_dir='\u00fc/=x'"], "outputs_dir", "\u00fc/=x"),
    (["data=file", "data.path='a=b, (1).jsonl'"], "data.path", "a=b, (1).jsonl"),
    (["data=file", 'data.path="it\'s.jsonl"'], "data.path", "it's.jsonl"),
    (["data=file", "data.path=C:/x.jsonl"], "data.path", "C:/x.jsonl"),
    ([*FILE, "data.columns={prompt: my question}"], "data.columns", {"prompt": "my question"}),
    ([*FILE, "data.columns={prompt: 'a:b'}"], "data.columns", {"prompt": "a:b"}),
    ([*FILE, "data.eval_share=0"], "data.eval_share", 0.0),
    (["data.path=x", "data=file"], "data.path", "x"),
    (["data.held_out=[horror critic]"], "data.held_out", ["horror critic"]),
    (["loss=simpo", "loss.gamma=0"], "loss.gamma", 0.0),
    (["loss='ipo'", "loss.average=true"], "loss.average", True),
]


def test_odd_overrides_arrive_with_the_right_type(tally):
    for words, name, expected in ODD:
        value = compose(words).plain
        for part in name.split("."):
            value = value[part]
        right = value == expected and type(value) is type(expected)
        tally(right, f"{words}: {value!r} instead of {expected!r}")


def test_sweeps_are_read_wherever_m_stands(tally):
    expected = [[f"loss={loss}", "seed=3"] for loss in ("dpo", "ipo")]
    tally(jobs(["loss=dpo,ipo", "seed=3"]) == expected, "a list")
    tally(len(jobs(["loss=glob(*dpo)"])) >= 4, "a pattern of names")
    tally(jobs(["seed=range(0,2)"]) == [["seed=0"], ["seed=1"]], "a range")
    tally(jobs(["name='a,b'"]) == [["name='a,b'"]], "a comma in quotes is no list")
    from dpo_lab.__main__ import parse

    for words in (["-m", "seed=0,1"], ["seed=0,1", "-m"], ["train", "seed=0,1", "--multirun"]):
        line = parse(words)
        tally(line.multirun and line.overrides == ["seed=0,1"], f"{words}")
