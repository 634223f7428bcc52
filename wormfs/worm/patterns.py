"""Path patterns of settings: which files a rule is for. Pure; linear in the length of the path.

A pattern stands for whole paths below the backend's directory: ``*`` and ``?`` for characters of one name,
``**`` as a name for any number of directories. ``exams/**`` is everything below ``exams``,
``**/*.zip`` every zip file anywhere, ``*.zip`` only those at the top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from wormfs.errors import InvalidArgument
from wormfs.model import Key

_T = TypeVar("_T")

_ANY_NAMES = b"**"
_STAR = ord("*")
_ONE = ord("?")


class Pattern:
    """One pattern, ready to be asked."""

    def __init__(self, text: str) -> None:
        """Raises InvalidArgument for what can match no path."""
        names = text.encode("utf-8", "surrogateescape").split(b"/")
        if not all(names):
            raise InvalidArgument(f"{text!r} has an empty name in it: write exams/** without / at the ends")
        if any(_ANY_NAMES in name and name != _ANY_NAMES for name in names):
            raise InvalidArgument(f"{text!r}: '**' stands for whole directories: write exams/**/*.zip")
        self.text = text
        # At the end it is everything below: directories, and a name in them.
        self._names = [*names, b"*"] if names[-1] == _ANY_NAMES else names

        encoded = b"/".join(names)
        wild = [at for at, byte in enumerate(encoded) if byte in (_STAR, _ONE)]
        # What stands before the first wildcard, and what after the last; a '**' may stand for nothing at all.
        self._head = encoded[: wild[0]] if wild else encoded
        self._tail = encoded[wild[-1] + 1 :].removeprefix(b"/") if wild else encoded

    def matches(self, key: Key) -> bool:
        """Whether the pattern stands for ``key``. Most paths are told by their beginning or end alone."""
        if not key.startswith(self._head) or not key.endswith(self._tail):
            return False
        return _matches(self._names, key.split(b"/"), _ANY_NAMES.__eq__, _name_matches)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def _name_matches(pattern: bytes, name: bytes) -> bool:
    if _STAR not in pattern and _ONE not in pattern:
        return pattern == name
    # '?' stands for a character, not for a byte, where the name is text.
    wanted, given = (one.decode("utf-8", "surrogateescape") for one in (pattern, name))
    return _matches(wanted, given, "*".__eq__, lambda one, character: one in ("?", character))


def _matches(
    pattern: Sequence[_T], text: Sequence[_T], any_number: Callable[[_T], bool], one: Callable[[_T, _T], bool]
) -> bool:
    """The textbook match with wildcards: goes back to the last wildcard only, so never exponential."""
    at = here = 0
    star, resume = -1, 0
    while here < len(text):
        if at < len(pattern) and any_number(pattern[at]):
            star, resume = at, here
            at += 1
        elif at < len(pattern) and one(pattern[at], text[here]):
            at += 1
            here += 1
        elif star >= 0:
            resume += 1
            at, here = star + 1, resume
        else:
            return False
    return all(any_number(item) for item in pattern[at:])
