"""From a wormfs key to a key in the bucket and back, and the names that wormfs keeps for itself.

Exactly prefix + path; nothing is escaped, so that every other tool finds the same names.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from wormfs.backends.base import RESERVED_PREFIX
from wormfs.errors import InvalidName, NameTooLong
from wormfs.model import Key

MAX_KEY_BYTES: Final = 1024
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""
MAX_NAME_BYTES: Final = 255
HIDDEN: Final = RESERVED_PREFIX.decode()
_CHANGED_BY_STORES: Final = re.compile(r"[\x00-\x1f\x7f\\]")
_LAST: Final = 9_999_999_999


class Names:
    """The names of one backend in its bucket."""

    def __init__(self, backend: str, root: str) -> None:
        """``root``: the prefix, empty or ending with a slash."""
        self._backend = backend
        self.root = root
        self.root_bytes = root.encode()
        # A directory's marker has one byte more, its slash.
        self.max_key_bytes = MAX_KEY_BYTES - len(self.root_bytes) - 1
        self.hidden = f"{root}{HIDDEN}/"
        self.max_name_bytes = MAX_NAME_BYTES
        self._forbidden_end: bytes | None = None

    def store_versions_as_files(self) -> None:
        """SeaweedFS keeps the versions of `name` in a directory `name.versions` beside it."""
        self._forbidden_end = b".versions"
        self.max_name_bytes = MAX_NAME_BYTES - len(self._forbidden_end)

    def validate(self, name: bytes) -> None:
        """Raises InvalidName, NameTooLong for a component that no S3 store is sure to hold exactly."""
        if len(name) > self.max_name_bytes:
            raise NameTooLong(
                f"a name may have {self.max_name_bytes} bytes, not {len(name)}",
                backend=self._backend,
                key=name,
            )
        if self._forbidden_end is not None and name.endswith(self._forbidden_end):
            raise InvalidName(
                "names that end so are the store's own in a versioned bucket", backend=self._backend, key=name
            )
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise InvalidName(
                "names in a bucket are UTF-8, and this one is not", backend=self._backend, key=name
            ) from None
        if _CHANGED_BY_STORES.search(text):
            raise InvalidName(
                "a control character or backslash: some stores change or refuse it",
                backend=self._backend,
                key=name,
            )

    def check(self, key: Key) -> None:
        """Raises InvalidName, NameTooLong for a key that is not in the tree or cannot be in the bucket."""
        if not key:
            return
        for part in key.split(b"/"):
            if part in (b"", b".", b"..") or b"\0" in part or part.startswith(RESERVED_PREFIX):
                raise InvalidName("not a name in this tree", backend=self._backend, key=key)
            self.validate(part)
        if len(key) > self.max_key_bytes:
            raise NameTooLong(
                f"a path in this bucket may have {self.max_key_bytes} bytes, not {len(key)}",
                backend=self._backend,
                key=key,
            )

    def of(self, key: Key) -> str:
        """The object's key in the bucket."""
        return self.root + key.decode()

    def attributes(self, key: Key) -> str:
        """What a directory's mode, owner and times are kept with. SeaweedFS keeps no metadata of `name/`."""
        return f"{self.hidden}directory/{digest(key)}"

    def below(self, key: Key) -> str:
        """What the keys of everything in a directory begin with."""
        return f"{self.root}{key.decode()}/" if key else self.root

    def key_of(self, name: str) -> Key | None:
        """The path of a key in the bucket; ``None`` for one that no path can show."""
        key = Key(name.encode()[len(self.root_bytes) :].removesuffix(b"/"))
        try:
            self.check(key)
        except (InvalidName, NameTooLong):
            return None
        return key

    def shows(self, name: str) -> bool:
        """Whether a component of a key in the bucket can be a name in the tree."""
        component = name.encode()
        if component in (b"", b".", b"..") or component.startswith(RESERVED_PREFIX):
            return False
        try:
            self.validate(component)
        except (InvalidName, NameTooLong):
            return False
        return True

    # Hidden objects

    @property
    def check_object(self) -> str:
        return f"{self.hidden}check/object"

    @property
    def proof(self) -> str:
        return f"{self.hidden}proof"

    def probe(self, token: str) -> str:
        return f"{self.hidden}probe/{token}"

    def records(self, key: Key) -> str:
        return f"{self.hidden}record/{digest(key)}/"

    def retentions(self, key: Key) -> str:
        return f"{self.hidden}retention/{digest(key)}/"

    def claims(self, key: Key) -> str:
        return f"{self.hidden}claim/{digest(key)}/"

    def uploads(self, instance: str) -> str:
        return f"{self.hidden}upload/{instance}/"


def digest(key: Key) -> str:
    """A key of any length and bytes as one short name."""
    return hashlib.sha256(key).hexdigest()


def numbered(number: int) -> str:
    """A name for the ``number``-th of a row; a listing gives the highest number first."""
    return f"{_LAST - number:010d}"


def number_of(name: str) -> int:
    """The number of a name that ``numbered`` made. Raises ValueError."""
    return _LAST - int(name.rpartition("/")[2])
