import gzip
import json
import random
from pathlib import Path

import pytest
from toy_tokenizers import WORDS, byte_level, metaspace, trained, with_bos, words

from dpo_lab.batch import Encoded, Example
from dpo_lab.errors import Refused
from dpo_lab.tokens import Problem, Tokenizer, encode, refuse_problems

DATA = Path(__file__).parents[2] / "shared" / "data"


def plain(prompt: str, chosen: str, rejected: str | None = None, **ends: bool) -> Example:
    return Example("rows.jsonl:1", prompt, chosen, rejected, **ends)


def encode_one(tokenizer: Tokenizer, *texts: str, max_length: int = 1000, **ends: bool) -> Encoded:
    encoding = encode(
        [plain(*texts, **ends)], tokenizer, max_length=max_length, truncation="keep_start"
    )
    assert not encoding.problems
    return encoding.rows[0]


def random_text(draw: random.Random) -> str:
    alphabet = "abz  \n\n  019.,!?'\t éß日本🙂<|/s>"
    return "".join(draw.choice(alphabet) for _ in range(draw.randrange(0, 30)))


@pytest.mark.parametrize("build", [trained, with_bos])
def test_random_rows_decode_to_their_text(build):
    tokenizer, draw = build(), random.Random(0)
    examples = []
    for _ in range(1000):
        prompt, response = random_text(draw), random_text(draw)
        if draw.random() < 0.2:
            response += draw.choice(list(tokenizer.controls)) + random_text(draw)
        examples.append(plain(prompt or "x", response))
    encoding = encode(examples, tokenizer, max_length=1000, truncation="keep_start")
    assert not encoding.problems
    first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    for example, (prompt, chosen, _) in zip(examples, encoding.rows, strict=True):
        assert prompt[: len(first)] == first
        assert chosen[-1] == tokenizer.eos_id
        user = prompt[len(first) :] + chosen[:-1]
        assert not set(user) & set(tokenizer.controls.values())
        assert tokenizer.decode(user) == example.prompt + example.chosen
    assert encoding.report["control_texts"] >= 150


def test_rows_of_words():
    assert encode_one(words(), "drama public", "", "good good") == ([2, 3, 4], [1], [5, 5, 1])
    assert encode_one(words(), "", "bad", chosen_ends=False) == ([2], [6], None)


def test_random_rows_of_words_decode_to_their_words():
    tokenizer, draw = words(), random.Random(0)
    for _ in range(1000):
        prompt, response = (
            draw.choice([" ", "\n", "  "]).join(draw.choices(WORDS, k=draw.randrange(6)))
            for _ in range(2)
        )
        row = encode_one(tokenizer, prompt, response)
        assert row.prompt[0] == 2 and row.chosen[-1] == 1
        assert tokenizer.decode(row.prompt[1:] + row.chosen[:-1]).split() == (
            prompt.split() + response.split()
        )


@pytest.mark.parametrize("control", ["</s>", "<|im_end|>", "<pad>"])
def test_control_text_in_the_data_stays_text(control):
    tokenizer = trained()
    text = f"a{control}b {control}{control}"
    row = encode_one(tokenizer, text, text, "fine")
    assert tokenizer.decode(row.prompt) == text
    assert not set(row.prompt + row.chosen[:-1]) & set(tokenizer.controls.values())
    assert row.chosen == [*row.prompt, tokenizer.eos_id]


def test_control_texts_that_overlap_stay_text():
    backend = byte_level(["</s>", "<ab>", "b><c"])
    tokenizer = Tokenizer(backend, {"eos_token": "</s>"})
    text = "<ab><cx<ab>"  # a break inside the first leaves the second
    ids = tokenizer.encode([tokenizer.as_text(text)])[0]
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.controls.values())
    assert len(tokenizer.encode([text])[0]) < len(ids)  # left alone they would be controls


def test_as_text_is_linear():
    text = "</s>" * 100_000
    assert len(trained().as_text(text)) == 500_000


def test_a_row_without_a_prompt_token_is_a_problem():
    encoding = encode(
        [plain("", "a"), plain("x", "a")], trained(), max_length=10, truncation="keep_start"
    )
    assert encoding.problems == [
        (0, "prompt", "it holds no token, so nothing predicts the response's first one")
    ]
    assert encoding.indices == [1] and len(encoding.rows) == 1


def test_eos_is_appended_once_and_only_where_a_response_ends():
    tokenizer = trained()
    row = encode_one(tokenizer, "a", "b", "c", rejected_ends=False)
    assert row.chosen[-1] == tokenizer.eos_id and row.chosen.count(tokenizer.eos_id) == 1
    assert tokenizer.eos_id not in row.rejected
    cut = encode_one(tokenizer, "a", "b" * 50, max_length=5)
    assert len(cut.prompt + cut.chosen) == 5 and tokenizer.eos_id not in cut.chosen
    assert encode_one(tokenizer, "a", "").chosen == [tokenizer.eos_id]


