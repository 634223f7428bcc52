"""The inode flag that ``chattr +i`` sets: not even root changes or unlinks such a file."""

from __future__ import annotations

import array
import fcntl
import struct
from typing import Final

# linux/fs.h: _IOR('f', 1, long) and _IOW('f', 2, long), as x86, ARM and RISC-V number them.
_LONG_BYTES: Final = struct.calcsize("l")
_FS_IOC_GETFLAGS: Final = 2 << 30 | _LONG_BYTES << 16 | ord("f") << 8 | 1
_FS_IOC_SETFLAGS: Final = 1 << 30 | _LONG_BYTES << 16 | ord("f") << 8 | 2
_FS_IMMUTABLE_FL: Final = 0x10


def is_immutable(fd: int) -> bool:
    """Raises OSError ENOTTY or EOPNOTSUPP where the file system has no such flags."""
    return bool(_flags(fd) & _FS_IMMUTABLE_FL)


def make_immutable(fd: int) -> bool:
    """Set the flag; returns whether it was not set before. Not durable before the file is synced.

    Raises OSError EPERM without CAP_LINUX_IMMUTABLE, ENOTTY or EOPNOTSUPP where the file system
    has no such flag.
    """
    flags = _flags(fd)
    if flags & _FS_IMMUTABLE_FL:
        return False
    _set_flags(fd, flags | _FS_IMMUTABLE_FL)
    return True


def make_mutable(fd: int) -> bool:
    """Take the flag away; returns whether it was set. A file system without flags has none set."""
    try:
        flags = _flags(fd)
    except OSError:
        return False
    if not flags & _FS_IMMUTABLE_FL:
        return False
    _set_flags(fd, flags & ~_FS_IMMUTABLE_FL)
    return True


def _flags(fd: int) -> int:
    # The kernel reads and writes an int whatever the number says; the rest must stay zero.
    buffer = array.array("i", [0, 0])
    fcntl.ioctl(fd, _FS_IOC_GETFLAGS, buffer, True)
    return buffer[0]


def _set_flags(fd: int, flags: int) -> None:
    fcntl.ioctl(fd, _FS_IOC_SETFLAGS, array.array("i", [flags, 0]), True)
