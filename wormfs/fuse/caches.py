"""What the kernel keeps of a mount, and taking it away."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial

import pyfuse3

log = logging.getLogger(__name__)

_LAST_WORDS_S = 1.0
_NOTHING_THERE = (errno.ENOENT, errno.ENOTCONN, errno.EINVAL)
"""The kernel knows nothing of it; the session has not begun, or is over."""


class KernelCaches:
    """What the kernel is to forget of one session. For threads, never the event loop:

    the kernel waits for requests that are under way, which the event loop has to answer. Nothing here raises
    anything: before the session begins and after its end there is nothing to forget.
    """

    def __init__(self) -> None:
        self._telling = threading.Lock()
        self._is_over = False

    def end(self) -> bool:
        """From now on nobody talks to the kernel; whether that is sure. Blocks for a second at most."""
        self._is_over = True
        if not self._telling.acquire(timeout=_LAST_WORDS_S):
            return False
        self._telling.release()
        return True

    def forget_content(self, inodes: Iterable[int]) -> None:
        """The content that is cached of these inodes."""
        for inode in inodes:
            self._tell(f"the content of inode {inode}", partial(_forget_inode, inode, content=True))

    def forget_attributes(self, inode: int) -> None:
        """Size, times, number of links."""
        self._tell(f"the attributes of inode {inode}", partial(_forget_inode, inode, content=False))

    def forget_name(self, directory: int, name: bytes) -> None:
        """That there is such a name. What is mounted on it is detached by that."""
        what = f"the name {name.decode('utf-8', 'backslashreplace')}"
        self._tell(what, partial(_forget_name, directory, name))

    def _tell(self, what: str, forget: Callable[[], None]) -> None:
        # The session is not taken from under a thread that is just using it.
        with self._telling:
            if self._is_over:
                return
            try:
                forget()
            except OSError as error:
                if error.errno not in _NOTHING_THERE:
                    log.error("the kernel does not forget %s, it may show what was: %s", what, error)


def _forget_inode(inode: int, *, content: bool) -> None:
    pyfuse3.invalidate_inode(pyfuse3.InodeT(inode), attr_only=not content)


def _forget_name(directory: int, name: bytes) -> None:
    pyfuse3.invalidate_entry(pyfuse3.InodeT(directory), name)
