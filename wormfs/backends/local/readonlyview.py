"""A directory once more, under a mount of its own that is read-only.

The mount is attached nowhere and goes with its last descriptor. What is opened below it cannot be opened for
writing again by anybody, whatever rights they have: the kernel itself says EROFS. And reading sets no time
of access.

Sources: open_tree(2), mount_setattr(2) (Linux 5.12); numbers from linux/mount.h and asm-generic/unistd.h,
the same on every architecture for calls as young as these.
"""

from __future__ import annotations

import ctypes
import os
import struct

_SYS_OPEN_TREE = 428
_SYS_MOUNT_SETATTR = 442
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_AT_EMPTY_PATH = 0x1000
_MOUNT_ATTR_RDONLY = 0x1
_MOUNT_ATTR = struct.Struct("=QQQQ")
"""struct mount_attr: attr_set, attr_clr, propagation, userns_fd."""

_libc = ctypes.CDLL(None, use_errno=True)


def of(directory_fd: int) -> int:
    """A descriptor of the same directory under its own mount; the caller closes it.

    Mounts below the directory are not part of it. Raises OSError: EPERM without CAP_SYS_ADMIN.
    """
    tree_fd = _call(_SYS_OPEN_TREE, directory_fd, b"", _AT_EMPTY_PATH | _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC)
    try:
        attributes = _MOUNT_ATTR.pack(_MOUNT_ATTR_RDONLY, 0, 0, 0)
        _call(_SYS_MOUNT_SETATTR, tree_fd, b"", _AT_EMPTY_PATH, attributes, len(attributes))
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree_fd)
    finally:
        os.close(tree_fd)


def _call(number: int, *arguments: int | bytes) -> int:
    wide = [ctypes.c_long(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
