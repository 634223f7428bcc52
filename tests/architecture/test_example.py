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
    """The example with every default written out: ``#key: value`` without a space is a setting."""
    return re.sub(r"^( *)#(?=[a-z_]+:)", r"\1", text, flags=re.MULTILINE)


def test_the_example_can_be_used_as_it_is(example: str) -> None:
    settings = parse(example, "config.example.yaml")
    assert {backend.type for backend in settings.backends.values()} == set(MODELS)


def test_every_setting_stands_in_the_example_with_its_default(example: str) -> None:
    settings = parse(uncommented(example), "config.example.yaml")
    assert settings == parse(example, "config.example.yaml")


@pytest.mark.parametrize("model", [Settings, *MODELS.values()])
def test_no_setting_is_missing(example: str, model: type[Model]) -> None:
    text = uncommented(example)
    missing = [key for key in model.yaml_keys() if not re.search(rf"^ *{key}:", text, re.MULTILINE)]
    assert missing == []


@pytest.mark.parametrize("model", [Settings, *MODELS.values()])
def test_optional_settings_are_commented_and_required_ones_are_not(example: str, model: type[Model]) -> None:
    for field, info in model.model_fields.items():
        if field == "name" or field == "type":
            continue
        optional = info.default is not PydanticUndefined
        assert bool(re.search(rf"^ *#{yaml_name(field)}:", example, re.MULTILINE)) == optional, field
