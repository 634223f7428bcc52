"""What an errno of a local file system means to wormfs: one table."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from wormfs.errors import (
    AccessDenied,
    AlreadyExists,
    BackendFault,
    DirectoryNotEmpty,
    InvalidArgument,
    InvalidName,
    IsADirectory,
    NameTooLong,
    NoSuchAttribute,
    NotADirectory,
    NotFound,
    OutOfSpace,
    QuotaExceeded,
    TooLarge,
    Unavailable,
    Unsupported,
    WormfsError,
)

MEANINGS: Final[Mapping[int, type[WormfsError]]] = MappingProxyType(
    {
        errno.ENOENT: NotFound,
        # Only ever met where O_NOFOLLOW forbids a symbolic link: such names are not shown.
        errno.ELOOP: NotFound,
        errno.EEXIST: AlreadyExists,
        errno.EISDIR: IsADirectory,
        errno.ENOTDIR: NotADirectory,
        errno.ENOTEMPTY: DirectoryNotEmpty,
        errno.EACCES: AccessDenied,
        errno.EPERM: AccessDenied,
        errno.ENOSPC: OutOfSpace,
        errno.EDQUOT: QuotaExceeded,
        errno.ENAMETOOLONG: NameTooLong,
        errno.EILSEQ: InvalidName,
        errno.EFBIG: TooLarge,
        errno.E2BIG: TooLarge,
        errno.ERANGE: TooLarge,
        errno.EINVAL: InvalidArgument,
        errno.ENODATA: NoSuchAttribute,
        errno.EXDEV: Unsupported,
        errno.EMLINK: Unsupported,
        errno.EOPNOTSUPP: Unsupported,
        errno.ENOSYS: Unsupported,
        errno.ENOTTY: Unsupported,
        errno.EIO: BackendFault,
        errno.EUCLEAN: BackendFault,
        # ext4 goes read-only after an error; a repaired and remounted disk works again.
        errno.EROFS: Unavailable,
        errno.ESTALE: Unavailable,
        errno.ENODEV: Unavailable,
        errno.ENXIO: Unavailable,
        errno.ENOTCONN: Unavailable,
        errno.ESHUTDOWN: Unavailable,
        errno.ETIMEDOUT: Unavailable,
        errno.EHOSTDOWN: Unavailable,
        errno.EHOSTUNREACH: Unavailable,
        errno.EREMOTEIO: Unavailable,
        errno.EBUSY: Unavailable,
        errno.EAGAIN: Unavailable,
        errno.EINTR: Unavailable,
        errno.ENOMEM: Unavailable,
        errno.EMFILE: Unavailable,
        errno.ENFILE: Unavailable,
        errno.ENOLCK: Unavailable,
    }
)
"""Every errno that is foreseen; any other one is a BackendFault."""


def translated(error: OSError, backend: str, key: bytes | None, doing: str) -> WormfsError:
    """The error of the tree that ``error`` stands for.

    Args:
        doing: what was being done, to complete "could not …".
    """
    number = error.errno if error.errno is not None else 0
    meaning = MEANINGS.get(number, BackendFault)
    name = errno.errorcode.get(number, str(number))
    return meaning(f"could not {doing}: {os.strerror(number)} ({name})", backend=backend, key=key)


@contextlib.contextmanager
def translating(backend: str, key: bytes | None, doing: str) -> Iterator[None]:
    """Turn every OSError inside into the error of the tree that it stands for."""
    try:
        yield
    except OSError as error:
        raise translated(error, backend, key, doing) from error
