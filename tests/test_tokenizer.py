import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from toy_tokenizers import (
    CORPUS,
    WORDS,
    byte_level,
    metaspace,
    starting_with,
    trained,
    with_bos,
    words,
)

from dpo_lab.errors import Refused
from dpo_lab.tokens import Tokenizer

TEXTS = [
    "hello",
    " hello world",
    "",
    "trailing ",
    "two\n\nlines\n",
    "1234 5,678",
    "Grüße 日本語 🙂 \t x",
    "  double  spaces  ",
]


def test_training_is_deterministic():
    other = Tokenizer.train(iter(CORPUS), 320)
    assert other.digest == trained().digest
    assert Tokenizer.train(CORPUS, 321).digest != other.digest


def test_trained_tokenizer_has_the_promised_tokens():
    tokenizer = trained()
    assert tokenizer.vocab_size == 320
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (0, 1, None)
    assert set(tokenizer.controls) == {"<pad>", "</s>", "<|im_start|>", "<|im_end|>"}


def test_vocabulary_below_the_alphabet_is_refused():
    with pytest.raises(Refused, match=r"at least 260 tokens .* got vocab_size=259"):
        Tokenizer.train(CORPUS, 259)
    assert Tokenizer.train(CORPUS, 260).vocab_size == 260


def test_words_have_ids_in_order():
    tokenizer = words()
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (0, 1, 2)
    assert tokenizer.vocab_size == 3 + len(WORDS)
    assert tokenizer.encode(["drama public", "", "good  good"]) == [[3, 4], [], [5, 5]]


