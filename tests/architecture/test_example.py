"""config.example.yaml documents every setting with its default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from wormfs.config import Settings, parse
from wormfs.config.base import Model, yaml_name
from wormfs.config.registry import MODELS


@pytest.fixture(scope="module")
def example(repository: Path) -> str:
    return (repository / "config.example.yaml").read_text()


def uncommented(text: str) -> str:
    """The example with every default and every further backend written out: ``#key: value`` without a space
    is a setting."""
    return re.sub(r"^( *)#(?=[a-z0-9_-]+:)", r"\1", text, flags=re.MULTILINE)


def test_the_example_can_be_used_as_it_is(example: str) -> None:
    """Its one backend is local, so that a copy of it works; the others are commented out."""
    assert {backend.type for backend in parse(example, "config.example.yaml").backends.values()} == {"local"}


def test_every_driver_stands_in_the_example(example: str) -> None:
    settings = parse(uncommented(example), "config.example.yaml")
    assert {backend.type for backend in settings.backends.values()} == set(MODELS)


def test_every_setting_stands_in_the_example_with_its_default(example: str) -> None:
    settings = parse(uncommented(example), "config.example.yaml")
    asked = parse(example, "config.example.yaml")
    assert settings.model_copy(update={"backends": asked.backends}) == asked
    for backend in settings.backends.values():
        required = {
            field: getattr(backend, field)
            for field, info in type(backend).model_fields.items()
            if info.default is PydanticUndefined
        }
        assert backend == type(backend)(**required)


@pytest.mark.parametrize("model", [Settings, *MODELS.values()])
def test_no_setting_is_missing(example: str, model: type[Model]) -> None:
    text = uncommented(example)
    missing = [key for key in model.yaml_keys() if not re.search(rf"^ *{key}:", text, re.MULTILINE)]
    assert missing == []


@pytest.mark.parametrize("model", [Settings, *MODELS.values()])
def test_what_is_required_is_said_to_be(example: str, model: type[Model]) -> None:
    for field, info in model.model_fields.items():
        if field in ("name", "type"):
            continue
        found = re.search(rf"((?:^ *# .*\n)*)^ *#?{yaml_name(field)}:", example, re.MULTILINE)
        assert found is not None, field
        required = info.default is PydanticUndefined
        assert bool(re.search("Required[.:]", found[1])) == required or found[1] == "", field
