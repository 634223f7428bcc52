"""A mounter that is slow or hangs: the daemon and its workers go on with everything else."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.daemon import Daemon
from wormfs.daemon.control import ControlClient
from wormfs.daemon.messages import Message
from wormfs.daemon.mounter import Mounter
from wormfs.daemon.mounterqueue import Caller
from wormfs.fuse.mounterclient import MAX_MESSAGE_BYTES, VARIABLE

Daemons = Callable[..., Daemon]


class SlowMounter:
    """The real one's work, in threads here, with requests that wait until they are let go."""

    def __init__(self, daemon: Daemon):
        self._mounter = Mounter(os.path.realpath(daemon.mountpoint))
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.address = str(daemon.base / "mounter")
        self._listening.bind(self.address)
        self._listening.listen()
        self._held = ""
        self.holds = threading.Event()
        """Somebody waits."""
        self._let_go = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def hold(self, request: str) -> None:
        """From now on whoever asks for ``OP NAME`` waits."""
        self._held = request
        self._let_go.clear()
        self.holds.clear()

    def let_go(self) -> None:
        self._held = ""
        self._let_go.set()

    def close(self) -> None:
        self.let_go()
        self._listening.shutdown(socket.SHUT_RDWR)
        while self._threads:
            self._threads.pop().join()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=[connection])
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            caller = Caller.of(connection)
            caller.request = json.loads(connection.recv(MAX_MESSAGE_BYTES))
            if f"{caller.request['op']} {os.path.basename(caller.path)}" == self._held:
                self.holds.set()
                self._let_go.wait()
            self._mounter.serve(caller)


@pytest.fixture
def slow(daemons: Daemons) -> Iterator[Callable[[Daemon], SlowMounter]]:
    made: list[SlowMounter] = []

    def make(daemon: Daemon) -> SlowMounter:
        daemon.mountpoint.mkdir(exist_ok=True)
        made.append(SlowMounter(daemon))
        return made[-1]

    yield make
    for mounter in made:
        mounter.close()


def ask(daemon: Daemon, request: str = "status") -> Message:
    """Answered within a second, or this fails."""
    return ControlClient(daemon.state_directory).request({"request": request}, timeout_s=1)


@pytest.fixture
def being_mounted(daemons: Daemons, slow: Callable[[Daemon], SlowMounter]) -> tuple[Daemon, SlowMounter]:
    """A daemon whose root is being mounted, until the mounter is let go."""
    daemon = daemons()
    mounter = slow(daemon)
    mounter.hold("mount mnt")
    daemon.start(wait=False, **{VARIABLE: mounter.address})
    assert mounter.holds.wait(20)
    return daemon, mounter


def test_the_daemon_is_there_for_everybody_while_its_root_is_being_mounted(
    being_mounted: tuple[Daemon, SlowMounter],
) -> None:
    daemon, mounter = being_mounted
    assert ask(daemon)["backends"]["archive"]["state"] == "starting"
    # A reload waits until there is something to reload.
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    assert ask(daemon)["ok"]
    assert "reading the settings again" not in daemon.log_text()
    mounter.let_go()
    daemon.wait_mounted("archive")
    daemon.wait_for(lambda: "the settings were taken over" in daemon.log_text(), "it has reloaded")
    assert daemon.stop() == 0


def test_a_stop_while_the_root_is_being_mounted(being_mounted: tuple[Daemon, SlowMounter]) -> None:
    daemon, mounter = being_mounted
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for(lambda: "stopping within" in daemon.log_text(), "it has heard it")
    mounter.let_go()
    assert daemon.wait() == 0
    assert daemon.mounted() == []


@pytest.mark.parametrize("request_", ["mount slow", "read_ahead slow"])
def test_a_worker_that_waits_for_the_mounter_does_not_hang(
    daemons: Daemons, slow: Callable[[Daemon], SlowMounter], request_: str
) -> None:
    daemon = daemons()
    backends = {name: daemon.local(name) for name in ("quick", "slow")}
    daemon.write_config(backends, hang_timeout="1s")
    mounter = slow(daemon)
    mounter.hold(request_)
    daemon.start(wait=False, **{VARIABLE: mounter.address})
    assert mounter.holds.wait(20)
    daemon.wait_mounted("quick")
    pid = ask(daemon)["backends"]["slow"]["pid"]
    # For twice the time after which it would be killed, its loop turns: what it says is its own.
    for _ in range(20):
        found = ask(daemon)["backends"]["slow"]
        assert (found["pid"], found["state"] == "hung", found["spool"] is not None) == (pid, False, True)
        time.sleep(0.1)
    assert "did not answer" not in daemon.log_text()
    mounter.let_go()
    daemon.wait_mounted("slow")
    (daemon.mountpoint / "slow" / "file").write_bytes(b"kept")
    assert daemon.stop() == 0
    assert (daemon.data("slow") / "file").read_bytes() == b"kept"


def test_a_mounter_that_does_not_unmount_holds_up_neither_status_nor_the_other_backends(
    daemons: Daemons, slow: Callable[[Daemon], SlowMounter]
) -> None:
    daemon = daemons()
    backends = {name: daemon.local(name) for name in ("quick", "slow")}
    daemon.write_config(backends)
    mounter = slow(daemon)
    daemon.start(**{VARIABLE: mounter.address})
    mounter.hold("unmount slow")
    os.kill(daemon.worker_pid("slow"), signal.SIGKILL)
    assert mounter.holds.wait(20)
    daemon.wait_for(lambda: ask(daemon)["backends"]["slow"]["state"] == "down", "it is known to be dead")
    assert ask(daemon)["backends"]["quick"]["state"] == "ready"
    (daemon.mountpoint / "quick" / "file").write_bytes(b"goes on")
    mounter.let_go()
    daemon.wait_for(lambda: ask(daemon)["backends"]["slow"]["state"] == "ready", "it is back")
    # At the end the worker is told to stop at once, whoever waits for the mounter.
    mounter.hold("unmount slow")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    assert mounter.holds.wait(20)
    daemon.wait_for(lambda: "slow: stopping within" in daemon.log_text(), "the worker was told")
    mounter.let_go()
    assert daemon.wait() == 0
    assert daemon.mounted() == []


def test_a_stop_in_the_middle_of_a_reload_ends_in_order(
    daemons: Daemons, slow: Callable[[Daemon], SlowMounter]
) -> None:
    daemon = daemons()
    daemon.write_config({name: daemon.local(name) for name in ("kept", "gone")})
    mounter = slow(daemon)
    daemon.start(**{VARIABLE: mounter.address})
    mounter.hold("unmount gone")
    daemon.write_config({name: daemon.local(name) for name in ("kept", "new")})
    with daemon.begin("reload") as reloading:
        assert mounter.holds.wait(20)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for(lambda: ": SIGTERM" in daemon.log_text(), "it has heard it")
        mounter.let_go()
        _, said = reloading.communicate(timeout=20)
        assert (reloading.returncode, said) == (1, "wormfs: the daemon was stopped meanwhile\n")
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.log_text()
    assert daemon.mounted() == []
