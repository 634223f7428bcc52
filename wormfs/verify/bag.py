"""A BagIt bag (RFC 8493) out of the files of a backend: the only place that knows the ``bagit`` library.

Each file is compared with its record while it is copied; the library then reads the copies once more for its
manifest, which is compared with the records again. So a bag that is whole holds exactly what was recorded.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from wormfs import durability
from wormfs.backends.base import Backend
from wormfs.errors import (
    AlreadyExists,
    BackendFault,
    DigestMismatch,
    InvalidName,
    Unsupported,
)
from wormfs.model import Key, ObjectInfo, Record, name_of
from wormfs.oserrors import translating
from wormfs.verify.examine import scrubbing
from wormfs.verify.reading import BLOCK_BYTES
from wormfs.verify.walk import files_below

_UNSAFE: Final = re.compile(r"[\r\n]|%0[ad]", re.IGNORECASE)
"""What the library writes into a manifest and reads back as something else."""

Progress = Callable[[int, int], None]
"""Told of files and bytes as they are copied."""


class Exporter:
    """Copies one tree of a backend into a new directory and makes a bag of it. Every method blocks."""

    def __init__(self, backend: Backend, scope: Key, destination: Path, progress: Progress):
        """Raises Unsupported where the library is not installed."""
        self._backend = backend
        self._open = scrubbing(backend)
        self._scope = scope
        self._destination = destination
        self._progress = progress
        self._bagit = _library()
        self._expected: dict[str, str] = {}
        """By path in the bag: the SHA-256 of the record."""

    def totals(self) -> tuple[int, int]:
        """Number and bytes of the files. Raises NotFound, InvalidName for a name that a bag cannot hold."""
        files = size_bytes = 0
        for info in files_below(self._backend, self._scope):
            _bag_name(self._backend.name, info.key, self._scope)
            files += 1
            size_bytes += info.size_bytes
        return files, size_bytes

    def export(self, description: str) -> None:
        """Make the bag, or leave nothing. On stable storage when it returns.

        Raises AlreadyExists for a destination that is there and not empty, DigestMismatch for a file that is
        not what its record says, Unsupported for one without a record, and what drivers and disks say.
        """
        made = self._make_destination()
        try:
            for info in files_below(self._backend, self._scope):
                self._copy(info)
            bag = self._bagit.make_bag(
                os.fspath(self._destination),
                {"External-Description": description},
                checksums=["sha256"],
            )
            self._check(bag)
            _sync_tree(self._destination)
        except BaseException:
            _remove(self._destination, itself=made)
            raise

    def _make_destination(self) -> bool:
        """Whether it was made now."""
        with translating(self._backend.name, None, f"make {self._destination}"):
            try:
                self._destination.mkdir(mode=0o700)
            except FileExistsError as error:
                if not self._destination.is_dir() or any(self._destination.iterdir()):
                    raise AlreadyExists(
                        f"{self._destination} is there already: name a new directory"
                    ) from error
                return False
            return True

    def _copy(self, info: ObjectInfo) -> None:
        key, name = info.key, self._backend.name
        record = self._backend.record(key)
        if record is None:
            raise Unsupported(
                "it has no record to check it against, so it is not exported", backend=name, key=key
            )
        inside = _bag_name(name, key, self._scope)
        target = self._destination / inside
        with translating(name, key, f"write {target}"):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with target.open("xb") as file:
                self._copy_bytes(info, record, file.write)
                os.fchmod(file.fileno(), record.attributes.mode & 0o777 | 0o600)
            os.utime(target, ns=(record.attributes.atime_ns, record.attributes.mtime_ns))
        self._expected[f"data/{inside}"] = record.sha256
        self._progress(1, 0)

    def _copy_bytes(self, info: ObjectInfo, record: Record, write: Callable[[bytes], int]) -> None:
        digest = hashlib.sha256()
        offset = 0
        with contextlib.closing(self._open(info)) as reader:
            while block := reader.read(offset, BLOCK_BYTES):
                digest.update(block)
                write(block)
                offset += len(block)
                self._progress(0, len(block))
        if (offset, digest.hexdigest()) != (record.size_bytes, record.sha256):
            raise DigestMismatch(
                f"it is not what its record says ({offset} bytes, SHA-256 {digest.hexdigest()}; recorded are "
                f"{record.size_bytes}, {record.sha256}): nothing was exported; "
                "'wormfs verify' finds all such files",
                backend=self._backend.name,
                key=info.key,
            )

    def _check(self, bag: Any) -> None:
        """The library's manifest against the records."""
        found = {
            unicodedata.normalize("NFC", path): digests.get("sha256")
            for path, digests in bag.payload_entries().items()
        }
        expected = {unicodedata.normalize("NFC", path): sha256 for path, sha256 in self._expected.items()}
        if found != expected:
            odd = sorted(
                path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)
            )
            raise BackendFault(
                f"the bag's manifest does not say what the records say of {odd[0]!r} ({len(odd)} such): "
                "nothing was exported"
            )


def _library() -> Any:
    try:
        return importlib.import_module("bagit")
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"BagIt needs a library that is not installed: {sys.prefix}/bin/pip install 'wormfs[export]'"
        ) from error


def _bag_name(backend: str, key: Key, scope: Key) -> str:
    """Where a file stands in the bag, below ``data/``. Raises InvalidName."""
    inside = name_of(key) if key == scope else key[len(scope) + 1 if scope else 0 :]
    try:
        name = inside.decode()
    except UnicodeDecodeError as error:
        raise InvalidName("a bag holds only names that are UTF-8", backend=backend, key=key) from error
    if _UNSAFE.search(name) or name != name.strip():
        raise InvalidName(
            "a bag cannot hold this name exactly: line breaks, %0A, %0D, or spaces at an end",
            backend=backend,
            key=key,
        )
    return name


def _sync_tree(top: Path) -> None:
    """Files and directories, the innermost first."""
    for folder, _, files in os.walk(top, topdown=False):
        for file in files:
            fd = os.open(os.path.join(folder, file), os.O_RDONLY | os.O_CLOEXEC)
            try:
                durability.sync_file(fd)
            finally:
                os.close(fd)
        durability.sync_directory_path(folder)
    durability.sync_directory_path(os.fspath(top.parent))


def _remove(top: Path, *, itself: bool) -> None:
    """What was made goes; the directory that was there before stays."""
    for one in _children(top):
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink()
    if itself:
        top.rmdir()


def _children(top: Path) -> Iterator[Path]:
    yield from list(top.iterdir())
