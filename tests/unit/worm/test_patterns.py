"""Path patterns of settings."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormfs.errors import InvalidArgument
from wormfs.model import Key
from wormfs.worm.patterns import Pattern


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("exams/**", ["exams/a", "exams/a/b"], ["exams", "exam/a", "x/exams/a"]),
        ("**/*.zip", ["a.zip", "d/a.zip", "d/e/.zip"], ["a.zip/b", "a.zi"]),
        ("*.zip", ["a.zip", ".zip"], ["d/a.zip"]),
        ("**", ["a", "a/b/c"], []),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a", "b", "ab", "a/x"]),
        ("job-?/*", ["job-1/x", "job-\N{LATIN SMALL LETTER SHARP S}/x"], ["job-12/x", "job-/x", "job-1/x/y"]),
        ("a*b*c", ["abc", "axbxc", "abcbc"], ["ab", "acb"]),
        ("[ab]", ["[ab]"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_what_matches(pattern: str, yes: list[str], no: list[str]) -> None:
    made = Pattern(pattern)
    assert [path for path in yes if not made.matches(Key(path.encode()))] == []
    assert [path for path in no if made.matches(Key(path.encode()))] == []


def test_names_that_are_no_text() -> None:
    assert Pattern("d/*").matches(Key(b"d/\xff\xfe"))
    assert Pattern("d/??").matches(Key(b"d/\xff\xfe"))


@pytest.mark.parametrize("pattern", ["", "/a", "a/", "a//b", "a**", "**.zip", "***"])
def test_what_can_match_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidArgument):
        Pattern(pattern)


words = st.text("ab*?", min_size=1, max_size=6).filter(lambda word: "**" not in word)
patterns = st.lists(st.one_of(words, st.just("**")), min_size=1, max_size=4).map("/".join)
paths = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4).map("/".join)


def slow(pattern: str) -> re.Pattern[str]:
    """The same as a regular expression, which may take for ever."""
    text = ""
    parts = pattern.split("/")
    for at, part in enumerate(parts):
        last = at == len(parts) - 1
        if part == "**":
            text += "(?:[^/]+/)*[^/]+" if last else "(?:[^/]+/)*"
        else:
            text += "".join({"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c)) for c in part)
            text += "" if last else "/"
    return re.compile(text)


@given(patterns, paths)
def test_as_a_regular_expression_says(pattern: str, path: str) -> None:
    assert Pattern(pattern).matches(Key(path.encode())) == (slow(pattern).fullmatch(path) is not None)


def test_a_pattern_made_to_take_long_does_not() -> None:
    began = time.perf_counter()
    assert not Pattern("*a" * 30 + "b").matches(Key(b"a" * 255))
    assert not Pattern("**/a/" * 20 + "b").matches(Key(b"a/" * 1000 + b"a"))
    assert time.perf_counter() - began < 1
