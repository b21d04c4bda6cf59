"""The split into training and held-out prompts, and the digest of texts."""

import hashlib
import json

import pytest

from dpo_lab.batch import Example, Message
from dpo_lab.source import Source, digest_of, split, texts_sha256


def rows(*prompts):
    return [Example(f"f:{i}", prompt, "a", "b") for i, prompt in enumerate(prompts, 1)]


def test_rows_of_one_prompt_stay_together_and_in_order():
    examples = rows(*(str(i % 50) for i in range(500)))
    train, held_out = split(examples, 0.3, seed=0)
    assert {row.prompt for row in train} & {row.prompt for row in held_out} == set()
    assert sorted(train + held_out, key=examples.index) == examples
    assert train == [row for row in examples if row in train]


def test_the_split_is_about_as_large_as_asked_and_follows_the_seed():
    examples = rows(*map(str, range(5000)))
    sizes = [len(split(examples, 0.2, seed)[1]) for seed in range(3)]
    assert all(900 < size < 1100 for size in sizes)
    assert split(examples, 0.2, 1) == split(examples, 0.2, 1)
    assert split(examples, 0.2, 1) != split(examples, 0.2, 2)


def test_a_row_does_not_change_sides_when_others_come_or_go():
    examples = rows(*map(str, range(1000)))
    _, held_out = split(examples, 0.2, 0)
    _, fewer = split(examples[::2], 0.2, 0)
    assert fewer == [row for row in held_out if row in examples[::2]]


@pytest.mark.parametrize("share", [1e-9, 0.05, 0.5, 0.999999])
@pytest.mark.parametrize("number", [2, 3, 10])
def test_no_side_is_empty(share, number):
    for seed in range(5):
        train, held_out = split(rows(*map(str, range(number))), share, seed)
        assert train and held_out


def test_nothing_is_held_out_of_one_prompt_or_with_a_share_of_none():
    assert split(rows("q", "q"), 0.5, 0) == (rows("q", "q"), [])
    assert split(rows("q", "r"), 0.0, 0) == (rows("q", "r"), [])


def test_chats_are_split_too():
    prompts = [(Message("user", str(i)),) for i in range(100)]
    train, held_out = split(rows(*prompts), 0.2, 0)
    assert len(train) + len(held_out) == 100
    assert held_out


def test_texts_sha256_is_over_a_plain_json_list():
    chat = Example("f:2", (Message("user", "é"),), (Message("assistant", "a"),), None)
    texts = [
        ["q", "a", "b"],
        [[{"role": "user", "content": "é"}], [{"role": "assistant", "content": "a"}], None],
    ]
    expected = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    train, held_out = rows("q"), [chat]
    assert texts_sha256(Source(train, held_out, "")) == expected
    assert texts_sha256(Source(held_out, train, "", order=[*train, chat])) == expected
    assert texts_sha256(Source(held_out, train, "")) != expected


def test_digest_of_plain_values():
    assert digest_of("hh", {"a": 1, "b": 2}) == digest_of("hh", {"b": 2, "a": 1})
    assert digest_of("hh", 1) != digest_of("file", 1)
