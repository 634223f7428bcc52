"""The pictures of the handbook are what the program shows today."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from scripts.pictures import IMAGES, PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_renderers_draw_today(name: str) -> None:
    drawn = PICTURES[name]()
    assert (IMAGES / name).read_text(encoding="utf-8") == drawn, "run: python -m scripts.pictures"
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert "url(" not in drawn.replace("url(#", ""), "nothing is fetched from elsewhere"


def test_no_other_picture_lies_there_and_every_one_is_shown(repository: Path) -> None:
    assert {path.name for path in IMAGES.iterdir()} == set(PICTURES)
    pages = [repository / "README.md", *(repository / "docs").glob("*.md")]
    text = "".join(page.read_text() for page in pages)
    assert [name for name in PICTURES if f"images/{name})" not in text] == []
