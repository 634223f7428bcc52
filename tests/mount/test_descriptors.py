"""Which close is the last one: games with descriptors, and writers that die.

For each: in the end the content is whole, or nothing is visible and quarantine holds the bytes.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time

import pytest

from tests.support.tools import (
    Place,
    ends,
    eventually,
    python,
    refused,
    run,
    sha256,
    state,
    wait_committed,
    works,
)


def whole(place: Place, content: bytes, name: str = "f", *, at_once: bool = False) -> None:
    """The file holds all of it, is a record, and the record tells the truth."""
    path = place / name
    if at_once:
        assert state(path) == "committed"
    wait_committed(path)
    assert path.read_bytes() == place.stored(path).read_bytes() == content
    assert os.getxattr(path, "user.wormfs.sha256").decode() == sha256(path)
    assert place.visible() == {name}
    assert place.quarantined() == []


def gone(place: Place, content: bytes, name: str = "f") -> None:
    """Nothing is visible, the bytes are in quarantine, and the name can be used."""
    assert place.wait_quarantined() == [(name, content)]
    assert place.visible() == set()
    assert os.listdir(place.data) == []
    (place / name).write_bytes(b"again")
    assert place.stored(place / name).read_bytes() == b"again"


SHELL = {
    "echo > f": b"x\n",
    "/bin/echo x > f": b"x\n",
    "{ /bin/echo a; /bin/echo b; } > f": b"a\nb\n",
    "( /bin/echo a; /bin/echo b ) > f": b"a\nb\n",
    "for i in 1 2 3; do /bin/echo $i; done > f": b"1\n2\n3\n",
    "exec 3>f; echo a >&3; /bin/echo b >&3; exec 3>&-": b"a\nb\n",
    "exec 3>f 4>&3; echo a >&3; exec 3>&-; echo b >&4; exec 4>&-": b"a\nb\n",
    "exec 3>f; (echo child >&3); echo parent >&3": b"child\nparent\n",
    "exec > f; echo a; exec /bin/echo b": b"a\nb\n",
    "/bin/echo a | cat > f": b"a\n",
    "/bin/echo a | tee f > /dev/null": b"a\n",
    "{ /bin/echo a; /bin/echo b; } | cat | cat > f": b"a\nb\n",
    "true > f; echo x > f": b"x\n",
    "sh -c 'sh -c \"/bin/echo deep\"' > f": b"deep\n",
    "/bin/echo a > f & wait": b"a\n",
    "{ /bin/echo a & /bin/echo b & wait; } > f": None,
    "set -o noclobber; echo x > f": b"x\n",
    "printf x > f && false": b"x",
}


@pytest.mark.row("close-last")
@pytest.mark.row("close-not-last")
@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("line", SHELL)
def test_redirections(place: Place, line: str, shell: str) -> None:
    backend = place
    if line.startswith("true"):
        backend = Place(place.daemon, "other", place.path.name).make()
    done = run(shell, "-c", line.replace("echo > f", "echo x > f"), cwd=backend.path)
    assert done.stderr == ""
    expected = SHELL[line]
    if expected is None:
        wait_committed(backend / "f")
        expected = (backend / "f").read_bytes()
        assert sorted(expected.split()) == [b"a", b"b"]
    whole(backend, expected)


@pytest.mark.row("close-not-last")
def test_the_shell_goes_and_a_background_job_stays(place: Place) -> None:
    works(
        "sh",
        "-c",
        "exec 3>f; echo one >&3; (sleep 0.6; echo two >&3) > /dev/null 2>&1 & exit 0",
        cwd=place.path,
    )
    assert state(place / "f") == "writing"
    with refused(errno.EBUSY):
        (place / "f").read_bytes()
    assert not place.stored(place / "f").exists()
    whole(place, b"one\ntwo\n")


@pytest.mark.row("writer-killed")
def test_the_shell_fails_and_a_background_job_stays(place: Place) -> None:
    run(
        "sh",
        "-c",
        "exec 3>f; echo one >&3; (sleep 0.4; echo two >&3) > /dev/null 2>&1 & exit 1",
        cwd=place.path,
    )
    gone(place, b"one\ntwo\n")


PYTHON = {
    "dup2": """
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
os.dup2(fd, 50); os.close(fd); os.write(50, b"a"); os.dup2(50, 51)
os.close(50); os.write(51, b"b"); os.close(51)
assert state() == b"committed"
""",
    "many duplicates": """
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
duplicates = [os.dup(fd) for _ in range(50)]
os.write(fd, b"a"); os.close(fd)
for d in duplicates[:-1]: os.close(d)
os.write(duplicates[-1], b"b"); os.close(duplicates[-1])
assert state() == b"committed"
""",
    "fork, the child last": """
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
pid = os.fork()
if pid == 0:
    time.sleep(0.2); os.write(fd, b"b"); os._exit(0)
