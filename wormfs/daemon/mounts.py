"""What is mounted where, by whom, and who uses it.

Everything here blocks and may walk paths, so it must not run on the event loop of the process that
serves the root: that would wait for itself. Nothing here asks a file system that may hang, except
``probe``, which asks from a child process that can be left behind.
"""

from __future__ import annotations

import enum
import errno
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from wormfs import threads
from wormfs.daemon.refusal import CannotStart
from wormfs.fuse.mounting import SUBTYPE, Mount, mounts, unmount

KIND = f"fuse.{SUBTYPE}"
AUTOMOUNT = "autofs"
"""Waits for its first visitor and for us to mount over it (x-systemd.automount in fstab)."""
ROOT_SOURCE = "wormfs"

log = logging.getLogger(__name__)

_MOUNTPOINT_MODE = 0o555
_MAX_STACKED = 64
_PROBE_S = 5.0
_PATIENCE_S = 0.5
_DEAD_ERRNOS = (errno.ENOTCONN, errno.ECONNABORTED)

# statvfs and not stat: attributes come from the kernel's cache even when the daemon is dead.
_PROBE_PROGRAM = "import os,sys\ntry: os.statvfs(sys.argv[1])\nexcept OSError as e: sys.exit(e.errno)"


def source_of(backend: str) -> str:
    """What /proc/mounts and df show as the device of a backend's mount."""
    return f"{ROOT_SOURCE}#{backend}"


class Liveness(enum.Enum):
    """How a mount answers."""

    ALIVE = "answers"
    DEAD = "its daemon is gone"
    SILENT = "does not answer"


def top_mount(path: str) -> Mount | None:
    """The mount that is seen at ``path`` (the last of those stacked there)."""
    found = None
    for mount in mounts():
        if mount.mountpoint == path:
            found = mount
    return found


def is_automount(path: str) -> bool:
    """Whether an automount at ``path`` waits to be mounted over. Looks nothing up."""
    top = top_mount(path)
    return top is not None and top.kind == AUTOMOUNT


def probe(path: str) -> Liveness:
    """Ask the file system at ``path`` a question that its daemon must answer itself.

    Asked from a child: a process that waits for a hung FUSE daemon cannot even be killed.
    """
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROBE_PROGRAM, path],
        stdin=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        status = child.wait(_PROBE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return Liveness.SILENT
    return Liveness.DEAD if status in _DEAD_ERRNOS else Liveness.ALIVE


def clear_stale(mountpoint: str) -> list[str]:
    """Detach what a dead daemon left at ``mountpoint`` and below; returns what was detached.

    Raises CannotStart when something else, or a live wormfs, is mounted there; that is left alone.
    """
    cleared: list[str] = []
    for _ in range(_MAX_STACKED):
        stale = _next_stale(mountpoint)
        if stale is None:
            return cleared
        unmount(stale.mountpoint, lazy=True)
        cleared.append(f"{stale.source} on {stale.mountpoint}")
    raise CannotStart(f"more than {_MAX_STACKED} mounts are stacked at {mountpoint}")


def _next_stale(mountpoint: str) -> Mount | None:
    top = top_mount(mountpoint)
    if top is not None and top.kind != AUTOMOUNT:
        if top.kind != KIND:
            raise CannotStart(
                f"{mountpoint} is in use: {top.source} ({top.kind}) is mounted there;"
                " unmount it or choose another mountpoint"
            )
        match probe(mountpoint):
            case Liveness.DEAD:
                # Detaching it takes the backends' mounts below it along.
                return top
            case alive:
                raise CannotStart(
                    f"{mountpoint} is in use: a wormfs ({top.source}) is mounted there and {alive.value};"
                    f" stop it with: wormfs umount {mountpoint}"
                )
    below = [mount for mount in mounts() if is_below(mount.mountpoint, mountpoint) and mount.kind == KIND]
    return next((mount for mount in below if probe(mount.mountpoint) is Liveness.DEAD), None)


def prepare_mountpoint(mountpoint: str) -> None:
    """Make sure that ``mountpoint`` is an empty directory; make it (root only, 0555) if it is missing.

    Nobody can write below a directory of mode 0555 while nothing is mounted there, root excepted.
    Raises CannotStart.
    """
    try:
        if not os.path.lexists(mountpoint):
            os.makedirs(os.path.dirname(mountpoint), exist_ok=True)
            os.mkdir(mountpoint)
            os.chmod(mountpoint, _MOUNTPOINT_MODE)
        with os.scandir(mountpoint) as entries:
            first = next(entries, None)
    except OSError as error:
        raise CannotStart(f"mountpoint {mountpoint}: {error.strerror}") from error
    if first is not None:
        raise CannotStart(
            f"mountpoint {mountpoint} is not empty (it holds {first.name!r}): a mount would hide that;"
            " move it away or choose another mountpoint"
        )


def detach(path: str, source: str | None, *, device: str | None = None) -> bool:
    """Lazily unmount what is seen at ``path`` if it is ours; says whether it was.

    Args:
        source: the mount's source as in /proc/mounts; ``None``: whichever.
        device: ``major:minor`` of one particular mount; a newer one at the same place is left alone.
    """
    detached = False
    for _ in range(_MAX_STACKED):
        top = top_mount(path)
        if (
            top is None
            or top.kind != KIND
            or source not in (None, top.source)
            or device not in (None, top.device)
        ):
            break
        try:
            unmount(path, lazy=True)
            detached = True
        except OSError as error:
            if error.errno != errno.EINVAL:  # somebody else was faster: the next look tells
                log.warning("%s cannot be unmounted: %s", path, error)
                break
    return detached


def still_exists(device: str) -> bool:
    """Whether the file system of a mount exists, detached or not: as long as somebody has a file of it open.

    A FUSE session ends when its file system does, but also when its connection is aborted with files
    open (``umount -f``). The kernel's entry for the file system's I/O tells one from the other. Without
    /sys the answer is yes.
    """
    entries = "/sys/class/bdi"
    return os.path.exists(f"{entries}/{device}") or not os.path.isdir(entries)


def is_below(path: str, directory: str) -> bool:
    """Whether ``path`` lies in the tree of ``directory``, itself excluded. Looks nothing up."""
    return path.startswith(directory.rstrip("/") + "/")


@dataclass(frozen=True, slots=True)
class User:
    """A process that keeps a mount busy."""

    pid: int
    command: str
    path: str
    """One of the files or directories by which it does."""


def users_of(mountpoint: str) -> list[User]:
    """The processes with a file, a mapping or their current directory at or below ``mountpoint``.

    Only reads /proc, and never waits long for it, so a hung backend cannot block it. Processes of other
    mount namespaces show their own paths and may be missed; umount2 decides in the end.
    """
    found: list[User] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            # Ended meanwhile, not ours to look at, or its part of /proc waits for a lock that it holds.
            with suppress(OSError, TimeoutError):
                found.extend(threads.within(_PATIENCE_S, _user, name, mountpoint))
    return found


def _user(pid: str, mountpoint: str) -> list[User]:
    return [User(int(pid), _command(pid), path) for path in itertools.islice(_paths_used(pid, mountpoint), 1)]


def _paths_used(pid: str, mountpoint: str) -> Iterator[str]:
    links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
    links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    for link in links:
        with suppress(FileNotFoundError):  # closed meanwhile
            target = os.readlink(link)
            if target == mountpoint or is_below(target, mountpoint):
                yield target
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            path = line[line.find("/") :].rstrip("\n") if "/" in line else ""
            if is_below(path, mountpoint):
                yield path


def _command(pid: str) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip()
