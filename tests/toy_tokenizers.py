"""Small tokenizers and chat templates of the kinds that models come with."""

import functools
import json

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from dpo_lab.tokens import Tokenizer

WORDS = ["drama", "public", "good", "bad", "film", "not"]
CORPUS = [
    "The quick brown fox jumps over the lazy dog, 12 times.",
    "\n\nHuman: How do I say hello?\n\nAssistant: You say hello!",
    "Grüße aus Köln, 日本語 and 🙂 too.",
    "for i in range(10):\n    print(i)\n",
] * 5
# as Llama 3: BOS comes from the template, contents are trimmed
HEADERS = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|stop|>\\n\\n' + message['content'] | trim + '<|turn|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|stop|>\\n\\n' }}
{%- endif %}
"""
# as Qwen3: an earlier answer loses its thoughts once another turn follows it
REWRITING = """{% for message in messages %}
{% set content = message.content %}
{% if message.role == 'assistant' and not loop.last %}
{% set content = content.split('</think>')[-1] %}
{% endif %}
<|im_start|>{{ message.role }}
{{ content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
# as Llama 2: a space inside each turn, EOS after an answer, BOS before each exchange
BRACKETS = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)


@functools.cache
def trained() -> Tokenizer:
    return Tokenizer.train(CORPUS, 320)


@functools.cache
def words() -> Tokenizer:
    return Tokenizer.from_words(WORDS, bos="<s>", eos="</s>", pad="<pad>")


def byte_level(specials: list[str], corpus: list[str] = CORPUS) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    return backend


def starting_with(backend: Backend, bos: str) -> Backend:
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    return backend


@functools.cache
def with_bos() -> Tokenizer:
    """As Llama 3: byte-level BPE, BOS from the post-processor."""
    backend = starting_with(byte_level(["<|begin|>", "<|end|>"]), "<|begin|>")
    return Tokenizer(backend, {"bos_token": "<|begin|>", "eos_token": "<|end|>"})


def metaspace(prefix: str) -> Backend:
    """As Llama 2: spaces are part of the words, and one is put in front of a text."""
    corpus = [text.replace(" ", "▁") for text in CORPUS]
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    state = json.loads(backend.to_str())
    # bytes are ordinary tokens, only the first three are special
    state["added_tokens"] = state["added_tokens"][:3]
    backend = Backend.from_str(json.dumps(state))
    if prefix == "normalizer":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return starting_with(backend, "<s>")


def word_level(vocabulary: list[str], specials: list[str]) -> Backend:
    """One id per word, space and line end: ids that a human can read."""
    tokens = [*specials, " ", "\n", *vocabulary]
    backend = Backend(models.WordLevel({token: i for i, token in enumerate(tokens)}))
    backend.add_special_tokens(specials)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.Split("\n", "isolated")]
    )
    return backend
