"""The data card, on pairs few enough to count by hand."""

from dpo_lab.batch import Example, Message
from dpo_lab.card import card, render
from dpo_lab.source import Source

LONG = "the quick brown fox jumps over the lazy dog and runs into the woods at night"


def pairs(*texts):
    return [Example(f"f:{i}", *text) for i, text in enumerate(texts, 1)]


TRAIN = pairs(
    ("q", "yes", "no"),
    ("q", "yes", "no"),  # repeats row 1
    ("q", "no", "yes"),  # reverses it
    ("r", "Yes, of course", "yes,  of COURSE\n"),  # the same but for case and space
    ("s", LONG, LONG.replace("fox", "cat")),  # nearly the same
    ("t", "short", LONG),
    ("t", "one", "two"),  # as long, not alike
)
EVAL = [Example("g:1", "r", "a", "bcd"), Example("g:2", "new", "a", "b")]


def test_what_the_card_counts():
    report = {"skipped": 3, "eval_skipped": 1, "unused_columns": ["id"]}
    found = card(Source(TRAIN, EVAL, "", report=report))
    assert found["rows"] == {"train": 7, "eval": 2, "skipped": 4}
    assert found["prompts"] == 5
    assert found["duplicates"] == {"count": 1, "rows": ["f:2"]}
    assert found["reversed"] == {"count": 1, "rows": ["f:3"]}
    assert found["identical"] == {"count": 1, "rows": ["f:4"]}
    assert found["near_identical"] == {"count": 1, "rows": ["f:5"]}
    assert found["overlap"] == {"count": 1, "rows": ["g:1"]}
    assert found["chosen_longer"] == 2 / 9  # rows 1 and 2
    assert found["same_length"] == 3 / 9  # rows 5, 7 and g:2
    assert found["characters"]["prompt"] == {"mean": 1.2, "p5": 1, "median": 1, "p95": 3, "max": 3}
    assert found["unused_columns"] == ["id"]
    assert "tokens" not in found


def test_only_three_rows_are_named():
    found = card(Source(pairs(*[("q", "a", "b")] * 9), [], ""))
    assert found["duplicates"] == {"count": 8, "rows": ["f:2", "f:3", "f:4"]}
    assert "duplicates      8 rows repeat an earlier row (f:2, f:3, f:4, ...)" in render(found)


def test_tokens_where_they_are_known():
    lengths = {"prompt": [1] * 9, "chosen": list(range(9)), "rejected": [5] * 9}
    found = card(Source(TRAIN, EVAL, ""), lengths)
    assert found["tokens"]["chosen"] == {"mean": 4.0, "p5": 0, "median": 4, "p95": 8, "max": 8}
    assert "chosen   tokens      median 4, 5% to 95%: 0 to 8, longest 8" in render(found)


def test_chats_and_rows_without_a_rejected_response():
    chat = Example("f:1", (Message("user", "hello"),), (Message("assistant", "hi"),))
    found = card(Source([chat], [], ""))
    assert found["characters"]["prompt"]["max"] == 5
    assert found["characters"]["rejected"] is None
    assert found["chosen_longer"] is None
    assert "rejected" not in render(found).split("duplicates")[0]


def test_the_card_as_text():
    text = render(card(Source(TRAIN, EVAL, "", report={"unused_columns": ["id", "\ud800"]})))
    lines = text.splitlines()
    assert lines[0] == "rows            7 to train on, 2 held out, 0 skipped; 5 prompts"
    assert "chosen longer   in 22.2% of pairs, as long in 33.3%" in lines
    assert lines[-1] == "columns unused  id, \\ud800"
    text.encode()


def test_near_identical_megabytes_are_quick():
    text = "x" * 10**6
    found = card(Source(pairs(("q", text + "a" + text, text + "b" + text)), [], ""))
    assert found["near_identical"]["count"] == 1
