"""R15: a run repeated from nothing but its own folder has the same weights."""

import json

import pytest
from survival import LORA, SETTINGS, Bench, differences, sha256, write_pairs

ID = "R15"
LOSS = """
from typing import Annotated

from dpo_lab.batch import Logps, Pair, Scores
from dpo_lab.ranges import Positive


def squared(
    policy: Pair[Logps], reference: Pair[Logps], *, beta: Annotated[float, Positive]
) -> Scores:
    chosen = beta * (policy.chosen.total - reference.chosen.total)
    rejected = beta * (policy.rejected.total - reference.rejected.total)
    return Scores((chosen - rejected - 1) ** 2, chosen.detach(), rejected.detach())
"""
YAML = "defaults: [/schema/loss/squared@_here_]\n_target_: my.squared\nbeta: 0.1  # > 0\n"
WORLD = [
    "data=world_nano",
    "data.pairs=200",
    "data.eval_pairs=20",
    "data.sft_rows=100",
    "data.pair_source=start",
    "start.steps=5",
    "start.batch_size=16",
    "model.dropout=0.1",
    "train.steps=6",
    "train.batch_size=16",
    "schedule=cosine",
    "logger=none",
    "name=world",
]
RUNS = {
    "full": [*SETTINGS, "loss=hinge", "loss.beta=0.3", "seed=5"],
    "lora": [*SETTINGS, *LORA, "reference=adapter_off"],
    "a world, SFT, pairs of the start": WORLD,
    "a loss of one's own": ["--config-dir", "mine", *SETTINGS, "loss=squared", "loss.beta=0.7"],
    "stopped and resumed": [*SETTINGS, "reference=ema", "seed=2"],
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("record"))
    (bench.folder / "mine" / "loss").mkdir(parents=True)
    (bench.folder / "mine" / "my.py").write_text(LOSS)
    (bench.folder / "mine" / "loss" / "squared.yaml").write_text(YAML)
    (bench.folder / "elsewhere").mkdir()
    return bench


def record(folder):
    return json.loads((folder / "record.json").read_text())


def made(bench, *words):
    """The new run folder, and what was said."""
    before = set(bench.folder.glob("**/record.json"))
    status, said = bench.go(*words)
    new = set(bench.folder.glob("**/record.json")) - before
    return status, said, new.pop().parent if new else None


@pytest.mark.parametrize("name", RUNS)
def test_r15(bench, tally, monkeypatch, name):
    killed = name == "stopped and resumed"
    fault = {"DPO_LAB_FAULT": "checkpoint.renamed:3"} if killed else {}
    before = set(bench.runs())
    status, said = bench.go(*RUNS[name], **fault)
    (folder,) = set(bench.runs()) - before
    if killed:
        assert status == -9
        status, said = bench.go(f"train.resume={folder}")
    assert status == 0, said
    # from another folder, with an empty cache and with other threads asked for by the environment
    monkeypatch.setattr(bench, "environment", bench.environment | {"OMP_NUM_THREADS": "2"})
    monkeypatch.setattr(bench, "folder", bench.folder / "elsewhere")
    words = ["--from", str(folder), f"cache_dir=cache-{len(name)}"]
    status, said, again = made(bench, *words)
    problems = [] if status == 0 else [said]
    if again is not None and status == 0:
        ours, theirs = record(again), record(folder)
        if name != "a world, SFT, pairs of the start":
            problems += differences(again, folder)
        if ours["weights_sha256"] != theirs["weights_sha256"]:
            problems.append("weights_sha256 differs")
        if sha256(again / "final/model.safetensors") != sha256(folder / "final/model.safetensors"):
            problems.append("the exports differ")
        if f"weights_sha256={theirs['weights_sha256']}" not in said or "the same as" not in said:
            problems.append(f"said {said}")
        missing = {"digests", "seed", "command", "git", "packages", "threads"} - ours.keys()
        problems += [f"no {key} in the record" for key in missing]
    tally(not problems, f"{name}: {problems}")


@pytest.fixture(scope="module")
def run(bench):
    return bench.run("seed=9")


def test_overrides_go_on_top(bench, run):
    status, said, again = made(bench, "--from", str(run), "loss.beta=0.9")
    assert status == 0 and "the same as" not in said and "OTHER" not in said
    assert "beta: 0.9" in (again / "config.yaml").read_text()
    assert "seed: 9" in (again / "config.yaml").read_text()


def test_what_cannot_be_repeated_is_refused(bench, run):
    good = (bench.folder / "prefs.jsonl").read_bytes()
    write_pairs(bench.folder / "prefs.jsonl", 200, seed=1)
    try:
        status, said, again = made(bench, "--from", str(run))
        assert status == 2 and again is None and "data was " in said and "prefs.jsonl" in said
        status, said, again = made(bench, f"train.resume={run}", "loss.beta=0.2")
        assert status == 2 and "data was" in said and "loss.beta was 0.1 and is 0.2" in said
    finally:
        (bench.folder / "prefs.jsonl").write_bytes(good)
    old = record(run)
    (run / "record.json").write_text(json.dumps(old | {"dpo_lab": "9.1.0"}))
    status, said, again = made(bench, "--from", str(run))
    assert status == 2 and again is None and "9.1.0" in said
    (run / "record.json").write_text(json.dumps(old))
    status, said, again = made(bench, "--from", str(bench.folder / "elsewhere"))
    assert status == 2 and "there is no run in this folder" in said
