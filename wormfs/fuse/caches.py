"""What the kernel keeps of a mount, and taking it away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pyfuse3


def drop_content(inodes: Iterable[int]) -> None:
    """The kernel forgets the content that it has cached of these inodes. For a thread, never the event loop:

    it waits for reads that are under way, which the event loop has to answer. Raises OSError.
    """
    for inode in inodes:
        # Forgotten by itself meanwhile: nothing is cached any more.
        with contextlib.suppress(FileNotFoundError):
            pyfuse3.invalidate_inode(pyfuse3.InodeT(inode), attr_only=False)
