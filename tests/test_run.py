"""Whole runs, small: what is in the folder, resuming, refusing."""

import json
import math
import shutil

import numpy as np
import pyarrow.parquet
import pytest
import torch
from interrupted import resumed
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import dpo_lab
from dpo_lab.errors import Refused
from dpo_lab.precision import widen_norms
from dpo_lab.results import Run

NANO = [
    "data=world_nano",
    "data.pairs=200",
    "data.eval_pairs=50",
    "data.sft_rows=200",
    "start.steps=5",
    "start.batch_size=32",
    "train.steps=6",
    "train.batch_size=16",
    "train.log_every=2",
    "eval.every=3",
    "schedule.warmup_steps=2",
    "logger=none",
]


@pytest.fixture
def train(tmp_path):
    def run(*overrides: str) -> Run:
        return dpo_lab.train([*NANO, f"outputs_dir={tmp_path}", *overrides])

    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "final" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def steady(run: Run) -> list[dict]:
    """The events without what depends on the clock."""
    return [
        {name: value for name, value in event.items() if not name.startswith(("time", "perf/"))}
        for event in run.events
    ]


def test_the_folder_is_complete(train):
    run = train("loss.beta=0.5")
    assert run.state == "done"
    names = {path.name for path in run.folder.iterdir()}
    assert names >= {"config.yaml", "record.json", "metrics.jsonl", "status.json", "train.log"}
    assert names >= {"curves.png", "eval", "final"}
    assert run.config["loss"]["beta"] == 0.5
    assert [event["step"] for event in run.events if event["event"] == "train"] == [2, 4, 6]
    assert [event["step"] for event in run.events if event["event"] == "eval"] == [0, 3, 6]
    first = run.events[0]
    assert first["eval/loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert first["eval/rewards/margins"] == 0 and first["eval/rewards/accuracies"] == 0.5
    assert first["world/kl"] == 0


def test_every_name_of_the_contract_is_logged(train):
    last = train().metrics
    for split in ("train", "eval"):
        for name in (
            "loss rewards/chosen rewards/rejected rewards/margins rewards/accuracies logps/chosen "
            "logps/rejected logratios/chosen logratios/rejected logratios/margins "
            "ref_logps/chosen ref_logps/rejected"
        ).split():
            assert f"{split}/{name}" in last
    for name in "train/grad_norm train/learning_rate counters/pairs counters/tokens".split():
        assert name in last
    for name in "counters/updates perf/pairs_per_second perf/peak_memory_mb world/reward".split():
        assert name in last
    assert last["counters/pairs"] == 96 and last["counters/updates"] == 6


def test_the_evaluation_file_gives_back_the_metrics(train):
    run = train("loss.beta=0.3")
    rows = pyarrow.parquet.read_table(run.folder / "eval" / "step_6.parquet").to_pydict()
    column = {name: np.array(values) for name, values in rows.items() if name != "row"}
    assert len(set(rows["row"])) == 50
    for side in ("chosen", "rejected"):
        ratio = column[f"{side}_logps"] - column[f"{side}_ref_logps"]
        np.testing.assert_allclose(column[f"{side}_reward"], 0.3 * ratio, atol=1e-5)
        assert run.metrics[f"eval/logratios/{side}"] == pytest.approx(ratio.mean(), abs=1e-5)
    margin = column["chosen_reward"] - column["rejected_reward"]
    accuracy = ((margin > 0) + 0.5 * (margin == 0)).mean()
    assert run.metrics["eval/rewards/accuracies"] == pytest.approx(accuracy)
    assert run.metrics["eval/loss"] == pytest.approx(np.log1p(np.exp(-margin)).mean(), abs=1e-6)


def test_the_same_config_gives_the_same_weights_and_metrics(train):
    first, second = train(), train()
    assert first.folder != second.folder
    assert same(weights(first), weights(second)) and steady(first) == steady(second)
    assert not same(weights(first), weights(train("seed=1")))


@pytest.mark.parametrize("stop", [1, 5])
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_resumed_run_is_the_uninterrupted_one(train, stop, adapter):
    settings = [f"adapter={adapter}", "model.dropout=0.1", "checkpoint.every=1"]
    whole, again = train(*settings), resumed(train, settings, stop)
    assert same(weights(whole), weights(again)) and steady(whole) == steady(again)


def test_resuming_something_else_is_refused(train, tmp_path):
    run = train("checkpoint.every=2")
    (run.folder / "status.json").write_text(json.dumps({"state": "stopped"}))
    with pytest.raises(Refused, match="other data, so nothing is trained") as refused:
        dpo_lab.train([f"train.resume={run.folder}", "loss.beta=0.7"])
    assert "loss.beta was 0.1 and is 0.7" in str(refused.value)
    assert json.loads((run.folder / "status.json").read_text()) == {"state": "stopped"}
    with pytest.raises(Refused, match="there is no run in this folder"):
        dpo_lab.train([f"train.resume={tmp_path / 'nowhere'}"])


def test_a_finished_run_is_not_taken_for_another(train):
    run = train()
    with pytest.raises(Refused, match=r"seed was 0 and is 1"):
        dpo_lab.train([f"train.resume={run.folder}", "seed=1"])


def test_whether_the_start_was_trained_or_found_changes_nothing(train, tmp_path):
    settings = ["model.dropout=0.3", f"cache_dir={tmp_path / 'cache'}"]
    trained, found = train(*settings), train(*settings)
    assert "training the start" in (trained.folder / "train.log").read_text()
    assert "training the start" not in (found.folder / "train.log").read_text()
    assert same(weights(trained), weights(found)) and steady(trained) == steady(found)


def test_a_run_is_repeated_from_its_own_folder(train, tmp_path):
    run = train("model.dropout=0.1", "loss=hinge", "seed=3")
    again = dpo_lab.train([f"outputs_dir={tmp_path / 'again'}"], from_=str(run.folder))
    assert again.folder.parent.parent == tmp_path / "again"
    assert same(weights(run), weights(again)) and steady(run) == steady(again)
    assert again.record["weights_sha256"] == run.record["weights_sha256"]
    assert again.record["digests"] == run.record["digests"]
    assert "the final weights are the same as in" in (again.folder / "train.log").read_text()


def test_the_record_of_a_resumed_run_tells_how_it_began(train):
    run = train("checkpoint.every=2")
    began = run.record
    (run.folder / "status.json").write_text(json.dumps({"state": "running", "saved": 6}))
    now = dpo_lab.train([f"train.resume={run.folder}"]).record
    assert [now[name] for name in ("command", "time", "overrides")] == [
        began[name] for name in ("command", "time", "overrides")
    ]
    assert len(now["resumed"]) == 1 and now["weights_sha256"] == began["weights_sha256"]


def test_a_finished_run_is_left_alone(train):
    run = train()
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()}
    again = dpo_lab.train([f"train.resume={run.folder}"])
    after = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert again.folder == run.folder and changed <= {".lock", "train.log"}