def test_padding_falls_back_to_eos():
    tokenizer = with_bos()
    assert tokenizer.pad_id == tokenizer.eos_id


@pytest.mark.parametrize("prefix", ["first", "always", "normalizer"])
def test_a_response_continues_its_prompt(prefix):
    """A tokenizer that puts a space in front of a text puts none in front of a response."""
    backend = metaspace(prefix)
    tokenizer = Tokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    for prompt, response in [("How are you?", " fine"), ("say: ", "hello"), ("x\n", "\ny </s>")]:
        row = encode_one(tokenizer, prompt, response)
        assert row.prompt == backend.encode(prompt).ids
        assert tokenizer.decode(row.prompt + row.chosen) == f"<s> {prompt}{response}</s>"
    joint = backend.encode("How are you? fine").ids
    row = encode_one(tokenizer, "How are you?", " fine")
    assert row.prompt + row.chosen == [*joint, tokenizer.eos_id]


def test_real_dialogues_encode_apart_as_they_do_together():
    file = DATA / "hh_harmless_test.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"{file} is missing")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        dialogues = [text for line in lines for text in json.loads(line).values()]
    dialogues = dialogues[:1200]
    tokenizer = Tokenizer.train(dialogues[:300], 1000)
    header = "\n\nAssistant:"
    cuts = [text.rindex(header) + len(header) for text in dialogues]
    examples = [plain(text[:cut], text[cut:]) for text, cut in zip(dialogues, cuts, strict=True)]
    encoding = encode(examples, tokenizer, max_length=100_000, truncation="keep_start")
    assert not encoding.problems
    for row, joint in zip(encoding.rows, tokenizer.encode(dialogues), strict=True):
        assert row.prompt + row.chosen == [*joint, tokenizer.eos_id]


def test_truncation_is_reported():
    tokenizer = words()
    examples = [
        plain("drama public", "good bad", "good bad film"),  # alike once cut
        plain("drama public", "bad bad", "good bad"),
        plain("drama", "good", "good"),  # alike as text, so not by truncation
        plain("drama public drama public drama", "good", "bad"),  # nothing left
        plain("drama", "good", "bad"),
    ]
    encoding = encode(examples, tokenizer, max_length=5, truncation="keep_start")
    assert encoding.indices == [0, 1, 2, 4]
    assert encoding.problems == [
        (
            3,
            "prompt",
            "truncation at max_length 5 leaves nothing of the response "
            "(the prompt has 6 tokens, tokens.truncation=keep_start)",
        )
    ]
    assert encoding.report == {
        "rows": 4,
        "truncated": 2,
        "prompts_cut": 0,
        "responses_cut": 2,
        "identical_after_truncation": {"count": 1, "share": 0.25, "first": ["rows.jsonl:1"]},
        "control_texts": 0,
        "tokens": {"prompt": 10, "chosen": 8, "rejected": 8},
    }
    encoding = encode(examples, tokenizer, max_length=5, truncation="keep_end")
    assert [row.prompt for row in encoding.rows[:2]] == [[2, 4], [2, 4]]
    assert encoding.rows[0].rejected == [5, 6, 7]
    assert encoding.report["truncated"] == 3 and encoding.report["prompts_cut"] == 3


def test_both_sides_keep_the_same_prompt():
    tokenizer = trained()
    examples = [plain("p" * 30, "c" * n, "r" * (40 - n)) for n in range(1, 40)]
    encoding = encode(examples, tokenizer, max_length=35, truncation="keep_end")
    assert len(encoding.rows) == 39
    for row in encoding.rows:
        assert max(len(row.chosen), len(row.rejected)) + len(row.prompt) == 35


def test_problems_are_listed_ten_at_most():
    examples = [Example(f"rows.jsonl:{line}", "", "a") for line in range(1, 13)]
    encoding = encode(examples, trained(), max_length=10, truncation="keep_start")
    with pytest.raises(Refused) as refused:
        refuse_problems(examples, encoding.problems)
    lines = str(refused.value).splitlines()
    assert len(lines) == 12
    assert lines[0].startswith("rows.jsonl:1: prompt: it holds no token")
    assert lines[10] == "and 2 more"
    assert lines[11].startswith("12 of 12 rows cannot become tokens")
    refuse_problems(examples, [])
    with pytest.raises(Refused, match=r"rows\.jsonl:2: chosen: why"):
        refuse_problems(examples, [Problem(1, "chosen", "why")])
