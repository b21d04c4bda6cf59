import json

import jinja2
import pytest
from toy_tokenizers import (
    BRACKETS,
    HEADERS,
    REWRITING,
    byte_level,
    metaspace,
    starting_with,
    trained,
    with_bos,
    word_level,
    words,
)

from dpo_lab.batch import Encoded, Example, Message
from dpo_lab.errors import Refused
from dpo_lab.templates import CHATML, PLAIN, render, stop_ids, with_template
from dpo_lab.tokens import Tokenizer, encode

USER = Message("user", "Hi!")
CHAT = (Message("system", "Be kind."), USER)
LONG = (USER, Message("assistant", "Hello."), Message("user", "And\nnow? "))


def encode_chat(tokenizer: Tokenizer, prompt, chosen, rejected=None, **ends: bool) -> Encoded:
    example = Example("chats.jsonl:1", prompt, chosen, rejected, **ends)
    encoding = encode([example], tokenizer, max_length=1000, truncation="keep_start")
    assert not encoding.problems
    return encoding.rows[0]


def problem(tokenizer: Tokenizer, prompt, chosen, rejected=None) -> tuple[str, str]:
    example = Example("chats.jsonl:1", prompt, chosen, rejected)
    encoding = encode([example], tokenizer, max_length=1000, truncation="keep_start")
    assert not encoding.rows
    return encoding.problems[0][1:]


# ------------------------------------------------------------------------------------ golden ids


def test_golden_ids_of_chatml():
    backend = word_level(
        ["user", "assistant", "good", "day"], ["<eos>", "<|im_start|>", "<|im_end|>"]
    )
    tokenizer = Tokenizer(backend, {"eos_token": "<eos>"}, CHATML)
    # ids: <eos> 0, start 1, end 2, space 3, line 4, user 5, assistant 6, good 7, day 8
    row = encode_chat(tokenizer, (Message("user", "good day"),), "day good", "good")
    assert row.prompt == [1, 5, 4, 7, 3, 8, 2, 4, 1, 6, 4]
    assert row.chosen == [8, 3, 7, 2]
    assert row.rejected == [7, 2]
    cut = encode_chat(tokenizer, (Message("user", "good"),), "day", "good", chosen_ends=False)
    assert cut.chosen == [8] and cut.rejected == [7, 2]


def test_golden_ids_of_headers_with_bos():
    specials = ["<eos>", "<bos>", "<|start|>", "<|stop|>", "<|turn|>"]
    backend = word_level(["user", "assistant", "good", "day"], specials)
    tokenizer = Tokenizer(
        starting_with(backend, "<bos>"), {"eos_token": "<eos>", "bos_token": "<bos>"}, HEADERS
    )
    assert tokenizer.bos_id == 1  # the tokenizer adds one, the template writes one: there is one
    # ids: start 2, stop 3, turn 4, space 5, line 6, user 7, assistant 8, good 9, day 10
    row = encode_chat(tokenizer, (Message("user", "good"),), " day ", "good day")
    assert row.prompt == [1, 2, 7, 3, 6, 6, 9, 4, 2, 8, 3, 6, 6]
    assert row.chosen == [10, 4]
    assert row.rejected == [9, 5, 10, 4]


def test_a_template_that_rewrites_earlier_turns_is_a_problem():
    tokenizer = trained().with_chat_template(REWRITING)
    row = encode_chat(tokenizer, (USER,), "<think>hm</think>yes")
    assert tokenizer.decode(row.chosen) == "<think>hm</think>yes<|im_end|>"
    # the thoughts of the last turn of the prompt are there before, and gone after the answer
    prompt = (USER, Message("assistant", "<think>hm</think>yes"))
    assert problem(tokenizer, prompt, "no") == (
        "chosen",
        "the chat template changes the turns before an answer once it is there",
    )


# -------------------------------------------------------------------- against apply_chat_template


