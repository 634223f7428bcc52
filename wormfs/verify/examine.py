"""Looking at one file: what is there against what its record says, and what was known of it before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wormfs.backends.base import Backend, Reader, Scrubbable
from wormfs.clock import timestamp
from wormfs.errors import DigestMismatch, NotFound, Unavailable, WormfsError
from wormfs.model import ROOT, Finding, FindingKind, Key, Kind, ObjectInfo, Record
from wormfs.verify.catalog import Due, Known, Noted, known_of
from wormfs.verify.reading import Digester, Stopped

_LOOKS: Final = 3
"""A file that is replaced while it is read is looked at again, so many times in all."""


class Examiner:
    """Looks at the files of one backend; safe from any thread."""

    def __init__(self, backend: Backend, digester: Digester, *, accept: bool = False):
        """``accept``: a file whose record is another one than before is taken as it is from now on."""
        self._backend = backend
        self._open = scrubbing(backend)
        self._digester = digester
        self._accept = accept

    def examine(self, due: Due) -> Noted:
        """What came of it. Blocks. Raises Unavailable when the backend cannot be reached, Stopped."""
        if self._digester.stopped:
            raise Stopped
        try:
            return self._examine(due)
        except Unavailable as error:
            # The backend, or only this file? If it does not answer at all, nothing can be said of any file.
            self._backend.stat(ROOT)
            return _unreadable(due.key, error)

    def _examine(self, due: Due) -> Noted:
        for look in range(1, _LOOKS + 1):
            try:
                info = self._backend.stat(due.key)
            except NotFound:
                return Noted(due.key, gone=True)
            except Unavailable:
                raise
            except WormfsError as error:
                return _unreadable(due.key, error)
            if info.kind is not Kind.FILE:
                return Noted(due.key, gone=True)
            noted = self._look(due, info)
            if noted.whole or look == _LOOKS or not self._changed(info):
                return noted
        raise AssertionError("the loop ends with a return")

    def _changed(self, info: ObjectInfo) -> bool:
        try:
            now = self._backend.stat(info.key)
        except WormfsError:
            return True
        return _identity(now) != _identity(info)

    def _look(self, due: Due, info: ObjectInfo) -> Noted:
        record, problem = self._record(due.key)
        expected = due.known if record is None else known_of(record)
        if record is None and expected is None:
            kind = FindingKind.UNREADABLE if problem else FindingKind.UNRECORDED
            return _finding(due.key, kind, problem or "wormfs did not write it: it has no record")
        assert expected is not None
        return self._compare(due, info, expected, record, problem)

    def _record(self, key: Key) -> tuple[Record | None, str]:
        """The record, or why it cannot be read."""
        try:
            return self._backend.record(key), ""
        except Unavailable:
            raise
        except WormfsError as error:
            return None, f"its record cannot be read: {_plain(error)}"

    def _compare(
        self, due: Due, info: ObjectInfo, expected: Known, record: Record | None, problem: str
    ) -> Noted:
        if info.size_bytes != expected.size_bytes:
            return _altered(due.key, f"it has {info.size_bytes} bytes; recorded are {expected.size_bytes}")
        try:
            size_bytes, sha256 = self._digest(info)
        except NotFound as error:
            return _damaged(
                due.key, FindingKind.MISSING, f"its name is there, its bytes are not: {_plain(error)}"
            )
        except DigestMismatch as error:
            return _altered(due.key, _plain(error))
        except Unavailable:
            raise
        except WormfsError as error:
            return _unreadable(due.key, error)
        if (size_bytes, sha256) != (expected.size_bytes, expected.sha256):
            noted = _altered(due.key, _difference(size_bytes, sha256, expected))
        elif record is None:
            noted = self._without_record(due.key, problem)
        else:
            noted = self._against_memory(due, expected, record)
        noted.read_bytes = size_bytes
        return noted

    def _digest(self, info: ObjectInfo) -> tuple[int, str]:
        reader = self._open(info)
        try:
            return self._digester.digest(reader, info.size_bytes)
        finally:
            reader.close()

    def _without_record(self, key: Key, problem: str) -> Noted:
        if problem:
            return _finding(key, FindingKind.UNREADABLE, f"{problem}; its bytes are those that were recorded")
        return _finding(
            key, FindingKind.UNRECORDED, "its record was removed; its bytes are those that were recorded"
        )

    def _against_memory(self, due: Due, now: Known, record: Record) -> Noted:
        """Bytes and record fit together. Were both replaced since an earlier verification?"""
        if due.known is None or due.known == now:
            return Noted(due.key, whole=now)
        detail = (
            f"bytes and record were both replaced: verified before were {due.known.size_bytes} bytes with "
            f"SHA-256 {due.known.sha256}; the record is now of {timestamp(record.committed_at_ns)}"
        )
        if self._accept:
            finding = Finding(FindingKind.ALTERED, due.key, f"{detail} (accepted)")
            return Noted(due.key, whole=now, finding=finding)
        return _altered(due.key, detail)


def scrubbing(backend: Backend) -> Callable[[ObjectInfo], Reader]:
    """Opens files going around caches as far as the driver can. Raises what ``open`` raises."""
    return backend.open_to_scrub if isinstance(backend, Scrubbable) else backend.open


def _identity(info: ObjectInfo) -> tuple[object, ...]:
    return info.kind, info.size_bytes, info.mtime_ns, info.ctime_ns, info.version


def _difference(size_bytes: int, sha256: str, expected: Known) -> str:
    if size_bytes != expected.size_bytes:
        return f"{size_bytes} bytes can be read; recorded are {expected.size_bytes}"
    return f"its SHA-256 is {sha256}; recorded is {expected.sha256}"


def _finding(key: Key, kind: FindingKind, detail: str) -> Noted:
    return Noted(key, finding=Finding(kind, key, detail))


def _damaged(key: Key, kind: FindingKind, detail: str) -> Noted:
    return Noted(key, finding=Finding(kind, key, detail), damaged=True)


def _altered(key: Key, detail: str) -> Noted:
    return _damaged(key, FindingKind.ALTERED, detail)


def _unreadable(key: Key, error: WormfsError) -> Noted:
    return _finding(key, FindingKind.UNREADABLE, _plain(error))


def _plain(error: WormfsError) -> str:
    """The message without backend and file, which a finding names itself."""
    return error.args[0] if error.args and isinstance(error.args[0], str) and error.args[0] else str(error)
