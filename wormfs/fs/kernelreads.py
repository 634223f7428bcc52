"""Which open files the kernel reads by itself, past the daemon, where the settings want it.

The kernel allows one of two ways per inode at any time: through the mount's own page cache (the daemon
answers reads), or directly from one file below. An open that wants the other way than those before it fails
with EIO. So both kinds are counted here, from before the answer to OPEN until RELEASE, which the kernel sends
once the last descriptor and mapping is gone; it has let go of an open file when this module believes so.

Only committed files are read directly, and only through descriptors that cannot write.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from wormfs.backends.base import KernelReadable, Reader
from wormfs.errors import WormfsError
from wormfs.model import ObjectInfo

log = logging.getLogger(__name__)


_REASONS: Mapping[int, str] = MappingProxyType(
    {
        errno.EPERM: "the daemon has no CAP_SYS_ADMIN",
        errno.ELOOP: "its file system stands on another one, as overlayfs does",
    }
)


class Kernel(Protocol):
    """What the kernel is told of files; ``fuse`` has it."""

    def register(self, fd: int) -> int:
        """The number of a file that the kernel may read from now on. Raises OSError."""
        ...

    def unregister(self, number: int) -> None:
        """The number is not used in further answers."""
        ...


class OtherFile(Exception):
    """The inode is open and stands for a file that the name no longer leads to."""


@dataclass(slots=True)
class _Direct:
    """An inode that the kernel reads by itself now."""

    number: int
    """Of the file, at the kernel. All that have the inode open share it."""
    file: Hashable
    info: ObjectInfo
    handles: int = 0


class KernelReads:
    """Decides at each open. Lives on the event loop; nothing here waits for a server."""

    def __init__(self, backend: KernelReadable, name: str):
        self._backend = backend
        self._name = name
        self.kernel: Kernel | None = None
        """Until it is known, everything is read through the daemon."""
        self._given_up = False
        self._cached: Counter[int] = Counter()
        self._direct: dict[int, _Direct] = {}
        self._open: dict[int, tuple[int, bool]] = {}
        """Handle → inode, and whether it is read directly."""

    def give_up(self, reason: str) -> None:
        """It does not work here: files that are opened from now on are read through the daemon."""
        if not self._given_up:
            self._given_up = True
            log.warning(
                "%s: kernel_reads: not possible here, files are read through the daemon: %s",
                self._name,
                reason,
            )

    def choose(self, inode: int, flags: int, reader: Reader, info: ObjectInfo) -> int | None:
        """The file's number at the kernel, or ``None`` for an open that goes through the daemon.

        What is chosen must be told by ``opened`` before anything is awaited. Raises OtherFile: the inode
        cannot be used for this open at all.
        """
        direct = self._direct.get(inode)
        if direct is not None:
            if self._backend.file_id(reader) != direct.file:
                raise OtherFile
            return direct.number
        # Whoever asks for O_DIRECT gets any offset from the daemon, and from a disk only whole blocks.
        plain = flags & os.O_ACCMODE == os.O_RDONLY and not flags & (os.O_TRUNC | os.O_APPEND | os.O_DIRECT)
        if self.kernel is None or self._given_up or self._cached[inode] or not plain:
            return None
        number = self._register(self.kernel, reader)
        if number is not None:
            self._direct[inode] = _Direct(number, self._backend.file_id(reader), info)
        return number

    def _register(self, kernel: Kernel, reader: Reader) -> int | None:
        try:
            fd = self._backend.open_for_kernel(reader)
        except WormfsError as error:
            self.give_up(str(error))
            return None
        if fd is None:
            return None
        try:
            return kernel.register(fd)
        except OSError as error:
            self.give_up(_REASONS.get(error.errno or 0, f"the kernel refuses it ({error.strerror})"))
            return None
        finally:
            os.close(fd)

    def opened(self, handle: int, inode: int, number: int | None = None) -> None:
        """A handle is given out; ``number`` as chosen."""
        self._open[handle] = inode, number is not None
        if number is None:
            self._cached[inode] += 1
        else:
            self._direct[inode].handles += 1

    def released(self, handle: int) -> None:
        """The kernel has let go of it. For handles of any kind."""
        inode, is_direct = self._open.pop(handle, (0, False))
        if is_direct:
            self._release_direct(inode)
        elif inode:
            self._cached[inode] -= 1
            if not self._cached[inode]:
                del self._cached[inode]

    def _release_direct(self, inode: int) -> None:
        direct = self._direct[inode]
        direct.handles -= 1
        if not direct.handles:
            del self._direct[inode]
            assert self.kernel is not None, "it has given the number"
            self.kernel.unregister(direct.number)

    def direct(self, inode: int | None) -> ObjectInfo | None:
        """The file that is read directly by this inode now."""
        direct = self._direct.get(inode) if inode is not None else None
        return direct.info if direct is not None else None
