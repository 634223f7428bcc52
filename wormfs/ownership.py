"""Who the daemon's user is, and files that root makes for it.

Commands such as ``wormfs verify`` run as root, beside a daemon that may run as somebody else. What they make
in the state directory, private as it is, would lock the daemon out of its own files. The state directory
belongs to the daemon's user.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat

SERVICE_USER = "wormfs"
"""As whom wormfs.service runs."""


def is_ours(uid: int) -> bool:
    """Whether ``uid`` is root, this process, or, for root, the user of the service.

    Reads the table of users: blocks.
    """
    if uid in (0, os.geteuid()):
        return True
    try:
        return os.geteuid() == 0 and uid == pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:
        return False


def give_to_owner(fd: int, owner: os.stat_result) -> None:
    """Give an open file or directory to the owner of the state directory; nothing where that is so already.

    Args:
        owner: ``stat`` of the state directory.

    Only root can and does. By descriptor, and never a file with a second name: whoever owns the state
    directory must not get hold of another file by putting a link to it there. Open it with ``O_NOFOLLOW``.
    Raises OSError.
    """
    now = os.fstat(fd)
    if os.geteuid() != 0 or (now.st_uid, now.st_gid) == (owner.st_uid, owner.st_gid):
        return
    if stat.S_ISREG(now.st_mode) and now.st_nlink > 1:
        raise OSError(errno.EPERM, "it has a second name, which nothing of wormfs gives it")
    os.fchown(fd, owner.st_uid, owner.st_gid)


def give_directory_to_owner(path: str | os.PathLike[str], owner: os.stat_result) -> None:
    """The same for the directory ``path``. Raises OSError, also for a symbolic link."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give_to_owner(fd, owner)
    finally:
        os.close(fd)
