"""The tokenizer: text -> token ids, without torch and without transformers.

A thin layer over the `tokenizers` package that settles what a preference row needs: which id starts
a text (if any), which one ends a response, that text of the data never becomes a control token, and
that a response continues its prompt instead of starting a text of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from dpo_lab.errors import Refused
from dpo_lab.templates import CHATML, CHATML_TOKENS

# The package's own thread pool does not survive a fork; `_ids` below uses plain threads instead.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

NAMES = [f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
TRAINED = {"pad_token": "<pad>", "eos_token": "</s>"}
# A mark inside text of the data: the text is encoded in two pieces, before and after it. A lone
# surrogate, as no text that can be written as UTF-8 holds one.
BREAK = "\udc00"
# Training is quadratic in the length of a text without a break, such as a picture in base64: learn
# such texts in parts.
RUNS = re.compile(r"(\S{1000}|\s{1000})")
CHUNK = 1024  # texts that a thread encodes at a time


class Tokenizer:
    """Text -> token ids.

    - `backend`: the `tokenizers.Tokenizer`, without truncation and padding.
    - `names`, `named_ids`: texts and ids of the named tokens, `{"eos_token": "</s>", ...}`.
    - `bos_id`: what the tokenizer itself puts in front of a text; None where that is nothing. Its
      post-processor decides, as in transformers: where there is a tokenizer.json, `add_bos_token`
      does not count.
    - `eos_id`: what ends a response. `pad_id`: EOS where there is no padding token (no mask is made
      from ids, so that is safe).
    - `controls`: text -> id of the control tokens (special and named ones), longest text first.
    - `chat_template`: jinja source, or None.

    Raises `Refused` where there is no EOS token.
    """

    def __init__(self, backend: Backend, config: dict[str, Any], chat_template: str | None = None):
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.chat_template = chat_template
        named = {name: _content(config[name]) for name in NAMES if config.get(name)}
        ids = {name: backend.token_to_id(text) for name, text in named.items()}
        self.named_ids = {name: index for name, index in ids.items() if index is not None}
        self.names = {name: named[name] for name in self.named_ids}
        self.config = {key: value for key, value in config.items() if key not in NAMES}
        if "eos_token" not in self.names:
            raise Refused(
                "the tokenizer has no end-of-sequence token, so nothing can end a response\n"
                f"got the named tokens: {', '.join(self.names.values()) or 'none'}\n"
                "set eos_token in its tokenizer_config.json to a token of its vocabulary"
            )
        self.controls = _mark_controls(backend, [*self.names.values(), *_extra(config)])
        self.bos_id = _first_id(backend, self.controls)
        self.eos_id = self.named_ids["eos_token"]
        self.pad_id = self.named_ids.get("pad_token", self.eos_id)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that decides token ids, in hex."""
        content = [self.backend.to_str(), sorted(self.names.items()), self.chat_template]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a Hugging Face folder; `Refused` where it has no tokenizer.json."""
        folder = Path(path)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise Refused(
                f"{folder} has no tokenizer.json\n"
                "expected a folder with a fast tokenizer; convert another kind with transformers' "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        try:
            backend = Backend.from_file(str(file))
        except Exception as error:  # the package raises nothing narrower
            raise Refused(f"{file} cannot be read as a tokenizer: {error}") from error
        config = _read(folder / "tokenizer_config.json")
        if "added_tokens_decoder" not in config:  # newer folders keep the names in one place
            config |= _read(folder / "special_tokens_map.json")
        if not config.get("eos_token"):  # GPT-2's folder names its EOS only as an id of the model
            ends = _read(folder / "config.json").get("eos_token_id")
            first = ends[0] if isinstance(ends, list) else ends
            config["eos_token"] = None if first is None else backend.id_to_token(first)
        template = config.pop("chat_template", None)
        own_file = folder / "chat_template.jinja"
        if own_file.is_file():
            template = own_file.read_bytes().decode()
        return cls(backend, config, _default(template))

    @classmethod
    def from_pretrained_fast(cls, tokenizer: Any) -> Tokenizer:
        """The same as a fast tokenizer object of transformers, which stays as it is."""
        backend = Backend.from_str(tokenizer.backend_tokenizer.to_str())
        return cls(backend, dict(tokenizer.special_tokens_map), _default(tokenizer.chat_template))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Byte-level BPE trained on `texts`: no unknown text, no BOS, ChatML as its chat template.

        `vocab_size`: at most so many tokens, the 256 bytes and the control tokens among them.
        """
        specials = [*TRAINED.values(), *CHATML_TOKENS]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        least = len(alphabet) + len(specials)
        if vocab_size < least:
            raise Refused(
                f"a byte-level tokenizer needs at least {least} tokens (256 bytes and "
                f"{len(specials)} control tokens), got vocab_size={vocab_size}"
            )
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=specials,
            initial_alphabet=alphabet,
            show_progress=False,
        )
        pieces = (piece for text in texts for piece in RUNS.split(text) if piece)
        backend.train_from_iterator(pieces, trainer)
        return cls(backend, dict(TRAINED), CHATML)

    @classmethod
    def from_words(cls, vocabulary: list[str], bos: str, eos: str, pad: str) -> Tokenizer:
        """One token per word, words separated by white space, BOS in front of every text.

        Ids: pad 0, eos 1, bos 2, then `vocabulary` in its order. A word outside it is an error of
        whoever encodes it: there is no unknown token.
        """
        specials = [pad, eos, bos]
        words = [*specials, *vocabulary]
        assert len(set(words)) == len(words), "words of a vocabulary differ from each other"
        backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}))
        backend.add_special_tokens(specials)
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, words.index(bos))]
        )
        return cls(backend, {"pad_token": pad, "eos_token": eos, "bos_token": bos})

    def with_chat_template(self, source: str) -> Tokenizer:
        """The same tokenizer with another chat template."""
        return Tokenizer(self.backend, self.config | self.names, source)

    def save(self, folder: str | Path) -> None:
        """Write the files that `from_folder` and transformers' AutoTokenizer read."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | self.config | self.names
        config.pop("auto_map", None)  # it points to code, which is not copied
        text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
        if self.chat_template is not None:
            # bytes, as a template's line ends belong to it
            (folder / "chat_template.jinja").write_bytes(self.chat_template.encode())

    def as_text(self, text: str) -> str:
        """`text` with a `BREAK` inside every control token's text, so that it stays text."""
        while self._control.search(text):  # again: what is behind a break may hold another one
            text = self._control.sub(lambda found: found[0][0] + BREAK + found[0][1:], text)
        return text

    def encode(self, texts: Sequence[str], *, continues: bool = False) -> list[list[int]]:
        """Token ids of each text, without BOS and EOS; equal texts share one list.

        The text of a control token gives its id: pass text of the data through `as_text` first.
        `continues`: the texts go on where another one ended, so no space is put in front of them
        (as SentencePiece-like tokenizers do at the start of a text).
        """
        first = self._inner if continues else self.backend
        pieces = {text: text.split(BREAK) for text in dict.fromkeys(texts)}
        ids = _ids(first, [head for head, *_ in pieces.values()])
        encoded = dict(zip(pieces, ids, strict=True))
        for text, (_, *rest) in pieces.items():
            if rest:
                encoded[text] = sum(_ids(self._inner, rest), start=encoded[text])
        return [encoded[text] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, control tokens included."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.controls)))

    @cached_property
    def _inner(self) -> Backend:
        """The backend for text in the middle of a text."""
        state = json.loads(self.backend.to_str())
        inner = state | {
            "normalizer": _without_prefix(state["normalizer"]),
            "pre_tokenizer": _without_prefix(state["pre_tokenizer"]),
        }
        return self.backend if inner == state else Backend.from_str(json.dumps(inner))


def _ids(backend: Backend, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, on all cores."""

    def encode(chunk: list[str]) -> list[list[int]]:
        return [one.ids for one in backend.encode_batch_fast(chunk, add_special_tokens=False)]

    chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
    if len(chunks) <= 1:
        return encode(texts)
    with ThreadPoolExecutor(min(len(chunks), os.cpu_count() or 1)) as pool:
        return [ids for part in pool.map(encode, chunks) for ids in part]


def _extra(config: dict[str, Any]) -> list[str]:
    """Further special tokens of a tokenizer_config.json, under their old and new key."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    return [_content(token) for token in (extra.values() if isinstance(extra, dict) else extra)]


def _content(token: str | dict[str, Any]) -> str:
    return token["content"] if isinstance(token, dict) else token


def _default(template: str | dict[str, str] | list[dict[str, str]] | None) -> str | None:
    """The template that serves where a tokenizer has several."""
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    return template.get("default") if isinstance(template, dict) else template


def _mark_controls(backend: Backend, named: list[str]) -> dict[str, int]:
    """Make the named tokens special, and return all special tokens: text -> id."""

    def special() -> dict[str, int]:
        added = backend.get_added_tokens_decoder().items()
        return {token.content: index for index, token in added if token.special}

    known = [text for text in named if backend.token_to_id(text) is not None]
    missing = [text for text in known if text not in special()]
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in missing])
    # a token of one character cannot be told from that character
    controls = [(text, index) for text, index in special().items() if len(text) > 1]
    return dict(sorted(controls, key=lambda item: (-len(item[0]), item[0])))


def _first_id(backend: Backend, controls: dict[str, int]) -> int | None:
    """What the post-processor puts in front of a text, seen on one word of the vocabulary."""
    words = map(backend.id_to_token, range(backend.get_vocab_size()))
    word = next(word for word in words if word and word not in controls)
    plain = backend.encode(word, add_special_tokens=False).ids
    full = backend.encode(word).ids
    return None if full[: len(plain)] == plain else full[0]


def _without_prefix(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer that puts nothing in front of a text."""
    if part is None or part["type"] == "Prepend":
        return None
    part = dict(part)
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            part[key] = [inner for one in part[key] if (inner := _without_prefix(one))]
    if part["type"] == "Metaspace":
        part["prepend_scheme"] = "never"
    if "add_prefix_space" in part:
        part["add_prefix_space"] = False
    return part


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise Refused(f"{file} cannot be read as JSON: {error}") from error