def test_importing_and_encoding_load_no_torch():
    code = (
        "import sys\n"
        "from dpo_lab.batch import Example\n"
        "from dpo_lab.tokens import Tokenizer, encode\n"
        "t = Tokenizer.from_words(['a'], '<s>', '</s>', '<pad>')\n"
        "encode([Example('r', 'a', 'a')], t, max_length=9, truncation='keep_end')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("build", [trained, words, with_bos])
def test_saved_folder_is_the_same_tokenizer_here_and_in_transformers(build, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = build()
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.digest == tokenizer.digest
    assert again.names == tokenizer.names
    assert (again.bos_id, again.eos_id, again.pad_id) == (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    peer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(peer) == tokenizer.vocab_size
    assert peer.eos_token_id == tokenizer.eos_id
    assert peer.chat_template == tokenizer.chat_template
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    texts = ["drama public", "good", ""] if build is words else TEXTS
    for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
        assert peer(text)["input_ids"] == start + ids


def hugging_face_folder(kind: str, folder: Path) -> None:
    """A folder as that family publishes it."""
    from transformers import (
        GPT2Tokenizer,
        GPTNeoXTokenizer,
        LlamaTokenizer,
        PreTrainedTokenizerFast,
        Qwen2Tokenizer,
    )

    end = "<|endoftext|>"
    backend = byte_level([end, "<|padding|>"])
    state = json.loads(backend.to_str())["model"]
    vocab = state["vocab"]
    merges = [tuple(merge) for merge in state["merges"]]
    config = {"model_type": kind}
    if kind == "gpt2":  # names no token at all
        GPT2Tokenizer(vocab=vocab, merges=merges).save_pretrained(folder)
        (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
        config["eos_token_id"] = vocab[end]
    elif kind == "gpt_neox":
        GPTNeoXTokenizer(vocab=vocab, merges=merges).save_pretrained(folder)
    elif kind == "qwen2":
        tokenizer = Qwen2Tokenizer(
            vocab=vocab,
            merges=merges,
            eos_token="<|im_end|>",
            additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        )
        tokenizer.add_tokens(["<tool_call>"])
        tokenizer.save_pretrained(folder)
    elif kind == "llama3":
        config["model_type"] = "llama"
        backend = starting_with(byte_level(["<|begin|>", "<|end|>"]), "<|begin|>")
        PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<|begin|>", eos_token="<|end|>"
        ).save_pretrained(folder)
    elif kind == "llama2":
        config["model_type"] = "llama"
        state = json.loads(metaspace("first").to_str())["model"]
        merges = [tuple(merge) for merge in state["merges"]]
        tokenizer = LlamaTokenizer(vocab=state["vocab"], merges=merges, add_bos_token=True)
        tokenizer.save_pretrained(folder)
    elif kind == "promise":  # says that it adds a BOS, but its post-processor adds none
        config["model_type"] = "llama"
        byte_level(["<s>", "</s>"]).save(str(folder / "tokenizer.json"))
        named = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
        (folder / "tokenizer_config.json").write_text(json.dumps(named))
    elif kind == "old":  # names in a file of their own
        config["model_type"] = "llama"
        byte_level(["<s>", "</s>"]).save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text('{"eos_token": "<s>"}')
        named = {"eos_token": {"content": "</s>", "lstrip": False}, "bos_token": "<s>"}
        (folder / "special_tokens_map.json").write_text(json.dumps(named))
    (folder / "config.json").write_text(json.dumps(config))


KINDS = ["gpt2", "gpt_neox", "qwen2", "llama3", "llama2", "promise", "old"]


@pytest.mark.parametrize("kind", KINDS)
def test_folders_of_other_families_encode_as_in_transformers(kind, tmp_path):
    from transformers import AutoTokenizer

    hugging_face_folder(kind, tmp_path)
    peer = AutoTokenizer.from_pretrained(tmp_path)
    folder, wrapped = Tokenizer.from_folder(tmp_path), Tokenizer.from_pretrained_fast(peer)
    copy = tmp_path / "copy"
    folder.save(copy)
    (copy / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    saved = AutoTokenizer.from_pretrained(copy)
    assert (folder.bos_id is not None) == (kind in ("llama3", "llama2"))
    for tokenizer in folder, wrapped:
        assert tokenizer.eos_id == peer.eos_token_id
        assert tokenizer.pad_id == (
            peer.eos_token_id if peer.pad_token_id is None else peer.pad_token_id
        )
        assert tokenizer.vocab_size == len(peer)
        start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        for text, ids in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
            assert start + ids == peer(text)["input_ids"] == saved(text)["input_ids"]
    assert Tokenizer.from_folder(copy).digest == folder.digest


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"no tokenizer\.json\n.*save_pretrained"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(Refused, match="cannot be read as a tokenizer"):
        Tokenizer.from_folder(tmp_path)
    byte_level(["<s>"]).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Refused, match="no end-of-sequence token"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"eos_token": "</s>"}'
    )  # not in its vocabulary
    with pytest.raises(Refused, match="no end-of-sequence token"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(Refused, match="cannot be read as JSON"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("key", ["additional_special_tokens", "extra_special_tokens"])
def test_further_special_tokens_of_a_folder_are_controls(key, tmp_path):
    backend = byte_level(["</s>"])
    backend.add_tokens(["<turn>", "<word>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {
        "eos_token": "</s>",
        key: [{"content": "<turn>"}, "<absent>"],
        "auto_map": {"AutoTokenizer": ["code.py", None]},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert set(tokenizer.controls) == {"</s>", "<turn>"}
    assert tokenizer.vocab_size == backend.get_vocab_size()
    tokenizer.save(tmp_path / "copy")
    assert "auto_map" not in json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())


def test_truncation_and_padding_of_a_file_are_switched_off(tmp_path):
    trained().save(tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode([CORPUS[0]]) == trained().encode([CORPUS[0]])


def test_the_digest_is_of_all_that_decides_ids():
    plain = trained()
    other = plain.with_chat_template(plain.chat_template + " ")
    renamed = Tokenizer(plain.backend, plain.config | plain.names | {"eos_token": "<|im_end|>"})
    named = Tokenizer(plain.backend, plain.config | plain.names)
    digests = {each.digest for each in (plain, other, renamed, named)}
    assert len(digests) == 4 and plain.with_chat_template(plain.chat_template).digest in digests
