"""Publishing by ``link(2)``: the spool file becomes the committed file, without a copy.

The order is what makes it safe. ``prepare`` puts the record onto the spool file; the spool syncs
it; ``publish`` links it, so data and record appear in one step or not at all; the directory is
synced; only then it is done. Whatever a crash leaves of this, ``publish`` again finishes.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from wormfs import durability
from wormfs.backends.local import immutable, stored, tree
from wormfs.errors import AlreadyExists, BackendFault, IsADirectory, NotFound
from wormfs.model import Key, ObjectInfo, Record
from wormfs.oserrors import translated


@dataclass(frozen=True, slots=True)
class Target:
    """What a transfer needs of its backend."""

    name: str
    root_fd: Callable[[], int]
    wants_immutable: bool
    complaints: stored.Complaints


class LocalTransfer:
    """A ``Transfer`` to one key of a local backend. Holds no descriptor, so it needs no end."""

    __slots__ = ("_key", "_target")

    def __init__(self, target: Target, key: Key) -> None:
        self._target = target
        self._key = key

    def advance(self, spooled: BinaryIO, ready_bytes: int) -> None:
        """The bytes already are where they belong."""

    def abort(self) -> None:
        """Nothing is at the backend before ``publish``."""

    def prepare(self, spooled: BinaryIO, record: Record) -> None:
        """See ``Transfer.prepare``. OutOfSpace also when the xattrs do not fit beside each other."""
        try:
            stored.dress(spooled.fileno(), record, self._target.complaints)
        except OSError as error:
            raise self._translated(error, "set attributes and record") from error
        durability.step("local.prepared")

    def publish(self, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        """See ``Transfer.publish``. With ``immutable`` the spool's name of the file is gone after it."""
        try:
            with tree.opened_parent(self._target.root_fd(), self._key) as (directory_fd, name):
                if spooled is None or os.fstat(spooled.fileno()).st_nlink == 0:
                    return self._finish(directory_fd, name, None, record)
                try:
                    durability.publish_link(spooled.fileno(), name, directory_fd)
                except FileExistsError:
                    return self._finish(directory_fd, name, spooled, record)
                durability.step("local.linked")
                return self._make_lasting(directory_fd, spooled.fileno(), spooled, record)
        except OSError as error:
            raise self._translated(error, "publish") from error

    def _finish(self, directory_fd: int, name: bytes, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        """The name is taken, or must be: by this very record, or the publish failed."""
        try:
            fd = tree.open_file(directory_fd, name)
        except (IsADirectory, IsADirectoryError) as error:
            raise self._taken("a directory") from error
        except NotFound as error:
            raise self._taken("something that is no file") from error
        except OSError as error:
            # A symbolic link has a name, too; whatever cannot be looked into is not known as ours.
            if error.errno == errno.ELOOP:
                raise self._taken("a symbolic link") from error
            raise
        try:
            if not _holds(fd, record, self._target.name):
                raise self._taken("another file")
            return self._make_lasting(directory_fd, fd, spooled, record)
        finally:
            os.close(fd)

    def _make_lasting(
        self, directory_fd: int, fd: int, spooled: BinaryIO | None, record: Record
    ) -> ObjectInfo:
        """Make the new name durable and the file immutable, then look whether all of it is so."""
        durability.sync_directory(directory_fd)
        durability.step("local.directory-synced")
        if self._target.wants_immutable:
            self._make_immutable(fd, spooled)
        status = os.stat(self._key, dir_fd=self._target.root_fd(), follow_symlinks=False)
        mine = os.fstat(fd)
        info = tree.info_of(self._key, status)
        if (
            info is None
            or (status.st_ino, status.st_dev) != (mine.st_ino, mine.st_dev)
            or status.st_size != record.size_bytes
        ):
            raise BackendFault(
                f"after publishing, the name does not hold the file of {record.size_bytes} bytes that was "
                f"linked to it (found: {status.st_size} bytes): did something else change the tree?",
                backend=self._target.name,
                key=self._key,
            )
        return info

    def _make_immutable(self, fd: int, spooled: BinaryIO | None) -> None:
        """chattr +i. The spool's name must go first: nothing can unlink it afterwards."""
        try:
            if spooled is not None and os.fstat(fd).st_nlink > 1:
                # After a crash in the middle the flag may be there already, and in the way.
                immutable.make_mutable(fd)
                _unlink_spool_name(spooled, fd)
            if not immutable.make_immutable(fd):
                return
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            self._target.complaints.say_once(
                f"files are read-only but not immutable, because chattr +i is not possible here "
                f"({os.strerror(error.errno)}; it needs CAP_LINUX_IMMUTABLE and a file system that knows it)"
            )
            return
        durability.sync_file(fd)
        durability.step("local.immutable-set")

    def _taken(self, by: str) -> AlreadyExists:
        return AlreadyExists(f"the name is taken by {by}", backend=self._target.name, key=self._key)

    def _translated(self, error: OSError, doing: str) -> Exception:
        return translated(error, self._target.name, self._key, doing)


def _holds(fd: int, record: Record, backend: str) -> bool:
    """Whether the open file was published from this very record (its retention may have grown)."""
    if os.fstat(fd).st_size != record.size_bytes:
        return False
    with contextlib.suppress(BackendFault):
        found = stored.read_record(fd)
        return found is not None and (found.entry_id, found.sha256, found.size_bytes) == (
            record.entry_id,
            record.sha256,
            record.size_bytes,
        )
    # A record that cannot be understood is not ours.
    return False


def _unlink_spool_name(spooled: BinaryIO, fd: int) -> None:
    """Remove the spool's name of the file ``fd``, durably, if it still is a name of that file."""
    path = os.readlink(os.fsencode(f"/proc/self/fd/{spooled.fileno()}"))
    try:
        status = os.stat(path, follow_symlinks=False)
        mine = os.fstat(fd)
        if (status.st_ino, status.st_dev) != (mine.st_ino, mine.st_dev):
            return
        durability.unlink(path)
    except FileNotFoundError:
        return
    durability.sync_directory_path(os.path.dirname(path))
