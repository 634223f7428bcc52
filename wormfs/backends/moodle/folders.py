"""The folders of Moodle's pool: two levels, made when content comes that needs them.

Moodle makes some as well and syncs none. So of each folder is known whether it is on the disk for good; what
is not is synced together with the first content that comes into it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final

from wormfs import durability

DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Looks:
    """Whom the pool's files and directories belong to, and their modes. ``None``: nothing is changed."""

    directory_mode: int
    file_mode: int
    uid: int | None = None
    gid: int | None = None


class Folder:
    """One folder, open. A context manager that closes it."""

    def __init__(self, fd: int, above: Sequence[int] = (), synced: Callable[[], None] = lambda: None) -> None:
        """Owns the descriptors. ``above``: those whose entries may not be on the disk; ``synced`` is told."""
        self.fd = fd
        self._above = above
        self._synced = synced

    def sync(self) -> None:
        """What is in it now, and the way to it, is on the disk when this returns. Raises OSError."""
        durability.sync_directory(self.fd)
        for fd in self._above:
            durability.sync_directory(fd)
        self._synced()

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in (self.fd, *self._above):
            os.close(fd)


class Folders:
    """All folders of one pool. Safe from many threads."""

    def __init__(self, root_fd: int, looks: Looks) -> None:
        """``root_fd`` stays the caller's."""
        self._root_fd = root_fd
        self._looks = looks
        self._lasting = bytearray(1 << 16)
        """Of each folder (two bytes of a hash), 1 once it and those above are known to be on the disk."""

    def open(self, contenthash: str) -> Folder:
        """The folder of a content that may be there. Raises OSError."""
        return Folder(os.open(_path(contenthash), DIRECTORY_FLAGS, dir_fd=self._root_fd))

    def make(self, contenthash: str) -> Folder:
        """The same, made if it is missing; on the disk after ``sync``. Raises OSError."""
        number = int(contenthash[:4], 16)
        lasting = self._lasting
        try:
            if lasting[number]:
                return self.open(contenthash)
            return self._folder(contenthash, number, lasting)
        except FileNotFoundError:
            # Put back from a backup while wormfs runs, say: nothing is known of it any more.
            self._lasting = bytearray(1 << 16)
            return self._folder(contenthash, number, self._lasting)

    def _folder(self, contenthash: str, number: int, lasting: bytearray) -> Folder:
        """One that may be missing, or not on the disk yet."""
        upper, name = _path(contenthash).split("/")
        upper_lasts = any(lasting[number & 0xFF00 : (number | 0xFF) + 1])
        with contextlib.ExitStack() as opened:
            make = self._open if upper_lasts else self._make
            upper_fd = make(upper, self._root_fd)
            opened.callback(os.close, upper_fd)
            above = [upper_fd]
            if not upper_lasts:
                above.append(os.dup(self._root_fd))
                opened.callback(os.close, above[-1])
            folder_fd = self._make(name, upper_fd)
            opened.pop_all()
            return Folder(folder_fd, above, partial(lasting.__setitem__, number, 1))

    def _make(self, name: str, above_fd: int) -> int:
        with contextlib.suppress(FileExistsError):
            durability.make_directory(name, self._looks.directory_mode, above_fd)
            made_fd = self._open(name, above_fd)
            try:
                self._dress(made_fd)
            except OSError:
                os.close(made_fd)
                raise
            return made_fd
        return self._open(name, above_fd)

    @staticmethod
    def _open(name: str, above_fd: int) -> int:
        return os.open(name, DIRECTORY_FLAGS, dir_fd=above_fd)

    def _dress(self, fd: int) -> None:
        looks = self._looks
        os.fchown(fd, -1 if looks.uid is None else looks.uid, -1 if looks.gid is None else looks.gid)
        os.fchmod(fd, looks.directory_mode)


def _path(contenthash: str) -> str:
    return f"{contenthash[:2]}/{contenthash[2:4]}"
