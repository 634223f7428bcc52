"""What may be a name: the same rules on the way in and, for what backends list, on the way out."""

from __future__ import annotations

from wormfs.backends.base import RESERVED_PREFIX, Backend
from wormfs.errors import InvalidName, NameTooLong
from wormfs.model import Key, child

MAX_NAME_BYTES = 255


def hidden(name: bytes) -> bool:
    """Names that belong to wormfs itself and do not exist for users."""
    return name.startswith(RESERVED_PREFIX)


def new_key(backend: Backend, parent: Key, name: bytes) -> Key:
    """The key for a name that is about to be made.

    Raises InvalidName or NameTooLong: nothing is ever renamed silently.
    """
    if len(name) > min(MAX_NAME_BYTES, backend.traits.max_name_bytes):
        raise NameTooLong("the name is longer than the backend can hold", backend=backend.name, key=name)
    if hidden(name):
        raise InvalidName(
            f"names that begin with {RESERVED_PREFIX.decode()} belong to wormfs",
            backend=backend.name,
            key=name,
        )
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise InvalidName("this cannot be a name", backend=backend.name, key=name)
    backend.validate(name)
    key = child(parent, name)
    if len(key) > backend.traits.max_key_bytes:
        raise NameTooLong("the path is longer than the backend can hold", backend=backend.name, key=key)
    return key
