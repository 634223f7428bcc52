"""Everything that makes stored data durable: fsync, link, rename, unlink, mkdir, rmdir.

No other module calls these on stored data, for two reasons: the order of such calls is what an
archive's safety rests on, so it must be readable in one place; and tests must be able to stop
or to forget at any of them.

* **Crash tests** set ``WORMFS_CRASH_AT=<step>`` or ``<step>:<count>`` in a process's environment:
  it kills itself with SIGKILL when it reaches that step (for the count-th time). ``STEPS`` lists
  every step there is.
* **Power-loss tests** replace functions of this module by their own. So that they can, callers
  write ``durability.sync_file(fd)`` and never import a function by name; a test holds that.

Names are relative to an open directory (``directory_fd``), so that a key may be PATH_MAX long
wherever the backend lies, and so that nobody can move a directory away underneath an operation.
Every function blocks and raises OSError, which callers translate: only they know the key.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import secrets
import signal
from collections.abc import Mapping
from typing import Final

STEPS: Final = (
    "spool.allocated",
    "spool.data-written",
    "spool.data-synced",
    "spool.sealed-written",
    "spool.sealed-synced",
    "local.prepared",
    "local.linked",
    "local.directory-synced",
    "local.immutable-set",
    "moodle.content-synced",
    "moodle.content-linked",
    "moodle.row-committed",
    "spool.committed-written",
    "spool.data-unlinked",
    "spool.quarantine-linked",
    "spool.quarantined-synced",
    "erase.intended",
    "erase.recorded",
    "erase.mutable",
    "erase.unlinked",
    "moodle-erase.row-removed",
    "moodle-erase.content-aside",
    "moodle-erase.content-removed",
    "moodle-erase.record-removed",
    "erase.proved",
    "erase.tombstoned",
)
"""Every named durable step, in the order in which a file passes them."""

CRASH_VARIABLE: Final = "WORMFS_CRASH_AT"

_KNOWN_STEPS: Final = frozenset(STEPS)


class CrashPoint:
    """Where a crash test wants this process to die."""

    def __init__(self, name: str, count: int = 1) -> None:
        """``count``: die when ``name`` is reached for the count-th time, 1 being the first.

        Raises AssertionError for a step that does not exist: a test would pass without testing.
        """
        assert name in _KNOWN_STEPS, f"{name!r} is not a durable step; see wormfs.durability.STEPS"
        assert count >= 1, f"{CRASH_VARIABLE}: the count begins at 1, not {count}"
        self._name = name
        # next() on it is one step of the interpreter, so threads need no lock here.
        self._arrivals = itertools.count(1)
        self._count = count

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> CrashPoint | None:
        """The crash point that ``WORMFS_CRASH_AT`` asks for, if it is set."""
        wanted = environment.get(CRASH_VARIABLE)
        if not wanted:
            return None
        name, _, count = wanted.partition(":")
        return cls(name, int(count or 1))

    def reached(self, name: str) -> None:
        """Die here if this is the step and the time."""
        if name == self._name and next(self._arrivals) == self._count:
            os.kill(os.getpid(), signal.SIGKILL)


_libc: Final = ctypes.CDLL(None)
_SYNC_FILE_RANGE_WRITE: Final = 2

_CRASH_POINT: Final = CrashPoint.from_environment(os.environ)


def step(name: str) -> None:
    """Say that the durable step ``name`` has just been done. Costs next to nothing.

    Raises AssertionError for a name that is not in ``STEPS``.
    """
    if name not in _KNOWN_STEPS:
        raise AssertionError(f"{name!r} is not in wormfs.durability.STEPS")
    if _CRASH_POINT is not None:
        _CRASH_POINT.reached(name)


def sync_file(fd: int) -> None:
    """Return when content and all metadata of the file are on stable storage.

    After an error the kernel may have forgotten what it could not write: calling again proves
    nothing, the content has to be written again or compared.
    """
    os.fsync(fd)


def sync_data(fd: int) -> None:
    """As ``sync_file``, but leaves out metadata that reading the content back does not need."""
    os.fdatasync(fd)


def begin_writeback(fd: int) -> None:
    """Let the disk begin with what has been written; promises nothing and waits for as good as nothing.

    A later ``sync_file`` then has less to wait for. sync_file_range(2), SYNC_FILE_RANGE_WRITE.
    """
    _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


def sync_directory(directory_fd: int) -> None:
    """Return when every change to the directory's entries so far is on stable storage."""
    os.fsync(directory_fd)


