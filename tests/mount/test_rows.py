"""docs/semantics.md and the tests tell of the same rows."""

from __future__ import annotations

import re
from pathlib import Path

_ROW = re.compile(r"^\| `([a-z-]+)` \|(.*)$", re.MULTILINE)
_MARK = re.compile(r'^@pytest\.mark\.row\("([a-z-]+)"\)$', re.MULTILINE)


def documented(repository: Path) -> dict[str, str]:
    rows = _ROW.findall((repository / "docs" / "semantics.md").read_text())
    assert len(rows) == len(dict(rows)) > 40, "every id stands for one row"
    return dict(rows)


def proved(repository: Path) -> set[str]:
    files = sorted((repository / "tests" / "mount").glob("test_*.py"))
    return {row for file in files for row in _MARK.findall(file.read_text())}


def test_every_row_has_a_test(repository: Path) -> None:
    rows = documented(repository)
    due = {row for row, text in rows.items() if "*not yet*" not in text}
    assert due - proved(repository) == set()


def test_every_mark_names_a_row(repository: Path) -> None:
    assert proved(repository) - documented(repository).keys() == set()