os.write(fd, b"a"); os.close(fd); os.waitpid(pid, 0)
""",
    "fork, the parent last": """
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
pid = os.fork()
if pid == 0:
    os.write(fd, b"a"); os._exit(0)
os.waitpid(pid, 0); os.write(fd, b"b"); os.close(fd)
assert state() == b"committed"
""",
    "a child that fails is not the writer": """
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
pid = os.fork()
if pid == 0:
    os.write(fd, b"a"); os._exit(3)
os.waitpid(pid, 0); os.write(fd, b"b"); os.close(fd)
""",
    "forked twice": """
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"a")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.4); os.write(fd, b"b"); os._exit(0)
    os._exit(0)
os.wait(); os.close(fd)
assert state() == b"writing"
""",
    "forked twice, the creator waits": """
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"a")
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.3); os.write(fd, b"b"); os._exit(0)
    os._exit(0)
os.wait(); os.close(fd); time.sleep(0.6)
""",
    "mapping written after close": """
fd = os.open("f", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 2)
m = mmap.mmap(fd, 2, mmap.MAP_SHARED)
os.close(fd)
m[0:1] = b"a"; time.sleep(0.1); m[1:2] = b"b"; m.flush(); m.close()
""",
    "mapping in a child": """
fd = os.open("f", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 2)
m = mmap.mmap(fd, 2, mmap.MAP_SHARED)
if os.fork() == 0:
    os.close(fd); time.sleep(0.3); m[1:2] = b"b"; m.flush(); os._exit(0)
m[0:1] = b"a"; m.close(); os.close(fd); os.wait()
""",
    "passed over a socket": """
a, b = socket.socketpair()
if os.fork() == 0:
    a.close()
    _, fds, _, _ = socket.recv_fds(b, 1, 1)
    time.sleep(0.3); os.write(fds[0], b"b"); os._exit(0)
b.close()
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"a")
socket.send_fds(a, [b"x"], [fd]); os.close(fd); os.wait()
""",
    "the sender is gone before it is received": """
a, b = socket.socketpair()
if os.fork() == 0:
    b.close()
    fd = os.open("f", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"a"); socket.send_fds(a, [b"x"], [fd]); os.close(fd); os._exit(0)
a.close(); os.wait(); time.sleep(0.3)
assert state() != b"committed", state()
_, fds, _, _ = socket.recv_fds(b, 1, 1)
os.write(fds[0], b"b"); os.close(fds[0])
""",
    "in a socket within a socket": """
a, b = socket.socketpair(); c, d = socket.socketpair()
if os.fork() == 0:
    fd = os.open("f", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"a")
    socket.send_fds(c, [b"x"], [fd]); socket.send_fds(a, [b"x"], [d.fileno()])
    os._exit(0)
d.close(); os.wait(); time.sleep(0.3)
_, fds, _, _ = socket.recv_fds(b, 1, 1)
inner = socket.socket(fileno=fds[0])
_, fds, _, _ = socket.recv_fds(inner, 1, 1)
os.write(fds[0], b"b"); os.close(fds[0])
""",
    "sent, and gone without a close": """
a, b = socket.socketpair()
if os.fork() == 0:
    fd = os.open("f", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"a"); socket.send_fds(a, [b"x"], [fd]); os._exit(0)
os.wait(); time.sleep(0.3)
_, fds, _, _ = socket.recv_fds(b, 1, 1)
os.write(fds[0], b"b"); os.close(fds[0])
""",
    "the thread that created it ends first": """
made = []
t = threading.Thread(target=lambda: made.append(os.open("f", os.O_WRONLY | os.O_CREAT))); t.start(); t.join()
time.sleep(0.1); os.write(made[0], b"a")
t = threading.Thread(target=lambda: (os.write(made[0], b"b"), os.close(made[0]))); t.start(); t.join()
""",
    "vfork and exec": """
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"a")
subprocess.run(["/bin/sh", "-c", f"printf b >&{fd}"], pass_fds=[fd], check=True)
os.close(fd)
""",
    "exec of another program": """
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"a"); os.dup2(fd, 1); os.execl("/usr/bin/printf", "printf", "b")
""",
    "close on exec": """
fd = os.open("f", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
os.write(fd, b"ab"); os.execl("/bin/true", "true")
""",
    "the end without a close": """
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"ab"); os._exit(0)
""",
    "opened again by its creator for reading": """
