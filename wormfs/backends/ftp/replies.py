"""Replies of a server, and what their codes mean (RFC 959, section 4.2). Never told apart by their text."""

from __future__ import annotations

from dataclasses import dataclass

from wormfs.errors import (
    AccessDenied,
    BackendFault,
    InvalidName,
    OutOfSpace,
    Unavailable,
    Unsupported,
    WormfsError,
)

_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Reply:
    """The three digits, and the text with them, for people."""

    code: int
    text: str

    @property
    def good(self) -> bool:
        """2xx: done."""
        return 200 <= self.code < 300

    @property
    def refused(self) -> bool:
        """5xx: the same again would end the same."""
        return self.code >= 500

    @property
    def shown(self) -> str:
        """For a message: one line of limited length that prints."""
        line = " ".join(self.text.split())[:_SHOWN_CHARACTERS]
        return "".join(c if c.isprintable() else "?" for c in line)


def parse(text: str) -> Reply:
    """Raises ValueError for what is no reply."""
    code = text[:3]
    if len(code) != 3 or not (code.isascii() and code.isdigit()) or text[3:4] not in ("", " ", "-", "\n"):
        raise ValueError("no reply of FTP")
    return Reply(int(code), text)


_MEANINGS: tuple[tuple[frozenset[int], type[WormfsError]], ...] = (
    (frozenset({452, 552}), OutOfSpace),
    (frozenset({421, 425, 426, 434, 450, 451}), Unavailable),
    (frozenset({331, 332, 530, 532, 533, 534, 550, 553}), AccessDenied),
    (frozenset({501}), InvalidName),
    (frozenset({502, 504, 522}), Unsupported),
)


def failure(
    reply: Reply, backend: str, key: bytes | None, doing: str, *, storing: bool = False
) -> WormfsError:
    """The error of the tree that a reply stands for.

    Args:
        doing: what was being done, to complete "could not …".
        storing: bytes were on their way to the server's disk; then "local error" means that it took no more.
    """
    meaning: type[WormfsError] = BackendFault
    for codes, candidate in _MEANINGS:
        if reply.code in codes:
            meaning = candidate
    if storing and reply.code == 451:
        meaning = OutOfSpace
    return meaning(f"could not {doing}: the server says: {reply.shown}", backend=backend, key=key)
