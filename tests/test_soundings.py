"""KL to the start from drawn responses, at every evaluation of a run."""

from __future__ import annotations

import pytest
from networks import Tokens, tiny
from safetensors.torch import load_file
from torch import equal

import dpo_lab
from dpo_lab.compose import compose
from dpo_lab.errors import Refused
from dpo_lab.policy import Policy
from dpo_lab.soundings import Soundings

NANO = (
    "data=world_nano data.pairs=200 data.eval_pairs=50 data.sft_rows=500 start.steps=20 "
    "start.batch_size=64 train.steps=8 train.batch_size=32 eval.every=4 schedule.warmup_steps=1 "
    "optimizer.lr=5e-3 loss.beta=0.1 logger=none"
).split()


@pytest.mark.slow
def test_a_run_is_sounded_and_changed_in_nothing(tmp_path):
    settings = [*NANO, f"outputs_dir={tmp_path}"]
    sounded = dpo_lab.train([*settings, "eval.samples=800", "eval.sample_tokens=4"])
    steps, values = sounded.series("sampled/kl")
    assert steps == [0, 4, 8] and values[0] == 0
    last = sounded.metrics
    assert last["world/kl"] > 0.05
    for name in ("kl", "kl_log_ratio"):
        error = last[f"sampled/{name}_error"]
        assert 0 < error < last["world/kl"]
        assert abs(last[f"sampled/{name}"] - last["world/kl"]) < 3 * error
    assert last["sampled/kl_error"] < last["sampled/kl_log_ratio_error"]
    assert 1 < last["sampled/tokens"] <= 4 and 0 <= last["sampled/cut"] < 1
    plain = dpo_lab.train(settings)
    ours, theirs = (
        load_file(run.folder / "final" / "model.safetensors") for run in (sounded, plain)
    )
    assert all(equal(ours[name], theirs[name]) for name in ours)


def test_what_gives_no_error_is_refused():
    policy = Policy(tiny("llama"), Tokens())
    for prompts, samples in (([[3, 4]], 1), ([[3, 4], [5]], 1), ([], 10)):
        with pytest.raises(Refused, match=f"eval.samples={samples} "):
            Soundings(policy, prompts, samples, 8, 0)
    found = Soundings(policy, [[3, 4], [5], [3, 4]], 7, 8, 0)
    assert found.prompts == [[3, 4], [5]] and found.each == 3
    with pytest.raises(Refused, match=r"eval\.samples=0"):
        compose(["model=tabular", "eval.samples=10"])
