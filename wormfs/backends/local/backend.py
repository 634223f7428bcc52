"""A local directory as a backend.

Data lies plain under its own name, read-only, with its record in an xattr. The root is opened
once; every name is looked up relative to it. Nothing here waits on anything but the disk, so
there is no time limit to keep: a disk that hangs, hangs its threads.

On disk::

    <path>/job-1/exam.zip          a committed file, user.wormfs.record beside the writer's xattrs
    <path>/.wormfs/                0700, hidden
        spool/<instance id>/       the spool of one daemon
        check/object               the test object of `wormfs check`
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping

import wormfs
from wormfs import durability
from wormfs.backends.base import Guarantee, Reader, Traits
from wormfs.backends.local import check, immutable, probe, readonlyview, stored, tree
from wormfs.backends.local.options import LocalOptions, parse
from wormfs.backends.local.reader import Buffers, LocalReader, ScrubReader
from wormfs.backends.local.transfer import LocalTransfer, Target
from wormfs.clock import Clock, SystemClock
from wormfs.errors import (
    AccessDenied,
    AlreadyExists,
    BackendFault,
    InvalidArgument,
    NameTooLong,
    NotADirectory,
    NotFound,
    SettingsError,
    Unavailable,
    Unsupported,
    WormfsError,
)
from wormfs.model import (
    ROOT,
    CheckResult,
    DirectoryAttributes,
    Finding,
    Key,
    ObjectInfo,
    Record,
    RetentionChange,
    Space,
)
from wormfs.oserrors import translated
from wormfs.worm import retention

_NO_CHANGE = DirectoryAttributes()


def create(name: str, options: Mapping[str, object]) -> LocalBackend:
    """For the registry. Raises SettingsError."""
    return LocalBackend(name, parse(name, options))


class LocalBackend:
    """See ``wormfs.backends.base.Backend`` for what each method promises."""

    def __init__(self, name: str, options: LocalOptions, clock: Clock | None = None) -> None:
        self.name = name
        self.path = options.path
        self.wants_immutable = options.immutable
        self.kernel_reads = options.kernel_reads
        self.complaints = stored.Complaints(name)
        self.traits = Traits(
            guarantee=Guarantee.ATOMIC,
            connections=options.connections,
            inline=True,
            keeps_directory_attributes=True,
            spool_on_backend=True,
        )
        self._clock = clock or SystemClock()
        self._buffers = Buffers()
        self._root_fd = -1
        self._view: int | OSError | None = None
        """The root once more, where nothing can be written; or why there is none."""
        self._target = Target(name, self._root, options.immutable, self.complaints)

    # Life

    def start(self) -> None:
        """Open the root and prove what the file system can do. The root is never made here: an
        empty directory where a disk was not mounted would swallow an archive."""
        try:
            root_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Unavailable(
                f"{self.path} does not exist: make the directory, or mount what belongs there",
                backend=self.name,
            ) from error
        except NotADirectoryError as error:
            raise SettingsError(f"{self.path} is not a directory", backend=self.name) from error
        except OSError as error:
            raise translated(error, self.name, None, f"open {self.path}") from error
        try:
            probe.prove_possible(root_fd, self.name, self.path)
        except OSError as error:
            os.close(root_fd)
            raise translated(error, self.name, None, f"try out {self.path}") from error
        except BaseException:
            os.close(root_fd)
            raise
        self.close()
        self._root_fd = root_fd
        if self.kernel_reads:
            try:
                self._view = readonlyview.of(root_fd)
            except OSError as error:
                self._view = error

    def close(self) -> None:
        view, self._view = self._view, None
        if isinstance(view, int):
            os.close(view)
        root_fd, self._root_fd = self._root_fd, -1
        if root_fd >= 0:
            os.close(root_fd)

    def connected_root(self) -> int:
        """For ``check``: the root's descriptor, after ``start`` if it was not called yet."""
        if self._root_fd < 0:
            self.start()
        return self._root()

    def spool_directory(self, instance_id: str) -> str | None:
        return os.path.join(self.path, ".wormfs", "spool", instance_id)

    def check(self, *, light: bool = False) -> Iterator[CheckResult]:
        return check.run(self, check.record_of_object(self._clock.now_ns(), wormfs.__version__))

    def space(self) -> Space:
        try:
            status = os.fstatvfs(self._root())
        except OSError as error:
            raise translated(error, self.name, None, "ask for free space") from error
        unit = status.f_frsize
        return Space(unit * status.f_blocks, unit * status.f_bavail, status.f_files, status.f_favail)

    # Names

    def validate(self, name: bytes) -> None:
        if len(name) > self.traits.max_name_bytes:
            raise NameTooLong(
                f"a name may have {self.traits.max_name_bytes} bytes, not {len(name)}", backend=self.name
            )

    def stat(self, key: Key) -> ObjectInfo:
        tree.reject_unsafe(key, self.name)
        try:
            status = os.stat(key or b".", dir_fd=self._root(), follow_symlinks=False)
        except OSError as error:
            raise translated(error, self.name, key, "look it up") from error
        info = tree.info_of(key, status)
        if info is None:
            raise NotFound("it is neither a file nor a directory", backend=self.name, key=key)
        return info

    def list(self, key: Key) -> tree.Listing:
        tree.reject_unsafe(key, self.name)
        try:
            return tree.Listing(tree.open_directory(self._root(), key), key, self.name)
        except OSError as error:
            raise translated(error, self.name, key, "read the directory") from error

    # Files

    def open(self, info: ObjectInfo) -> LocalReader:
        """NotFound also when the name now holds another file than ``info`` tells of."""
        return LocalReader(self._open_unchanged(info), info.size_bytes, self.name, info.key, self._buffers)

    def open_to_scrub(self, info: ObjectInfo) -> ScrubReader:
        """From the disk, as far as the kernel lets go of what it has in memory."""
        return ScrubReader(self._open_unchanged(info), info.size_bytes, self.name, info.key, self._buffers)

    def file_id(self, reader: Reader) -> tuple[int, int]:
        """Device and inode."""
        assert isinstance(reader, LocalReader)
        return reader.file_id()

    def open_for_kernel(self, reader: Reader) -> int | None:
        """``None`` also for a file on another mount below the root: the view shows none of those."""
        assert isinstance(reader, LocalReader)
        if not isinstance(self._view, int):
            why = self._view.strerror if self._view is not None else "it is not started"
            raise Unsupported(f"no read-only view of {self.path}: {why}", backend=self.name)
        try:
            with tree.opened_parent(self._view, reader.key) as (directory_fd, name):
                fd = tree.open_file(directory_fd, name)
        except (OSError, WormfsError):
            # Gone or replaced in this moment; whoever has opened it reads on through the daemon.
            return None
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) == reader.file_id():
            return fd
        os.close(fd)
        return None

    def _open_unchanged(self, info: ObjectInfo) -> int:
        with self._parent(info.key, "open it") as (directory_fd, name):
            fd = tree.open_file(directory_fd, name or b".")
            status = os.fstat(fd)
            if (status.st_size, status.st_mtime_ns) != (info.size_bytes, info.mtime_ns):
                os.close(fd)
                raise NotFound(
                    "the file was replaced since it was looked up", backend=self.name, key=info.key
                )
            return fd

    def record(self, key: Key) -> Record | None:
        with self._opened_file(key, "read its record") as fd:
            return self._record_of(fd, key)

    def begin(self, key: Key) -> LocalTransfer:
        with self._parent(key, "create it") as (directory_fd, name):
            if _exists(directory_fd, name or b"."):
                raise AlreadyExists("the name is taken", backend=self.name, key=key)
            # Said now, because Moodle would not see it at close.
            if not os.access(b".", os.W_OK | os.X_OK, dir_fd=directory_fd, effective_ids=True):
                raise AccessDenied(
                    f"uid {os.geteuid()} may not write to its directory, or it is read-only",
                    backend=self.name,
                    key=key,
                )
        return LocalTransfer(self._target, key)

    def resume(self, key: Key) -> LocalTransfer:
        with self._parent(key, "create it"):
            return LocalTransfer(self._target, key)

    def change_retention(self, key: Key, change: RetentionChange) -> Record:
        with self._opened_file(key, "change its retention") as fd, self._records_locked():
            record = self._record_of(fd, key)
            if record is None:
                raise Unsupported("wormfs did not write this file", backend=self.name, key=key)
            try:
                wanted = retention.changed(record.retention, change)
            except WormfsError as error:
                error.backend, error.key = self.name, key
                raise
            if wanted != record.retention:
                record = dataclasses.replace(record, retention=wanted)
                stored.replace_record(fd, record)
                durability.sync_file(fd)
            return record

    def erase(self, key: Key, *, early: bool = False) -> None:
        """Besides: BackendFault while another hard link keeps the bytes; nothing is erased then."""
        with self._parent(key, "erase it") as (directory_fd, name):
            fd = tree.open_file(directory_fd, name or b".")
            try:
                links = os.fstat(fd).st_nlink
                if links > 1:
                    raise BackendFault(
                        f"{links - 1} other hard links keep its bytes: remove them first "
                        f"(find them with: find {self.path} -inum {os.fstat(fd).st_ino})",
                        backend=self.name,
                        key=key,
                    )
                immutable.make_mutable(fd)
                durability.step("erase.mutable")
                durability.remove_durably(name, directory_fd)
                durability.step("erase.unlinked")
                if os.fstat(fd).st_nlink or _exists(directory_fd, name):
                    raise BackendFault("it is still there after erasing", backend=self.name, key=key)
            finally:
                os.close(fd)

    def findings(self) -> Iterator[Finding]:
        """Names that wormfs does not show: links, devices and the like."""
        return tree.findings(self._root(), self.name)

    def time_ns(self) -> int | None:
        return None

    # Directories

    def make_directory(self, key: Key, attributes: DirectoryAttributes) -> ObjectInfo:
        mode = 0o777 if attributes.mode is None else attributes.mode & 0o777
        with self._parent(key, "make the directory") as (parent_fd, name):
            durability.make_directory(name or b".", mode, parent_fd)
            try:
                with tree.opened_directory(parent_fd, name) as directory_fd:
                    if attributes != _NO_CHANGE:
                        stored.dress_directory(directory_fd, attributes, self.complaints)
                    durability.sync_directory(directory_fd)
                    status = os.fstat(directory_fd)
                durability.sync_directory(parent_fd)
            except OSError:
                # Half made is not made. Should somebody use it already, it stays.
                with contextlib.suppress(OSError):
                    durability.remove_directory_durably(name, parent_fd)
                raise
        info = tree.info_of(key, status)
        assert info is not None, "what O_DIRECTORY opened is a directory"
        return info

    def remove_directory(self, key: Key) -> None:
        if key == ROOT:
            raise InvalidArgument("the root of a backend cannot be removed", backend=self.name)
        with self._parent(key, "remove the directory") as (parent_fd, name):
            # Asked first: for an immutable file the kernel says EPERM instead.
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
                raise NotADirectory("it is not a directory", backend=self.name, key=key)
            durability.remove_directory_durably(name, parent_fd)

    def set_directory_attributes(self, key: Key, attributes: DirectoryAttributes) -> None:
        with self._directory(key, "set the directory's attributes") as directory_fd:
            stored.dress_directory(directory_fd, attributes, self.complaints)
            durability.sync_directory(directory_fd)

    # Inside

    def _root(self) -> int:
        if self._root_fd < 0:
            raise Unavailable(f"{self.path} is not open", backend=self.name)
        return self._root_fd

    @contextlib.contextmanager
    def _parent(self, key: Key, doing: str) -> Iterator[tuple[int, bytes]]:
        """The directory that holds ``key``, open, and the name in it; OSErrors leave translated."""
        tree.reject_unsafe(key, self.name)
        try:
            with tree.opened_parent(self._root(), key) as place:
                yield place
        except OSError as error:
            raise translated(error, self.name, key, doing) from error

    @contextlib.contextmanager
    def _directory(self, key: Key, doing: str) -> Iterator[int]:
        """The directory ``key``, open; OSErrors leave translated."""
        tree.reject_unsafe(key, self.name)
        try:
            with tree.opened_directory(self._root(), key) as directory_fd:
                yield directory_fd
        except OSError as error:
            raise translated(error, self.name, key, doing) from error

    @contextlib.contextmanager
    def _opened_file(self, key: Key, doing: str) -> Iterator[int]:
        """The regular file ``key``, open; OSErrors leave translated."""
        with self._parent(key, doing) as (directory_fd, name):
            fd = tree.open_file(directory_fd, name or b".")
            try:
                yield fd
            finally:
                os.close(fd)

    def _record_of(self, fd: int, key: Key) -> Record | None:
        try:
            return stored.read_record(fd)
        except BackendFault as error:
            raise BackendFault(str(error), backend=self.name, key=key) from error

    @contextlib.contextmanager
    def _records_locked(self) -> Iterator[None]:
        """One change of a record at a time, among threads and among daemons that share the tree:
        of two that extend at once, the shorter must not win."""
        with probe.opened_hidden(self._root(), self.name, self.path) as hidden_fd:
            fcntl.flock(hidden_fd, fcntl.LOCK_EX)
            yield


def _exists(directory_fd: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
