"""Chat templates: the turns of a chat -> the text of a prompt and of its response.

A template is jinja source that belongs to a tokenizer. It may come from a stranger, so it runs in
jinja2's sandbox.
"""

from __future__ import annotations

import datetime
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dpo_lab.batch import Message
from dpo_lab.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import nodes
    from jinja2.parser import Parser

    from dpo_lab.tokenizer import Tokenizer

# OpenAI's chat markup: every turn between two control tokens, its role on the first line.
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# For any tokenizer: the roles are words, and EOS ends an answer.
PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' }}{{ '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
BUILT_IN = {"chatml": CHATML, "plain": PLAIN}


class Unfit(ValueError):
    """A row that cannot become tokens: its `field` and the `reason`."""

    def __init__(self, field: str, reason: str):
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


class Response(NamedTuple):
    """A response as text, and whether EOS follows it (its own end-of-turn token is in the text)."""

    text: str
    eos: bool


def with_template(tokenizer: Tokenizer, name_or_path: str) -> Tokenizer:
    """The tokenizer with a chat template: `chatml`, `plain`, or the path of a jinja file.

    The built-in ones begin with BOS where the tokenizer itself begins a text with it. Raises
    `Refused` for an unknown name, and for `chatml` where the tokenizer has no such tokens.
    """
    if name_or_path in BUILT_IN:
        if name_or_path == "chatml" and not set(CHATML_TOKENS) <= set(tokenizer.controls):
            raise Refused(
                f"tokens.chat_template=chatml needs the tokens {' and '.join(CHATML_TOKENS)}\n"
                "this tokenizer does not have them\n"
                "type tokens.chat_template=plain, or give the path of a jinja file"
            )
        start = "{{ bos_token }}" if tokenizer.bos_id is not None else ""
        return tokenizer.with_chat_template(start + BUILT_IN[name_or_path])
    file = Path(name_or_path)
    if not file.is_file():
        raise Refused(
            f"tokens.chat_template is {', '.join(BUILT_IN)}, or the path of a jinja file\n"
            f"got {name_or_path}, and there is no such file"
        )
    source = file.read_text(encoding="utf-8")
    _compile(source)
    return tokenizer.with_chat_template(source)


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool
) -> str:
    """The text of `messages`, as transformers' `apply_chat_template` gives it.

    With `add_generation_prompt` it ends where an answer begins. Raises jinja2's `TemplateError`
    where the template does.
    """
    assert tokenizer.chat_template is not None
    return _compile(tokenizer.chat_template).render(
        **tokenizer.names,
        messages=[message._asdict() for message in messages],
        add_generation_prompt=add_generation_prompt,
        tools=None,
        documents=None,
    )


def prompt_text(tokenizer: Tokenizer, prompt: Sequence[Message]) -> str:
    """The text before a response, the header of the answer included. Raises `Unfit`."""
    return _rendered(tokenizer, prompt, "prompt", add_generation_prompt=True)


def response_text(
    tokenizer: Tokenizer,
    prompt: Sequence[Message],
    response: Sequence[Message],
    before: str,
    *,
    field: str,
    ends: bool,
) -> Response:
    """What `response` adds to `before`, the prompt's text: the answer and its end-of-turn token.

    White space at its end is the template's and no part of it. Where the template writes no
    end-of-turn token, EOS follows; where `ends` is False, neither is there.

    Raises `Unfit` where the response is not one turn of the assistant, as then it would hold tokens
    that nobody should be trained on, and where the template changes the prompt once it is answered.
    """
    if [message.role for message in response] != ["assistant"]:
        roles = ", ".join(message.role for message in response) or "none"
        raise Unfit(field, f"a response must be one turn of the assistant, got the turns: {roles}")
    full = _rendered(tokenizer, [*prompt, *response], field, add_generation_prompt=False)
    if not full.startswith(before):
        raise Unfit(field, "the chat template changes the turns before an answer once it is there")
    turn = full.removeprefix(before).rstrip()
    end = _control_at_end(tokenizer, turn)
    return Response(turn, eos=not end) if ends else Response(turn.removesuffix(end).rstrip(), False)


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids that end a generated response: EOS, and the chat template's end-of-turn token."""
    stops = [tokenizer.eos_id]
    if tokenizer.chat_template is not None:
        turns = Message("user", "a"), Message("assistant", "b")
        text = _rendered(tokenizer, turns, "prompt", add_generation_prompt=False)
        if end := _control_at_end(tokenizer, text.rstrip()):
            stops.append(tokenizer.controls[end])
    return list(dict.fromkeys(stops))


def _control_at_end(tokenizer: Tokenizer, text: str) -> str:
    return next((control for control in tokenizer.controls if text.endswith(control)), "")


def _rendered(
    tokenizer: Tokenizer, messages: Sequence[Message], field: str, *, add_generation_prompt: bool
) -> str:
    try:
        return render(tokenizer, messages, add_generation_prompt=add_generation_prompt)
    except (jinja2.TemplateError, TypeError) as error:  # TypeError: e.g. text + none in a template
        raise Unfit(field, f"the chat template refuses it: {error}") from error


@lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    functions = {"raise_exception": _raise, "strftime_now": _strftime_now}
    try:
        return environment.from_string(source, globals=functions)
    except jinja2.TemplateSyntaxError as error:
        raise Refused(
            f"the chat template cannot be read: line {error.lineno}: {error.message}"
        ) from error


class _Generation(Extension):
    """`{% generation %}` marks what an assistant wrote; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    # jinja2's own filter escapes <, > and &
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    # A template that writes today's date would give other tokens tomorrow. This is the date that
    # Llama 3's templates fall back to.
    return datetime.date(2024, 7, 26).strftime(form)
