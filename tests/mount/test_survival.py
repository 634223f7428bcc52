"""The worker survives anything."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.tools import Place, ends, eventually, fingerprint, python, refused, state, works

_libc = ctypes.CDLL(None, use_errno=True)


class Trouble:
    """A place on a daemon in which methods can be made to fail."""

    def __init__(self, daemon: Daemon, directory: Path):
        self.daemon = daemon
        self.directory = directory
        self.place = Place(daemon, "exams", "p").make()

    @contextlib.contextmanager
    def in_method(self, method: str, failure: str) -> Iterator[None]:
        (self.directory / method).write_text(failure)
        try:
            yield
        finally:
            (self.directory / method).unlink()


@pytest.fixture(scope="module")
def trouble(module_daemon: Callable[..., Daemon], repository: Path) -> Trouble:
    daemon = module_daemon()
    directory = daemon.base / "inject"
    directory.mkdir()
    inject = repository / "tests" / "mount" / "inject"
    daemon.start(WORMFS_TEST_INJECT=str(directory), PYTHONPATH=f"{inject}:{repository}")
    return Trouble(daemon, directory)


ACTIONS: dict[str, Callable[[Path, Path], object]] = {
    "lookup": lambda path, record: (path / "absent").stat(),
    "getattr": lambda path, record: os.fstat(os.open(path, os.O_RDONLY)),
    "setattr": lambda path, record: record.chmod(0o400),
    "create": lambda path, record: (path / "new").write_bytes(b"x"),
    "open": lambda path, record: record.read_bytes(),
    "read": lambda path, record: record.read_bytes(),
    "opendir": lambda path, record: os.listdir(path),
    "readdir": lambda path, record: os.listdir(path),
    "mkdir": lambda path, record: (path / "d").mkdir(),
    "rmdir": lambda path, record: (path / "empty").rmdir(),
    "unlink": lambda path, record: record.unlink(),
    "rename": lambda path, record: record.rename(path / "renamed"),
    "getxattr": lambda path, record: state(record),
    "listxattr": lambda path, record: os.listxattr(record),
    "setxattr": lambda path, record: os.setxattr(record, "user.x", b"x"),
    "removexattr": lambda path, record: os.removexattr(record, "user.x"),
    "statfs": lambda path, record: os.statvfs(path),
}


@pytest.mark.row("survival")
@pytest.mark.parametrize("method", ACTIONS)
def test_an_unforeseen_exception_is_eio(trouble: Trouble, method: str) -> None:
    place = trouble.place
    directory = place / f"dir-{method}"
    directory.mkdir()
    (directory / "empty").mkdir()
    record = directory / "record"
    record.write_bytes(b"record" * 1000)
    fd = os.open(record, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    time.sleep(0.01)
    logged = trouble.daemon.log_text().count("Traceback")
    for failure in ("ValueError", "KeyError", "OSError", "group", "RecursionError", "MemoryError"):
        if method == "getattr":  # the kernel may know the answer: ask for what it cannot know
            time.sleep(1.1)
        with trouble.in_method(method, failure), refused(errno.EIO):
            ACTIONS[method](directory, record)
        if method == "getattr":
            break
    assert trouble.daemon.log_text().count("Traceback") > logged
    assert (record.read_bytes(), state(record)) == (b"record" * 1000, "committed")


@pytest.mark.row("survival")
def test_a_foreseen_error_in_groups_keeps_its_errno(trouble: Trouble) -> None:
    with trouble.in_method("create", "foreseen-group"), refused(errno.EBUSY):
        (trouble.place / "busy").write_bytes(b"x")
    (trouble.place / "busy").write_bytes(b"x")


@pytest.mark.row("survival")
@pytest.mark.parametrize("method", ["write", "fsync", "flush", "release"])
def test_while_a_file_is_written(trouble: Trouble, method: str) -> None:
    path = trouble.place / f"f-{method}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"content")
    with trouble.in_method(method, "ValueError"):
        if method == "write":
            with refused(errno.EIO):
                os.write(fd, b"more")
        if method == "fsync":
            with refused(errno.EIO):
                os.fsync(fd)
        if method == "flush":
            with refused(errno.EIO):
                os.close(fd)
        else:
            os.close(fd)
        time.sleep(0.1)  # the release comes after close has returned
    if method != "flush":
        assert trouble.place.stored(path).read_bytes() == b"content"
    (trouble.place / f"after-{method}").write_bytes(b"the mount lives")
    assert (trouble.place / f"after-{method}").read_bytes() == b"the mount lives"


@pytest.mark.row("survival")
def test_what_returns_nothing(trouble: Trouble) -> None:
    with trouble.in_method("forget", "ValueError"), trouble.in_method("releasedir", "group"):
        os.listdir(trouble.place.path)
        Path("/proc/sys/vm/drop_caches").write_text("2")  # the kernel forgets inodes
        time.sleep(0.1)
    assert isinstance(os.listdir(trouble.place.path), list)


@pytest.mark.row("survival")
def test_a_backing_directory_that_is_replaced_or_goes(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon()
    daemon.start()
    place = Place(daemon, "exams", "p").make()
    (place / "f").write_bytes(b"x")
    shutil.rmtree(place.data)
    place.data.write_bytes(b"a file now")
    for action in (
        lambda: (place / "g").write_bytes(b"x"),
        lambda: os.listdir(place.path),
        lambda: (place / "d").mkdir(),
    ):
        with refused(errno.ENOTDIR, errno.ENOENT, errno.EIO, errno.ESTALE):
            action()
    data = daemon.data("exams")
    shutil.rmtree(data, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.listdir(place.root)
    with refused(errno.ENOENT, errno.EIO, errno.ENOTDIR, errno.ENOSPC, errno.ESTALE):
        (place.root / "new").write_bytes(b"x")
    assert daemon.is_mounted("exams")


@pytest.mark.row("survival")
def test_a_damaged_record(trouble: Trouble) -> None:
    path = trouble.place / "damaged"
    path.write_bytes(b"content")
    stored = trouble.place.stored(path)
    for damage in (b"", b"{", b"\xff\x00", b'{"v": 99}', b"[]", b"null", b'{"v":1,"mode":"9"}'):
        os.setxattr(stored, "user.wormfs.record", damage)
        with refused(errno.EIO):
            os.getxattr(path, "user.wormfs.sha256")
        with refused(errno.EIO):
            os.listxattr(path)
        assert path.read_bytes() == b"content"
        with refused(errno.EPERM):
            os.open(path, os.O_WRONLY)


CLIENT = """
import os, random, sys
place, chance = sys.argv[1], random.Random(int(sys.argv[2]))
name = lambda: f"{place}/{chance.choice('abcdef')}{sys.argv[2]}-{chance.randrange(10)}"
while True:
    try:
        match chance.randrange(9):
            case 0 | 1 | 2:
                fd = os.open(name(), os.O_RDWR | os.O_CREAT | chance.choice([0, os.O_EXCL, os.O_TRUNC]))
                for _ in range(chance.randrange(5)):
                    os.pwrite(fd, bytes(chance.randrange(200_000)), chance.randrange(100_000))
                if chance.random() < 0.3: os.fsync(fd)
                if chance.random() < 0.3: os.rename(name(), name())
                os.close(fd)
            case 3: os.listdir(place)
            case 4: open(name(), "rb").read()
            case 5: os.stat(name())
            case 6: os.mkdir(name() + "d")
            case 7: os.rmdir(name() + "d")
            case 8: os.setxattr(name(), "user.x", b"x")
    except OSError:
        pass
