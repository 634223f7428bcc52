"""What the file system should be, as a dictionary: the rules of docs/semantics.md and no file system at all.

``Model`` is told the same operations as the real thing. Each returns, or raises the class of error that the
real one must raise; time, outages and restarts are told to it, too.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from wormfs.errors import (
    AlreadyExists,
    Busy,
    DirectoryNotEmpty,
    IsADirectory,
    NoSuchAttribute,
    NotADirectory,
    NotFound,
    Refused,
    Retained,
    Sealed,
    Unavailable,
    Unsupported,
)

GRACE_S = 60.0
UMASK = 0o022
WRITE_BITS = 0o222


class State(enum.Enum):
    WRITING = "writing"
    SETTLING = "settling"
    SEALED = "sealed"
    COMMITTED = "committed"
    GONE = "unlinked while open"


@dataclass(eq=False)
class ModelFile:
    path: bytes
    state: State = State.WRITING
    content: bytes = b""
    mode: int = 0o644
    mtime_ns: int | None = None
    """None: whatever the last write made it."""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    settle_until: float = 0.0
    reopened: bool = False
    settled: int = 0
    until_s: float | None = None
    """Of a record: when its retention is over; None: never. Taken from the real one when it is committed."""
    dated: bool = False
    holds: set[str] = field(default_factory=set)

    @property
    def changeable(self) -> bool:
        return self.state in (State.WRITING, State.SETTLING)

    @property
    def shown_mode(self) -> int:
        return self.mode if self.changeable else self.mode & ~WRITE_BITS


class Model:
    """See the module's text."""

    def __init__(self, settle_s: float) -> None:
        self.settle_s = settle_s
        self.now = 0.0
        self.down = False
        self.files: dict[bytes, ModelFile] = {}
        self.directories: set[bytes] = set()
        self.quarantine: list[tuple[bytes, bytes]] = []
        self.wall_off_s = 0.0
        """How wrong the machine's clock is, and how wrong it was when an administrator accepted it."""
        self.accepted_off_s = 0.0

    # Looking

    def exists(self, path: bytes) -> bool:
        return path in self.files or path in self.directories

    def find(self, path: bytes) -> ModelFile | None:
        """The file, or None for a directory. Raises NotFound, NotADirectory."""
        self.resolve_parent(path)
        if not self.exists(path):
            raise NotFound
        return self.files.get(path)

    def resolve_parent(self, path: bytes) -> None:
        parts = path.split(b"/")
        for count in range(1, len(parts)):
            folder = b"/".join(parts[:count])
            if folder in self.files:
                raise NotADirectory
            if folder not in self.directories:
                raise NotFound

    def may_be_made(self, path: bytes) -> bool:
        """Nothing has the name, and its directory is there."""
        folder = path.rpartition(b"/")[0]
        return not self.exists(path) and (not folder or folder in self.directories)

    def below(self, path: bytes) -> list[bytes]:
        return [name for name in (*self.files, *self.directories) if name.rpartition(b"/")[0] == path]

    # Files

    def create(self, path: bytes, mode: int) -> ModelFile:
        self.resolve_parent(path)
        if self.exists(path):
            raise AlreadyExists
        self._ask()
        self.files[path] = ModelFile(path, mode=mode & ~UMASK)
        return self.files[path]

    def reopen(self, path: bytes, truncate: bool) -> ModelFile:
        file = self.find(path)
        if file is None:
            raise Sealed  # the kernel says EISDIR before asking
        if file.state is State.WRITING:
            raise Busy
        if file.state is not State.SETTLING or (not file.content and file.reopened):
            raise Sealed
        file.state = State.WRITING
        file.reopened = not file.content
        if truncate:
            self.truncate(file, 0)
        return file

    def write(self, file: ModelFile, offset: int, data: bytes) -> None:
        if file.state is State.GONE:
            raise Sealed
        file.content = file.content[:offset].ljust(offset, b"\0") + data + file.content[offset + len(data) :]
        file.mtime_ns = None

    def truncate(self, file: ModelFile, size: int) -> None:
        file.content = file.content[:size].ljust(size, b"\0")
        file.mtime_ns = None

    def close(self, file: ModelFile) -> bool:
        """Whether the close has to wait for a backend that is down."""
        if file.state is State.GONE:
            return False
        settle_s = self.settle_s
        if not file.content and not file.reopened:
            settle_s = max(GRACE_S, settle_s)
        if settle_s > 0:
            file.state = State.SETTLING
            file.settled += 1
            file.settle_until = self.now + settle_s
            return False
        file.state = State.SEALED
        self.work()
        return self.down

    def unlink(self, path: bytes) -> None:
        file = self.find(path)
        if file is None:
            raise IsADirectory
        if file.state is State.COMMITTED:
            self._erase(file)
        elif not file.changeable:
            raise Sealed
        file.state = State.GONE
        del self.files[path]

    # Records

    @property
    def clock_in_doubt(self) -> bool:
        return self.wall_off_s != self.accepted_off_s

    @property
    def trusted_s(self) -> float:
        """The time that retention believes, unless it is in doubt."""
        return self.now + self.accepted_off_s

    def _erase(self, file: ModelFile) -> None:
        if file.holds or file.until_s is None or self.clock_in_doubt or file.until_s > self.trusted_s:
            raise Retained

    def extend(self, path: bytes, until_s: float | None) -> None:
        file = self._record(path)
        if file.until_s is None and until_s is not None:
            raise Retained
        if until_s is not None and file.until_s is not None and until_s < file.until_s:
            raise Retained
        file.until_s = until_s

    def hold(self, path: bytes, case: str, root: bool) -> None:
        file = self._record(path)
        if not root:
            raise Refused
        file.holds.add(case)

    def release(self, path: bytes, root: bool) -> None:
        file = self._record(path)
        if not root:
            raise Refused
        file.holds.clear()

    def _record(self, path: bytes) -> ModelFile:
        file = self.find(path)
        if file is None:
            raise Unsupported
        if file.state is not State.COMMITTED:
            raise Sealed
        return file

    def rename(self, path: bytes, target: bytes) -> None:
        file = self.find(path)
        self.resolve_parent(target)
        if self.exists(target):
            raise AlreadyExists
        if file is not None:
            if not file.changeable:
                raise Sealed
            self._ask()
            del self.files[path]
            file.path = target
            self.files[target] = file
            return
        if self.below(path) or target.startswith(path + b"/"):
            raise Sealed
        self._ask()
        self.directories.remove(path)
        self.directories.add(target)

    def chmod(self, path: bytes, mode: int) -> None:
        file = self.find(path)
        if file is None:
            self._ask()
            return
        now = file.shown_mode
        if not file.changeable and mode != file.mode:
            if mode | WRITE_BITS != now | WRITE_BITS or mode & WRITE_BITS & ~now:
                raise Sealed
            return
        # Of a record: the mode that its writer gave changes nothing.
        file.mode = mode

    def utime(self, path: bytes, mtime_ns: int) -> None:
        file = self.find(path)
        if file is None:
            self._ask()
        elif file.changeable:
            file.mtime_ns = mtime_ns
        elif file.mtime_ns != mtime_ns:
            raise Sealed

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        file = self.find(path)
        if file is None:
            raise Unsupported
        if not file.changeable:
            raise Sealed
        file.xattrs[name] = value

    def removexattr(self, path: bytes, name: bytes) -> None:
        file = self.find(path)
        if file is None:
            raise Unsupported
        if file.state is State.COMMITTED:
            raise Sealed
        if name not in file.xattrs:
            raise NoSuchAttribute
        if not file.changeable:
            raise Sealed
        del file.xattrs[name]

    # Directories

    def mkdir(self, path: bytes) -> None:
        self.resolve_parent(path)
        if self.exists(path):
            raise AlreadyExists
        self._ask()
        self.directories.add(path)

    def rmdir(self, path: bytes) -> None:
        if self.find(path) is not None:
            raise NotADirectory
        if any(
            name in self.files and self.files[name].state is not State.COMMITTED for name in self.below(path)
        ):
            raise DirectoryNotEmpty
        self._ask()
        if self.below(path):
            raise DirectoryNotEmpty
        self.directories.remove(path)

    # Time and trouble

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for file in self.files.values():
            if file.state is State.SETTLING and file.settle_until <= self.now:
                file.state = State.SEALED
        self.work()

    def work(self) -> None:
        """The committer: everything sealed goes to a backend that is up."""
        if not self.down:
            for file in self.files.values():
                if file.state is State.SEALED:
                    file.state = State.COMMITTED

    def restart(self) -> None:
        """What is still being written when the daemon ends never becomes a record."""
        for path, file in list(self.files.items()):
            if file.state is State.WRITING:
                if file.content:
                    self.quarantine.append((path, file.content))
                del self.files[path]
            file.reopened = file.settled > 1
        self.work()

    def _ask(self) -> None:
        if self.down:
            raise Unavailable
