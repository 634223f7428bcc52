"""One table from errors to errno, total over the error tree."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from wormfs import errors
from wormfs.fuse.errno_table import TABLE, errno_of


def tree(top: type[errors.WormfsError]) -> Iterator[type[errors.WormfsError]]:
    yield top
    for below in top.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from tree(below)


@pytest.mark.parametrize("kind", sorted(set(tree(errors.WormfsError)), key=lambda kind: kind.__name__))
def test_every_error_has_an_errno_of_its_own_line(kind: type[errors.WormfsError]) -> None:
    assert kind in TABLE
    assert errno_of(kind("text")) == TABLE[kind]
    assert TABLE[kind] in errno.errorcode


def test_semantics_name_these() -> None:
    promised = {
        errors.NotFound: errno.ENOENT,
        errors.AlreadyExists: errno.EEXIST,
        errors.Sealed: errno.EPERM,
        errors.Retained: errno.EPERM,
        errors.Busy: errno.EBUSY,
        errors.AccessDenied: errno.EACCES,
        errors.OutOfSpace: errno.ENOSPC,
        errors.QuotaExceeded: errno.EDQUOT,
        errors.InvalidName: errno.EINVAL,
        errors.NameTooLong: errno.ENAMETOOLONG,
        errors.TooLarge: errno.EFBIG,
        errors.Unsupported: errno.EOPNOTSUPP,
        errors.Unavailable: errno.EIO,
        errors.BackendFault: errno.EIO,
        errors.DigestMismatch: errno.EIO,
    }
    assert {kind: errno_of(kind()) for kind in promised} == promised


def test_a_class_made_elsewhere_counts_as_its_ancestor() -> None:
    class Conflict(errors.AlreadyExists):
        pass

    assert errno_of(Conflict()) == errno.EEXIST