"""


@pytest.mark.row("survival")
def test_clients_that_are_killed_at_any_moment(place: Place, soak_factor: int) -> None:
    chance = random.Random(5)
    for attempt in range(6 * soak_factor):
        clients = [
            subprocess.Popen([sys.executable, "-I", "-S", "-c", CLIENT, place.path, str(attempt * 10 + at)])
            for at in range(6)
        ]
        for client in clients:
            time.sleep(0.05 + chance.random() / 20)
            client.kill()
        for client in clients:
            assert client.wait(20) == -signal.SIGKILL

    def ended() -> bool:
        return not any(state(place / name) == "writing" for name in os.listdir(place.path) if name[-1] != "d")

    eventually(ended, "every file of the killed has its end")
    for name in os.listdir(place.path):
        path = place / name
        if path.is_file() and path.stat().st_size:
            recorded = os.getxattr(path, "user.wormfs.sha256").decode()
            assert recorded == fingerprint(place.stored(path))[0], name
    (place / "after").write_bytes(b"x")


HOLDER = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (6000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
file, directory = sys.argv[1:]
opened = [os.open(file, os.O_RDONLY) for _ in range(4460)]
opened += [os.open(directory, os.O_RDONLY) for _ in range(500)]
print(len(opened), flush=True)
sys.stdin.read()
assert all(os.pread(fd, 10, 0) == b"record" for fd in opened[:4460])
"""


