"""What only a GPU can show: that it computes what a CPU computes, and that whole runs do."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from interrupted import resumed
from networks import ROWS, Tokens, every_layout, gradients, in_double, one_by_one, tiny
from test_run import NANO, steady

import dpo_lab
from dpo_lab import segments
from dpo_lab.batch import Encoded
from dpo_lab.compose import compose
from dpo_lab.layouts import lay_out
from dpo_lab.policy import Policy
from dpo_lab.results import Run
from dpo_lab.scoring import logps, token_logps
from dpo_lab.sweep import sweep
from dpo_lab.trees import Trees
from dpo_lab.worlds import world
from dpo_lab.worlds.enumeration import leaf_logps, leaves

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

# sums of the same float64 numbers in another order
EXACT = {"rtol": 1e-11, "atol": 1e-10}
# transformers computes the angles of rotary positions in float32, with another sine on a GPU
ANGLES = 1e-6


def rows(seed: int, number: int, longest: int, prompts: int) -> list[Encoded]:
    draw = random.Random(seed)

    def ids(most: int) -> list[int]:
        return [draw.randrange(2, 40) for _ in range(draw.randint(1, most))]

    texts = [ids(longest) for _ in range(prompts)]
    return [Encoded(list(draw.choice(texts)), ids(longest), ids(longest)) for _ in range(number)]


CASES = {
    "four": ROWS,
    "long segments": rows(0, 12, 40, 12),
    "one long among short ones": [*rows(1, 60, 2, 60), *rows(2, 1, 60, 1)],
    "few prompts": [
        row._replace(prompt=row.prompt + row.prompt, chosen=row.chosen[:2], rejected=row.chosen[:1])
        for row in rows(3, 40, 12, 2)
    ],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_every_layout_equals_plain_transformers_on_a_cpu(kind, case):
    model = in_double(tiny(kind, max_position_embeddings=128))
    expected = one_by_one(model, CASES[case])
    each = torch.linspace(0.5, 2.0, len(expected), dtype=torch.float64)
    push = gradients(model, (expected * each).sum())
    there = Policy(model, Tokens(), dtype="float64", device="cuda")
    found = {}
    for way, batch in every_layout(there, CASES[case]).items():
        values = token_logps(there, batch.to(there.device))
        torch.testing.assert_close(values.cpu(), expected.detach(), rtol=ANGLES, atol=ANGLES)
        ours = gradients(there.model, (values * each.cuda()).sum())
        for name, grad in push.items():
            assert (ours[name].cpu() - grad).norm() <= ANGLES * grad.norm(), (way, name)
        found[way] = values.detach()
    for way, values in found.items():
        torch.testing.assert_close(values, found["padded"], **EXACT, msg=way)


def test_the_cases_take_every_way_through_attention():
    def batch(case):
        return lay_out(CASES[case], range(len(CASES[case])), "shared", pad_id=0, paired=True)

    gpu = torch.device("cuda")
    assert batch("long segments").segments.at_once(gpu)
    assert batch("long segments").segments.size > segments.TOGETHER
    assert not batch("one long among short ones").segments.at_once(gpu)
    assert isinstance(batch("few prompts").segments, Trees)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_is_near_float32(case):
    values = {}
    for dtype in ("float32", "bfloat16"):
        policy = Policy(
            tiny("llama", max_position_embeddings=128), Tokens(), dtype=dtype, device="cuda"
        )
        batch = lay_out(CASES[case], range(len(CASES[case])), "shared", pad_id=0, paired=True)
        with torch.no_grad():
            scored = logps(policy, batch.to(policy.device))
        values[dtype] = torch.cat([scored.chosen.total, scored.rejected.total])
        assert values[dtype].dtype == torch.float32
    off = (values["float32"] - values["bfloat16"]).abs() / values["float32"].abs()
    assert off.mean() < 0.02, off


def test_every_response_has_the_probability_that_it_has_on_a_cpu():
    nano = world(words="good bad not film", depth=4, pairs=20, eval_pairs=1, sft_rows=1).world
    model = in_double(tiny("llama"))
    here = Policy(model, Tokens(), dtype="float64", legal=nano.legal_ids)
    expected = leaf_logps(here, nano)
    there = Policy(model, Tokens(), dtype="float64", device="cuda", legal=nano.legal_ids)
    np.testing.assert_allclose(leaf_logps(there, nano), expected, rtol=0, atol=ANGLES)
    found = leaves(there, nano, [1, 3])
    np.testing.assert_allclose(found.detach().cpu(), expected[[1, 3]], rtol=0, atol=ANGLES)


@pytest.fixture
def train(tmp_path):
    def run(*words: str, device: str = "cuda") -> Run:
        folder = f"outputs_dir={tmp_path / device}"
        return dpo_lab.train([*NANO, folder, f"train.device={device}", *words])

    return run


def final(run: Run) -> dict[str, float]:
    return {name: value for name, value in steady(run)[-1].items() if "/" in name}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["loss=simpo"],
        ["reference=ema", "reference.decay=0.5", "reference.every=2"],
        ["reference=uniform"],
        ["layout=padded"],
        ["train.gradient_checkpointing=true"],
        ["adapter=lora"],
        ["loss=exact_rl", "train.batch_size=8"],
        ["data.pair_source=start"],
        ["eval.samples=2"],
        ["checkpoint.every=2", "checkpoint.keep_best=true"],
    ],
    ids=lambda words: " ".join(words) or "dpo",
)
def test_a_run_on_a_gpu_comes_to_what_it_comes_to_on_a_cpu(train, words):
    there, here = (
        train("train.dtype=float64", *words),
        train("train.dtype=float64", *words, device="cpu"),
    )
    assert there.record["device"] == "cuda" and here.record["device"] == "cpu"
    found, expected = final(there), final(here)
    assert found.keys() == expected.keys() and "world/kl" in found
    for name, value in expected.items():
        if not name.startswith("sampled/"):  # drawn from other random numbers
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name


def test_float32_and_bfloat16_run_too(train):
    exact = final(train("train.dtype=float64"))
    for dtype, share in (("float32", 1e-3), ("bfloat16", 0.3)):
        found = final(train(f"train.dtype={dtype}"))
        for name in ("eval/loss", "world/kl", "world/reward"):
            assert found[name] == pytest.approx(exact[name], rel=share), (dtype, name)


def test_a_table_is_trained_there(tmp_path):
    words = (
        f"data=world_nano model=tabular train.steps=30 logger=none outputs_dir={tmp_path}".split()
    )
    there, here = (dpo_lab.train([*words, f"train.device={name}"]) for name in ("cuda", "cpu"))
    assert there.record["device"] == "cuda"
    assert final(there)["world/kl"] == pytest.approx(final(here)["world/kl"], rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_a_run_that_died_ends_with_the_bits_of_one_that_did_not(train, layout, dtype):
    words = ["checkpoint.every=2", f"train.dtype={dtype}", "model.dropout=0.1", f"layout={layout}"]
    whole = train(*words, "name=whole")
    again = resumed(train, [*words, "name=died"], 4)
    assert again.record["weights_sha256"] == whole.record["weights_sha256"]
    assert steady(again)[-1] == steady(whole)[-1]


@pytest.mark.parametrize(
    "words",
    [
        ["reference=ema", "reference.decay=0.5", "reference.every=2"],
        ["adapter=lora"],
        ["train.gradient_checkpointing=true"],
        ["loss=exact_rl", "train.batch_size=8"],
    ],
    ids=" ".join,
)
def test_the_same_run_gives_the_same_bits(train, words):
    first, second = train(*words, "name=first"), train(*words, "name=second")
    assert first.record["weights_sha256"] == second.record["weights_sha256"]
    assert steady(first) == steady(second)


def test_whoever_does_not_need_the_same_bits_gets_nearly_the_same(train):
    words = ["train.deterministic=false"]
    assert final(train(*words))["eval/loss"] == pytest.approx(final(train())["eval/loss"], rel=1e-4)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_sweep_runs_its_jobs_on_the_gpu(tmp_path):
    words = [*NANO, f"outputs_dir={tmp_path}", "train.device=cuda", "launcher.jobs=2", "seed=0,1"]
    assert sweep(words) == 0
    records = [Run(path.parent).record for path in tmp_path.rglob("record.json")]
    assert [record["device"] for record in records] == ["cuda", "cuda"]


def test_peak_memory_is_that_of_the_gpu(train):
    events = [event for event in train().events if "perf/peak_memory_mb" in event]
    assert all(0 < event["perf/peak_memory_mb"] < 2000 for event in events)


def test_a_machine_with_a_gpu_takes_it_unless_told_otherwise(tmp_path):
    config = compose([*NANO, f"outputs_dir={tmp_path}"])
    assert config.train.device == "auto"
    run = dpo_lab.train([*NANO, f"outputs_dir={tmp_path}"])
    assert run.record["device"] == "cuda"
