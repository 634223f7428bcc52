"""Moodle's content pool: ``filedir/<h0h1>/<h2h3>/<sha1>``, shared with Moodle itself.

Where the spool lies on the pool's file system, its file is given a second name in the pool, and nothing is
copied. Else a pool file is written without a name (or, where the file system cannot do that, under one of
wormfs's own), synced, and linked to its place, so it is there as a whole or not at all, and nothing is ever
replaced. A file that is there already is trusted only after its bytes were read and are the same. Moodle
moves content that no row uses to ``trashdir`` and empties that once a day; what a row of ours needs is
brought back from there, as Moodle does it itself.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO, Final

from wormfs import durability
from wormfs.backends.moodle.folders import DIRECTORY_FLAGS, Folder, Folders, Looks
from wormfs.backends.moodle.staging import Digests, Staged, StagedAs, digest
from wormfs.errors import BackendFault, DigestMismatch, SettingsError, Unavailable
from wormfs.model import Space
from wormfs.oserrors import translated, translating

_log = logging.getLogger(__name__)

TEMPORARY_PREFIX: Final = ".wormfs-"
_TEMPORARY_SUFFIX: Final = ".tmp"
_ABANDONED_NS: Final = 7 * 86_400 * 1_000_000_000


class Pool:
    """The pool of one Moodle. Safe from many threads."""

    def __init__(self, backend: str, path: str, trash_path: str) -> None:
        """Touches nothing. ``backend``: its name, for messages."""
        self.path = path
        self._backend = backend
        self.trash_path = trash_path
        self._fd = -1
        self._device = -1
        self._looks = Looks(0o2777, 0o666)
        self._folders = Folders(-1, self._looks)
        self._can_be_nameless = True
        self.can_link = True
        """Whether a spool file on the same file system can be given a name in the pool."""

    def open(self, looks: Looks, now_ns: int) -> None:
        """Open the pool's directory, which is never made here. Raises Unavailable, SettingsError."""
        try:
            fd = os.open(self.path, DIRECTORY_FLAGS)
        except FileNotFoundError:
            raise Unavailable(
                f"{self.path} does not exist: mount what belongs there, or set filedir to $CFG->filedir",
                backend=self._backend,
            ) from None
        except NotADirectoryError:
            raise SettingsError(f"{self.path} is not a directory", backend=self._backend) from None
        except OSError as error:
            raise translated(error, self._backend, None, f"open {self.path}") from error
        status = os.fstat(fd)
        self.close()
        uid = status.st_uid if looks.uid is None else looks.uid
        gid = status.st_gid if looks.gid is None else looks.gid
        self._looks = Looks(looks.directory_mode, looks.file_mode, uid, gid)
        # What is mounted there may be another file system now: nothing is known of its folders.
        self._folders = Folders(fd, self._looks)
        self._fd, self._device = fd, status.st_dev
        with translating(self._backend, None, "remove what crashed daemons left in the pool"):
            self._sweep(now_ns)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def owner(self) -> tuple[int, int]:
        """The uid and gid of what is stored."""
        return self._looks.uid or 0, self._looks.gid or 0

    def space(self) -> Space:
        """Of the file system that the pool lies on."""
        with translating(self._backend, None, "ask for free space"):
            status = os.fstatvfs(self._root())
        unit = status.f_frsize
        return Space(unit * status.f_blocks, unit * status.f_bavail, status.f_files, status.f_favail)

    # Storing

    def stage(self) -> Staged:
        """A new pool file that has no place yet. Raises OSError."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if self._can_be_nameless:
            try:
                return Staged(os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=self._root()), None)
            except OSError as error:
                # NFS and some others cannot.
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
                    raise
                self._can_be_nameless = False
        name = f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"
        return Staged(os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._root()), name)

    def stage_spooled(self, spooled: BinaryIO) -> Staged | None:
        """The spool file as the pool file to be, if it lies on the same file system. Raises OSError."""
        return Staged(-1, None, StagedAs.SPOOL_FILE) if self._links(spooled) else None

    def _links(self, spooled: BinaryIO) -> bool:
        self._root()
        return self.can_link and os.fstat(spooled.fileno()).st_dev == self._device

    def dress_spooled(self, spooled: BinaryIO) -> None:
        """Give a spool file that is to be linked owner and mode, for the spool to sync. Raises OSError."""
        if self._links(spooled):
            self._dress(spooled.fileno())

    def discard(self, staged: Staged) -> None:
        """Leave nothing of a staged file but what has got its place. May be called again."""
        staged.close()
        name, staged.name = staged.name, None
        if name is not None and self._fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                durability.unlink(name, self._fd)

    def place(self, staged: Staged, digests: Digests, size_bytes: int) -> bool:
        """Bring a complete staged file to its place; durable when it returns. A copy is not synced before; a
        spool file is, by the spool.

        What is there already stays, if it holds the same bytes; whether it was put there now. Raises OSError
        (FileNotFoundError when a file that had its place has lost it); BackendFault for other bytes.
        """
        changed = self._dress(staged.fd)
        if changed or staged.kind is StagedAs.COPY:
            durability.sync_file(staged.fd)
        durability.step("moodle.content-synced")
        with self._folders.make(digests.sha1) as folder:
            try:
                durability.publish_link(staged.fd, digests.sha1, folder.fd)
                placed = True
            except FileExistsError:
                placed = False
                self._compare(folder.fd, staged.fd, digests, size_bytes)
            folder.sync()
        durability.step("moodle.content-linked")
        return placed

    def has(self, contenthash: str, size_bytes: int) -> bool:
        """Whether content of that size is in its place, or could be brought back there. Raises OSError."""
        try:
            status = os.stat(_relative(contenthash), dir_fd=self._root())
        except FileNotFoundError:
            return self.restore(contenthash, size_bytes)
        return stat.S_ISREG(status.st_mode) and status.st_size == size_bytes

    # Reading

    def open_content(self, contenthash: str, size_bytes: int, key: bytes) -> int:
        """A descriptor of a file's content; the caller closes it.

        Raises BackendFault when Moodle, or somebody else, has removed it, DigestMismatch when it has another
        size now; OSError.
        """
        try:
            fd = self._open(contenthash)
        except FileNotFoundError:
            if not self.restore(contenthash, size_bytes):
                raise BackendFault(
                    f"its content {contenthash} is neither in {self.path} nor in {self.trash_path}: it "
                    "was lost, or removed behind Moodle's back; restore it from a backup",
                    backend=self._backend,
                    key=key,
                ) from None
            fd = self._open(contenthash)
        status = os.fstat(fd)
        if status.st_size != size_bytes or not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise DigestMismatch(
                f"its content {contenthash} has {status.st_size} bytes, not {size_bytes}: it was damaged",
                backend=self._backend,
                key=key,
            )
        return fd

    def size_of(self, contenthash: str) -> int | None:
        """The size of what is in its place; ``None``: nothing. Raises OSError."""
        try:
            return os.stat(_relative(contenthash), dir_fd=self._root()).st_size
        except FileNotFoundError:
            return None

    def restore(self, contenthash: str, size_bytes: int) -> bool:
        """Bring content back from where an erase or Moodle put it; whether it is in its place now.

        Raises OSError.
        """
        self.take_up_aside(contenthash)
        if self.size_of(contenthash) == size_bytes:
            return True
        for path in self._trash_places(contenthash):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if os.fstat(fd).st_size == size_bytes and digest(fd).sha1 == contenthash:
                    self._put_back(fd, contenthash)
                    break
            finally:
                os.close(fd)
        # Moodle may have done it itself meanwhile.
        return self.size_of(contenthash) == size_bytes

    # Removing

    @contextlib.contextmanager
    def set_aside(self, contenthash: str) -> Iterator[Aside | None]:
        """Take content from its place, for the caller to decide on; ``None``: nothing is there.

        What is not erased is put back. Raises OSError.
        """
        try:
            opened = self._open_folder(contenthash)
        except FileNotFoundError:
            yield None
            return
        name = f"{TEMPORARY_PREFIX}{contenthash}-{secrets.token_hex(4)}.erasing"
        with opened as folder:
            try:
                durability.rename(
                    contenthash, name, source_directory_fd=folder.fd, target_directory_fd=folder.fd
                )
            except FileNotFoundError:
                yield None
                return
            durability.step("moodle-erase.content-aside")
            aside = Aside(folder.fd, name, contenthash)
            try:
                yield aside
            finally:
                aside.settle()

    def left_aside(self, contenthash: str) -> list[str]:
        """What erases that were cut off have left aside of a content. Raises OSError."""
        try:
            opened = self._open_folder(contenthash)
        except FileNotFoundError:
            return []
        with opened as folder:
            prefix = f"{TEMPORARY_PREFIX}{contenthash}-"
            return [name for name in os.listdir(folder.fd) if name.startswith(prefix)]

    def take_up_aside(self, contenthash: str) -> None:
        """Put back what was left aside, for a new erase to decide again. Raises OSError."""
        for name in self.left_aside(contenthash):
            with self._open_folder(contenthash) as folder:
                Aside(folder.fd, name, contenthash).settle()

    def erase_from_trash(self, contenthash: str) -> None:
        """Remove content from Moodle's trash. Raises OSError."""
        for path in self._trash_places(contenthash):
            with contextlib.suppress(FileNotFoundError):
                durability.unlink(path)
                durability.sync_directory_path(os.path.dirname(path))

    # Inside

    def _sweep(self, now_ns: int) -> None:
        """Remove staged files that nobody has written to for long; others may be at work on younger ones."""
        for name in os.listdir(self._root()):
            if name.startswith(TEMPORARY_PREFIX) and name.endswith(_TEMPORARY_SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    if now_ns - os.stat(name, dir_fd=self._root()).st_mtime_ns > _ABANDONED_NS:
                        durability.unlink(name, self._root())

    def _trash_places(self, contenthash: str) -> tuple[str, str]:
        """Moodle's older versions had it flat."""
        return (
            os.path.join(self.trash_path, _relative(contenthash)),
            os.path.join(self.trash_path, contenthash),
        )

    def _root(self) -> int:
        if self._fd < 0:
            raise Unavailable(f"{self.path} is not open", backend=self._backend)
        return self._fd

    def _open_folder(self, contenthash: str) -> Folder:
        self._root()
        return self._folders.open(contenthash)

    def _open(self, contenthash: str) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(_relative(contenthash), flags, dir_fd=self._root())

    def _compare(self, folder_fd: int, staged_fd: int, digests: Digests, size_bytes: int) -> None:
        """What is in the place already must be the same, on the disk."""
        fd = os.open(
            digests.sha1, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd
        )
        try:
            there, mine = os.fstat(fd), os.fstat(staged_fd)
            if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                return
            if there.st_size == size_bytes and digest(fd) == digests:
                # Moodle does not sync what it stores.
                durability.sync_file(fd)
                return
        finally:
            os.close(fd)
        _log.error(
            "%s: ALERT: %s/%s does not hold the bytes that its name promises: files of Moodle that use it "
            "are damaged, and what wormfs is to store there waits; restore it from a backup, or move it away",
            self._backend, self.path, _relative(digests.sha1),
        )  # fmt: skip
        raise BackendFault(
            f"the pool file {_relative(digests.sha1)} is there already and holds other bytes: it was "
            "damaged; restore it from a backup, or move it away",
            backend=self._backend,
        )

    def _put_back(self, fd: int, contenthash: str) -> None:
        try:
            with self._folders.make(contenthash) as folder:
                with contextlib.suppress(FileExistsError):
                    durability.publish_link(fd, contenthash, folder.fd)
                durability.sync_file(fd)
                folder.sync()
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy_back(fd, contenthash)
        _log.warning("%s: content %s was in Moodle's trash and is brought back", self._backend, contenthash)

    def _copy_back(self, fd: int, contenthash: str) -> None:
        """The trash lies on another file system."""
        staged = self.stage()
        try:
            size_bytes = os.fstat(fd).st_size
            with open(fd, "rb", buffering=0, closefd=False) as source:
                staged.copy(source, size_bytes)
            digests = staged.digests()
            if digests.sha1 == contenthash:
                self.place(staged, digests, size_bytes)
        finally:
            self.discard(staged)

    def _dress(self, fd: int) -> bool:
        """Owner and mode of a pool file to be; whether anything was changed."""
        looks = self._looks
        status = os.fstat(fd)
        dressed = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
        if dressed == (looks.uid, looks.gid, looks.file_mode):
            return False
        os.fchown(fd, -1 if looks.uid is None else looks.uid, -1 if looks.gid is None else looks.gid)
        os.fchmod(fd, looks.file_mode)
        return True


class Aside:
    """Content that was taken from its place."""

    def __init__(self, folder_fd: int, name: str, contenthash: str) -> None:
        self._folder_fd = folder_fd
        self._name = name
        self._contenthash = contenthash

    def erase(self) -> None:
        """Remove it, durably, unless somebody has put it back meanwhile. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            durability.remove_durably(self._name, self._folder_fd)

    def to_trash(self, trash_path: str) -> None:
        """Leave it where Moodle leaves what no row uses, for a day. Raises OSError."""
        folder = os.path.join(trash_path, os.path.dirname(_relative(self._contenthash)))
        os.makedirs(folder, exist_ok=True)
        folder_fd = os.open(folder, DIRECTORY_FLAGS)
        try:
            self._link_to(folder_fd)
        except OSError as error:
            # Another file system: whoever needs it once more has it in the spool.
            if error.errno != errno.EXDEV:
                raise
        finally:
            os.close(folder_fd)
        self.erase()

    def settle(self) -> None:
        """Put it back, unless it is gone. Raises OSError."""
        try:
            self._link_to(self._folder_fd)
        except FileNotFoundError:
            return
        durability.sync_directory(self._folder_fd)
        self.erase()

    def _link_to(self, folder_fd: int) -> None:
        fd = os.open(self._name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder_fd)
        try:
            with contextlib.suppress(FileExistsError):
                durability.publish_link(fd, self._contenthash, folder_fd)
        finally:
            os.close(fd)


def _relative(contenthash: str) -> str:
    return f"{contenthash[:2]}/{contenthash[2:4]}/{contenthash}"