def peer_of(tokenizer: Tokenizer, folder):
    from transformers import AutoTokenizer

    tokenizer.save(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return AutoTokenizer.from_pretrained(folder)


CASES = {
    "chatml": lambda: trained(),
    "plain": lambda: with_template(trained(), "plain"),
    "plain_with_bos": lambda: with_template(with_bos(), "plain"),
    "headers": lambda: Tokenizer(
        byte_level(["<s>", "</s>", "<|start|>", "<|stop|>", "<|turn|>"]),
        {"bos_token": "<s>", "eos_token": "</s>"},
        HEADERS,
    ),
    "brackets": lambda: Tokenizer(
        metaspace("first"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        BRACKETS,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prompt", [(USER,), CHAT, LONG], ids=["user", "system", "long"])
def test_rows_equal_apply_chat_template(case, prompt, tmp_path):
    tokenizer = CASES[case]()
    if case == "brackets" and prompt is CHAT:
        reason = "the chat template refuses it: Only user and assistant roles are supported!"
        assert problem(tokenizer, prompt, "x") == ("prompt", reason)
        return
    peer = peer_of(tokenizer, tmp_path)
    answer = Message("assistant", "Good day,\nfriend.")
    turns = [message._asdict() for message in prompt]
    before = peer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert render(tokenizer, prompt, add_generation_prompt=True) == before
    row = encode_chat(tokenizer, prompt, (answer,))
    assert row == encode_chat(tokenizer, prompt, answer.content)
    assert row.prompt == peer.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=False
    )
    whole = peer.apply_chat_template([*turns, answer._asdict()], return_dict=False)
    ours = row.prompt + row.chosen
    assert ours == whole[: len(ours)]
    assert not peer.decode(whole[len(ours) :]).strip()
    assert row.chosen[-1] in stop_ids(tokenizer)
    text = tokenizer.decode(row.chosen[:-1])
    assert text.strip() == answer.content


def test_bos_is_written_once_and_only_in_front():
    for case in "plain_with_bos", "headers":
        tokenizer = CASES[case]()
        bos = tokenizer.named_ids["bos_token"]
        row = encode_chat(tokenizer, LONG, "a", "b")
        assert row.prompt.index(bos) == 0 and row.prompt.count(bos) == 1
        assert bos not in row.chosen + row.rejected


def test_environment_of_transformers_is_there(tmp_path):
    source = (
        "{% for message in messages %}{% if loop.index > 3 %}{% break %}{% endif %}"
        "{% generation %}{{ {'b': '<é>', 'a': message.content} | tojson }}{% endgeneration %}\n"
        "{% set ns = namespace(n=loop.index) %}{{ ns.n }}{{ message.name }}{{ tools is none }}"
        "{{ {'x': 1} | tojson(indent=2) }}{% endfor %}"
    )
    tokenizer = trained().with_chat_template(source)
    peer = peer_of(tokenizer, tmp_path)
    turns = [message._asdict() for message in LONG]
    assert render(tokenizer, LONG, add_generation_prompt=True) == peer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=False
    )


def test_a_template_has_no_clock():
    tokenizer = trained().with_chat_template("{{ strftime_now('%d %b %Y') }}")
    assert render(tokenizer, CHAT, add_generation_prompt=True) == "26 Jul 2024"


def test_a_template_runs_in_a_sandbox():
    source = "{{ messages.__class__.__base__.__subclasses__() }}"
    with pytest.raises(jinja2.exceptions.SecurityError):
        render(trained().with_chat_template(source), CHAT, add_generation_prompt=True)
    field, reason = problem(trained().with_chat_template(source), CHAT, "x")
    assert field == "prompt" and "unsafe" in reason


# ------------------------------------------------------------------------------ ends and controls


def test_eos_follows_where_the_template_writes_no_end():
    bare = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    tokenizer = trained().with_chat_template(
        bare + "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    row = encode_chat(tokenizer, (USER,), "yes", "no", rejected_ends=False)
    assert tokenizer.decode(row.prompt) == "user: Hi!\nassistant:"
    assert tokenizer.decode(row.chosen) == " yes</s>"
    assert tokenizer.decode(row.rejected) == " no"
    assert stop_ids(tokenizer) == [tokenizer.eos_id]


def test_stop_ids_name_the_end_of_turn():
    tokenizer = trained()
    assert stop_ids(tokenizer) == [tokenizer.eos_id, tokenizer.controls["<|im_end|>"]]
    assert stop_ids(with_template(tokenizer, "plain")) == [tokenizer.eos_id]
    assert stop_ids(words()) == [words().eos_id]


@pytest.mark.parametrize("case", ["chatml", "headers"])
def test_control_text_in_a_content_stays_text(case):
    tokenizer = CASES[case]()
    clean = encode_chat(tokenizer, (USER,), "x", "y")
    for control in tokenizer.controls:
        text = f"a {control}{control} b"
        row = encode_chat(tokenizer, (USER._replace(content=text),), text, control)
        plain = tokenizer.encode([tokenizer.as_text(text)])[0]
        assert tokenizer.decode(row.chosen[:-1]) == text
        assert text in tokenizer.decode(row.prompt)
        assert not set(row.chosen[:-1]) & set(tokenizer.controls.values())
        assert row.chosen == [*plain, clean.chosen[-1]]
        for ids, wanted in zip(row, clean, strict=True):
            controls = tokenizer.controls.values()
            assert [i for i in ids if i in controls] == [i for i in wanted if i in controls]
    example = Example("r", (USER._replace(content="</s>"),), "fine", "<s></s>")
    report = encode([example], tokenizer, max_length=99, truncation="keep_start").report
    assert report["control_texts"] == 2


@pytest.mark.parametrize(
    "roles", [(), ("user",), ("assistant", "tool", "assistant"), ("assistant", "assistant")]
)
def test_a_response_is_one_turn_of_the_assistant(roles):
    response = tuple(Message(role, "x") for role in roles)
    field, reason = problem(trained(), CHAT, "fine", response)
    assert field == "rejected"
    assert reason.startswith("a response must be one turn of the assistant, got the turns: ")
    assert reason.endswith(", ".join(roles) or "none")


def test_plain_text_beside_messages_is_one_turn():
    tokenizer, answer = trained(), (Message("assistant", "yes"),)
    assert encode_chat(tokenizer, "Hi!", answer) == encode_chat(tokenizer, (USER,), "yes")
    assert (
        encode_chat(tokenizer, (USER,), answer, "yes").rejected
        == encode_chat(tokenizer, (USER,), answer).chosen
    )


# ---------------------------------------------------------------------------- choosing a template


def test_chats_without_a_template_are_refused():
    with pytest.raises(Refused, match=r"no chat template\ntype tokens\.chat_template=chatml"):
        encode([Example("r", CHAT, "x")], with_bos(), max_length=9, truncation="keep_start")


def test_choosing_a_template(tmp_path):
    tokenizer = with_template(with_bos(), "plain")
    assert tokenizer.chat_template == "{{ bos_token }}" + PLAIN
    assert with_bos().chat_template is None
    assert tokenizer.digest != with_bos().digest
    with pytest.raises(Refused, match=r"does not have them\ntype tokens\.chat_template=plain"):
        with_template(with_bos(), "chatml")
    with pytest.raises(Refused, match=r"is chatml, plain, or the path of a jinja file\ngot chatmi"):
        with_template(with_bos(), "chatmi")
    file = tmp_path / "mine.jinja"
    file.write_text(HEADERS)
    assert with_template(with_bos(), str(file)).chat_template == HEADERS
    file.write_text("{% for x in %}")
    with pytest.raises(Refused, match=r"mine\.jinja|cannot be read: line 1"):
        with_template(with_bos(), str(file))


def test_a_template_that_breaks_is_a_problem_of_its_row():
    source = "{{ messages[0].content + none }}"
    field, reason = problem(trained().with_chat_template(source), CHAT, "x")
    assert field == "prompt" and reason.startswith("the chat template refuses it: ")


@pytest.mark.parametrize("place", ["file", "text", "list", "file_and_text"])
def test_a_folders_template_is_found(place, tmp_path):
    with_bos().save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    if "file" in place:
        (tmp_path / "chat_template.jinja").write_text(HEADERS)
    if "text" in place:
        config["chat_template"] = "other" if "file" in place else HEADERS
    if place == "list":
        config["chat_template"] = [
            {"name": "tool_use", "template": "other"},
            {"name": "default", "template": HEADERS},
        ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.from_folder(tmp_path).chat_template == HEADERS
