"""One shape for all rows, mapped columns, and the list of bad rows."""

import json

import pytest

from dpo_lab.errors import Refused
from dpo_lab.examples import examples
from dpo_lab.records import read
from dpo_lab.shapes import SHAPES

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
DIALOGUE = {
    "chosen": "\n\nHuman: hi\n\nAssistant: yes",
    "rejected": "\n\nHuman: hi\n\nAssistant: no",
}
ANY = tuple(SHAPES)


def found(folder, rows, allowed=ANY, columns=None, skip=False, name="pairs.jsonl"):
    """Write rows, objects or whole lines, and read them as examples."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return examples(
        read(str(folder / name), lambda column: True), allowed, columns or {}, skip=skip
    )


def refusal(folder, rows, **how):
    with pytest.raises(Refused) as refused:
        found(folder, rows, **how)
    return str(refused.value)


def test_rows_keep_their_order_and_name(tmp_path):
    result = found(tmp_path, [{**PAIR, "prompt": str(i), "id": i} for i in range(3)])
    assert [(row.row, row.prompt) for row in result.rows] == [
        ("pairs.jsonl:1", "0"),
        ("pairs.jsonl:2", "1"),
        ("pairs.jsonl:3", "2"),
    ]
    assert (result.shape, result.read, result.bad, result.unused) == ("pairs", 3, 0, ["id"])


def test_the_first_row_decides(tmp_path):
    message = refusal(tmp_path, [PAIR, DIALOGUE])
    assert "pairs.jsonl: 1 of 2 rows are bad (read as pairs)" in message
    assert "pairs.jsonl:2: prompt: is missing; the row has chosen, rejected" in message
    message = refusal(tmp_path, [DIALOGUE, {**DIALOGUE, "prompt": "q"}])
    assert "pairs.jsonl:2: prompt: rows of mixed shapes" in message
    message = refusal(tmp_path, [PAIR, {**PAIR, "prompt": [{"role": "user", "content": "q"}]}])
    assert "pairs.jsonl:2: prompt: expected text, got a list" in message


def test_a_first_row_that_is_bad_does_not_decide(tmp_path):
    rows = ["{broken", {"prompt": "q", "chosen": "a"}, PAIR, {**PAIR, "rejected": " "}]
    result = found(tmp_path, rows, skip=True)
    assert [row.row for row in result.rows] == ["pairs.jsonl:3"]
    assert [(bad.line, bad.field) for bad in result.rejects] == [
        (1, None),
        (2, "rejected"),
        (4, "rejected"),
    ]
    assert result.rejects[0].raw == "{broken"


@pytest.mark.parametrize(
    "odd",
    [
        {**PAIR, "chosen": []},
        {**PAIR, "chosen": ["x"]},
        {**PAIR, "prompt": []},
        {**PAIR, "conversations": None},
        {**PAIR, "conversations": 5},
    ],
)
def test_an_odd_first_row_condemns_no_other(tmp_path, odd):
    result = found(tmp_path, [odd, PAIR, PAIR], skip=True)
    good = ["pairs.jsonl:2", "pairs.jsonl:3"]
    assert result.shape == "pairs" and [row.row for row in result.rows][-2:] == good
    assert len(result.rows) == 3 - ("conversations" not in odd)


def test_rows_that_are_all_odd_are_named(tmp_path):
    message = refusal(tmp_path, [{**PAIR, "chosen": []}] * 2)
    assert "all 2 rows are bad (read as chat)" in message


def test_a_missing_column_is_refused_with_a_near_name(tmp_path):
    message = refusal(tmp_path, [{"prompt": "q", "chosn": "a", "rejected": "b"}])
    assert "pairs.jsonl:1: no column 'chosen'; did you mean chosn?" in message
    assert "data.columns={chosen: COLUMN}" in message
    message = refusal(tmp_path, [{"question": "q", "chosen": "a", "rejected": "b"}])
    assert "no column 'prompt'; there is question, chosen, rejected" in message


def test_a_missing_column_in_a_header(tmp_path):
    message = refusal(tmp_path, ["prompt,chosen,reject", "q,a,b"], name="pairs.csv")
    assert "pairs.csv: no column 'rejected'; did you mean reject?" in message
    assert len(message.splitlines()) == 3


def test_a_missing_column_in_a_later_row(tmp_path):
    rows = [PAIR, {"prompt": "q", "chosen": "a", "rejectd": "b"}]
    assert "pairs.jsonl:2: rejected: is missing" in (message := refusal(tmp_path, rows))
    assert "did you mean rejectd?" in message


def test_columns_map_our_fields_to_theirs(tmp_path):
    row = {"question": "q", "good": "a", "bad": "b", "prompt": "not this"}
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    result = found(tmp_path, [row], columns=columns)
    assert (result.rows[0].prompt, result.rows[0].chosen, result.rows[0].rejected) == (
        *("q", "a", "b"),
    )
    assert result.unused == ["prompt"]


def test_columns_can_be_exchanged(tmp_path):
    result = found(tmp_path, [PAIR], columns={"chosen": "rejected", "rejected": "chosen"})
    assert (result.rows[0].chosen, result.rows[0].rejected) == ("b", "a")


def test_a_bad_row_names_the_mapped_column_too(tmp_path):
    rows = [{**PAIR, "good": "a"}, {**PAIR, "good": ""}, PAIR]
    message = refusal(tmp_path, rows, columns={"chosen": "good"})
    assert "pairs.jsonl:2: chosen (column good): is empty" in message
    assert "pairs.jsonl:3: chosen (column good): is missing" in message


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"promt": "q"}, "'promt' is no field of a row; did you mean prompt?"),
        ({"tools": "prompt"}, "'tools' is no field of pairs rows"),
        ({"prompt": "qestion"}, "no column 'qestion' (for prompt); did you mean question?"),
    ],
)
def test_columns_that_cannot_be(tmp_path, columns, message):
    assert message in refusal(tmp_path, [{**PAIR, "question": "q"}], columns=columns)


def test_an_optional_column_that_no_row_has(tmp_path):
    row = {"instruction": "i", "chosen": "a", "rejected": "b", "context": "c"}
    message = refusal(tmp_path, [row], columns={"input": "contxt"})
    assert "data.columns names 'contxt', which no row has; did you mean context?" in message
    rows = [{key: row[key] for key in ("instruction", "chosen", "rejected")}, row]
    result = found(tmp_path, rows, columns={"input": "context"})
    assert [example.prompt for example in result.rows] == ["i", "i\n\nc"]


def test_at_most_ten_bad_rows_are_listed(tmp_path):
    rows = [PAIR, *({**PAIR, "chosen": ""} for _ in range(2000))]
    message = refusal(tmp_path, rows)
    assert "pairs.jsonl: 2,000 of 2,001 rows are bad" in message
    assert message.count(": chosen: is empty") == 10
    assert "and 1,990 more" in message
    assert "data.on_bad_row=skip" in message


def test_skip_keeps_every_reject(tmp_path):
    rows = [PAIR, *({**PAIR, "chosen": ""} for _ in range(30))]
    result = found(tmp_path, rows, skip=True)
    assert (result.read, result.bad, len(result.rejects), len(result.rows)) == (31, 30, 30, 1)


@pytest.mark.parametrize("skip", [False, True])
def test_a_file_without_a_good_row_is_refused(tmp_path, skip):
    message = refusal(tmp_path, [{**PAIR, "chosen": ""}] * 3, skip=skip)
    assert "all 3 rows are bad" in message
    message = refusal(tmp_path, ["{", "}"], skip=skip)
    assert "all 2 rows are bad" in message
    message = refusal(tmp_path, [PAIR], allowed=("hh",), skip=skip)
    assert "all 1 rows are bad (read as hh)" in message
    assert "data=file recognises it" in message
    assert "pairs.jsonl: no rows" in refusal(tmp_path, [""], skip=skip)


def test_chats_are_asked_for_as_lists(tmp_path):
    message = refusal(tmp_path, [PAIR], allowed=("chat", "whole_chat"))
    assert "expected chats, lists of {role, content}" in message
    assert "data=file" in message


def test_messages_stay_small(tmp_path):
    vast = "x" * 10**6
    rows = [
        PAIR,
        {**PAIR, "chosen": [vast]},
        {**PAIR, "chosen": vast, "rejected": vast},
        {"prompt": "q", "chosen": "a", vast: 1},
        {**PAIR, "chosen": {vast: vast}},
        f'{{"{vast}": 1, "{vast}": 2}}',
        "{" + vast,
        vast,
        *([json.dumps([vast])] * 20),
    ]
    message = refusal(tmp_path, rows)
    assert len(message) < 4000
    assert message.count("\n") == 12
    message = refusal(tmp_path, [{f"{vast}{index}": 1 for index in range(20)}])
    assert len(message) < 4000


def test_messages_can_be_printed(tmp_path):
    rows = [PAIR, '{"prompt": "\\ud800", "chosen": "\\ud800", "\\ud800": 1, "\\ud800": 2}']
    refusal(tmp_path, rows).encode()
    refusal(tmp_path, ['{"\\ud800": "\\ud800"}']).encode()
