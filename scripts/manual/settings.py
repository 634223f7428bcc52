"""wormfs.yaml(5): every key, with its type out of the models and its meaning out of config.example.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scripts.manual import roff, texts
from scripts.manual.prose import Piece, from_comment
from wormfs.config import Settings
from wormfs.config.base import BackendSettings, Model
from wormfs.config.registry import MODELS

_KEY = re.compile(r"(?P<indent> *)#?(?P<key>[a-z0-9_-]+):(?: (?P<value>.*))?")
_COMMENT = re.compile(r" *# ?(?P<text>.*)")
_OF_A_BACKEND = 4
"""How far the keys of a backend are indented."""
_NOTHING_FITS: Final[list[object]] = []
"""A value that no setting takes, so that each says what it would take."""


@dataclass
class Told:
    """What the example tells of one key."""

    value: str
    meaning: list[str]


@dataclass
class Example:
    """config.example.yaml, taken apart."""

    before: list[str] = field(default_factory=list)
    """Its first comment."""
    after: list[str] = field(default_factory=list)
    """Its last comment, that follows no key."""
    top: dict[str, Told] = field(default_factory=dict)
    backends: dict[str, dict[str, Told]] = field(default_factory=dict)
    """By type."""


def read_example(text: str) -> Example:
    """Take the example apart. A key without a comment shares that of the key above it."""
    example = Example()
    comment: list[str] = []
    shared: list[str] = []
    backend: dict[str, Told] = {}
    for line in text.splitlines():
        if found := _KEY.fullmatch(line):
            key, value, depth = found["key"], found["value"] or "", len(found["indent"])
            shared = comment or shared
            if depth == 0:
                example.top[key] = Told(value, shared)
            elif depth < _OF_A_BACKEND:
                backend = {}
            else:
                backend[key] = Told(value, shared)
                if key == "type":
                    example.backends[value] = backend
            comment = []
        elif found := _COMMENT.fullmatch(line):
            comment.append(found["text"])
        elif comment:
            example.before = example.before or comment
            comment, shared = [], []
        else:
            shared = []
    example.after = comment
    return example


def type_text(model: type[Model], key: str) -> str:
    """What a key takes, in the words with which it refuses everything else."""
    said = _refusal(model, key, _NOTHING_FITS)
    text = said.removeprefix("must be ").removesuffix(", not a list") if said else "a list"
    takes_null = not _refusal(model, key, None) and "null" not in text
    return f"{text}; or null" if takes_null else text


def _refusal(model: type[Model], key: str, value: object) -> str:
    """What is said against a value; empty if it is taken."""
    try:
        model.model_validate({key: value})
    except ValidationError as error:
        for problem in error.errors():
            if problem["loc"][:1] == (key,):
                return problem["msg"].removeprefix("Value error, ")
    return ""


def body(example_text: str) -> Iterator[str]:
    """The body of wormfs.yaml(5)."""
    example = read_example(example_text)
    yield roff.section("name")
    yield "wormfs.yaml \\- settings of wormfs"
    yield roff.section("synopsis")
    yield roff.italic("/etc/wormfs/config.yaml")
    yield roff.section("description")
    for text in texts.SETTINGS:
        yield from roff.paragraph(text)
    yield from _pieces(from_comment(example.before))
    yield roff.section("keys of the file")
    yield from _keys(Settings, example.top, [])
    yield roff.section("keys of every backend")
    common = example.backends["local"]
    yield from _keys(BackendSettings, common, [])
    for kind, model in MODELS.items():
        yield roff.section(f"keys of type {kind}")
        yield from _pieces(from_comment(example.backends[kind]["type"].meaning if kind != "local" else []))
        yield from _keys(model, example.backends[kind], [*BackendSettings.yaml_keys()])
    yield roff.section("secrets")
    yield from _pieces(from_comment(example.after))
    yield roff.section("example")
    yield from roff.literal(texts.SHORTEST_SETTINGS.splitlines())
    yield roff.section("files")
    for name, meaning in texts.SETTINGS_FILES:
        yield from roff.item(roff.bold(name), meaning)
    yield roff.section("see also")
    yield ".BR wormfs (1),"
    yield ".BR wormfs\\-config (1),"
    yield ".BR wormfs\\-check (1)"


def _keys(model: type[Model], told: dict[str, Told], besides: Sequence[str]) -> Iterator[str]:
    for key, name in model.yaml_keys().items():
        if key not in besides:
            yield from _key(model, key, model.model_fields[name], told[key])


def _key(model: type[Model], key: str, info: FieldInfo, told: Told) -> Iterator[str]:
    yield from (".TP", roff.bold(f"{key}:"))
    kinds = {"backends": "a mapping of names to backends", "type": f"one of {', '.join(MODELS)}"}
    kind = kinds.get(key) or type_text(model, key)
    yield from ("Takes:", roff.escape(kind).removeprefix("\\&") + ".")
    required = info.default is PydanticUndefined
    yield "Required." if required or key == "type" else f"Default: {roff.bold(told.value)}."
    yield ".RS"
    yield from _pieces(from_comment([line.removesuffix(" Required.") for line in told.meaning]))
    yield from _parts(info)
    yield ".RE"


def _parts(info: FieldInfo) -> Iterator[str]:
    """The keys of a mapping within, such as those of ``retention`` and of its rules."""
    model = info.annotation
    if not (isinstance(model, type) and issubclass(model, Model)):
        return
    for key, name in model.yaml_keys().items():
        part = model.model_fields[name]
        default = "Required" if part.default is PydanticUndefined else f"Default: {_shown(part.default)}"
        yield from roff.item(roff.bold(f"{key}:"), f"Takes: {type_text(model, key)}. {default}.")


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if value == () else str(value)


def _pieces(pieces: Iterator[Piece]) -> Iterator[str]:
    for piece in pieces:
        yield from piece.roff()