@pytest.mark.row("survival")
def test_thousands_of_open_handles(place: Place) -> None:
    (place / "f").write_bytes(b"record")
    holder = python(HOLDER, place / "f", place.path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"4960\n"
    writers = [os.open(place / f"w{number}", os.O_WRONLY | os.O_CREAT) for number in range(40)]
    for fd in writers:
        os.write(fd, b"written")
    assert works("cat", place / "f") == "record"
    for fd in writers:
        os.close(fd)
    assert {state(place / f"w{number}") for number in range(40)} == {"committed"}
    ends(holder)


_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FICLONE = 0x80086601, 0x40086602, 0x40049409


@pytest.mark.row("survival")
def test_calls_that_make_no_sense_here(place: Place) -> None:
    (place / "f").write_bytes(b"record" * 1000)
    (place / "other").write_bytes(b"other")
    fd = os.open(place / "f", os.O_RDONLY)
    new = os.open(place / "new", os.O_RDWR | os.O_CREAT)
    try:
        for request in (_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FICLONE, 0x5401, 0xDEADBEEF):
            for target in (fd, new):
                with refused(
                    errno.ENOTTY, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.EBADF, errno.EPERM
                ):
                    fcntl.ioctl(target, request, bytes(8))
        for mode in (0, 1, 2, 3, 0x10):
            assert _libc.fallocate(new, mode, ctypes.c_long(0), ctypes.c_long(100_000)) == -1
            assert ctypes.get_errno() in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
            assert _libc.fallocate(fd, mode, ctypes.c_long(0), ctypes.c_long(100_000)) == -1
        with contextlib.suppress(OSError):  # done by the kernel or left to the program, as it likes
            assert os.copy_file_range(fd, new, 6000) == 6000
        os.pwrite(new, b"record" * 1000, 0)
        assert os.sendfile(new, fd, 0, 6000) == 6000
        with refused(errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            os.open(place.path, os.O_TMPFILE | os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_SH)
        fcntl.flock(new, fcntl.LOCK_EX)
        fcntl.lockf(new, fcntl.LOCK_EX, 10, 5)
        fcntl.lockf(new, fcntl.LOCK_UN)
        os.lseek(fd, 10, os.SEEK_END)
        with refused(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 6000
        with refused(errno.EINVAL, errno.ENOTDIR, errno.ENOTBLK, errno.EPERM):
            os.mkdir(place.path / "f" / "x")
    finally:
        os.close(fd)
        os.close(new)
    assert (place / "new").read_bytes()[:6000] == b"record" * 1000
    assert (place / "f").read_bytes() == b"record" * 1000


@pytest.mark.row("survival")
def test_direct_io(place: Place) -> None:
    content = os.urandom(1 << 20)
    buffer = memoryview(bytearray(len(content) + 4096))
    fd = os.open(place / "f", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    works("true")
    os.close(fd)
    works("dd", "of=g", "bs=64k", "oflag=direct", "status=none", "if=/dev/zero", "count=16", cwd=place.path)
    assert (place / "g").read_bytes() == bytes(1 << 20)
    fd = os.open(place / "g", os.O_RDONLY | os.O_DIRECT)
    assert os.preadv(fd, [buffer[: 1 << 20]], 0) == 1 << 20
    os.close(fd)
