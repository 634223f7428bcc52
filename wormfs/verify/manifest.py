"""A manifest of SHA-256 as GNU ``sha256sum --check`` takes it, out of the records alone."""

from __future__ import annotations

from wormfs.model import Key

_ESCAPES = ((b"\\", b"\\\\"), (b"\n", b"\\n"), (b"\r", b"\\r"))


def line(key: Key, sha256: str) -> bytes:
    """The line of one file, its end included.

    Source: GNU coreutils, "cksum output modes": a name with a backslash, newline or carriage return has these
    escaped, and the line begins with a backslash. The name ``-`` would stand for the standard input.
    """
    name: bytes = b"./-" if key == b"-" else key
    escaped = name
    for plain, written in _ESCAPES:
        escaped = escaped.replace(plain, written)
    mark = b"\\" if escaped != name else b""
    return mark + sha256.encode() + b"  " + escaped + b"\n"
