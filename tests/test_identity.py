"""A run is another one where anything differs that its result depends on, and only there."""

import copy
import dataclasses

import pytest

from dpo_lab.compose import compose
from dpo_lab.identity import identity_of
from dpo_lab.results import flat

# where things are kept, and when they are written down
HOUSEKEEPING = (
    "name outputs_dir cache_dir logger launcher sweeper checkpoint train.resume train.log_every "
    "eval.every eval.logratios eval.samples eval.sample_tokens"
).split()


@pytest.fixture(scope="module")
def config():
    words = ["data=file", "data.path=a.jsonl", "model=tiny", "loss=simpo", "schedule=cosine"]
    return compose([*words, "adapter=lora", "start=sft", "optimizer=adamw"])


def changed(config, name):
    plain = copy.deepcopy(config.plain)
    *nodes, option = name.split(".")
    place = plain
    for node in nodes:
        place = place[node]
    place[option] = "another value"
    return dataclasses.replace(config, plain=plain)


def test_every_option_counts_but_those_of_housekeeping(config):
    first = identity_of(config, "data", "tokenizer")
    names = list(flat(config.plain))
    assert len(names) > 60 and {"train.dtype", "loss.beta", "data.seed"} <= set(names)
    counted = {
        name for name in names if identity_of(changed(config, name), "data", "tokenizer") != first
    }
    kept = {name for name in names if any(f"{name}.".startswith(f"{h}.") for h in HOUSEKEEPING)}
    # a file is known by its content, which is in the digest of the data
    assert set(names) - counted == kept | {"data.path", "data.eval_path"}


def test_data_and_tokenizer_count_by_their_digests(config):
    digests = [("a", "b"), ("c", "b"), ("a", "c"), ("b", "a")]
    assert len({identity_of(config, *pair) for pair in digests}) == len(digests)
    assert identity_of(config, "a", "b") == identity_of(copy.deepcopy(config), "a", "b")
