"""Why a daemon does not start."""

from __future__ import annotations


class CannotStart(Exception):
    """The daemon must not start here; the text says why and what to do.

    Not part of the tree in ``wormfs.errors``: no caller of the file system can ever meet it.
    """
