"""``wormfs status`` and the background check with a real daemon: what fails turns red, mended green."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, environment
from tests.support.health import OFTEN, check_lines, wait_check, wait_checks
from tests.unit.cli.test_status import documented, keys_of
from wormfs.daemon.control import ControlClient

Daemons = Callable[..., Daemon]


def codes(found: dict[str, Any]) -> dict[str, str]:
    """Code → level of all problems."""
    return {problem["code"]: problem["level"] for problem in found["problems"]}


@contextlib.contextmanager
def failing_disk(path: Path) -> Iterator[None]:
    """A small ext4 that goes read-only at the first error, as most do."""
    image = path.with_name("image")
    with image.open("wb") as file:
        file.truncate(12 << 20)
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", str(image)], check=True, capture_output=True
    )
    path.mkdir()
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", str(image), str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


def trigger_error(path: Path) -> None:
    device = subprocess.check_output(["findmnt", "-no", "SOURCE", str(path)], text=True).strip()
    Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("a test\n")


@contextlib.contextmanager
def disk(path: Path, size: str = "16m") -> Iterator[None]:
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "wormfs-test", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


def test_all_is_well_and_every_field_is_there(daemons: Daemons, repository: Path) -> None:
    daemon = daemons()
    daemon.write_config({"archive": daemon.local("archive", description="of the faculty", **OFTEN)})
    daemon.start()
    place = daemon.mountpoint / "archive"
    (place / "f").write_bytes(bytes(10 << 20))
    check = wait_check(daemon, ok=True)
    assert abs(check["at_ns"] - time.time_ns()) < 60e9 and check["failed"] == []
    assert daemon.run("verify").returncode == 0
    done = daemon.run("status", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr, found["level"], found["problems"]) == (0, "", "ok", [])
    archive = found["backends"]["archive"]
    assert (archive["state"], archive["guarantee"], archive["type"]) == ("ready", "atomic", "local")
    assert archive["description"] == "of the faculty"
    assert archive["retention"] == {"mode": "standard", "period": "forever", "rules": 0, "erase": "never"}
    assert (archive["spool"]["waiting"], archive["spool"]["failed"]) == (0, 0)
    assert archive["spool"]["room_bytes"] < archive["space"]["free_bytes"]
    assert archive["verification"]["files"] == 1
    assert archive["last_error"] is None
    assert keys_of(found) - documented(repository) == set()
    done = daemon.run("status")
    assert done.returncode == 0 and done.stdout.startswith(f"OK {daemon.mountpoint}, daemon ")
    assert sorted(os.listdir(place)) == ["f"], "checks leave nothing visible"
    assert os.listdir(daemon.data() / ".wormfs" / "check") == ["object"], "and nothing but this"
    assert check_lines(daemon) == []


def test_throughput_is_what_was_written_and_read(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    path = daemon.mountpoint / "archive" / "f"
    path.write_bytes(bytes(20 << 20))
    started = time.monotonic()
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    while os.read(fd, 1 << 20):
        pass
    os.close(fd)
    moved: dict[str, Any] = {}

    def known() -> bool:
        moved.update(daemon.status()["backends"]["archive"]["throughput"] or {})
        return moved.get("written_bytes_per_s", 0) > 0

    daemon.wait_for(known, "it was counted")
    most = (20 << 20) / 1.0
    least = (20 << 20) / max(10.0, time.monotonic() - started + 2)
    assert least * 0.9 <= moved["written_bytes_per_s"] <= most * 1.1
    assert 0 <= moved["read_bytes_per_s"] <= most * 1.1


def test_no_daemon_is_critical_and_says_so(daemons: Daemons) -> None:
    daemon = daemons()
    done = daemon.run("status")
    assert (done.returncode, done.stderr) == (2, "")
    says = f"no wormfs daemon is running with state directory {daemon.state_directory}"
    assert f"wormfs: critical: {says}" in done.stdout
    done = daemon.run("status", "--json")
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert (found["ok"], found["level"], found["error"]) == (False, "critical", says)
    assert codes(found) == {"no_daemon": "critical"}


def test_wrong_settings_are_status_2_with_their_message(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.write_config({"archive": daemon.local("archive", check_intervall="1h")})
    done = daemon.run("status")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'check_interval'?" in done.stderr


def cost_of_status(daemon: Daemon) -> tuple[float, int, str]:
    """Processor time in seconds that ``wormfs status --json`` needs, its exit status and what it says."""
    program = [sys.executable, "-m", "wormfs", "status", "--json", "--config", str(daemon.config)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment(daemon.base))
    assert process.stdout is not None
    with process.stdout as stream:
        said = stream.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime, process.returncode, said


def test_a_stopped_worker_is_told_within_a_second(daemons: Daemons) -> None:
    """Its processor time and its waiting for the daemon: how long it takes in all the busy tests decide."""
    daemon = daemons()
    daemon.write_config({name: daemon.local(name, **OFTEN) for name in ("a", "b")})
    daemon.start()
    wait_check(daemon, ok=True, name="a")
    worker = daemon.worker_pid("a")
    os.kill(worker, signal.SIGSTOP)
    try:
        waited_s = []
        for _ in range(3):
            started = time.monotonic()
            ControlClient(daemon.state_directory).request({"request": "status"}, timeout_s=5)
            waited_s.append(time.monotonic() - started)
        costs = [cost_of_status(daemon) for _ in range(3)]
        assert min(waited_s) + min(cost for cost, _, _ in costs) < 1
        _, status, said = costs[0]
        assert status == 2
        found = json.loads(said)
        assert [(one["code"], one["backend"]) for one in found["problems"]] == [("not_mounted", "a")]
        hung = found["backends"]["a"]
        assert (hung["state"], hung["spool"], hung["throughput"]) == ("hung", None, None)
        assert hung["check"]["ok"] and hung["guarantee"] == "atomic" and hung["space"], "what was known stays"
        assert found["backends"]["b"]["level"] == "ok"
    finally:
        os.kill(worker, signal.SIGCONT)


def test_a_stopped_daemon_is_told_after_two_seconds(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        done = daemon.run("status")
        assert time.monotonic() - started < 10
        assert done.returncode == 2 and "the daemon did not answer within 2 s" in done.stdout
    finally:
        daemon.process.send_signal(signal.SIGCONT)


def test_a_backend_that_is_down_is_critical_and_its_last_error_stays_afterwards(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.data().rename(daemon.base / "away")
    daemon.start(wait=False)
    daemon.wait_for(lambda: "does not exist" in daemon.log_text(), "it is waiting")
    done = daemon.run("status")
    assert done.returncode == 2
    assert f"archive: critical: {daemon.data()} does not exist: make the directory" in done.stdout
    (daemon.base / "away").rename(daemon.data())
    daemon.wait_for(lambda: daemon.status()["level"] == "ok", "it is mounted")
    assert "does not exist" in daemon.status()["backends"]["archive"]["last_error"]["text"]
    assert "archive: last error: " in daemon.run("status").stdout


# -- the background check


DISKS = ("full", "unmounted", "healthy")
FOR_GOOD = ("read-only", "unmounted")
FAILS_AT = {
    "read-only": ("authenticate", "write"),
    "full": ("write", "free space"),
    "unmounted": ("connect",),
    "replaced": ("connect",),
    "gone": ("connect",),
}


def test_a_directory_that_breaks_turns_red_and_one_that_is_mended_green(daemons: Daemons) -> None:
    """Each in another way; nothing but the check looks at them."""
    daemon = daemons()
    names = {*FAILS_AT, "healthy"}
    with contextlib.ExitStack() as stack:
        for name in DISKS:
            stack.enter_context(disk(daemon.data(name), "4m"))
        stack.enter_context(failing_disk(daemon.data("read-only")))
        options = {"spool_reserve": "0", "space_cache": 0, **OFTEN}
        daemon.write_config({name: daemon.local(name, **options) for name in sorted(names)})
        daemon.start()
        wait_checks(daemon, dict.fromkeys(names, True))
        assert daemon.run("status").returncode == 1, "these disks are small, that is all"
        break_all(daemon)
        wait_checks(daemon, {name: name == "healthy" for name in names})
        done = daemon.run("status", "--json")
        found = json.loads(done.stdout)
        assert done.returncode == 2
        first = {name: found["backends"][name]["check"] for name in FAILS_AT}
        assert {name: check["failed"][0]["name"] in FAILS_AT[name] for name, check in first.items()} == (
            dict.fromkeys(FAILS_AT, True)
        )
        assert all(check["advice"] and check["failing_since_ns"] for check in first.values())
        assert "does not exist any more" in first["gone"]["failed"][0]["detail"]
        for name in ("replaced", "unmounted"):
            assert "is not the directory any more" in first[name]["failed"][0]["detail"]
        red = {problem["backend"] for problem in found["problems"] if problem["code"] == "check_failed"}
        assert red == set(FAILS_AT)
        assert daemon.run("status").stdout.count(": critical: the check failed at '") == len(FAILS_AT)
        wait_again(daemon, first)
        mend_all(daemon)
        mended = {name: name not in FOR_GOOD for name in names}
        for check in wait_checks(daemon, mended).values():
            assert (check["failing_since_ns"] is None) == check["ok"]
        said = Counter(check_lines(daemon))
        assert said == {"failed": len(FAILS_AT), "passes": len(FAILS_AT) - len(FOR_GOOD)}, "once each"
        (daemon.mountpoint / "full" / "f").write_bytes(b"works")
        assert daemon.stop() == 0


def break_all(daemon: Daemon) -> None:
    trigger_error(daemon.data("read-only"))
    with (daemon.data("full") / "filler").open("wb") as file, contextlib.suppress(OSError):
        file.write(bytes(8 << 20))
    subprocess.run(["umount", "-l", str(daemon.data("unmounted"))], check=True)
    for name in ("replaced", "gone"):
        daemon.data(name).rename(daemon.base / f"away-{name}")
    daemon.data("replaced").mkdir()


def mend_all(daemon: Daemon) -> None:
    (daemon.data("full") / "filler").unlink()
    daemon.data("replaced").rmdir()
    for name in ("replaced", "gone"):
        (daemon.base / f"away-{name}").rename(daemon.data(name))


def wait_again(daemon: Daemon, first: dict[str, Any]) -> None:
    """Another failed check of each: it has failed since the first one."""

    def seen() -> bool:
        again = {name: daemon.status()["backends"][name]["check"] for name in first}
        for name, check in again.items():
            assert check["failing_since_ns"] == first[name]["failing_since_ns"]
        return all(check["at_ns"] > first[name]["at_ns"] for name, check in again.items())

    daemon.wait_for(seen, "there is another check of each")


# -- --watch


class Terminal:
    """``wormfs status --watch`` on a pseudo-terminal of a given width."""

    def __init__(self, daemon: Daemon, columns: int):
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(
                environment(daemon.base), TERM="xterm-256color", COLUMNS=str(columns), LINES="24"
            )
            program = [sys.executable, "-m", "wormfs", "status", "--watch", "--config", str(daemon.config)]
            os.execv(sys.executable, program)
        self.said = b""

    def wait_for(self, words: bytes, timeout_s: float = 20) -> None:
        until = time.monotonic() + timeout_s
        while words not in self.said and time.monotonic() < until and self._read():
            pass
        assert words in self.said, self.said

    def _read(self) -> bool:
        if select.select([self._fd], [], [], 0.2)[0]:
            try:
                chunk = os.read(self._fd, 65536)
            except OSError:
                return False  # the other side has gone
            self.said += chunk
            return bool(chunk)
        return True

    def press(self, key: bytes) -> None:
        os.write(self._fd, key)

    def end(self) -> int:
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_watch_follows_and_leaves_the_terminal_as_it_was(daemons: Daemons, how: str) -> None:
    daemon = daemons()
    daemon.start()
    terminal = Terminal(daemon, 40)
    terminal.wait_for(b"OK")
    (daemon.base / "away").mkdir()
    daemon.data().rename(daemon.base / "away" / "archive")
    os.kill(daemon.worker_pid(), signal.SIGKILL)
    terminal.wait_for(b"CRITICAL")
    terminal.wait_for(b"does not")
    terminal.press(b"\x03") if how == "Ctrl-C" else os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.end() == 2
    assert b"Traceback" not in terminal.said
    begins, ends = terminal.said.rfind(b"\x1b[?1049h"), terminal.said.rfind(b"\x1b[?1049l")
    assert 0 <= begins < ends, "the screen that was there before comes back"
    assert terminal.said.rfind(b"\x1b[?25h") > terminal.said.rfind(b"\x1b[?25l"), "and so does the cursor"
    after = terminal.said[ends:]
    assert b"CRITICAL" not in after and b"backend" not in after.lower()


def test_watch_goes_on_when_no_daemon_runs_and_shows_it_when_it_comes(daemons: Daemons) -> None:
    daemon = daemons()
    terminal = Terminal(daemon, 120)
    terminal.wait_for(b"no wormfs daemon is running")
    daemon.start()
    terminal.wait_for(b"ready")
    terminal.press(b"\x03")
    assert terminal.end() == 0


@pytest.mark.parametrize("arguments", [("--watch",), ("--watch", "--json")])
def test_watch_is_for_a_terminal_and_for_people(daemons: Daemons, arguments: tuple[str, ...]) -> None:
    done = daemons().run("status", *arguments)
    assert done.returncode == 2 and "--watch" in done.stderr
