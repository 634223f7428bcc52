"""Which errno a caller sees for which error: one table, total over the error tree."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from wormfs import errors

TABLE: Final[Mapping[type[errors.WormfsError], int]] = MappingProxyType(
    {
        errors.NotFound: errno.ENOENT,
        errors.AlreadyExists: errno.EEXIST,
        errors.IsADirectory: errno.EISDIR,
        errors.NotADirectory: errno.ENOTDIR,
        errors.DirectoryNotEmpty: errno.ENOTEMPTY,
        errors.Refused: errno.EPERM,
        errors.Sealed: errno.EPERM,
        errors.Retained: errno.EPERM,
        errors.Busy: errno.EBUSY,
        errors.AccessDenied: errno.EACCES,
        errors.OutOfSpace: errno.ENOSPC,
        errors.QuotaExceeded: errno.EDQUOT,
        errors.InvalidName: errno.EINVAL,
        errors.NameTooLong: errno.ENAMETOOLONG,
        errors.TooLarge: errno.EFBIG,
        errors.InvalidArgument: errno.EINVAL,
        errors.Unsupported: errno.EOPNOTSUPP,
        errors.NoSuchAttribute: errno.ENODATA,
        errors.BackendError: errno.EIO,
        errors.Unavailable: errno.EIO,
        errors.BackendFault: errno.EIO,
        errors.DigestMismatch: errno.EIO,
        errors.JournalError: errno.EIO,
        errors.SpoolLocked: errno.EIO,
        errors.SettingsError: errno.EIO,
        errors.WormfsError: errno.EIO,
    }
)


def errno_of(error: errors.WormfsError) -> int:
    """The errno for an error; that of the nearest ancestor for a class made elsewhere."""
    for kind in type(error).__mro__:
        number = TABLE.get(kind)
        if number is not None:
            return number
    return errno.EIO
