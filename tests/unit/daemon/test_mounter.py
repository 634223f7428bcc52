"""The mounter does what it is for, at its own place, and nothing else."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import environment
from wormfs.daemon.mounterqueue import FIRST_WORD_S, Caller, greediest
from wormfs.fuse import mounterclient
from wormfs.fuse.mounting import mounts, unmount_here

NOBODY = 65534


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


@pytest.fixture
def mounter(tmp_path: Path, running: subprocess.Popen[str]) -> str:
    """Where it listens."""
    return str(tmp_path / "socket")


@pytest.fixture
def running(tmp_path: Path, mountpoint: Path) -> Iterator[subprocess.Popen[str]]:
    """A running mounter, as ``wormfs mounter`` starts it; told of its readiness, not waited for by luck."""
    config = tmp_path / "config.yaml"
    # Of the rest of the settings it need not know, and secrets it could not read.
    config.write_text(
        f"mountpoint: {mountpoint}\nbackends: {{x: {{type: ftp, password: {{file: /none}}}}}}\n"
    )
    config.chmod(0o600)
    address = tmp_path / "socket"
    notify = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(notify))
        manager.settimeout(20)
        command = [sys.executable, "-m", "wormfs", "mounter", "--config", str(config), str(address)]
        variables = environment(tmp_path) | {"NOTIFY_SOCKET": str(notify)}
        with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert manager.recv(1000).startswith(b"READY=1")
                yield process
            finally:
                process.terminate()
                process.communicate(timeout=20)
                while mounted(mountpoint):
                    unmount_here(str(mountpoint), lazy=True)


def mounted(path: Path) -> list[tuple[str, str]]:
    return [(one.kind, one.source) for one in mounts() if one.mountpoint == str(path)]


def test_it_mounts_and_unmounts_its_own_place(mounter: str, mountpoint: Path) -> None:
    assert os.stat(mounter).st_mode & 0o777 == 0o660
    connection = mounterclient.mount(mounter, str(mountpoint), "wormfs#x")
    try:
        assert mounted(mountpoint) == [("fuse.wormfs", "wormfs#x")]
        assert not os.get_inheritable(connection)
        # It is the device: the kernel says hello on it.
        assert len(os.read(connection, 1 << 21)) > 40
        mounterclient.unmount(mounter, str(mountpoint), lazy=False)
        assert mounted(mountpoint) == []
    finally:
        os.close(connection)


@pytest.mark.parametrize(
    "path", ["", ".", "/", "/etc", "{}/a/b", "{}/..", "{}/.", "{}/", "{}x", "{}/../x", "{}/..\0", "{}/x\0"]
)
def test_no_other_place(mounter: str, mountpoint: Path, path: str) -> None:
    with pytest.raises(PermissionError):
        mounterclient.mount(mounter, path.format(mountpoint), "wormfs")
    with pytest.raises(PermissionError):
        mounterclient.unmount(mounter, path.format(mountpoint), lazy=True)


def test_no_link_leads_it_elsewhere(mounter: str, mountpoint: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir()
    (mountpoint / "x").symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        mounterclient.mount(mounter, str(mountpoint / "x"), "wormfs")
    assert mounted(elsewhere) == mounted(mountpoint / "x") == []


def test_it_mounts_below_its_own_place(mounter: str, mountpoint: Path) -> None:
    place = mountpoint / "x"
    place.mkdir()
    connection = mounterclient.mount(mounter, str(place), "wormfs#x")
    try:
        assert mounted(place) == [("fuse.wormfs", "wormfs#x")]
    finally:
        mounterclient.unmount(mounter, str(place), lazy=True)
        os.close(connection)


def test_what_others_have_mounted_there_stays(mounter: str, mountpoint: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "test", mountpoint], check=True)
    with pytest.raises(OSError) as refused:
        mounterclient.unmount(mounter, str(mountpoint), lazy=True)
    assert refused.value.errno == errno.EINVAL
    assert mounted(mountpoint) == [("tmpfs", "test")]


@pytest.mark.parametrize(
    "message", [b"no json", b"[]", b"{}", b"[" * 60_000, b'{"op": "reboot", "path": "%s"}', b"\xff"]
)
def test_nonsense_is_refused_and_does_no_harm(mounter: str, mountpoint: Path, message: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(mounter)
        connection.send(message.replace(b"%s", os.fsencode(mountpoint)))
        assert b'"errno": 0' not in connection.recv(1000)
    assert mounted(mountpoint) == []


def connected(mounter: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(mounter)  # waits for room in the queue of the socket
    connection.settimeout(20)
    return connection


def ask(connection: socket.socket, op: str, path: Path) -> None:
    connection.send(json.dumps({"op": op, "path": str(path), "source": "wormfs#x"}).encode())


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_who_says_nothing_holds_nobody_up(mounter: str, mountpoint: Path) -> None:
    with contextlib.ExitStack() as silent:
        began = time.monotonic()
        first, *_ = [silent.enter_context(connected(mounter)) for _ in range(300)]
        os.close(mounterclient.mount(mounter, str(mountpoint), "wormfs#x"))
        mounterclient.unmount(mounter, str(mountpoint), lazy=True)
        assert first.recv(1) == b"", "the oldest made room"
        assert time.monotonic() - began < FIRST_WORD_S


def test_who_says_nothing_is_hung_up_on(mounter: str, mountpoint: Path) -> None:
    with connected(mounter) as silent, connected(mounter) as asking:
        # Not held open by the process that works for another, either, for as long as that does.
        ask(asking, "mount", mountpoint)
        silent.settimeout(FIRST_WORD_S + 1)
        assert silent.recv(1) == b""
        assert mounted(mountpoint)


def test_a_mount_that_nobody_received_is_taken_away_again(mounter: str, mountpoint: Path) -> None:
    with connected(mounter) as asking:
        ask(asking, "mount", mountpoint)
        wait_for(lambda: mounted(mountpoint) != [])
    wait_for(lambda: mounted(mountpoint) == [])
    # Nor is it left when the answer cannot even be sent, or is read and not taken over.
    with connected(mounter) as asking:
        asking.shutdown(socket.SHUT_RD)
        ask(asking, "mount", mountpoint)
        with connected(mounter) as next_one:
            ask(next_one, "unmount", mountpoint)
            assert json.loads(next_one.recv(1000)) == {"errno": errno.EINVAL}, "nothing is mounted"
    with connected(mounter) as asking:
        ask(asking, "mount", mountpoint)
        _, [descriptor], _, _ = socket.recv_fds(asking, 1000, 1)
        os.close(descriptor)
    wait_for(lambda: mounted(mountpoint) == [])


def test_what_somebody_asked_for_who_is_gone_is_not_done(
    mounter: str, running: subprocess.Popen[str], mountpoint: Path
) -> None:
    connection = mounterclient.mount(mounter, str(mountpoint), "wormfs#x")
    try:
        running.send_signal(signal.SIGSTOP)
        with connected(mounter) as asking:
            ask(asking, "unmount", mountpoint)
        with connected(mounter) as asking:
            running.send_signal(signal.SIGCONT)
            ask(asking, "read_ahead", mountpoint)
            assert json.loads(asking.recv(1000)) == {"errno": 0}, "it is mounted still"
        assert mounted(mountpoint) == [("fuse.wormfs", "wormfs#x")]
    finally:
        os.close(connection)


def test_one_after_the_other_at_one_place_and_no_waiting_elsewhere(mounter: str, mountpoint: Path) -> None:
    for name in ("a", "b"):
        (mountpoint / name).mkdir()
    with connected(mounter) as mounting, connected(mounter) as unmounting:
        ask(mounting, "mount", mountpoint / "a")
        _, [descriptor], _, _ = socket.recv_fds(mounting, 1000, 1)
        ask(unmounting, "unmount", mountpoint / "a")
        # Answered after the other was heard, and that one waits until the mount was received.
        os.close(mounterclient.mount(mounter, str(mountpoint / "b"), "wormfs#b"))
        mounterclient.unmount(mounter, str(mountpoint / "b"), lazy=True)
        assert mounted(mountpoint / "a") == [("fuse.wormfs", "wormfs#x")]
        mounting.send(b"received")
        assert json.loads(unmounting.recv(1000)) == {"errno": 0}
        assert mounted(mountpoint / "a") == []
        os.close(descriptor)


@contextlib.contextmanager
def another_user(mounter: str) -> Iterator[Callable[[], socket.socket]]:
    """Connects as somebody else, as far as the kernel tells the mounter; all is hung up at the end."""
    os.chmod(mounter, 0o666)
    os.chmod(os.path.dirname(mounter), 0o711)
    here = os.getcwd()
    with contextlib.ExitStack() as connections:

        def connect() -> socket.socket:
            os.chdir(os.path.dirname(mounter))  # the way there is not open to him
            os.seteuid(NOBODY)
            try:
                return connections.enter_context(connected(os.path.basename(mounter)))
            finally:
                os.seteuid(0)
                os.chdir(here)

        yield connect


def test_a_greedy_user_does_not_hold_up_another(mounter: str, mountpoint: Path) -> None:
    places = [mountpoint / f"greedy{number}" for number in range(40)]
    for place in (*places, mountpoint / "mine"):
        place.mkdir()

    def taken() -> int:
        return sum(bool(mounted(place)) for place in places)

    with another_user(mounter) as connect:
        for place in places:
            ask(connect(), "mount", place)
        wait_for(lambda: taken() == 32)
        began = time.monotonic()
        os.close(mounterclient.mount(mounter, str(mountpoint / "mine"), "wormfs#mine"))
        mounterclient.unmount(mounter, str(mountpoint / "mine"), lazy=True)
        assert time.monotonic() - began < 2
        assert taken() == 32, "the others wait for their turn"
    # None of what he asked for is done after he has gone.
    wait_for(lambda: taken() == 0)


def test_users_take_turns_at_one_place(mounter: str, mountpoint: Path) -> None:
    with another_user(mounter) as connect, connected(mounter) as mine:
        his = [connect() for _ in range(4)]
        for connection in his:
            ask(connection, "mount", mountpoint)
        wait_for(lambda: bool(mounted(mountpoint)))
        ask(mine, "unmount", mountpoint)
        # Heard, which the answer to a later request shows. What is asked for elsewhere costs no turn here.
        with pytest.raises(PermissionError):
            mounterclient.unmount(mounter, "/", lazy=False)
        his[0].close()
        mine.settimeout(4)  # less than any of his would be waited for
        assert json.loads(mine.recv(1000)) == {"errno": errno.EINVAL}


def test_a_full_queue_of_the_socket_is_waited_for(tmp_path: Path) -> None:
    """The kernel does not wait for it where a time limit is set: EAGAIN."""
    address = str(tmp_path / "socket")

    def serve(listening: socket.socket) -> None:
        listening.accept()[0].close()
        connection, _ = listening.accept()
        with connection:
            connection.recv(1000)
            connection.send(b'{"errno": 0}')

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen(0)
        with connected(address) as first, pytest.raises(BlockingIOError):
            first.send(b"{}")
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as second:
                second.settimeout(20)
                second.connect(address)
            pytest.fail("the queue is not full: this proves nothing")
        asking = threading.Timer(0.3, serve, [listening])
        asking.start()
        mounterclient.unmount(address, "/mnt", lazy=True)
        asking.join()


def test_the_user_who_has_most_makes_room() -> None:
    here, there = socket.socketpair()
    with here, there:
        callers = [
            Caller(here, pid=pid, uid=uid, gid=0, since=0) for pid, uid in enumerate((7, 0, 7, 8, 0, 7))
        ]
        assert [caller.pid for caller in greediest(callers)] == [0, 2, 5]


def test_without_a_mounter_the_error_says_who_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"the mounter at .* does not answer") as refused:
        mounterclient.mount(str(tmp_path / "socket"), "/mnt", "wormfs")
    assert refused.value.errno == errno.ENOENT
    mounterclient.raise_read_ahead(str(tmp_path / "socket"), "/mnt", 1024)
