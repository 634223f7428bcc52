"""The drivers that the contract is tried on. A further driver is one more ``Storage`` in ``STORAGES``.

A storage stands for the place where objects lie, seen without wormfs: it makes backends that
share it (one per thread of "other hosts", or per process: it can be pickled), and reads and
writes behind their backs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from tests.conformance import storages_ftp, storages_moodle, storages_s3
from wormfs.backends import registry
from wormfs.backends.base import Backend
from wormfs.model import FileAttributes, Key, ObjectInfo, Record, Retention

Test = TypeVar("Test", bound=Callable[..., Any])
NOW_NS = 1_700_000_000_123_456_789
S = 1_000_000_000
RETAIN_NS = NOW_NS // S * S
"""A date that is over long ago, in whole seconds as dates are."""
ATTRIBUTES = FileAttributes(0o640, 33, 33, NOW_NS - 5_000_000_001, NOW_NS - 7_000_000_003)


class Storage(Protocol):
    """One place where a driver keeps objects, made for one test."""

    def backend(self) -> Backend:
        """A new backend on this storage, not started."""
        ...

    def plain(self, key: Key) -> bytes:
        """The bytes under ``key``, read with no wormfs in sight."""
        ...

    def place_foreign(self, key: Key, content: bytes) -> None:
        """Put a file there that wormfs did not write."""
        ...

    def alter(self, key: Key, content: bytes) -> None:
        """Behind wormfs's back, as far as the storage lets anybody: other bytes under ``key``."""
        ...

    def lose(self, key: Key) -> None:
        """Behind wormfs's back: the file is gone, record and all."""
        ...

    def visible(self) -> set[bytes]:
        """Every path in the storage but wormfs's hidden ones."""
        ...

    def spool(self) -> Path:
        """Where spool files must lie."""
        ...

    def rounds(self, full: int) -> int:
        """How often a test that repeats itself ``full`` times on a disk should do so here."""
        ...

    def remove(self) -> None:
        """Everything away, immutable or not."""
        ...


@dataclass(frozen=True)
class LocalStorage:
    """A local directory."""

    top: Path
    immutable: bool = False

    @property
    def root(self) -> Path:
        return self.top / "data"

    def backend(self) -> Backend:
        self.root.mkdir(exist_ok=True)
        return registry.create("archive", "local", {"path": str(self.root), "immutable": self.immutable})

    def path_of(self, key: Key) -> Path:
        return self.root / os.fsdecode(key)

    def plain(self, key: Key) -> bytes:
        return self.path_of(key).read_bytes()

    def place_foreign(self, key: Key, content: bytes) -> None:
        self.path_of(key).write_bytes(content)

    def alter(self, key: Key, content: bytes) -> None:
        self._thaw(key)
        # In place: record and times stay.
        status = self.path_of(key).stat()
        self.path_of(key).write_bytes(content)
        os.utime(self.path_of(key), ns=(status.st_atime_ns, status.st_mtime_ns))

    def lose(self, key: Key) -> None:
        self._thaw(key)
        self.path_of(key).unlink()

    def _thaw(self, key: Key) -> None:
        if self.immutable:
            subprocess.run(["chattr", "-i", self.path_of(key)], check=True)

    def visible(self) -> set[bytes]:
        names: set[bytes] = set()
        for folder, folders, files in os.walk(os.fsencode(self.root)):
            folders[:] = [name for name in folders if not name.startswith(b".wormfs")]
            names.update(os.path.join(folder, name) for name in folders + files)
        return names

    def spool(self) -> Path:
        spool = self.root / ".wormfs" / "spool" / "0123456789abcdef"
        spool.mkdir(parents=True, exist_ok=True)
        return spool

    def rounds(self, full: int) -> int:
        return full

    def remove(self) -> None:
        subprocess.run(["chattr", "-R", "-i", str(self.top)], check=False, capture_output=True)
        shutil.rmtree(self.top)


STORAGES: dict[str, Callable[[Path], Storage]] = {
    "local": LocalStorage,
    "local-immutable": lambda top: LocalStorage(top, immutable=True),
    "moodle-postgresql": storages_moodle.postgresql,
    "moodle-mariadb": storages_moodle.mariadb,
    "proftpd": storages_ftp.proftpd,
    "pureftpd": storages_ftp.pureftpd,
    "pyftpdlib": storages_ftp.pyftpdlib,
    "vsftpd": storages_ftp.vsftpd,
    "vsftpd-once": storages_ftp.vsftpd_once,
    "moto": storages_s3.moto,
    "seaweedfs": storages_s3.seaweedfs,
    "seaweedfs-locked": storages_s3.seaweedfs_locked,
}


FINAL = frozenset({"vsftpd-once"})
"""Storages from which nothing can be removed. What they say to who tries is in tests/ftp/test_once.py."""


def removing(test: Test) -> Test:
    """For a test that erases or removes: it does not run over ``FINAL``."""
    test.__dict__["removing"] = True
    return test


def make_record(
    content: bytes, *, attributes: FileAttributes = ATTRIBUTES, retention: Retention | None = None
) -> Record:
    """A record of a new attempt to store ``content``."""
    return Record(
        entry_id=secrets.token_hex(16),
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        attributes=attributes,
        committed_at_ns=NOW_NS,
        writer_uid=33,
        wormfs_version="0.1.0",
        retention=retention or Retention(RETAIN_NS),
    )


@contextlib.contextmanager
def spooled(storage: Storage, content: bytes) -> Iterator[BinaryIO]:
    """A spool file with ``content``, as the spool hands it to a driver."""
    path = storage.spool() / secrets.token_hex(16)
    with path.open("w+b", buffering=0) as file:
        file.write(content)
        try:
            yield file
        finally:
            # An immutable publish takes the spool's name away itself.
            path.unlink(missing_ok=True)


def store(
    storage: Storage, backend: Backend, key: Key, content: bytes, record: Record | None = None
) -> ObjectInfo:
    """One file all the way, as the spool does it."""
    record = record or make_record(content)
    with spooled(storage, content) as file:
        transfer = backend.begin(key)
        transfer.advance(file, len(content))
        transfer.prepare(file, record)
        os.fsync(file.fileno())
        return transfer.publish(file, record)
