"""The supervisor and its workers on real mounts: what dies, what stays, what is cleaned up."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, environment, processes_of
from wormfs.daemon.control import ControlClient
from wormfs.fuse.mounting import mounts, unmount

Daemons = Callable[..., Daemon]

# In the moment before the dead worker's mount is detached, the kernel itself answers.
DEAD_CONNECTION = (errno.ENOTCONN, errno.ECONNABORTED)


def code_of(action: Callable[[], object]) -> int:
    """The errno that an action fails with; 0 if it works."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


def changes(directory: Path) -> dict[str, Callable[[], object]]:
    """Everything that could change something in a directory."""
    return {
        "create": lambda: os.close(os.open(directory / "new", os.O_CREAT | os.O_WRONLY, 0o666)),
        "mkdir": lambda: (directory / "new").mkdir(),
        "mknod": lambda: os.mknod(directory / "new"),
        "symlink": lambda: (directory / "new").symlink_to("target"),
        "chmod": lambda: directory.chmod(0o700),
        "chown": lambda: os.chown(directory, 1, 1),
        "utime": lambda: os.utime(directory, (1, 1)),
        "setxattr": lambda: os.setxattr(directory, "user.test", b"1"),
        "removexattr": lambda: os.removexattr(directory, "user.test"),
    }


def questions(directory: Path) -> dict[str, Callable[[], object]]:
    """Everything that only looks."""
    return {
        "stat": lambda: directory.stat(),
        "list": lambda: os.listdir(directory),
        "stat below": lambda: (directory / "file").stat(),
        "open below": lambda: os.close(os.open(directory / "file", os.O_RDONLY)),
        "chdir": lambda: os.chdir(directory),
        "getxattr": lambda: os.getxattr(directory, "user.test"),
        "access": lambda: os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)),
    }


# -- the root


def test_anything_at_the_root_of_the_mount_eperm_for_change(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    top = daemon.mountpoint
    assert os.listdir(top) == ["archive"]
    status = top.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_nlink) == (0o555, 0, 0, 3)
    outcomes = {name: code_of(action) for name, action in changes(top).items()}
    assert outcomes == dict.fromkeys(outcomes, errno.EPERM)
    assert code_of((top / "archive").rmdir) in (errno.EPERM, errno.EBUSY)
    assert code_of(lambda: (top / "archive").rename(top / "other")) in (errno.EPERM, errno.EBUSY)
    assert code_of(lambda: (top / "missing").stat()) == errno.ENOENT
    assert code_of(lambda: os.setxattr(top, "security.test", b"1")) == errno.EOPNOTSUPP
    assert daemon.is_mounted("archive"), "refusing must never detach a backend's mount"


def test_mkdir_over_a_backend_leaves_its_mount_alone(daemons: Daemons) -> None:
    """An exclusive create makes the kernel ask for the name again; a wrong answer would detach the mount."""
    daemon = daemons()
    daemon.start()
    for _ in range(3):
        assert code_of((daemon.mountpoint / "archive").mkdir) == errno.EEXIST
        subprocess.run(["ls", "-la", str(daemon.mountpoint)], check=True, stdout=subprocess.DEVNULL)
    assert daemon.is_mounted("archive")