LOSSES = (
    "sft dpo cdpo robust_dpo ipo hinge simpo orpo dpop unlikelihood reference_free_dpo dpo_norm "
    "r_dpo rpo"
).split()


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_and_logs_log_ratios(train, loss):
    run = train(f"loss={loss}", "train.steps=2", "eval.every=null")
    assert run.state == "done"
    assert {"eval/logratios/chosen", "eval/logratios/rejected"} <= run.metrics.keys()
    assert run.events[0]["eval/logratios/chosen"] == 0


def test_a_reference_does_not_change_a_loss_that_takes_none(train):
    with_it = train("loss=simpo", "reference=frozen")
    without = train("loss=simpo", "eval.logratios=false")
    assert same(weights(with_it), weights(without))
    assert not any("logratios" in name for name in without.metrics)


@pytest.mark.parametrize("kind", ["frozen", "adapter_off"])
def test_with_a_fresh_adapter_both_references_are_the_base(train, kind):
    run = train("adapter=lora", f"reference={kind}", "train.dtype=float64")
    assert run.events[0]["eval/loss"] == pytest.approx(math.log(2), abs=1e-12)


def test_another_run_can_be_the_reference(train):
    weak = train("start.steps=1", "train.steps=1")
    run = train("reference=checkpoint", f"reference.path={weak.folder / 'final'}")
    assert run.events[0]["eval/loss"] != pytest.approx(math.log(2), abs=1e-4)
    assert run.events[0]["eval/logratios/chosen"] == 0
    start = train()
    itself = train("reference=checkpoint", f"reference.path={start.folder / 'final'}")
    assert itself.state == "done"


def test_the_export_has_the_same_log_probabilities(train):
    run = train("train.dtype=float64", "train.device=cpu")
    folder = run.folder / "final"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    widen_norms(model)  # else transformers' own norms round to float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = pyarrow.parquet.read_table(run.folder / "eval" / "step_6.parquet").to_pydict()
    from dpo_lab.compose import compose
    from dpo_lab.intake import read

    source = read(compose([*NANO]))
    illegal = model.generation_config.suppress_tokens
    for example, expected in zip(source.eval[:10], rows["chosen_logps"], strict=False):
        prompt = tokenizer(example.prompt)["input_ids"]
        response = tokenizer(example.chosen, add_special_tokens=False)["input_ids"]
        response += [tokenizer.eos_token_id] * example.chosen_ends
        logits = model(torch.tensor([prompt + response])).logits[0]
        logits[:, illegal] = -torch.inf
        logps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        total = logps.gather(1, torch.tensor(response)[:, None]).sum().item()
        assert total == pytest.approx(expected, abs=1e-10)


def test_pairs_written_by_the_start(train):
    run = train("data.pair_source=start")
    assert run.events[0]["eval/loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_best_is_kept(train):
    run = train("checkpoint.keep_best=true", "checkpoint.metric=eval/rewards/margins")
    best = json.loads((run.folder / "best.json").read_text())
    values = dict(zip(*run.series("eval/rewards/margins"), strict=True))
    assert best["step"] == max(values, key=values.__getitem__)
    assert (run.folder / "best" / "model.safetensors").is_file()


def test_checkpoints_are_pruned(train):
    run = train("checkpoint.every=1", "checkpoint.keep=2")
    names = [path.name for path in sorted((run.folder / "checkpoints").iterdir())]
    assert names == ["step_000005", "step_000006"]


def test_what_was_best_before_a_stop_is_not_forgotten(train):
    # far too large steps: nothing is better than the start
    wild = ["optimizer=sgd", "optimizer.lr=1", "train.max_grad_norm=null", "loss.beta=2"]
    run = train("checkpoint.keep_best=true", "checkpoint.every=3", *wild)
    best = json.loads((run.folder / "best.json").read_text())
    assert best["step"] == 0
    shutil.rmtree(run.folder / "checkpoints" / "step_000006")
    (run.folder / "status.json").write_text(json.dumps({"state": "stopped", "saved": 3}))
    again = dpo_lab.train([f"train.resume={run.folder}"])
    assert [event["step"] for event in again.events if event["event"] == "eval"] == [0, 3, 6]
    assert json.loads((again.folder / "best.json").read_text()) == best