def sync_directory_path(path: str | bytes) -> None:
    """As ``sync_directory``, for a directory that is not open."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_directory(fd)
    finally:
        os.close(fd)


def publish_link(source_fd: int, name: str | bytes, directory_fd: int) -> None:
    """Give the open file ``source_fd`` the name ``name``; never replaces one that is there.

    The descriptor, not a path, says what is linked, so nothing can be put in its place. Not
    durable before ``sync_directory(directory_fd)``, and only then if the file was synced before.

    Raises FileExistsError when the name is taken, FileNotFoundError when the file has no name
    left or the directory is gone, OSError EXDEV across file systems.
    """
    # linkat() with AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH; this way needs nothing.
    os.link(f"/proc/self/fd/{source_fd}", name, dst_dir_fd=directory_fd, follow_symlinks=True)


def rename(
    source: str | bytes,
    target: str | bytes,
    *,
    source_directory_fd: int | None = None,
    target_directory_fd: int | None = None,
) -> None:
    """Rename, replacing ``target``. Not durable before both directories are synced.

    For the spool's own files only: a name under which a file was committed is never renamed.
    """
    os.replace(source, target, src_dir_fd=source_directory_fd, dst_dir_fd=target_directory_fd)


def unlink(name: str | bytes, directory_fd: int | None = None) -> None:
    """Remove a file's name. Not durable before the directory is synced."""
    os.unlink(name, dir_fd=directory_fd)


def remove_durably(name: str | bytes, directory_fd: int) -> None:
    """Remove a file's name, on stable storage when it returns."""
    unlink(name, directory_fd)
    sync_directory(directory_fd)


def make_directory(name: str | bytes, mode: int, directory_fd: int | None = None) -> None:
    """Make a directory; the umask applies. Not durable before its parent is synced."""
    os.mkdir(name, mode, dir_fd=directory_fd)


def make_directory_durably(name: str | bytes, mode: int, directory_fd: int) -> bool:
    """Make sure that a directory ``name`` exists, on stable storage when it returns.

    Returns whether it was made now. The parent is synced even if it was there: whoever made it
    may have crashed before syncing.
    """
    made = True
    try:
        make_directory(name, mode, directory_fd)
    except FileExistsError:
        made = False
    sync_directory(directory_fd)
    return made


def make_path_durably(path: str, mode: int) -> None:
    """Make sure that the directory ``path`` exists, with all above it; what is made now is on stable storage.

    For directories that are never removed: one that is there is taken as it is, without a sync.
    """
    if os.path.isdir(path):
        return
    parent, name = os.path.split(os.path.abspath(path))
    make_path_durably(parent, mode)
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        make_directory_durably(name, mode, fd)
    finally:
        os.close(fd)


def remove_directory_durably(name: str | bytes, directory_fd: int) -> None:
    """Remove an empty directory, on stable storage when it returns."""
    os.rmdir(name, dir_fd=directory_fd)
    sync_directory(directory_fd)


def write_file_durably(
    name: str | bytes, content: bytes, *, directory_fd: int | None = None, mode: int = 0o600
) -> None:
    """Make ``name`` hold exactly ``content``: after a crash either the old or the new, never a mix.

    Without ``directory_fd`` the name is a path. On stable storage when it returns; leaves no
    temporary file behind unless the machine stops in between (``<name>.<8 hex>.tmp``).
    """
    target = os.fsencode(name)
    folder, slash, _ = target.rpartition(b"/")
    temporary = target + b"." + secrets.token_hex(4).encode() + b".tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, mode, dir_fd=directory_fd)
    try:
        try:
            write_fully(fd, content)
            sync_file(fd)
        finally:
            os.close(fd)
        rename(temporary, target, source_directory_fd=directory_fd, target_directory_fd=directory_fd)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            unlink(temporary, directory_fd)
        raise
    _sync_holder(folder or slash, directory_fd)


def replace_file(path: str, content: bytes, mode: int) -> None:
    """Make ``path`` hold exactly ``content``: a reader sees the old or the new, never a mix. Not durable.

    For what is worth nothing after a crash. Leaves no temporary file behind unless the process is
    killed in between, and then one that the next call takes away (``<path>.tmp``).
    """
    temporary = path + ".tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            os.fchmod(fd, mode)  # whatever the umask
            write_fully(fd, content)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_fully(fd: int, content: bytes) -> None:
    """Write all of ``content`` at the descriptor's position, however many calls it takes."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _sync_holder(folder: bytes, directory_fd: int | None) -> None:
    """Sync the directory that a name lies in: ``folder``, relative to ``directory_fd``."""
    if not folder and directory_fd is not None:
        sync_directory(directory_fd)
        return
    fd = os.open(folder or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        sync_directory(fd)
    finally:
        os.close(fd)
