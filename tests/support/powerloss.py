"""A disk that forgets what was not synced.

``kill -9`` keeps the page cache, so it proves nothing about fsync. ``PowerLoss`` watches a real directory
while the functions of ``wormfs.durability`` are replaced by recording ones. Before and after every call it
notes two images: what a disk must hold now (content and attributes of each file as of its last sync, names
of each directory as of its last sync), and what is there in memory. One run so gives every moment
at which the power may fail; ``rebuild`` lays the tree of one of them into a new directory::

    disk = PowerLoss(root)
    with disk.recording():
        ... the run ...
    for moment in disk.moments:
        disk.rebuild(moment, target)                     # only what was synced
        disk.rebuild(moment, target, random.Random(7))   # and some of the rest, torn and out of order

``forget`` names one call site whose sync does nothing: the bug that a checker must find.
Nothing is really synced while recording, which only makes it faster.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import random
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from wormfs import durability

SYNCS = ("sync_file", "sync_data", "sync_directory")
CHANGES = ("publish_link", "rename", "unlink", "make_directory")

_SECTOR_BYTES = 512
_PAGE_BYTES = 4096
_CACHED_ABOVE_BYTES = 1 << 16

Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Node:
    """One file or directory at one time."""

    is_directory: bool
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    content: bytes = b""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    names: tuple[tuple[str, Inode], ...] = ()


Image = dict[Inode, Node]


@dataclass(frozen=True, slots=True)
class Moment:
    """One point at which the power may fail."""

    number: int
    after: str
    """The call that has just been done, or is just about to be."""
    durable: Image = field(repr=False)
    memory: Image = field(repr=False)


class PowerLoss:
    """See the module's text. Calls may come from many threads."""

    def __init__(self, root: Path, forget: str | None = None) -> None:
        """``forget``: a call site as ``sites`` has it."""
        self.moments: list[Moment] = []
        self.sites: set[str] = set()
        """Every place in wormfs that synced something."""
        self._root = root
        self._forget = forget
        self._lock = threading.RLock()
        self._durable: Image = {}
        self._pinned: dict[Inode, int] = {}
        """A descriptor of every inode seen, so that no number is used again for another file."""
        self._directories: set[Inode] = set()
        """What kind of thing an inode is goes to the disk together with its name."""
        self._big: dict[tuple[Inode, int, int], bytes] = {}
        self._original = {name: getattr(durability, name) for name in (*SYNCS, *CHANGES)}
        self._root_inode = self._sync_all(root)

    @property
    def now(self) -> int:
        """How many moments there are: an acknowledgement given now holds from this number on."""
        with self._lock:
            return len(self.moments)

    @contextlib.contextmanager
    def recording(self) -> Iterator[PowerLoss]:
        """Replace the functions of ``wormfs.durability`` inside."""
        for name in SYNCS:
            setattr(durability, name, functools.partial(self._sync, name))
        for name in CHANGES:
            setattr(durability, name, functools.partial(self._change, name))
        try:
            yield self
            self._note("the end")
        finally:
            for name, function in self._original.items():
                setattr(durability, name, function)
            self._unpin()

    def rebuild(self, moment: Moment, target: Path, chance: random.Random | None = None) -> None:
        """Lay the tree of ``moment`` into the new directory ``target``.

        Without ``chance`` nothing survives that was not synced. With it each unsynced change of a name
        survives or not, and unsynced content survives whole, in torn pages, or not.
        """
        _Rebuild(moment, self._directories, chance).directory(self._root_inode, target)

    # Watching

    def _sync(self, name: str, fd: int) -> None:
        with self._lock:
            site = _site(name)
            self.sites.add(site)
            self._note(f"before {site}")
            if site != self._forget:
                inode, node = self._look(fd)
                before = self._durable.get(inode)
                if name == "sync_data":
                    # fdatasync: content and length, but no attributes that reading does not need.
                    node = replace(before or Node(is_directory=False), content=node.content)
                self._durable[inode] = node
            self._note(f"after {site}")

    def _change(self, name: str, *arguments: Any, **named: Any) -> None:
        with self._lock:
            self._note(f"before {_site(name)}")
            self._original[name](*arguments, **named)
            self._note(f"after {_site(name)}")

    def _note(self, what: str) -> None:
        with self._lock:
            memory: Image = {}
            self._scan(self._root, memory)
            self.moments.append(Moment(len(self.moments), what, dict(self._durable), memory))

    def _scan(self, path: Path, image: Image) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            inode, node = self._look(fd)
        finally:
            os.close(fd)
        image[inode] = node
        for name, below in node.names:
            if below not in image:
                # A thread may take a name away while we look.
                with contextlib.suppress(FileNotFoundError):
                    self._scan(path / name, image)

    def _look(self, fd: int) -> tuple[Inode, Node]:
        facts = os.fstat(fd)
        inode = (facts.st_dev, facts.st_ino)
        if inode not in self._pinned:
            self._pinned[inode] = os.dup(fd)
        directory = stat.S_ISDIR(facts.st_mode)
        if directory:
            self._directories.add(inode)
        return inode, Node(
            is_directory=directory,
            mode=stat.S_IMODE(facts.st_mode),
            uid=facts.st_uid,
            gid=facts.st_gid,
            mtime_ns=facts.st_mtime_ns,
            content=b"" if directory else self._content(fd, inode, facts),
            xattrs=() if directory else _xattrs(fd),
            names=_names(fd) if directory else (),
        )

    def _content(self, fd: int, inode: Inode, facts: os.stat_result) -> bytes:
        # A descriptor that is only open for writing is no hindrance this way.
        with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file:
            if facts.st_size <= _CACHED_ABOVE_BYTES:
                return file.read(facts.st_size)
            key = (inode, facts.st_size, facts.st_mtime_ns)
            if key not in self._big:
                self._big[key] = file.read(facts.st_size)
            return self._big[key]

    def _sync_all(self, root: Path) -> Inode:
        image: Image = {}
        self._scan(root, image)
        self._durable = image
        facts = root.stat()
        return (facts.st_dev, facts.st_ino)

    def _unpin(self) -> None:
        for fd in self._pinned.values():
            os.close(fd)
        self._pinned.clear()