fd = os.open("f", os.O_RDWR | os.O_CREAT)
os.write(fd, b"a"); r = os.open("f", os.O_RDONLY); assert os.read(r, 9) == b"a"; os.close(r)
os.write(fd, b"b"); os.close(fd)
""",
}

HEAD = """
import mmap, os, socket, subprocess, sys, threading, time
state = lambda: os.getxattr("f", "user.wormfs.state")
"""


@pytest.mark.row("close-last")
@pytest.mark.row("close-not-last")
@pytest.mark.row("close-unclear")
@pytest.mark.row("writer-ended")
@pytest.mark.parametrize("game", PYTHON)
def test_games(place: Place, game: str) -> None:
    assert ends(python(HEAD + PYTHON[game], cwd=place.path)) == b""
    whole(place, b"ab")


@pytest.mark.row("close-unclear")
def test_a_writer_in_another_pid_namespace(place: Place) -> None:
    line = "/bin/echo hi > f; cat f; { /bin/echo a; /bin/echo b; } > g; cat g"
    assert works("unshare", "-pf", "sh", "-c", line, cwd=place.path) == "hi\na\nb\n"
    wait_committed(place / "f")
    wait_committed(place / "g")
    assert place.stored(place / "f").read_bytes() == b"hi\n"
    assert place.stored(place / "g").read_bytes() == b"a\nb\n"


@pytest.mark.row("close-unclear")
def test_what_comes_right_after_an_unclear_close_does_not_find_it_busy(place: Place) -> None:
    line = "for i in $(seq 50); do echo $i > $i; cat $i; echo no 2>/dev/null > $i && exit 9; done; true"
    output = run("unshare", "-pf", "bash", "-c", line, cwd=place.path)
    assert output.returncode == 0
    assert output.stdout.split() == [str(number) for number in range(1, 51)]
    assert "busy" not in output.stderr


KILLED = (
    HEAD
    + """
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"half")
print("ready", flush=True)
sys.stdin.readline()
%s
"""
)

DEATHS: dict[str, tuple[str, int]] = {
    "SIGKILL": ("os.kill(os.getpid(), 9)", -signal.SIGKILL),
    "SIGTERM": ("os.kill(os.getpid(), 15)", -signal.SIGTERM),
    "SIGSEGV": ("os.kill(os.getpid(), 11)", -signal.SIGSEGV),
    "SIGPIPE": (
        "signal = __import__('signal'); signal.signal(13, signal.SIG_DFL); os.kill(os.getpid(), 13)",
        -signal.SIGPIPE,
    ),
    "status 1": ("os._exit(1)", 1),
    "status 255": ("os._exit(255)", 255),
    "exception": ("sys.stderr.close(); raise SystemExit(2)", 2),
    "with duplicates": ("os.dup(fd); os.dup(fd); os._exit(1)", 1),
    "with a mapping": (
        "g = os.open('/proc/self/fd/%d' % fd, os.O_RDONLY); os._exit(1)",
        1,
    ),
    "with a thread": (
        "threading.Thread(target=time.sleep, args=(9,)).start(); os.kill(os.getpid(), 9)",
        -signal.SIGKILL,
    ),
}


@pytest.mark.row("writer-killed")
@pytest.mark.parametrize("death", DEATHS)
def test_writers_that_die(place: Place, death: str) -> None:
    how, status = DEATHS[death]
    writer = python(KILLED % how, cwd=place.path)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    assert state(place / "f") == "writing"
    ends(writer, status)
    gone(place, b"half")


@pytest.mark.row("writer-killed")
def test_killed_from_outside_while_it_writes(place: Place) -> None:
    with subprocess.Popen(["dd", "if=/dev/zero", "of=f", "bs=64k", "status=none"], cwd=place.path) as writer:
        eventually(lambda: (place / "f").exists() and (place / "f").stat().st_size > 1 << 20, "it writes")
        writer.kill()
    [(name, content)] = place.wait_quarantined()
    assert name == "f" and len(content) > 1 << 20 and not any(content)
    assert place.visible() == set()


@pytest.mark.row("writer-killed")
def test_an_empty_file_of_a_killed_writer_leaves_nothing(place: Place) -> None:
    script = "import os, sys; os.open('f', os.O_WRONLY | os.O_CREAT); os.kill(os.getpid(), 9)"
    ends(python(script, cwd=place.path), -9)
    eventually(lambda: place.visible() == set(), "the name is free")
    assert place.quarantined() == []


@pytest.mark.row("writer-ended")
def test_what_was_closed_before_the_death_stays(place: Place) -> None:
    script = "import os; open('f', 'w').write('whole'); os.kill(os.getpid(), 9)"
    ends(python(script, cwd=place.path), -9)
    whole(place, b"whole", at_once=True)


@pytest.mark.row("writer-killed")
def test_one_warning_in_the_log(place: Place) -> None:
    before = place.daemon.log_text()
    run("sh", "-c", "exec 3>f; echo half >&3; kill -9 $$", cwd=place.path)
    gone(place, b"half\n")
    new = place.daemon.log_text()[len(before) :]
    lines = [line for line in new.splitlines() if "quarantine" in line]
    assert len(lines) == 1 and " warning " in lines[0] and "signal 9" in lines[0]


@pytest.mark.row("close-last")
def test_close_is_quick_beside_many_processes(place: Place) -> None:
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(100)]
    try:
        begun = time.monotonic()
        for number in range(20):
            (place / f"f{number}").write_bytes(b"x")
        assert time.monotonic() - begun < 10
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
