"""The signature is the schema.

An option is a public function (or a dataclass) of a module; a yaml is a call to it. Keyword-only
parameters are the knobs, positional ones are objects of the run. From the signature the lab reads
names, types, defaults, ranges, and what a loss needs. It is read with `ast`: nothing is imported,
so that a wrong override is answered before torch is loaded.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, make_dataclass
from enum import Enum
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from dpo_lab import ranges
from dpo_lab.disk import home
from dpo_lab.errors import Refused
from dpo_lab.ranges import Range
from dpo_lab.spelling import did_you_mean

_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "list[str]": "a list of texts such as [a, b]",
    "dict[str, str]": "texts by name such as {a: b}",
    "dict[str, float]": "numbers by name such as {a: 0.5}",
}
_SCALARS = {"float": float, "int": int, "bool": bool, "str": str, "Any": Any}


@dataclass(frozen=True, slots=True)
class Knob:
    """One keyword-only parameter: its type as written, its range, its choices, its default."""

    name: str
    type: Any
    text: str
    optional: bool
    range: Range | None
    choices: tuple[str, ...]
    default: Any

    @property
    def plain(self) -> str:
        """The type without `| None`."""
        return self.text.removesuffix(" | None")

    @property
    def expected(self) -> str:
        """What a value may be, in words: `a whole number >= 1 or null`."""
        words = _WORDS.get(self.plain, self.plain)
        words = f"one of {', '.join(self.choices)}" if self.choices else words
        limits = f" {self.range}" if self.range and str(self.range)[0] in "<>" else ""
        return words + limits + (" or null" if self.optional else "")


@dataclass(frozen=True, slots=True)
class Signature:
    """What a target takes: `inputs` are its positional parameters with their annotations."""

    target: str
    inputs: dict[str, str]
    knobs: dict[str, Knob]
    exclusive: tuple[tuple[str, ...], ...]


@cache
def signature(target: str) -> Signature:
    """Read the signature of `package.module.name` without importing it.

    Raises `Refused` where there is no such function or a knob's annotation is not understood.
    """
    path, node = _find(target)
    try:
        if isinstance(node, ast.ClassDef):
            pairs = [
                (item.target.id, item.annotation, item.value)
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
            inputs = {}
        else:
            pairs = [
                (arg.arg, arg.annotation, default)
                for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            ]
            inputs = {
                arg.arg: ast.unparse(arg.annotation) if arg.annotation else ""
                for arg in [*node.args.posonlyargs, *node.args.args]
            }
        knobs = {name: _knob(name, note, default) for name, note, default in pairs}
    except _Unreadable as reason:
        raise Refused(f"{path}: {node.name}: {reason}") from None
    exclusive = tuple(
        tuple(ast.literal_eval(arg) for arg in call.args)
        for call in node.decorator_list
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("exclusive")
    )
    return Signature(target, inputs, knobs, exclusive)


def schema(target: str) -> type:
    """A dataclass for OmegaConf: one typed field per knob, and the `_target_` itself."""
    fields: list[tuple[str, Any, Any]] = [("_target_", str, field(default=target))]
    for knob in signature(target).knobs.values():
        fields.append((knob.name, knob.type, _field(knob)))
    return make_dataclass(target.rsplit(".", 1)[-1], fields)


def closed(target: str, nodes: Sequence[str] = ()) -> type:
    """The schema of a node that is no call (`train`, `eval`): the same without `_target_`.

    `nodes` are names of inner nodes, which have schemas of their own.
    """
    fields: list[tuple[str, Any, Any]]
    fields = [(knob.name, knob.type, _field(knob)) for knob in signature(target).knobs.values()]
    fields += [(name, Any, field(default=None)) for name in nodes]
    return make_dataclass(target.rsplit(".", 1)[-1], fields)


def check(node: Mapping[str, Any], where: str, target: str) -> None:
    """Refuse what Hydra lets through: unknown and missing knobs, values out of range.

    `node` is plain data (enums as their names); `where` is its path in the config, for the message.
    """
    sig = signature(target)
    prefix = f"{where}." if where else ""
    for key in node:
        if key not in sig.knobs and key != "_target_":
            hint = did_you_mean(str(key), sig.knobs, prefix)
            raise Refused(f"unknown option {prefix}{key}{hint}")
    for name, knob in sig.knobs.items():
        if name not in node:
            raise Refused(f"{prefix}{name} was removed; every option needs a value")
        _check_value(node[name], f"{prefix}{name}", knob)
    for names in sig.exclusive:
        given = [name for name in names if node[name] is not None]
        if len(given) > 1:
            both = " and ".join(f"{prefix}{name}={node[name]}" for name in given)
            raise Refused(f"{both} exclude each other; set one and leave the other null")


def bind(node: Mapping[str, Any]) -> partial:
    """The function of a call node with its knobs bound: `bind(cfg["loss"])(policy, reference)`."""
    module, name = node["_target_"].rsplit(".", 1)
    knobs = {key: value for key, value in node.items() if key != "_target_"}
    return partial(getattr(import_module(module), name), **knobs)


# --------------------------------------------------------------------------- reading the source


class _Unreadable(Exception):
    """A signature that the lab cannot turn into a schema."""


@cache
def _module(name: str) -> tuple[Path, ast.Module]:
    """Find and parse a module without importing it or its packages."""
    parts = name.split(".")
    own = str(Path(__file__).resolve().parent.parent)
    for root in [own, *sys.path]:
        base = Path(root or ".").joinpath(*parts)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                try:
                    return path, ast.parse(path.read_text(encoding="utf-8"), str(path))
                except SyntaxError as error:
                    raise Refused(f"{path}:{error.lineno}: {error.msg}") from None
    raise Refused(
        f"there is no module {name} (named in a _target_)\n"
        "looked for its file in the config folder, the current folder and PYTHONPATH"
    )


def _find(target: str) -> tuple[Path, ast.FunctionDef | ast.ClassDef]:
    """The definition that a dotted name leads to, through `from x import y` re-exports."""
    module, _, name = target.rpartition(".")
    path, tree = _module(module)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return path, node
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(f"{node.module}.{alias.name}")
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    raise Refused(f"{path} has no public function {name}{did_you_mean(name, names)}")


def _knob(name: str, note: ast.expr | None, default: ast.expr | None) -> Knob:
    if note is None:
        raise _Unreadable(f"{name} has no type; write for example {name}: float")
    if isinstance(note, ast.Constant) and isinstance(note.value, str):
        note = ast.parse(note.value, mode="eval").body
    limits = None
    if isinstance(note, ast.Subscript) and ast.unparse(note.value).endswith("Annotated"):
        assert isinstance(note.slice, ast.Tuple)
        note, limit = note.slice.elts[:2]
        limits = _range(name, limit)
    text = ast.unparse(note)
    optional = False
    if isinstance(note, ast.BinOp) and ast.unparse(note.right) == "None":
        note, optional = note.left, True
    choices: tuple[str, ...] = ()
    if isinstance(note, ast.Subscript) and ast.unparse(note.value).endswith("Literal"):
        values = note.slice.elts if isinstance(note.slice, ast.Tuple) else [note.slice]
        choices = tuple(str(ast.literal_eval(value)) for value in values)
        kind: Any = Enum(name, {choice: choice for choice in choices})
    else:
        kind = _type(name, note)
    try:
        value = _plain(default)
    except ValueError:
        raise _Unreadable(f"the default of {name} is not a literal") from None
    if optional and getattr(kind, "__origin__", None) is dict:
        kind = Any  # OmegaConf cannot merge a mapping into an optional dict; the target checks it
    elif optional:
        kind = kind | None
    return Knob(name, kind, text, optional, limits, choices, value)


def _plain(default: ast.expr | None) -> Any:
    """A literal default; `field(default_factory=list)` of a dataclass is an empty one."""
    if default is None:
        return MISSING
    if isinstance(default, ast.Call) and ast.unparse(default.func).endswith("field"):
        return {"list": [], "dict": {}}[ast.unparse(default.keywords[0].value)]
    return ast.literal_eval(default)


def _type(name: str, note: ast.expr) -> Any:
    text = ast.unparse(note)
    if text in _SCALARS:
        return _SCALARS[text]
    if isinstance(note, ast.Subscript):
        outer = ast.unparse(note.value)
        if outer == "list":
            return list.__class_getitem__(_type(name, note.slice))
        if outer == "dict" and isinstance(note.slice, ast.Tuple):
            return dict.__class_getitem__((str, _type(name, note.slice.elts[1])))
    raise _Unreadable(
        f"{name}: {text} is no type of a knob; use float, int, bool, str, Literal, list or dict"
    )


def _range(name: str, note: ast.expr) -> Range:
    if isinstance(note, ast.Call):
        return Range(**{str(word.arg): ast.literal_eval(word.value) for word in note.keywords})
    known = ast.unparse(note).rsplit(".", 1)[-1]
    if known not in ranges.NAMED:
        raise _Unreadable(f"{name}: {known} is no range of dpo_lab.ranges")
    return ranges.NAMED[known]


def _field(knob: Knob) -> Any:
    if isinstance(knob.default, list | dict):
        value = knob.default
        return field(default_factory=lambda: type(value)(value))
    if knob.default is MISSING:
        return field(default="???")
    if knob.choices and knob.default is not None:
        kind = knob.type.__args__[0] if knob.optional else knob.type
        return field(default=kind[knob.default])
    return field(default=knob.default)


def _check_value(value: Any, name: str, knob: Knob) -> None:
    if value == "???":
        raise Refused(f"{name} is needed and has no default; type {name}=VALUE")
    if value is None and not knob.optional:
        raise Refused(f"{name} must be {knob.expected}, got null")
    if isinstance(value, str) and not value.strip():
        raise Refused(f"{name} must be {knob.expected}, got nothing")
    if value is None:
        return
    if isinstance(value, str) and value.startswith("~"):
        home(value, name)
    values = [*value.values()] if isinstance(value, dict) else value
    values = values if isinstance(values, list) else [values]
    inner = knob.plain.strip("]").rpartition("[")[2].rpartition(" ")[2]  # of list or mapping
    texts = [*values, *value] if isinstance(value, dict) and inner == "str" else values
    if inner == "str" and not all(isinstance(one, str) for one in texts):
        raise Refused(f"{name} must be {knob.expected}, got {str(value)[:80]}")
    for number in values:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number and (knob.range is not None or inner in ("int", "float")):
            raise Refused(f"{name} must be {knob.expected}, got {str(value)[:80]}")
        if knob.range is not None and not knob.range.holds(number):
            raise Refused(f"{name} must be {knob.range}, got {str(number)[:80]}")
        if is_number and (limit := ranges.beyond(number, knob.range)):
            raise Refused(f"{name} must be {limit}, got {str(number)[:80]}")