def test_df_of_the_root_is_the_sum_of_the_backends(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.write_config({"a": daemon.local("a"), "b": daemon.local("b")})
    daemon.start()

    def blocks(path: Path) -> int:
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize

    each = blocks(daemon.mountpoint / "a")
    assert each > 0
    daemon.wait_for(lambda: abs(blocks(daemon.mountpoint) - 2 * each) < 1 << 20, "both are counted")


def test_mounts_have_their_names_and_safe_options(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    # /proc/mounts escapes "#", which would begin a comment in fstab.
    text = Path("/proc/mounts").read_text().replace(r"\043", "#")
    lines = [line.split() for line in text.splitlines()]
    found = {line[1]: line for line in lines if line[1].startswith(str(daemon.mountpoint))}
    assert {path: (line[0], line[2]) for path, line in found.items()} == {
        str(daemon.mountpoint): ("wormfs", "fuse.wormfs"),
        str(daemon.mountpoint / "archive"): ("wormfs#archive", "fuse.wormfs"),
    }
    for line in found.values():
        options = set(line[3].split(","))
        assert {"nosuid", "nodev", "noatime", "default_permissions", "allow_other"} <= options


def test_the_kernel_reads_ahead_more_than_it_would(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    for path in (daemon.mountpoint, daemon.mountpoint / "archive"):
        [device] = [mount.device for mount in mounts() if mount.mountpoint == str(path)]
        setting = Path(f"/sys/class/bdi/{device}/read_ahead_kb")
        daemon.wait_for(lambda setting=setting: setting.read_text() == "1024\n", "it is set")


# -- a worker dies


def test_a_worker_killed_comes_back_with_everything(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.write_config({"a": daemon.local("a"), "b": daemon.local("b")})
    daemon.start()
    (daemon.mountpoint / "a" / "file").write_bytes(b"kept")
    before = daemon.worker_pid("a")
    os.kill(before, signal.SIGKILL)
    assert code_of(lambda: os.listdir(daemon.mountpoint / "b")) == 0, "its neighbour goes on"
    seen = set()
    until = time.monotonic() + 20
    while (code := code_of((daemon.mountpoint / "a" / "file").read_bytes)) and time.monotonic() < until:
        seen.add(code)
    assert errno.EIO in seen
    assert seen <= {errno.EIO, *DEAD_CONNECTION}, "never ENOENT: nothing has been lost"
    assert (daemon.mountpoint / "a" / "file").read_bytes() == b"kept"
    assert daemon.worker_pid("a") != before
    assert daemon.status()["backends"]["a"]["restarts"] == 1


def test_a_backend_that_is_down_eio(daemons: Daemons) -> None:
    """While its worker is down, a directory answers EIO to everything and nothing lands on the disk below."""
    daemon = daemons()
    daemon.start()
    place = daemon.mountpoint / "archive"
    # The backend is taken away, so that the worker cannot come back before we have looked.
    away = daemon.base / "away"
    daemon.data().rename(away)
    os.kill(daemon.worker_pid(), signal.SIGKILL)
    daemon.wait_for(lambda: not daemon.is_mounted("archive"), "the dead mount is detached")
    for actions in (questions(place), changes(place)):
        outcomes = {name: code_of(action) for name, action in actions.items()}
        assert outcomes == dict.fromkeys(outcomes, errno.EIO)
    php = f'exit(@file_put_contents("{place}/new", "x") === false ? 7 : 0);'
    assert subprocess.run(["php", "-r", php], check=False).returncode == 7
    assert os.listdir(daemon.mountpoint) == ["archive"], "the root still answers"
    daemon.wait_for(lambda: daemon.status()["backends"]["archive"]["state"] == "waiting", "it says so")
    assert "does not exist" in daemon.status()["backends"]["archive"]["reason"]
    away.rename(daemon.data())
    daemon.wait_mounted("archive")
    (place / "new").write_bytes(b"again")
    assert daemon.stop() == 0
    assert os.listdir(daemon.mountpoint) == [], "nothing was written to the disk below the mount"
    assert sorted(os.listdir(daemon.data())) == [".wormfs", "new"]


def test_a_worker_that_is_stopped_does_not_block_status_nor_its_neighbours(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.write_config({"a": daemon.local("a"), "b": daemon.local("b")}, stop_timeout="1s")
    daemon.start()
    client = ControlClient(daemon.state_directory)
    os.kill(daemon.worker_pid("a"), signal.SIGSTOP)
    started = time.monotonic()
    found = client.request({"request": "status"}, timeout_s=5)["backends"]
    assert time.monotonic() - started < 1
    assert (found["a"]["state"], found["b"]["state"]) == ("hung", "ready")
    refused = client.request({"backend": "a", "request": {"op": "status"}, "timeout_s": 0.2}, timeout_s=5)
    assert not refused["ok"]
    assert "no answer" in refused["error"]
    assert client.request({"backend": "b", "request": {"op": "status"}}, timeout_s=5)["ok"]
    (daemon.mountpoint / "b" / "file").write_bytes(b"goes on")
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 15
    assert processes_of(daemon.base) == []


def test_an_unmounted_backend_is_mounted_again(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    before = daemon.worker_pid()
    unmount(str(daemon.mountpoint / "archive"), lazy=False)
    daemon.wait_for(
        lambda: daemon.is_mounted("archive") and daemon.worker_pid() not in (0, before), "it is back"
    )


# -- the supervisor dies


def test_backends_work_while_the_supervisor_does_not_answer(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    place = daemon.mountpoint / "archive"
    assert daemon.process is not None
    os.kill(daemon.process.pid, signal.SIGSTOP)
    try:
        (place / "file").write_bytes(b"while it sleeps")
        assert (place / "file").read_bytes() == b"while it sleeps"
        assert os.listdir(place) == ["file"]
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)


def test_the_supervisor_killed_ends_the_workers_cleanly(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.write_config({"a": daemon.local("a"), "b": daemon.local("b")}, stop_timeout="10s")
    daemon.start()
    with (daemon.mountpoint / "a" / "open").open("wb") as file:
        file.write(b"first, ")
        file.flush()
        assert daemon.process is not None
        daemon.process.kill()
        daemon.wait()
        wait_until(lambda: not daemon.is_mounted("a") and not daemon.is_mounted("b"))
        file.write(b"then the end")
    wait_until(lambda: processes_of(daemon.base) == [])
    assert (daemon.data("a") / "open").read_bytes() == b"first, then the end"
    assert daemon.mounted() == [str(daemon.mountpoint)], "the dead root is left for the next start"

    daemon.start()
    assert "cleared a mount that a dead daemon left: wormfs on" in daemon.log_text()
    assert (daemon.mountpoint / "a" / "open").read_bytes() == b"first, then the end"
    assert len(daemon.mounted()) == 3
    assert daemon.stop() == 0
    assert daemon.mounted() == []


def test_a_whole_dead_tree_is_cleared_at_start(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    for pid in processes_of(daemon.base):
        os.kill(pid, signal.SIGSTOP)
    for pid in processes_of(daemon.base):
        os.kill(pid, signal.SIGKILL)
    daemon.wait()
    wait_until(lambda: processes_of(daemon.base) == [])
    assert len(daemon.mounted()) == 2
    daemon.start()
    assert len(daemon.mounted()) == 2
    assert (daemon.mountpoint / "archive").is_dir()


def test_umount_clears_what_a_dead_daemon_left(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    for pid in processes_of(daemon.base):
        os.kill(pid, signal.SIGKILL)
    daemon.wait()
    assert daemon.wormfs("umount", str(daemon.mountpoint)).returncode == 0
    assert daemon.mounted() == []
    again = daemon.wormfs("umount", str(daemon.mountpoint))
    assert again.returncode == 1
    assert "nothing is mounted" in again.stderr


# -- what a start refuses


@contextlib.contextmanager
def tmpfs(path: Path) -> Iterator[None]:
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "sometmpfs", str(path)], check=True)
    try:
        yield
    finally:
        unmount(str(path), lazy=True)


def test_a_mountpoint_in_use_by_something_else_is_refused(daemons: Daemons) -> None:
    daemon = daemons()
    with tmpfs(daemon.mountpoint):
        done = daemon.run("mount")
        assert done.returncode == 1
        assert f"{daemon.mountpoint} is in use: sometmpfs (tmpfs) is mounted there" in done.stderr
        assert "Traceback" not in done.stderr
        assert [mount.kind for mount in mounts() if mount.mountpoint == str(daemon.mountpoint)] == ["tmpfs"]


def test_a_mountpoint_in_use_by_a_live_wormfs_is_refused(daemons: Daemons) -> None:
    first, second = daemons(), daemons()
    first.start()
    second.mountpoint = first.mountpoint
    second.write_config({"other": second.local("other")})
    done = second.run("mount")
    assert done.returncode == 1
    assert "a wormfs (wormfs) is mounted there and answers" in done.stderr
    assert os.listdir(first.mountpoint) == ["archive"]


@pytest.mark.parametrize("make", ["file", "full"])
def test_a_mountpoint_that_is_no_empty_directory_is_refused(daemons: Daemons, make: str) -> None:
    daemon = daemons()
    if make == "file":
        daemon.mountpoint.write_text("")
    else:
        (daemon.mountpoint / "precious").mkdir(parents=True)
    done = daemon.run("mount")
    assert done.returncode == 1
    assert ("Not a directory" if make == "file" else "is not empty (it holds 'precious')") in done.stderr
    assert daemon.mounted() == []


def test_a_missing_mountpoint_is_made_so_that_nobody_writes_below_it(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    assert daemon.stop() == 0
    status = daemon.mountpoint.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o555, 0, 0)


def test_a_second_daemon_on_the_same_state_directory_is_refused(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    done = daemon.run("mount")
    assert done.returncode == 1
    assert daemon.process is not None
    assert f"is in use by another wormfs daemon (pid {daemon.process.pid})" in done.stderr
    assert (daemon.mountpoint / "archive").is_dir()


def test_the_instance_id_stays(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    daemon.stop()
    first = (daemon.state_directory / "instance-id").read_text()
    daemon.start()
    assert (daemon.state_directory / "instance-id").read_text() == first
    assert os.listdir(daemon.data() / ".wormfs" / "spool") == [first.strip()]


# -- a backend that is down at start


def test_a_backend_that_is_down_at_start_does_not_stop_the_others(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.write_config(
        {"here": daemon.local("here"), "gone": {"type": "local", "path": str(daemon.data("gone"))}}
    )
    daemon.start(wait=False)
    daemon.wait_mounted("here")
    (daemon.mountpoint / "here" / "file").write_bytes(b"works")
    assert code_of((daemon.mountpoint / "gone").stat) == errno.EIO
    shown = subprocess.run(["ls", "-l", str(daemon.mountpoint)], capture_output=True, text=True, check=False)
    assert "here" in shown.stdout
    assert "Input/output error" in shown.stderr
    daemon.data("gone").mkdir()
    daemon.wait_mounted("gone")
    (daemon.mountpoint / "gone" / "file").write_bytes(b"works, too")


def test_daemon_says_which_backend_did_not_come_up_and_why(daemons: Daemons) -> None:
    daemon = daemons()
    wrong = daemon.base / "a file"
    wrong.write_text("")
    daemon.write_config({"good": daemon.local("good"), "bad": {"type": "local", "path": str(wrong)}})
    done = daemon.run("mount", "--daemon")
    assert done.returncode == 3
    assert "bad is not mounted: bad: " in done.stderr
    assert "is not a directory" in done.stderr
    assert f"wormfs umount {daemon.mountpoint}" in done.stderr
    assert daemon.is_mounted("good"), "the others stay"
    found = daemon.run("status", "--json")
    assert found.returncode == 2
    assert json.loads(found.stdout)["backends"]["bad"]["state"] == "failed"
    assert daemon.run("umount").returncode == 0


# -- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_everything(daemons: Daemons, number: signal.Signals) -> None:
    daemon = daemons()
    daemon.write_config({"a": daemon.local("a"), "b": daemon.local("b")})
    daemon.start()
    assert daemon.stop(number) == 0
    assert daemon.mounted() == []
    assert processes_of(daemon.base) == []
    assert "Traceback" not in daemon.log_text()
    assert not (daemon.state_directory / "control.sock").exists()


def test_a_closed_terminal_ends_the_daemon_that_ran_in_it(daemons: Daemons) -> None:
    """Elsewhere SIGHUP is a reload (tests/systemd)."""
    daemon = daemons()
    program = [sys.executable, "-m", "wormfs", "mount", "--config", str(daemon.config)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(program[0], program, environment(daemon.base))
    try:
        daemon.wait_for(lambda: daemon.is_mounted("archive"), "it is mounted")
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert daemon.mounted() == []


def test_ctrl_c_reaches_the_whole_group_and_stops_in_order(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    (daemon.mountpoint / "archive" / "file").write_bytes(b"x")
    assert daemon.process is not None
    worker = daemon.worker_pid()
    os.kill(worker, signal.SIGINT)
    os.killpg(daemon.process.pid, signal.SIGINT)
    assert daemon.wait() == 0
    assert daemon.mounted() == []


def test_a_stop_lets_open_files_finish(daemons: Daemons) -> None:
    daemon = daemons(stop_timeout="20s")
    daemon.start()
    with (daemon.mountpoint / "archive" / "file").open("wb") as file:
        file.write(b"before, ")
        file.flush()
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for(lambda: daemon.mounted() == [], "nothing new can be opened")
        assert daemon.process.poll() is None
        file.write(b"after")
    assert daemon.wait() == 0
    assert (daemon.data() / "file").read_bytes() == b"before, after"


def test_a_stop_is_bounded_by_stop_timeout(daemons: Daemons) -> None:
    daemon = daemons(stop_timeout="1s")
    daemon.start()
    file = (daemon.mountpoint / "archive" / "file").open("wb", buffering=0)
    try:
        file.write(b"half")
        started = time.monotonic()
        assert daemon.stop() == 0
        assert 0.5 < time.monotonic() - started < 10
        assert code_of(lambda: file.write(b"more")) in (errno.EIO, *DEAD_CONNECTION)
    finally:
        with contextlib.suppress(OSError):
            file.close()
    assert not (daemon.data() / "file").exists()
    daemon.start()
    assert os.listdir(daemon.mountpoint / "archive") == []


def test_a_connection_that_is_cut_makes_no_record_of_half_a_file(daemons: Daemons) -> None:
    """``umount -f`` ends the session, as an orderly end does, but with files open."""
    daemon = daemons()
    daemon.start()
    file = (daemon.mountpoint / "archive" / "file").open("wb", buffering=0)
    try:
        file.write(b"half")
        before = daemon.worker_pid()
        subprocess.run(["umount", "-f", str(daemon.mountpoint / "archive")], check=False, capture_output=True)
        daemon.wait_for(lambda: daemon.worker_pid() not in (0, before), "a new worker")
        daemon.wait_for(lambda: daemon.status()["backends"]["archive"]["state"] == "ready", "it is back")
    finally:
        with contextlib.suppress(OSError):
            file.close()
    assert os.listdir(daemon.mountpoint / "archive") == []
    assert "the connection was cut while files were open" in daemon.log_text()
    assert "quarantine" in daemon.log_text()


def test_a_close_just_before_the_unmount_is_never_lost(daemons: Daemons) -> None:
    """RELEASE may be thrown away with the mount; a writer with a socket leaves the decision to it."""
    daemon = daemons()
    for round_ in range(5):
        daemon.start()
        with contextlib.closing(socket.socket(socket.AF_UNIX)):
            path = daemon.mountpoint / "archive" / f"file{round_}"
            path.write_bytes(b"accepted")
            unmount(str(daemon.mountpoint / "archive"), lazy=True)
            assert daemon.stop() == 0
        assert (daemon.data() / path.name).read_bytes() == b"accepted"


def test_a_second_ctrl_c_stops_at_once(daemons: Daemons) -> None:
    daemon = daemons(stop_timeout="600s")
    daemon.start()
    file = (daemon.mountpoint / "archive" / "file").open("wb", buffering=0)
    try:
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGINT)
        daemon.wait_for(lambda: daemon.mounted() == [], "the first one detaches")
        assert daemon.stop(signal.SIGINT, timeout_s=5) == 1
        assert processes_of(daemon.base) == []
    finally:
        with contextlib.suppress(OSError):
            file.close()


def test_the_root_unmounted_from_outside_ends_the_daemon(daemons: Daemons) -> None:
    """What ExecStop=umount -l of a service does."""
    daemon = daemons()
    daemon.start()
    subprocess.run(["umount", "-l", str(daemon.mountpoint)], check=True)
    assert daemon.wait() == 0
    assert processes_of(daemon.base) == []
    assert os.listdir(daemon.mountpoint) == []


# -- --daemon and umount


def test_daemon_returns_when_every_mount_answers(daemons: Daemons) -> None:
    daemon = daemons()
    done = daemon.run("mount", "--daemon")
    assert (done.returncode, done.stderr) == (0, "")
    (daemon.mountpoint / "archive" / "file").write_bytes(b"at once")
    log = daemon.state_directory / "wormfs.log"
    assert "mounted at" in log.read_text()
    assert log.stat().st_mode & 0o7777 == 0o640 & ~current_umask()
    assert (daemon.state_directory / "control.sock").stat().st_mode & 0o7777 == 0o600
    refused = daemon.run("mount", "--daemon")
    assert refused.returncode == 1
    assert refused.stderr.count("is in use by another wormfs daemon") == 1, "said once"
    assert daemon.wormfs("umount", str(daemon.mountpoint)).returncode == 0
    assert daemon.mounted() == []
    assert processes_of(daemon.base) == []
    assert daemon.run("mount", "--daemon").returncode == 0, "it can be mounted again at once"


def test_umount_busy_names_who_and_tears_nothing_down(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.write_config({"a": daemon.local("a"), "b": daemon.local("b")})
    daemon.start()
    (daemon.mountpoint / "a" / "file").write_bytes(b"x")
    with (daemon.mountpoint / "a" / "file").open("rb"):
        sleeper = subprocess.Popen(["sleep", "60"], cwd=daemon.mountpoint / "b")
        try:
            done = daemon.run("umount")
        finally:
            sleeper.kill()
            sleeper.wait()
        assert done.returncode == 1
        assert f"pid {os.getpid()} " in done.stderr
        assert f"pid {sleeper.pid} (sleep): {daemon.mountpoint}/b" in done.stderr
        assert len(daemon.mounted()) == 3
        (daemon.mountpoint / "b" / "still").write_bytes(b"works")
    assert daemon.run("umount").returncode == 0
    assert daemon.wait() == 0
    assert daemon.mounted() == []


def test_umount_from_inside_the_mount_is_not_busy_because_of_itself(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    done = subprocess.run(
        [sys.executable, "-m", "wormfs", "umount", "--config", str(daemon.config)],
        cwd=daemon.mountpoint / "archive",
        env=environment(daemon.base),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert daemon.wait() == 0


def test_umount_lazy_lets_users_finish(daemons: Daemons) -> None:
    daemon = daemons(stop_timeout="20s")
    daemon.start()
    with (daemon.mountpoint / "archive" / "file").open("wb") as file:
        file.write(b"one, ")
        file.flush()
        assert daemon.run("umount", "--lazy").returncode == 0
        assert daemon.mounted() == []
        file.write(b"two")
    assert daemon.wait() == 0
    assert (daemon.data() / "file").read_bytes() == b"one, two"


def test_umount_lazy_works_when_the_daemon_hangs(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    hung = processes_of(daemon.base)
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert daemon.run("umount").returncode == 1
        assert daemon.run("umount", "--lazy").returncode == 0
        assert daemon.mounted() == []
    finally:
        for pid in hung:
            with contextlib.suppress(ProcessLookupError):  # the first of them may have ended the others
                os.kill(pid, signal.SIGCONT)
    assert daemon.wait() == 0


def test_umount_without_a_daemon_says_so(daemons: Daemons) -> None:
    daemon = daemons()
    done = daemon.run("umount")
    assert done.returncode == 1
    assert "nothing is mounted" in done.stderr


# -- the rest


def test_ready_is_told_to_the_service_manager(daemons: Daemons) -> None:
    daemon = daemons()
    address = f"\0wormfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        daemon.start(NOTIFY_SOCKET="@" + address[1:])
        said = [manager.recv(4096).decode()]
        while not said[-1].startswith("READY=1\n"):
            said.append(manager.recv(4096).decode())
        assert "1 of 1 backends mounted" in said[-1]
        daemon.stop()
        while not said[-1].startswith("STOPPING=1\n"):
            said.append(manager.recv(4096).decode())


def test_a_state_directory_with_a_long_path(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.state_directory = daemon.base / ("long" * 30) / ("longer" * 20)
    daemon.write_config({"archive": daemon.local("archive")})
    daemon.start()
    assert daemon.status()["backends"]["archive"]["state"] == "ready"
    assert daemon.wormfs("umount", str(daemon.mountpoint)).returncode == 0
    assert daemon.wait() == 0


def test_check_reports_every_backend(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.write_config(
        {"good": daemon.local("good"), "gone": {"type": "local", "path": str(daemon.data("gone"))}}
    )
    good = daemon.run("check", "good", "--json")
    assert good.returncode == 0, good.stdout
    assert json.loads(good.stdout)["passed"] is True
    both = daemon.run("check", "--json")
    assert both.returncode == 1
    found = json.loads(both.stdout)["backends"]
    assert (found["good"]["passed"], found["gone"]["passed"]) == (True, False)
    assert "does not exist" in found["gone"]["checks"][0]["detail"]
    table = daemon.run("check")
    assert table.returncode == 1
    assert "FAILED" in table.stdout
    unknown = daemon.run("check", "goood")
    assert unknown.returncode == 2
    assert "good" in unknown.stderr
    assert os.listdir(daemon.data("good")) == [".wormfs"]


def test_embedded_needs_no_settings(daemons: Daemons) -> None:
    daemon = daemons()
    done = daemon.wormfs("mount", "--embedded", "--daemon")
    assert done.returncode == 0, done.stderr
    archive = daemon.mountpoint / "archive"
    (archive / "file").write_bytes(b"x")
    assert (daemon.base / "var" / "archive" / "file").read_bytes() == b"x"
    assert daemon.wormfs("umount", "mnt").returncode == 0


def test_a_daemon_whose_greeting_nobody_can_read_works_all_the_same(daemons: Daemons) -> None:
    """What it prints goes to a disk that is full."""
    daemon = daemons()
    with daemon.log.open("ab") as log, open("/dev/full", "wb") as full:
        daemon.process = subprocess.Popen(
            [sys.executable, "-m", "wormfs", "mount", "--config", str(daemon.config)],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=log,
            cwd=daemon.base,
            env=environment(daemon.base),
        )
    daemon.wait_for(lambda: "nobody could be told how the start went" in daemon.log_text(), "it has tried")
    (daemon.mountpoint / "archive" / "file").write_bytes(b"kept")
    daemon.stop()
    assert daemon.log_text().splitlines()[-1].endswith("stopped")
    assert (daemon.data() / "file").read_bytes() == b"kept"


def test_what_cannot_be_cleared_is_said_and_is_no_crash(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    assert daemon.process is not None
    for pid in processes_of(daemon.base):
        os.kill(pid, signal.SIGKILL)
    daemon.process.wait(20)
    # The mounter that should do it is not there.
    daemon.start(wait=False, WORMFS_MOUNTER=str(daemon.base / "none"))
    assert daemon.wait() == 1
    said = daemon.log_text().splitlines()[-1]
    assert said.startswith(f"wormfs: what a dead daemon left at {daemon.mountpoint} stays there: ")
    assert "the mounter at" in said and "does not answer" in said
    assert "Traceback" not in daemon.log_text()


def test_the_foreground_prints_what_is_mounted(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    line = f"{daemon.mountpoint}/archive: mounted (local)"
    daemon.wait_for(lambda: line in daemon.log_text(), "it greets")
    # tests/docs runs what --embedded invites to; nobody is invited to store something in a real archive.
    assert "Try" not in daemon.log_text()


def test_secrets_and_settings_are_in_no_process_list(daemons: Daemons) -> None:
    daemon = daemons()
    daemon.start()
    command = Path(f"/proc/{daemon.worker_pid()}/cmdline").read_bytes().split(b"\0")
    assert command[1:4] == [b"-m", b"wormfs.daemon.worker", command[3]]
    assert command[3].isdigit()
    soft = Path(f"/proc/{daemon.worker_pid()}/limits").read_text().split("Max open files")[1].split()
    assert soft[0] == soft[1], "as many descriptors as the host allows"


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
