"""mount(2) and umount2(2), called directly.

wormfs runs as root or with CAP_SYS_ADMIN, or asks the mounter beside it (``mounterclient``), and so needs
neither the setuid helper fusermount3 nor /etc/fuse.conf. Mounting itself also leaves the FUSE handshake to
wormfs (see ``handshake``).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wormfs.fuse import mounterclient

# linux/mount.h
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_NOATIME = 1024
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

FUSE_DEVICE = "/dev/fuse"
SUBTYPE = "wormfs"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo, as far as wormfs needs it (proc(5))."""

    device: str
    """``major:minor``."""
    mountpoint: str
    kind: str
    source: str


def mount_fuse(mountpoint: str, *, fsname: str) -> int:
    """Mount a FUSE file system and return the descriptor of its connection.

    Blocks until the kernel has the mount; no request is answered before somebody reads from the
    descriptor, so nothing but the kernel's INIT request may be awaited until then.
    Raises OSError.
    """
    if (mounter := mounterclient.address()) is not None:
        return mounterclient.mount(mounter, mountpoint, fsname)
    return mount_here(mountpoint, fsname=fsname, uid=os.geteuid(), gid=os.getegid())


def mount_here(mountpoint: str, *, fsname: str, uid: int, gid: int) -> int:
    """The same by this very process, for a daemon of ``uid`` and ``gid``."""
    fd = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        options = (
            f"fd={fd},rootmode={stat.S_IFDIR:o},user_id={uid},group_id={gid},default_permissions,allow_other"
        )
        _check(
            _libc.mount(
                fsname.encode(),
                os.fsencode(mountpoint),
                f"fuse.{SUBTYPE}".encode(),
                ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOATIME),
                options.encode(),
            ),
            mountpoint,
        )
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def without_links(path: str) -> Iterator[str]:
    """Another path to the very directory at ``path``, which is absolute; no symbolic link was followed.

    mount(2) follows links, and whoever serves a mount decides what is one in it. Blocks; raises OSError.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open("/", flags)
    try:
        for name in path.split("/"):
            if name:
                # A link is opened itself: it has nothing below it, and nothing can be mounted on it.
                above, fd = fd, os.open(name, flags, dir_fd=fd)
                os.close(above)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def raise_read_ahead(mountpoint: str, read_ahead_kb: int) -> None:
    """Let the kernel ask for more at once than its default 128 KiB. A kindness: never fails."""
    if (mounter := mounterclient.address()) is not None:
        mounterclient.raise_read_ahead(mounter, mountpoint, read_ahead_kb)
    else:
        raise_read_ahead_here(mountpoint, read_ahead_kb)


def raise_read_ahead_here(mountpoint: str, read_ahead_kb: int) -> None:
    """The same by this very process."""
    for mount in mounts():
        if mount.mountpoint == mountpoint:
            try:
                Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb").write_text(str(read_ahead_kb))
            except OSError:  # not root in the initial namespace, or /sys is read-only
                return


def unmount(mountpoint: str, *, lazy: bool) -> None:
    """umount2(2). ``lazy``: detach at once, open files go on until they are closed.

    Raises OSError: EBUSY when in use, EINVAL when nothing is mounted there.
    """
    if (mounter := mounterclient.address()) is not None:
        mounterclient.unmount(mounter, mountpoint, lazy=lazy)
    else:
        unmount_here(mountpoint, lazy=lazy)


def unmount_here(mountpoint: str, *, lazy: bool) -> None:
    """The same by this very process."""
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    _check(_libc.umount2(os.fsencode(mountpoint), flags), mountpoint)


def mounts() -> Iterator[Mount]:
    """The mounts of this process's namespace, oldest first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.rstrip("\n").partition(" - ")
            fields = before.split(" ")
            kind, source = after.split(" ")[:2]
            yield Mount(fields[2], _unescape(fields[4]), kind, _unescape(source))


def _unescape(text: str) -> str:
    """Undo the octal escapes that the kernel writes for blanks, newlines and backslashes."""
    raw = text.encode("utf-8", "surrogateescape")
    return raw.decode("unicode_escape").encode("latin-1").decode("utf-8", "surrogateescape")


def _check(result: int, mountpoint: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), mountpoint)
