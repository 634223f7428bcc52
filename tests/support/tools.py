"""Small helpers for tests on real mounts: what a program sees, and what may not have changed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from wormfs.clock import SystemClock
from wormfs.spool.quarantine import Quarantine, QuarantinedEntry

WWW_DATA = 33
"""uid and gid of www-data on Debian; nothing in the tests needs the name to exist."""

PATIENCE_S = 10.0


class Place:
    """A directory on a mount, and the same directory at the backend."""

    def __init__(self, daemon: Daemon, backend: str, name: str):
        self.daemon = daemon
        self.backend = backend
        self.root = daemon.mountpoint / backend
        self.path = self.root / name
        self.data = daemon.data(backend) / name

    def make(self) -> Place:
        self.path.mkdir()
        self.path.chmod(0o777)
        return self

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def stored(self, path: Path) -> Path:
        """Where the backend keeps what ``path`` shows."""
        return self.data / path.relative_to(self.path)

    def visible(self) -> set[str]:
        """What the mount lists; nothing else may lie at the backend."""
        return set(os.listdir(self.path))

    def quarantined(self) -> list[tuple[str, bytes]]:
        """Names (relative to this place) and bytes of what went to quarantine from here."""
        inside = os.fsencode(self.path.relative_to(self.root)) + b"/"
        found = []
        for entry, directory in quarantine_of(self.daemon, self.backend):
            if entry.record is not None and entry.record.key.startswith(inside):
                content = (directory / f"{entry.entry_id}.data").read_bytes()
                found.append((os.fsdecode(entry.record.key[len(inside) :]), content))
        return sorted(found)

    def wait_quarantined(self, count: int = 1) -> list[tuple[str, bytes]]:
        eventually(lambda: len(self.quarantined()) >= count, f"{count} in quarantine")
        return self.quarantined()


def quarantine_of(daemon: Daemon, backend: str) -> Iterator[tuple[QuarantinedEntry, Path]]:
    for directory in (daemon.data(backend) / ".wormfs" / "spool").glob("*/quarantine"):
        for entry in Quarantine(str(directory), SystemClock()).entries():
            yield entry, directory


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """The block must end in an OSError with one of ``numbers``."""
    wanted = [errno.errorcode[number] for number in numbers]
    try:
        yield
    except OSError as error:
        assert error.errno is not None
        assert errno.errorcode[error.errno] in wanted, error
    else:
        pytest.fail(f"it was not refused; {wanted} was expected")


@contextlib.contextmanager
def unchanged(place: Place, path: Path) -> Iterator[None]:
    """Whatever the block does, the file and what the backend keeps of it must be the same afterwards."""
    stored = place.stored(path)
    before = fingerprint(path), fingerprint(stored), xattrs_of(stored)
    try:
        yield
    finally:
        assert (fingerprint(path), fingerprint(stored), xattrs_of(stored)) == before


def fingerprint(path: Path) -> tuple[object, ...]:
    found = path.stat()
    return (
        sha256(path),
        found.st_size,
        found.st_mode,
        found.st_uid,
        found.st_gid,
        found.st_mtime_ns,
        found.st_ino,
    )


def xattrs_of(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def sha256(path: Path) -> str:
    # Looking must not change anything, not even the time of the last access at the backend.
    with open(os.open(path, os.O_RDONLY | os.O_NOATIME), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state(path: Path) -> str:
    """The life cycle state that wormfs tells."""
    return os.getxattr(path, "user.wormfs.state").decode()


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            pytest.fail(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)


def wait_committed(path: Path, timeout_s: float = PATIENCE_S) -> None:
    """For files whose commit comes after the last close has returned, which nobody was told of."""

    def committed() -> bool:
        with contextlib.suppress(FileNotFoundError):
            return state(path) == "committed"
        return False

    eventually(committed, f"{path} is committed", timeout_s)


def run(
    *command: str | Path,
    cwd: Path | None = None,
    timeout_s: float = 60,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """A program as a user would start it; its messages in English."""
    return subprocess.run(
        [*prefix, *(str(word) for word in command)],
        cwd=cwd,
        input=None if stdin is None else stdin.decode("latin-1"),
        capture_output=True,
        encoding="latin-1",
        timeout=timeout_s,
        env={**os.environ, **(env or {}), "LC_ALL": "C"},
    )


def works(*command: str | Path, **options: object) -> str:
    """The program must succeed without a word of complaint; gives its output."""
    done = run(*command, **options)  # type: ignore[arg-type]
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def fails(*command: str | Path, saying: str = "", **options: object) -> None:
    """The program must fail and say why."""
    done = run(*command, **options)  # type: ignore[arg-type]
    assert done.returncode != 0, done
    assert saying in done.stderr, done


def as_www_data(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """The program as an unprivileged user."""
    words = ("setpriv", f"--reuid={WWW_DATA}", f"--regid={WWW_DATA}", "--clear-groups", "--")
    return run(*words, *command, **options)  # type: ignore[arg-type]


def python(script: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """A Python program with pipes at both ends; without site-packages, so that it starts quickly."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script, *(str(word) for word in arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=cwd,
    )


def ends(process: subprocess.Popen[bytes], status: int = 0) -> bytes:
    """Wait for the end of ``python``; its output."""
    with process:
        try:
            output, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == status
    return output


def memory_kib(pid: int, field: str) -> int:
    """A field of /proc/PID/status, such as VmRSS or VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise KeyError(field)


def bytes_read(pid: int) -> int:
    """How much a process has read so far, page cache included."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise KeyError("rchar")


def drop_cached(path: Path) -> None:
    """Make the kernel forget the pages of one file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
