"""From keys to paths at the server and back; which names a server can hold exactly.

Below the configured path::

    job-1/exam.zip                 a committed file, plain
    .wormfs/s/<token>/             a file on its way: data and meta
    .wormfs/c/<sha256 of the key>/ a claim: meta for ever, data until it is published, r000001… for changes
    .wormfs/e/<sha256>-<token>/    a claim that is being erased or withdrawn
"""

from __future__ import annotations

import enum
import hashlib
import secrets
from typing import Final

from wormfs.backends.base import RESERVED_PREFIX
from wormfs.errors import InvalidName, NameTooLong
from wormfs.model import Key

MAX_NAME_BYTES: Final = 255
MAX_KEY_BYTES: Final = 1000
"""Command lines of servers end at 2,048 bytes (pyftpdlib) to 4,096, and a root comes before."""
_CONTROL: Final = frozenset((*range(1, 32), 127)) - {10, 13}
_TELNET_ESCAPE: Final = 0xFF
"""RFC 959, section 4 (RFC 854): proftpd takes it as that, others as a byte like any; UTF-8 has none."""
_NEVER: Final = frozenset(b"\r\n\0")
CHECK_KEY: Final = Key(b".wormfs/check/object")
"""The claim of ``wormfs check``; no path of the mount can have it."""


class Ability(enum.Enum):
    """Names of one kind that some servers mangle, with one that shows it."""

    LEADING_SPACE = b" x"
    TRAILING_SPACE = b"x "
    BACKSLASH = b"x\\y"
    TILDE = b"~"
    TILDE_NAME = b"~x"
    CONTROL = b"x" + bytes(sorted(_CONTROL)) + b"y"
    WILDCARDS = b"[*?]{a,b}"
    QUOTES = b"quote'\"`$;&"
    DASH = b"-rf"
    NOT_UTF8 = b"x\xfc\xe9y"
    BARE_HIGH = b"\x80"
    TRAILING_DOT = b"x."
    ARROW = b"a -> b"


ALL_ABILITIES: Final = frozenset(Ability)


def needs(name: bytes) -> frozenset[Ability]:
    """What a server must be able to do to hold ``name`` exactly."""
    wanted = {
        Ability.LEADING_SPACE: name.startswith(b" "),
        Ability.TRAILING_SPACE: name.endswith(b" "),
        Ability.BACKSLASH: b"\\" in name,
        Ability.TILDE: name == b"~",
        Ability.TILDE_NAME: name.startswith(b"~"),
        Ability.CONTROL: not _CONTROL.isdisjoint(name),
        Ability.WILDCARDS: any(byte in b"[*?]{}" for byte in name),
        Ability.QUOTES: any(byte in b"'\"`$;&|<>" for byte in name),
        Ability.DASH: name.startswith(b"-"),
        Ability.NOT_UTF8: not _is_utf8(name),
        Ability.BARE_HIGH: not _is_utf8(name),
        Ability.TRAILING_DOT: name.endswith(b"."),
        Ability.ARROW: b" -> " in name,
    }
    return frozenset(ability for ability, needed in wanted.items() if needed)


class Names:
    """The paths of one backend."""

    def __init__(self, backend: str, path: str, encoding: str) -> None:
        """``path``: of the root at the server, without a slash at the end. ``encoding``: of its names."""
        self._backend = backend
        self._encoding = encoding
        self._root = path.encode(encoding)
        self.abilities = ALL_ABILITIES

    # Keys

    def validate(self, name: bytes) -> None:
        """Raise InvalidName or NameTooLong for a component that this server cannot hold exactly."""
        if not _NEVER.isdisjoint(name):
            raise InvalidName("FTP cannot carry CR, LF or NUL in a name", backend=self._backend, key=name)
        outward = self._outward(name)
        if _TELNET_ESCAPE in outward:
            raise InvalidName(
                "the byte 0xff begins a command of Telnet, which FTP is spoken over",
                backend=self._backend,
                key=name,
            )
        if max(len(name), len(outward)) > MAX_NAME_BYTES:
            raise NameTooLong(f"a name may have {MAX_NAME_BYTES} bytes", backend=self._backend, key=name)
        missing = needs(name) - self.abilities
        if missing:
            kinds = ", ".join(sorted(ability.name.lower().replace("_", " ") for ability in missing))
            raise InvalidName(
                f"this server does not keep such names as they are ({kinds})", backend=self._backend, key=name
            )

    def checked(self, key: Key) -> bytes:
        """The path of ``key``. Raises InvalidName, NameTooLong; guards the layers' mistakes, too."""
        if len(key) > MAX_KEY_BYTES:
            raise NameTooLong(f"a path may have {MAX_KEY_BYTES} bytes", backend=self._backend, key=key)
        for component in key.split(b"/") if key else ():
            if component in (b"", b".", b"..") or component.startswith(RESERVED_PREFIX):
                raise InvalidName("such a name cannot be in a backend", backend=self._backend, key=key)
            self.validate(component)
        return self.path(key)

    def path(self, key: bytes) -> bytes:
        """The path at the server, without looking at the key."""
        if not key:
            return self._root or b"/"
        return self._root + b"/" + self._outward(key)

    def inward(self, name: bytes) -> bytes | None:
        """A name from the server as the mount shows it; ``None`` for one that no key can have."""
        if self._encoding == "utf-8":
            return name
        try:
            return name.decode(self._encoding).encode()
        except UnicodeError:
            return None

    def _outward(self, name: bytes) -> bytes:
        if self._encoding == "utf-8":
            return name
        try:
            return name.decode().encode(self._encoding)
        except UnicodeError:
            raise InvalidName(
                f"the name cannot be written in the server's encoding {self._encoding}",
                backend=self._backend,
                key=name,
            ) from None

    # wormfs's own places

    def hidden(self, *parts: bytes) -> bytes:
        """A path below ``.wormfs``."""
        return b"/".join((self._root + b"/" + RESERVED_PREFIX, *parts))

    def staging(self) -> bytes:
        """A new place for a file on its way."""
        return self.hidden(b"s", token())

    def claim(self, key: Key) -> bytes:
        """The claim of a key."""
        return self.hidden(b"c", claim_name(key))

    def leaving(self, key: Key) -> bytes:
        """A new place for a claim that goes."""
        return self.hidden(b"e", claim_name(key) + b"-" + token())


def claim_name(key: Key) -> bytes:
    """What the claim of ``key`` is called."""
    return hashlib.sha256(key).hexdigest().encode()


def token() -> bytes:
    """A name that nobody else uses."""
    return secrets.token_hex(16).encode()


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
