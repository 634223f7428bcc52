"""A smaller machine through the operating system's calls, on a real mount; whole trees compared."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.daemon import Daemon, daemons

__all__ = ["daemons"]

_RETENTION = {"erase": "always", "retention": {"time_zone": "UTC"}}
"""A file may go as soon as it is committed, but for dates and holds that are set."""
_PAST = 2001
"""A year that is over: who sets its end keeps nothing."""
_EXAMPLES = 800 if os.environ.get("WORMFS_SOAK") else 60

FOLDERS = ("", "d/", "e/")
NAMES = ("a", "b", "c", "d")
paths = st.sampled_from([folder + name for folder in FOLDERS for name in NAMES])
contents = st.one_of(st.binary(max_size=30), st.sampled_from([b"x" * 5000, b"y" * 200_000]))


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError) as raised:
        yield
    assert raised.value.errno in numbers, raised.value


class MountMachine(RuleBasedStateMachine):
    """Files are stored whole; what is closed is a record for good."""

    mount: ClassVar[Path]
    disk: ClassVar[Path]
    rounds: ClassVar[Iterator[int]]

    def __init__(self) -> None:
        super().__init__()
        self.top = f"round-{next(self.rounds)}"
        os.mkdir(self.mount / self.top)
        self.files: dict[str, bytes] = {}
        self.directories: set[str] = set()
        self.writing: dict[str, tuple[int, bytes]] = {}
        self.until: dict[str, int] = {}
        """The year until whose end a file is kept; without one its date is over."""
        self.holds: dict[str, set[str]] = {}

    def kept(self, path: str) -> bool:
        return self.until.get(path, 0) > _PAST or bool(self.holds.get(path))

    def at(self, path: str) -> Path:
        return self.mount / self.top / path

    def blocked(self, path: str) -> int | None:
        """What stands between the root and ``path``."""
        folder = path.rpartition("/")[0]
        if folder in self.files or folder in self.writing:
            return errno.ENOTDIR
        return None if not folder or folder in self.directories else errno.ENOENT

    def taken(self, path: str) -> bool:
        return path in self.files or path in self.directories or path in self.writing

    def below(self, path: str) -> bool:
        return any(name.startswith(path + "/") for name in (*self.files, *self.directories, *self.writing))

    @rule(path=paths, content=contents)
    def begin(self, path: str, content: bytes) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        number = self.blocked(path) or (errno.EEXIST if self.taken(path) else None)
        if number is not None:
            with refused(number):
                os.open(self.at(path), flags)
            return
        fd = os.open(self.at(path), flags, 0o644)
        assert os.write(fd, content) == len(content)
        self.writing[path] = (fd, content)

    @precondition(lambda self: self.writing)
    @rule(which=st.integers(0, 99), offset=st.sampled_from([0, 3, 9000]), content=contents)
    def write_more(self, which: int, offset: int, content: bytes) -> None:
        path = sorted(self.writing)[which % len(self.writing)]
        fd, before = self.writing[path]
        if content:
            assert os.pwrite(fd, content, offset) == len(content)
            after = before[:offset].ljust(offset, b"\0") + content + before[offset + len(content) :]
            self.writing[path] = (fd, after)

    @precondition(lambda self: self.writing)
    @rule(which=st.integers(0, 99))
    def finish(self, which: int) -> None:
        path = sorted(self.writing)[which % len(self.writing)]
        fd, content = self.writing.pop(path)
        os.close(fd)
        self.files[path] = content
        # This process has unix sockets (the daemon is its child): where some process cannot be looked at, the
        # daemon cannot know that this was the last close, and commits at RELEASE, a moment later.
        until = time.monotonic() + 10
        while os.getxattr(self.at(path), "user.wormfs.state") != b"committed":
            assert time.monotonic() < until, f"{path} is not committed"
            time.sleep(0.001)

    @rule(
        path=paths,
        flags=st.sampled_from([os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDONLY | os.O_TRUNC]),
    )
    def open_to_write(self, path: str, flags: int) -> None:
        if path in self.files:
            with refused(errno.EPERM):
                os.open(self.at(path), flags)
        elif path in self.writing:
            with refused(errno.EBUSY):
                os.open(self.at(path), flags)

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        number = self.blocked(path)
        if number is None and path not in self.writing:
            if path in self.files:
                number = errno.EPERM if self.kept(path) else None
            else:
                number = errno.EISDIR if path in self.directories else errno.ENOENT
        if number is not None:
            with refused(number):
                os.unlink(self.at(path))
            return
        os.unlink(self.at(path))
        if path in self.files:
            del self.files[path]
            self.until.pop(path, None)
            self.holds.pop(path, None)
            assert not (self.disk / self.top / path).exists(), path
            return
        fd, _ = self.writing.pop(path)
        os.close(fd)

    @precondition(lambda self: self.files)
    @rule(which=st.integers(0, 99), likely=st.booleans())
    def erase(self, which: int, likely: bool) -> None:
        """Chosen among the records; a path that is drawn blindly rarely is one."""
        kept = [path for path in sorted(self.files) if self.kept(path)]
        choice = kept if kept and likely else sorted(self.files)
        self.unlink(choice[which % len(choice)])

    @precondition(lambda self: self.files)
    @rule(which=st.integers(0, 99), again=st.booleans(), year=st.sampled_from([2001, 2040, 2050, 2060]))
    def retain(self, which: int, again: bool, year: int) -> None:
        choice = sorted(self.until if self.until and again else self.files)
        path = choice[which % len(choice)]
        allowed = year >= self.until.get(path, _PAST)
        with contextlib.nullcontext() if allowed else refused(errno.EPERM):
            os.setxattr(self.at(path), "user.wormfs.retain_until", f"{year}-12-31".encode())
        if allowed:
            self.until[path] = year
        if self.kept(path):
            self.unlink(path)
        if self.until.get(path, 0) > _PAST:
            with refused(errno.EPERM):
                os.setxattr(self.at(path), "user.wormfs.retain_until", b"2030-12-31")

    @precondition(lambda self: self.files)
    @rule(which=st.integers(0, 99), case=st.sampled_from(["AZ 1", "AZ 2"]))
    def hold(self, which: int, case: str) -> None:
        path = sorted(self.files)[which % len(self.files)]
        os.setxattr(self.at(path), "user.wormfs.hold", case.encode())
        self.holds.setdefault(path, set()).add(case)
        self.unlink(path)

    @precondition(lambda self: any(self.holds.values()))
    @rule(which=st.integers(0, 99))
    def release(self, which: int) -> None:
        held = sorted(path for path, cases in self.holds.items() if cases)
        path = held[which % len(held)]
        os.removexattr(self.at(path), "user.wormfs.hold")
        self.holds[path] = set()

    @rule(path=paths, content=contents)
    def store(self, path: str, content: bytes) -> None:
        self.begin(path, content)
        if path in self.writing:
            self.finish(sorted(self.writing).index(path))

    @rule(path=paths)
    def keep_what_is_not_committed(self, path: str) -> None:
        if path in self.writing:
            for name, value in (("hold", b"AZ 1"), ("retain_until", b"2040-12-31")):
                with refused(errno.EPERM):
                    os.setxattr(self.at(path), f"user.wormfs.{name}", value)

    @rule(path=paths, new_path=paths)
    def rename(self, path: str, new_path: str) -> None:
        if path == new_path or new_path.startswith(path + "/") or path.startswith(new_path + "/"):
            return
        number = self.blocked(path) or self.blocked(new_path)
        if number is None and not self.taken(path):
            number = errno.ENOENT
        if number is None and self.taken(new_path):
            # Of a directory and a file the kernel says ENOTDIR or EISDIR itself.
            with refused(errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
                os.rename(self.at(path), self.at(new_path))
            return
        if number is None and (path in self.files or self.below(path)):
            number = errno.EPERM
        if number is not None:
            with refused(number, errno.ENOENT, errno.ENOTDIR):
                os.rename(self.at(path), self.at(new_path))
            return
        os.rename(self.at(path), self.at(new_path))
        if path in self.writing:
            self.writing[new_path] = self.writing.pop(path)
        else:
            self.directories.remove(path)
            self.directories.add(new_path)

    @rule(path=paths)
    def mkdir(self, path: str) -> None:
        number = self.blocked(path) or (errno.EEXIST if self.taken(path) else None)
        if number is not None:
            with refused(number):
                os.mkdir(self.at(path))
            return
        os.mkdir(self.at(path))
        self.directories.add(path)

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        number = self.blocked(path)
        if number is None and path not in self.directories:
            number = errno.ENOTDIR if self.taken(path) else errno.ENOENT
        if number is None and self.below(path):
            number = errno.ENOTEMPTY
        if number is not None:
            with refused(number):
                os.rmdir(self.at(path))
            return
        os.rmdir(self.at(path))
        self.directories.remove(path)

    @rule(path=paths)
    def change_a_record(self, path: str) -> None:
        if path not in self.files:
            return
        with refused(errno.EPERM):
            os.truncate(self.at(path), 1)
        with refused(errno.EPERM):
            os.chmod(self.at(path), 0o777)
        with refused(errno.EPERM):
            os.chown(self.at(path), 12, 34)
        with refused(errno.EPERM):
            os.utime(self.at(path), (1, 1))
        with refused(errno.EPERM):
            os.setxattr(self.at(path), "user.mine", b"value")
        with refused(errno.EPERM):
            os.link(self.at(path), self.at("link"))
        os.chmod(self.at(path), 0o444)

    @invariant()
    def same_tree(self) -> None:
        top = self.mount / self.top
        seen = set()
        for folder, folders, files in os.walk(top):
            seen |= {os.path.relpath(os.path.join(folder, name), top) for name in folders + files}
        assert seen == self.files.keys() | self.directories | self.writing.keys()
        for path, content in self.files.items():
            shown = self.at(path).stat()
            assert (shown.st_size, shown.st_mode) == (len(content), stat.S_IFREG | 0o444), path
            assert self.at(path).read_bytes() == content, path
            assert (self.disk / self.top / path).read_bytes() == content, path
            cases = os.getxattr(self.at(path), "user.wormfs.hold").decode()
            assert set(filter(None, cases.split(","))) == self.holds.get(path, set()), path
            if path in self.until:
                shown = os.getxattr(self.at(path), "user.wormfs.retain_until").decode()
                assert shown.startswith(f"{self.until[path]}-12-31T"), path
        for path, (fd, content) in self.writing.items():
            assert self.at(path).stat().st_size == len(content), path
            assert os.pread(fd, len(content) + 1, 0) == content, path
            assert not (self.disk / self.top / path).exists(), path

    def teardown(self) -> None:
        for fd, _ in self.writing.values():
            os.close(fd)


@pytest.mark.timeout(3600)
def test_real_mount_is_what_the_model_says(daemons: Callable[..., Daemon]) -> None:
    daemon = daemons()
    daemon.write_config(
        {"archive": daemon.local("archive", empty_grace="0s", spool_reserve="0", **_RETENTION)}
    )
    daemon.start()

    class Machine(MountMachine):
        mount = daemon.mountpoint / "archive"
        disk = daemon.data()
        rounds = iter(range(1 << 30))

    run_state_machine_as_test(Machine, settings=settings(max_examples=_EXAMPLES, stateful_step_count=25))
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log_text()
