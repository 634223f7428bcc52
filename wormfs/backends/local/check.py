"""``wormfs check`` for a local directory: every promise tried out, nothing visible left behind.

One hidden object, ``.wormfs/check/object``, is made by the first check of any host and stays,
because it may be immutable. Every check writes a file of its own beside it, tries to publish it
under that one name, and takes its own file away again. So any number of hosts may check at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Protocol

from wormfs import durability
from wormfs.backends.local import immutable, probe, stored, tree
from wormfs.errors import AccessDenied, BackendFault, DigestMismatch, Unavailable, Unsupported, WormfsError
from wormfs.model import CheckResult, FileAttributes, Record, Space
from wormfs.oserrors import translated

_DIRECTORY = b"check"
_OBJECT = b"object"
_CONTENT = b"This file belongs to `wormfs check`, which proves with it that nothing can replace it.\n"
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GIB = 1 << 30


class Checked(Protocol):
    """What a check needs of its backend."""

    name: str
    path: str
    wants_immutable: bool
    complaints: stored.Complaints

    def connected_root(self) -> int:
        """The root's descriptor, after connecting if need be."""
        ...

    def space(self) -> Space: ...


def record_of_object(now_ns: int, wormfs_version: str) -> Record:
    """The record that a test object gets that is made at ``now_ns``."""
    return Record(
        entry_id="wormfs-check",
        sha256=hashlib.sha256(_CONTENT).hexdigest(),
        size_bytes=len(_CONTENT),
        attributes=FileAttributes(0o444, os.geteuid(), os.getegid(), now_ns, now_ns),
        committed_at_ns=now_ns,
        writer_uid=os.geteuid(),
        wormfs_version=wormfs_version,
    )


def run(backend: Checked, record: Record) -> Iterator[CheckResult]:
    """The results one by one, as they are found out. A failure leaves out what depends on it."""
    with contextlib.ExitStack() as stack:
        check = _Check(backend, record, stack)
        result = check.attempt("connect", check.connect)
        yield result
        if not result.passed:
            return
        result = check.attempt("authenticate", check.authenticate)
        yield result
        if result.passed:
            result = check.attempt("write", check.write)
            yield result
        if result.passed:
            yield check.attempt("overwrite refused", check.overwrite)
            yield check.attempt("read", check.read)
            if backend.wants_immutable:
                yield check.attempt("immutable", check.be_immutable)
        yield check.free_space()


class _Check:
    """One run: the descriptors that its steps hand on, and the steps, each with its detail."""

    def __init__(self, backend: Checked, record: Record, stack: contextlib.ExitStack) -> None:
        self._backend = backend
        self._record = record
        self._stack = stack
        self._root_fd = -1
        self._directory_fd = -1
        self._own_name = b""
        self._own_fd = -1

    def attempt(self, name: str, action: Callable[[], str]) -> CheckResult:
        try:
            return CheckResult(name, True, action())
        except OSError as error:
            return CheckResult(name, False, str(translated(error, self._backend.name, None, f"check {name}")))
        except WormfsError as error:
            return CheckResult(name, False, str(error))

    def connect(self) -> str:
        # A descriptor of our own: a check that hangs may outlive the backend, and numbers are used again.
        self._root_fd = os.dup(self._backend.connected_root())
        self._stack.callback(os.close, self._root_fd)
        path = self._backend.path
        here = os.fstat(self._root_fd)
        try:
            there = os.stat(path)
        except FileNotFoundError as error:
            raise Unavailable(
                f"{path} does not exist any more; files still go to where it was. Put it back"
            ) from error
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise Unavailable(
                f"{path} is not the directory any more that it was at the start (unmounted, mounted over or "
                "replaced); files still go to the old one. Put that back, or restart wormfs to use what is "
                "there now"
            )
        return path

    def authenticate(self) -> str:
        if not os.access(b".", os.R_OK | os.W_OK | os.X_OK, dir_fd=self._root_fd, effective_ids=True):
            raise AccessDenied(f"uid {os.geteuid()} may not read and write {self._backend.path}")
        return f"uid {os.geteuid()} may read and write"

    def write(self) -> str:
        """Write, sync and publish a file of our own; the object of an earlier check is as good."""
        hidden_fd = self._stack.enter_context(
            probe.opened_hidden(self._root_fd, self._backend.name, self._backend.path)
        )
        durability.make_directory_durably(_DIRECTORY, 0o700, hidden_fd)
        self._directory_fd = os.open(_DIRECTORY, _DIRECTORY_FLAGS, dir_fd=hidden_fd)
        self._stack.callback(os.close, self._directory_fd)
        name = probe.unique_name("new")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._own_fd = os.open(name, flags, 0o600, dir_fd=self._directory_fd)
        self._own_name = name
        self._stack.callback(os.close, self._own_fd)
        self._stack.callback(self._remove_own_name)
        durability.write_fully(self._own_fd, _CONTENT)
        stored.dress(self._own_fd, self._record, self._backend.complaints)
        durability.sync_file(self._own_fd)
        with contextlib.suppress(FileExistsError):
            durability.publish_link(self._own_fd, _OBJECT, self._directory_fd)
        durability.sync_directory(self._directory_fd)
        return f"{len(_CONTENT)} bytes with record, synced"

    def overwrite(self) -> str:
        try:
            durability.publish_link(self._own_fd, _OBJECT, self._directory_fd)
        except FileExistsError:
            return "a name that is taken stays taken"
        finally:
            # Before the object, which may be the same file, becomes immutable.
            self._remove_own_name()
        raise BackendFault("the test object was replaced by another file")

    def read(self) -> str:
        fd = tree.open_file(self._directory_fd, _OBJECT)
        try:
            record = stored.read_record(fd)
            content = os.pread(fd, os.fstat(fd).st_size + 1, 0)
        finally:
            os.close(fd)
        if record is None:
            raise BackendFault("the test object has no record")
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise DigestMismatch("the test object's bytes are not those of its record")
        return "bytes match the record's SHA-256"

    def be_immutable(self) -> str:
        fd = tree.open_file(self._directory_fd, _OBJECT)
        try:
            try:
                if immutable.make_immutable(fd):
                    durability.sync_file(fd)
            except OSError as error:
                raise Unsupported(
                    f"`immutable: true` is set, but chattr +i is not possible here "
                    f"({os.strerror(error.errno or 0)}): "
                    "give the daemon CAP_LINUX_IMMUTABLE, use ext4, XFS or Btrfs, or set it to false"
                ) from error
        finally:
            os.close(fd)
        try:
            os.close(os.open(_OBJECT, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=self._directory_fd))
        except PermissionError:
            return "not even this daemon can change the test object"
        raise BackendFault("the test object is immutable, and yet could be opened for writing")

    def free_space(self) -> CheckResult:
        try:
            space = self._backend.space()
        except WormfsError as error:
            return CheckResult("free space", False, str(error))
        free_bytes, total_bytes = space.free_bytes or 0, space.total_bytes or 0
        detail = f"{free_bytes / _GIB:.1f} GiB of {total_bytes / _GIB:.1f} GiB free"
        if free_bytes == 0:
            return CheckResult("free space", False, detail)
        if space.total_files and not space.free_files:
            return CheckResult("free space", False, f"{detail}, but no inode: no further file can be made")
        if free_bytes <= _GIB:
            return CheckResult("free space", True, f"{detail}; Moodle wants more than 1 GiB", warning=True)
        return CheckResult("free space", True, detail)

    def _remove_own_name(self) -> None:
        name, self._own_name = self._own_name, b""
        if name:
            durability.remove_durably(name, self._directory_fd)
