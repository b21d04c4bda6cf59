"""What a user may type wrong, and what the lab then says."""

import pytest

from dpo_lab.compose import compose, jobs
from dpo_lab.errors import Refused

REFUSED = {
    "loss.betta=1": "unknown option loss.betta; did you mean loss.beta?",
    "+loss.betta=1": "unknown option loss.betta; did you mean loss.beta?",
    "++loss.betta=1": "unknown option loss.betta; did you mean loss.beta?",
    "++train.stepss=1": "unknown option train.stepss; did you mean train.steps?",
    "+foo=1": "unknown option foo",
    "los=dpo": "unknown option los; did you mean loss?",
    "foo.bar=1": "unknown option foo",
    "loss.beta=abc": "loss.beta must be a number > 0, got abc",
    "loss.beta=true": "loss.beta must be a number > 0, got true",
    "loss.beta=[1,2]": "loss.beta must be a number > 0, got [1,2]",
    "loss.beta=null": "loss.beta must be a number > 0, got null",
    "loss.beta=-1": "loss.beta must be > 0, got -1",
    "loss.beta=0": "loss.beta must be > 0, got 0",
    "loss.beta=nan": "loss.beta must be > 0, got nan",
    "loss.beta=inf": "loss.beta must be > 0, got inf",
    "loss.label_smoothing=0.5": "loss.label_smoothing must be >= 0 and < 0.5, got 0.5",
    "seed=1.5": "seed must be a whole number >= 0 and < 2**63, got 1.5",
    "seed=-1": "seed must be >= 0 and < 2**63, got -1",
    "train.dtype=fp16": "train.dtype must be one of float32, bfloat16, float64, got fp16",
    "train.dtype=null": "train.dtype must be one of float32, bfloat16, float64, got null",
    "train.batch_size=0": "train.batch_size must be >= 1, got 0",
    "layout=foo": "layout must be one of shared, packed, padded, got foo",
    "loss=dppo": "there is no loss=dppo; did you mean loss=dpo?",
    "loss=[dpo,ipo]": "loss takes one option, loss=NAME",
    "loss=null": "loss takes one option, loss=NAME",
    "preset=null": "preset takes one option, preset=NAME",
    "~loss.beta": "~loss.beta removes an option",
    "~loss": "~loss removes an option",
    "train=3": "train was removed or replaced",
    "loss._target_=os.system": "what a yaml calls is not for the command line",
    "++loss._target_=os.system": "what a yaml calls is not for the command line",
    "hydra.run.dir=x": "Hydra's own options are set by the lab",
    "loss.beta=${nope}": "Interpolation key 'nope' not found",
    "loss.beta=0.1,0.2": "gives several values; -m runs",
    "loss.beta=(": "cannot read loss.beta=( at (",
    "name=a/b": "it names a folder",
    "name=..": "it names a folder",
    "data=file": "data.path is needed",
    "loss=dpo reference=none": "compares with a reference",
    "reference=adapter_off": "there is no adapter",
    "adapter=lora adapter.merge_on_export=false": "that is a start that is trained first",
    "train.steps=4 train.epochs=2": "exactly one of train.steps and train.epochs",
    "train.steps=null": "exactly one of train.steps and train.epochs",
    "loss=simpo loss.gamma=1 loss.gamma_beta_ratio=1": "exclude each other",
    "optimizer.lr=0": "optimizer.lr must be > 0",
    "schedule.warmup_share=0.1": "exclude each other",
    "data.flips=1.5": "data.flips must be >= 0 and <= 1, got 1.5",
    "start.lr=x": "start.lr must be a number > 0, got x",
    "start.steps=null": "exactly one of start.steps and start.epochs",
    "train.threads=" + "9" * 20: "train.threads must be below 2,147,483,648",
    "loss.beta=1e-320": "between 1.2e-38 and 3.4e38 in size, got 1e-320",
    "data.held_out=[[a]]": "data.held_out must be a list of texts",
    "data=file data.path=x data.columns={1:chosen}": "data.columns must be texts by name",
    "data=mix data.weights={a:true}": "data.weights must be numbers by name",
    "train.shuffle='2'": "train.shuffle must be true or false",
    "+loss@train=dpo": "@ is for the sources of a mixture",
    "+loss@loss=ipo": "type loss=ipo",
    "+data@loss=file": "@ is for the sources of a mixture",
    "optimizer.beta=1": "did you mean optimizer.beta2?",
    "data.path=x": "data=world has none",
    "eval.sample_tokens=5": "would do nothing, since no responses are drawn",
    "model=tabular layout=packed": "would do nothing, since a table",
}


@pytest.mark.parametrize("line", REFUSED)
def test_is_refused_in_three_lines_at_most(line):
    with pytest.raises(Refused) as caught:
        compose(line.split())
    text = str(caught.value)
    assert REFUSED[line] in text
    assert len(text.splitlines()) <= 3


ACCEPTED = {
    "loss.beta=1": ("loss.beta", 1.0),
    "loss.beta=1e-3": ("loss.beta", 0.001),
    "seed=12345678901": ("seed", 12345678901),
    "train.max_grad_norm=null": ("train.max_grad_norm", None),
    "train.epochs=3 train.steps=null": ("train.epochs", 3),
    "logger.tags=[a,b]": ("logger.tags", ["a", "b"]),
    "name=beta-0.1_x": ("name", "beta-0.1_x"),
    "++loss.beta=2": ("loss.beta", 2.0),
    "loss=simpo reference=frozen": ("loss.gamma", None),
    "train.dtype=float64": ("train.dtype", "float64"),
    "loss=ipo loss.average=true": ("loss.average", True),
    "data=file data.path=x data.seed=-12345678901": ("data.seed", -12345678901),
    "data.held_out=[horror critic]": ("data.held_out", ["horror critic"]),
}


@pytest.mark.parametrize("line", ACCEPTED)
def test_odd_but_valid(line):
    name, expected = ACCEPTED[line]
    words = [line] if "held_out" in line else line.split()
    value = compose(words).plain
    for part in name.split("."):
        value = value[part]
    assert value == expected and type(value) is type(expected)


def test_a_preset_changes_what_its_source_implies_and_never_the_loss():
    world = compose(["loss.beta=0.5"])
    real = compose(["data=hh", "data.path=x"])
    assert world.choices["model"] == "tiny" and real.choices["model"] == "small"
    assert world.plain["loss"]["beta"] == 0.5 and real.plain["loss"]["beta"] == 0.1
    assert compose(["optimizer.lr=0.5"]).plain["optimizer"]["lr"] == 0.5
    assert compose(["model=small"]).choices["model"] == "small"
    assert compose(["preset=none"]).choices["model"] == "small"


def test_jobs_of_a_sweep_in_order_the_last_fastest():
    lists = jobs(["loss.beta=0.1,0.5", "name=x", "seed=0,1"])
    assert lists == [
        [f"loss.beta={beta}", "name=x", f"seed={seed}"] for beta in (0.1, 0.5) for seed in (0, 1)
    ]
    assert jobs(["loss=dpo,ipo"]) == [["loss=dpo"], ["loss=ipo"]]
    assert len(jobs(["seed=range(4)"])) == 4
