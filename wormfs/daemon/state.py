"""The state directory: one daemon at a time, its instance id, and where its files lie."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from pathlib import Path
from typing import Self

from wormfs import durability
from wormfs.daemon.refusal import CannotStart

_INSTANCE_ID = re.compile(r"[0-9a-f]{16}")
_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600

LOG_NAME = "wormfs.log"
CONTROL_NAME = "control.sock"
INSTANCE_NAME = "instance-id"


class StateDirectory:
    """The locked state directory of a running daemon. Close it to let the next one in."""

    def __init__(self, path: Path, lock_fd: int):
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def lock(cls, path: Path) -> Self:
        """Make the directory if it is missing and lock it. Blocks only for local files.

        The lock ends with the process, however it ends. Raises CannotStart when another daemon
        holds it (names its pid) or the directory cannot be used.
        """
        try:
            path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        except OSError as error:
            raise CannotStart(f"state directory {path}: {error.strerror} ({error.filename})") from error
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock_fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock_fd)
            raise CannotStart(
                f"state directory {path} is in use by another wormfs daemon (pid {holder});"
                " every daemon needs a state directory of its own"
            ) from error
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
        return cls(path, lock_fd)

    def instance_id(self) -> str:
        """The 16 hex digits that name this daemon's spools for ever; made at the first start.

        Durable before it is returned: a spool under an id that is forgotten would be lost.
        Raises CannotStart when the file does not hold an id.
        """
        known = read_instance_id(self.path)
        if known is not None:
            return known
        made = secrets.token_hex(8)
        path = os.fspath(self.path / INSTANCE_NAME)
        durability.write_file_durably(path, (made + "\n").encode(), mode=_FILE_MODE)
        durability.sync_directory_path(os.fspath(self.path.parent))
        return made

    def spool_directory(self, backend: str) -> Path:
        """Where the spool of a backend lies whose driver has no place of its own."""
        return spool_directory(self.path, backend)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock_fd)


def read_instance_id(path: Path) -> str | None:
    """The instance id kept in the state directory ``path``; ``None`` when no daemon was ever started with it.

    Needs no lock. Raises CannotStart when it cannot be read or the file does not hold an id.
    """
    file = path / INSTANCE_NAME
    try:
        text = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"{file} cannot be read: {error}") from error
    if not _INSTANCE_ID.fullmatch(text):
        raise CannotStart(f"{file} does not hold 16 hex digits; restore it, or the spools are not found")
    return text


def spool_directory(path: Path, backend: str) -> Path:
    """Where, below the state directory ``path``, the spool of a backend lies that has no place of its own."""
    return path / "spool" / backend