class _Rebuild:
    """One tree after one power loss."""

    def __init__(self, moment: Moment, directories: set[Inode], chance: random.Random | None) -> None:
        self._directories = directories
        self._durable = moment.durable
        self._memory = moment.memory
        self._chance = chance
        self._made: dict[Inode, Path] = {}

    def directory(self, inode: Inode, target: Path) -> None:
        target.mkdir(mode=0o700)
        for name, below in self._names(inode).items():
            if below in self._directories:
                if below not in self._made:
                    self._made[below] = target / name
                    self.directory(below, target / name)
            elif below in self._made:
                os.link(self._made[below], target / name)
            else:
                self._made[below] = target / name
                self._file(below, target / name)
        node = self._durable.get(inode)
        if node is not None:
            target.chmod(node.mode)
            os.chown(target, node.uid, node.gid)

    def _names(self, inode: Inode) -> dict[str, Inode]:
        durable = dict(self._durable[inode].names) if inode in self._durable else {}
        if self._chance is None or inode not in self._memory:
            return durable
        memory = dict(self._memory[inode].names)
        chosen: dict[str, Inode] = {}
        for name in sorted(durable.keys() | memory.keys()):
            found = self._chance.choice((durable, memory)).get(name)
            if found is not None:
                chosen[name] = found
        return chosen

    def _file(self, inode: Inode, path: Path) -> None:
        node = self._survivor(inode)
        path.write_bytes(node.content)
        for name, value in node.xattrs:
            os.setxattr(path, name, value)
        os.chown(path, node.uid, node.gid)
        path.chmod(node.mode)
        os.utime(path, ns=(node.mtime_ns, node.mtime_ns))

    def _survivor(self, inode: Inode) -> Node:
        # A name whose file was never synced: an empty file with nothing to it.
        durable = self._durable.get(inode, Node(is_directory=False))
        memory = self._memory.get(inode)
        if self._chance is None or memory is None:
            return durable
        attributes = self._chance.choice((durable, memory))
        match self._chance.randrange(3):
            case 0:
                content = durable.content
            case 1:
                content = memory.content
            case _:
                content = self._torn(durable.content, memory.content)
        return replace(attributes, content=content)

    def _torn(self, old: bytes, new: bytes) -> bytes:
        """Some pieces of the new content have reached the disk, in no order."""
        assert self._chance is not None
        if old == new:
            return old
        size = self._chance.choice((len(old), len(new)))
        piece = _SECTOR_BYTES if size <= _CACHED_ABOVE_BYTES else _PAGE_BYTES
        result = bytearray(old[:size].ljust(size, b"\0"))
        for start in range(0, min(size, len(new)), piece):
            if self._chance.random() < 0.5:
                result[start : start + piece] = new[start : min(start + piece, size)]
        return bytes(result[:size])


@contextlib.contextmanager
def syncing_nothing() -> Iterator[None]:
    """Make syncs free, for runs whose machine is not going to lose power."""
    original = {name: getattr(durability, name) for name in SYNCS}
    for name in SYNCS:
        setattr(durability, name, lambda fd: None)
    try:
        yield
    finally:
        for name, function in original.items():
            setattr(durability, name, function)


def _xattrs(fd: int) -> tuple[tuple[str, bytes], ...]:
    names = sorted(name for name in os.listxattr(fd) if name.startswith("user."))
    return tuple((name, os.getxattr(fd, name)) for name in names)


def _names(fd: int) -> tuple[tuple[str, Inode], ...]:
    found = []
    for name in sorted(os.listdir(fd)):
        with contextlib.suppress(FileNotFoundError):
            facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
            found.append((name, (facts.st_dev, facts.st_ino)))
    return tuple(found)


def _site(name: str) -> str:
    """Where a durable function was called: ``module.function:sync_file#2`` for the second such line there."""
    here = {__file__, functools.__file__}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in here:
        frame = frame.f_back
    assert frame is not None
    through = ""
    while frame.f_code.co_filename == durability.__file__:
        # What wormfs called is the outermost of the module's own functions.
        through = frame.f_code.co_name
        frame = frame.f_back
        assert frame is not None
    called = through or name
    which = _ordinal(frame.f_code, frame.f_lineno, called)
    module = frame.f_globals["__name__"].removeprefix("wormfs.")
    via = f" in {through}" if through else ""
    return f"{module}.{frame.f_code.co_name}:{name}{via}" + (f"#{which}" if which > 1 else "")


@functools.cache
def _ordinal(code: CodeType, line: int, called: str) -> int:
    lines, first = inspect.getsourcelines(code)
    return sum(f"durability.{called}(" in text for text in lines[: line - first + 1])
