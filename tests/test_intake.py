"""What a run takes in: tokens from the cache are those of this run, row by row."""

import json

import pytest

from dpo_lab.cache import Cache
from dpo_lab.compose import compose
from dpo_lab.intake import prepare, read

TEXT = "a prompt of many words that is cut"


@pytest.fixture
def take(tmp_path):
    """Takes in a file; returns what came out and what the cache was good for."""
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"{number} {TEXT}", "chosen": f" yes {number}", "rejected": f" no {number}"}
        for number in range(9)
    ]
    rows[3]["prompt"] = "x" * 400  # cannot be cut to a length of 40 by `keep_start`
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*words):
        overrides = ["data=file", f"data.path={file}", "model=tiny", "model.vocab_size=300"]
        config = compose([*overrides, "data.eval_share=0.3", "data.on_bad_row=skip", *words])
        cache = Cache(tmp_path / "cache")
        return prepare(config, read(config), cache), cache.counts

    return run


def test_tokens_are_found_again(take):
    first, counts = take()
    again, later = take()
    assert counts["rows_tokenised"] == 9 and "rows_from_cache" not in counts
    assert later == {"rows_from_cache": 9}
    assert first.rows == again.rows and first.names == again.names


@pytest.mark.parametrize("knob", ["tokens.truncation=keep_start", "tokens.max_length=20"])
def test_other_tokens_are_made_anew(take, knob):
    take("tokens.max_length=30", "tokens.truncation=keep_end")
    _, counts = take("tokens.max_length=30", "tokens.truncation=keep_end", knob)
    assert counts["rows_tokenised"] == 9


def test_damaged_tokens_are_made_again(take, tmp_path):
    first, _ = take()
    for file in (tmp_path / "cache").glob("tokens/*/rows.safetensors"):
        content = bytearray(file.read_bytes())
        content[-2] ^= 1  # in the ids, which come last
        file.write_bytes(content)
    again, _ = take()
    assert again.rows == first.rows


def test_names_stay_with_their_rows_where_others_are_left_out(take):
    intake, _ = take("tokens.max_length=40", "tokens.truncation=keep_start")
    assert len(intake.rows) == len(intake.names) == 8
    for ids, name in zip(intake.rows, intake.names, strict=True):
        number = int(name.rpartition(":")[2]) - 1
        assert number != 3 and intake.tokenizer.decode(ids.prompt) == f"{number} {TEXT}"
        assert intake.tokenizer.decode(ids.rejected[:-1]) == f" no {number}"
