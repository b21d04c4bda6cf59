"""Jobs that are composed together are what they are when composed alone."""

import pytest

from dpo_lab import compose as composing
from dpo_lab.compose import compose, jobs
from dpo_lab.errors import Refused
from dpo_lab.variants import compose_all

SWEEPS = [
    ["loss.beta=0.1,0.2", "seed=0,1", "data=world_nano", "optimizer.lr=1e-6"],
    ["loss=dpo,hinge,simpo", "loss.beta=1,2"],
    ["data=world,world_nano", "model.dropout=0,0.1", "train.steps=3"],
    ["start=sft,as_is", "adapter=lora", "adapter.target_modules=[q_proj],[v_proj]"],
    ["++train.threads=1,2", "loss.beta=0.3"],
    ["preset=none,world", "data=world", "train.dtype=float32,float64"],
    ["name=a,b", "loss.beta=0.1", "loss.beta=0.2"],
]


@pytest.mark.parametrize("words", SWEEPS, ids=lambda words: words[0])
def test_composed_together_as_composed_alone(words):
    lists = jobs(words)
    assert compose_all(lists) == [compose(overrides) for overrides in lists]


def test_hydra_composes_once_for_jobs_that_differ_in_values(monkeypatch):
    called = []
    compose_by_hydra = composing._compose
    monkeypatch.setattr(
        composing, "_compose", lambda *a, **k: called.append(a) or compose_by_hydra(*a, **k)
    )
    compose_all(jobs(["loss.beta=0.1,0.2", "seed=0,1,2", "train.steps=3", "train.epochs=null"]))
    assert len(called) == 1


@pytest.mark.parametrize(
    "word", ["loss.beta=0.1,-1", "loss.betta=1,2", "seed=0,a", "loss=dpo,dppo", "train.epochs=1,2"]
)
def test_what_is_wrong_is_said_as_for_one_job(word):
    lists = jobs([word])
    with pytest.raises(Refused) as together:
        compose_all(lists)
    said = []
    for overrides in lists:
        try:
            compose(overrides)
        except Refused as refused:
            said.append(str(refused))
    assert str(together.value) == said[0]
