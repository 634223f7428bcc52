"""The root of the mount: backends, and nothing else, ever."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.tools import as_www_data, eventually, refused, works

BACKENDS = {"exams", "other", "settling", "slow", "grace", "broken"}


@pytest.mark.row("root")
def test_it_shows_the_backends(shared: Daemon) -> None:
    assert set(os.listdir(shared.mountpoint)) == BACKENDS
    assert shared.mountpoint.stat().st_mode & 0o7777 == 0o555
    with refused(errno.ENOENT):
        (shared.mountpoint / "absent").stat()


CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda root: (root / "f").write_bytes(b"x"),
    "mkdir": lambda root: (root / "d").mkdir(),
    "symlink": lambda root: (root / "s").symlink_to("exams"),
    "mknod": lambda root: os.mkfifo(root / "p"),
    "chmod": lambda root: root.chmod(0o777),
    "chown": lambda root: os.chown(root, 33, 33),
    "utimens": lambda root: os.utime(root),
    "setxattr": lambda root: os.setxattr(root, "user.x", b"x"),
    "removexattr": lambda root: os.removexattr(root, "user.wormfs.state_directory"),
}


@pytest.mark.row("root")
@pytest.mark.parametrize("name", CHANGES)
def test_nothing_changes_it(shared: Daemon, name: str) -> None:
    before = shared.mountpoint.stat()
    with refused(errno.EPERM):
        CHANGES[name](shared.mountpoint)
    assert set(os.listdir(shared.mountpoint)) == BACKENDS
    assert shared.mountpoint.stat() == before


@pytest.mark.row("root")
def test_backends_stay_where_they_are(shared: Daemon) -> None:
    root = shared.mountpoint
    for change in (
        lambda: (root / "exams").rmdir(),
        lambda: (root / "exams").rename(root / "moved"),
        lambda: (root / "exams").rename(root / "broken"),
        lambda: (root / "broken").rmdir(),
        lambda: (root / "absent").mkdir(),
    ):
        with refused(errno.EBUSY, errno.EPERM, errno.EXDEV):
            change()
    with refused(errno.EEXIST):
        (root / "exams").mkdir()
    assert set(os.listdir(root)) == BACKENDS


@pytest.mark.row("root")
def test_an_unprivileged_user_changes_nothing_either(shared: Daemon) -> None:
    for command in (("touch", "f"), ("mkdir", "d"), ("ln", "-s", "x", "s"), ("rmdir", "exams")):
        done = as_www_data(*command, cwd=shared.mountpoint)
        assert done.returncode != 0, command
    assert set(os.listdir(shared.mountpoint)) == BACKENDS


@pytest.mark.row("root-space")
def test_its_space_is_the_sum_of_all(shared: Daemon) -> None:
    names = BACKENDS - {"broken"}

    def sums_up() -> bool:
        parts = [os.statvfs(shared.mountpoint / name) for name in names]
        whole = os.statvfs(shared.mountpoint)
        total = sum(part.f_blocks * part.f_frsize for part in parts)
        free = sum(part.f_bavail * part.f_frsize for part in parts)
        assert whole.f_bavail * whole.f_frsize < 1 << 63
        close = abs(whole.f_bavail * whole.f_frsize - free) < free // 10
        return whole.f_blocks * whole.f_frsize == total and close

    eventually(sums_up, "the root shows the sum")
    works("df", shared.mountpoint)
    works("stat", "-f", shared.mountpoint)


DOWN: dict[str, Callable[[Path], object]] = {
    "stat": lambda path: path.stat(),
    "list": lambda path: os.listdir(path),
    "create": lambda path: (path / "f").write_bytes(b"x"),
    "open": lambda path: (path / "f").read_bytes(),
    "mkdir": lambda path: (path / "d").mkdir(),
    "unlink": lambda path: (path / "f").unlink(),
    "chmod": lambda path: path.chmod(0o777),
    "statfs": lambda path: os.statvfs(f"{path}/."),
}


@pytest.mark.row("root-down")
@pytest.mark.parametrize("name", DOWN)
def test_a_backend_that_is_down_answers_eio(shared: Daemon, name: str) -> None:
    with refused(errno.EIO):
        DOWN[name](shared.mountpoint / "broken")


@pytest.mark.row("root-down")
def test_nothing_is_written_below_while_a_worker_is_down(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon(exams={}, other={})
    daemon.start()
    os.kill(daemon.worker_pid("exams"), signal.SIGKILL)
    seen = set()
    for number in range(2000):
        try:
            (daemon.mountpoint / "exams" / f"f{number}").write_bytes(b"x")
        except OSError as error:
            seen.add(error.errno)
        else:
            if seen:
                break  # it is back
        (daemon.mountpoint / "other" / f"f{number}").write_bytes(b"x")
    assert seen <= {errno.EIO, errno.ENOTCONN, errno.ECONNABORTED}
    daemon.wait_for(lambda: daemon.is_mounted("exams"), "the worker is back")
    daemon.clean_up()
    assert os.listdir(daemon.mountpoint) == []
