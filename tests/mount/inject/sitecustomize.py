"""Failures that nobody foresaw: loaded by the workers of test_survival.py, whose path leads here first.

A file named like a method of FileSystem in $WORMFS_TEST_INJECT makes that method fail with what it says.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from wormfs.errors import Busy
from wormfs.fs.filesystem import FileSystem

_METHODS = [
    *(
        "lookup",
        "forget",
        "getattr",
        "setattr",
        "create",
        "open",
        "read",
        "write",
        "flush",
        "release",
        "fsync",
    ),
    *("opendir", "readdir", "listed", "releasedir", "mkdir", "rmdir", "unlink", "rename"),
    *("getxattr", "listxattr", "setxattr", "removexattr", "statfs"),
]

FAILURES: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("injected"),
    "KeyError": lambda: KeyError("injected"),
    "OSError": lambda: OSError(13, "injected"),
    "group": lambda: ExceptionGroup("injected", [ValueError("one"), KeyError("two")]),
    "foreseen-group": lambda: ExceptionGroup("injected", [ExceptionGroup("inner", [Busy("injected")])]),
    "RecursionError": lambda: RecursionError("injected"),
    "MemoryError": lambda: MemoryError("injected"),
}


def _fails(method: str) -> None:
    try:
        with open(os.path.join(os.environ["WORMFS_TEST_INJECT"], method), encoding="ascii") as file:
            failure = file.read()
    except FileNotFoundError:
        return
    raise FAILURES[failure]()


def _wrap(method: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        _fails(method)
        return await original(*args, **kwargs)

    @functools.wraps(original)
    def wrapped_plain(*args: Any, **kwargs: Any) -> Any:
        _fails(method)
        return original(*args, **kwargs)

    return wrapped_plain if method in ("forget", "listed") else wrapped


if "WORMFS_TEST_INJECT" in os.environ:
    for _method in [
        "lookup",
        "forget",
        "getattr",
        "setattr",
        "create",
        "open",
        "read",
        "write",
        "flush",
        "release",
        "fsync",
        "opendir",
        "readdir",
        "listed",
        "releasedir",
        "mkdir",
        "rmdir",
        "unlink",
        "rename",
        "getxattr",
        "listxattr",
        "setxattr",
        "removexattr",
        "statfs",
    ]:
        setattr(FileSystem, _method, _wrap(_method, getattr(FileSystem, _method)))
