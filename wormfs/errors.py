"""Every failure that wormfs knows, as a tree.

::

    WormfsError
    ├── NotFound                 the name does not exist
    ├── AlreadyExists            the name is taken (by a record, an entry or a directory)
    ├── IsADirectory, NotADirectory, DirectoryNotEmpty
    ├── Refused                  forbidden by the write-once rules
    │   ├── Sealed               content and name are fixed
    │   └── Retained             retention or a legal hold forbids erasing
    ├── Busy                     somebody is writing this file right now
    ├── AccessDenied             the backend's own permissions say no
    ├── OutOfSpace, QuotaExceeded
    ├── InvalidName, NameTooLong, TooLarge
    ├── InvalidArgument          a call that can never be right
    ├── Unsupported              this backend or file cannot do that
    ├── NoSuchAttribute          no extended attribute of that name
    ├── BackendError             the backend did not do what it should
    │   ├── Unavailable          it cannot be reached or did not answer in time: try again later
    │   ├── BackendFault         it answered with something that makes no sense
    │   └── DigestMismatch       bytes are not the ones that were recorded
    ├── JournalError             the spool's own files cannot be understood
    ├── SpoolLocked              another daemon uses this spool directory
    └── SettingsError            a configuration that cannot be used

``wormfs.fuse.errno_table`` maps every leaf to an errno and is tested to be total.
Drivers raise only these. A message says what happened, to which backend and file,
and what to do; it never holds a secret.
"""

from __future__ import annotations


def show(key: bytes) -> str:
    """A name for people: UTF-8 where it is, escapes where it is not or would not print."""
    text = key.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class WormfsError(Exception):
    """Base of every failure that wormfs foresees."""

    def __init__(self, message: str = "", *, backend: str | None = None, key: bytes | None = None):
        super().__init__(message)
        self.backend = backend
        self.key = key

    def __str__(self) -> str:
        message = super().__str__() or type(self).__name__
        where = self.backend or ""
        if self.key is not None:
            where += "/" + show(self.key)
        return f"{where}: {message}" if where else message


class NotFound(WormfsError):
    """The name does not exist."""


class AlreadyExists(WormfsError):
    """The name is taken; whoever took it keeps it."""


class IsADirectory(WormfsError):
    """A file operation met a directory."""


class NotADirectory(WormfsError):
    """A directory operation met a file."""


class DirectoryNotEmpty(WormfsError):
    """A directory that still has entries cannot go."""


class Refused(WormfsError):
    """The write-once rules forbid this."""


class Sealed(Refused):
    """Content, name and attributes of this file are fixed."""


class Retained(Refused):
    """Retention or a legal hold forbids erasing."""


class Busy(WormfsError):
    """Somebody is writing this file right now."""


class AccessDenied(WormfsError):
    """The backend's own permissions or credentials do not allow this."""


class OutOfSpace(WormfsError):
    """No room at the backend, or the spool has reached its reserve."""


class QuotaExceeded(WormfsError):
    """A quota at the backend is used up."""


class InvalidName(WormfsError):
    """A name that this backend cannot hold exactly, or that wormfs reserves."""


class NameTooLong(WormfsError):
    """A name or path longer than the backend can hold."""


class TooLarge(WormfsError):
    """More bytes than the backend can hold in one object."""


class InvalidArgument(WormfsError):
    """A call that can never be right, whatever the state."""


class Unsupported(WormfsError):
    """This backend or this kind of file cannot do that."""


class NoSuchAttribute(WormfsError):
    """The file has no extended attribute of that name."""


class BackendError(WormfsError):
    """The backend did not do what it should."""


class Unavailable(BackendError):
    """The backend cannot be reached or did not answer in time. Trying again may help."""


class BackendFault(BackendError):
    """The backend answered with something that makes no sense."""


class DigestMismatch(BackendError):
    """Bytes read back are not the bytes that were recorded."""


class JournalError(WormfsError):
    """A file of the spool cannot be understood; it is left as it is."""


class SpoolLocked(WormfsError):
    """Another daemon uses this spool directory."""


class SettingsError(WormfsError):
    """A configuration that cannot be used as it is."""
