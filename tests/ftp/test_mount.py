"""A real mount over a real server: tools, Moodle's PHP, two daemons, kills, other FTP clients."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance import storages_ftp
from tests.conformance.storages_ftp import FtpStorage
from tests.crash.real import Logged, wait_settled, wait_until, worker_pids, writers
from tests.mount.conftest import Detached
from tests.support import ftpservers
from tests.support.daemon import Daemon, daemons
from tests.support.ftpservers import FtpServer, Kind, Security
from tests.support.tools import as_www_data
from wormfs.model import Key

__all__ = ["daemons"]

MIB = 1 << 20
RACE = Path(__file__).parent.parent / "mount" / "programs" / "race.py"
MOODLE = Path(__file__).parent.parent / "mount" / "php" / "moodle.php"
Mount = Callable[..., Detached]


def settings_of(storage: FtpStorage, **settings: object) -> dict[str, object]:
    return {
        "type": "ftp",
        "host": "127.0.0.1",
        "port": storage.port,
        "user": ftpservers.USER,
        "password": ftpservers.PASSWORD,
        "directory": "/" + storage.folder,
        "tls": storage.tls,
        "ca_file": storage.ca_file,
        "insecure": storage.tls == "none",
        "timeout": "5s",
        "spool_reserve": "0",
        "empty_grace": "0s",
        **settings,
    }


@pytest.fixture
def mounted() -> Iterator[Mount]:
    """Mounts a server's directory as backend ``archive``, by a daemon that is no child of the tests."""
    made: list[Detached] = []

    def mount(storage: FtpStorage, **settings: object) -> Detached:
        base = Path(tempfile.mkdtemp(prefix="wormfs-ftp-"))
        base.chmod(0o755)
        daemon = Detached(base, {"archive": settings_of(storage, **settings)})
        made.append(daemon)
        daemon.start()
        return daemon

    yield mount
    for daemon in made:
        daemon.clean_up()
        assert daemon.mounted() == []
        shutil.rmtree(daemon.base)


@pytest.fixture(params=["vsftpd", "proftpd"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FtpStorage]:
    made = getattr(storages_ftp, request.param)(tmp_path)
    yield made
    made.remove()


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[FtpStorage]:
    """vsftpd with explicit TLS."""
    made = storages_ftp.made(storages_ftp.server(Kind.VSFTPD, Security.EXPLICIT), tmp_path)
    yield made
    made.remove()


def run(*words: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def make_source(source: Path) -> Path:
    (source / "below" / "deep").mkdir(parents=True)
    for number, size in enumerate((0, 1, 4096, 100_000, 20_000_000)):
        (source / "below" / f"file {number} ä").write_bytes(random.Random(number).randbytes(size))
    os.utime(source / "below" / "file 1 ä", (1_600_000_000, 1_500_000_000))
    return source


def test_tools(storage: FtpStorage, mounted: Mount, tmp_path: Path) -> None:
    daemon = mounted(storage, capacity="20GiB")
    mount = daemon.mountpoint / "archive"
    source = make_source(tmp_path / "source")
    run("cp", "-a", source, mount / "copied")
    # It sets the mode after close: without a settle window only one that changes nothing.
    run("rsync", "-rp", "--inplace", "--whole-file", "--chmod=F400", f"{source}/", mount / "synced")
    run("tar", "-cf", tmp_path / "all.tar", "-C", source, ".")
    (mount / "untarred").mkdir()
    run("tar", "-xf", tmp_path / "all.tar", "-C", mount / "untarred", "--no-same-owner")
    for copy in ("copied", "synced", "untarred"):
        run("diff", "-r", source, mount / copy)
        run("diff", "-r", source, storage.root / copy)
    assert (mount / "copied/below/file 1 ä").stat().st_mtime == 1_500_000_000
    assert (storage.root / "copied/below/file 1 ä").stat().st_mtime == 1_500_000_000
    listing = run("ls", "-lR", mount / "copied")
    assert "20000000" in listing and "100000" in listing
    # A listing must not make the kernel keep a mode that it does not tell.
    assert {line.split()[0] for line in listing.splitlines() if "file" in line} == {"-r--r--r--"}
    os.chmod(mount / "copied/below/file 1 ä", 0o444)
    assert run("df", "-B1", "--output=size", mount).split()[1] == str(20 << 30)
    with pytest.raises(PermissionError):
        (mount / "copied/below/file 1 ä").write_bytes(b"other")
    assert "Traceback" not in daemon.log_text()
    assert ftpservers.PASSWORD not in daemon.log_text()
    assert [name for name in storage.hidden() if name.startswith(("s/", "e/"))] == []


def test_other_clients_read_what_wormfs_wrote(secured: FtpStorage, mounted: Mount, tmp_path: Path) -> None:
    mount = mounted(secured).mountpoint / "archive"
    content = random.Random(1).randbytes(9_000_000)
    (mount / "job-1").mkdir()
    (tmp_path / "source").write_bytes(content)
    # By a program of its own: the close of the test itself may be an unclear one (docs/semantics.md).
    run("cp", tmp_path / "source", mount / "job-1" / "an exam.zip")
    login = f"{ftpservers.USER}:{ftpservers.PASSWORD}"
    address = f"ftp://127.0.0.1:{secured.port}/{secured.folder}/job-1/an%20exam.zip"
    run(
        "curl",
        "-sS",
        "--ssl-reqd",
        "--cacert",
        secured.ca_file,
        "--user",
        login,
        "-o",
        tmp_path / "c",
        address,
    )
    assert (tmp_path / "c").read_bytes() == content
    script = (
        f"set ssl:ca-file {secured.ca_file}; set ftp:ssl-force yes; set ftp:ssl-protect-data yes; "
        f"open -u {ftpservers.USER},'{ftpservers.PASSWORD}' ftp://127.0.0.1:{secured.port}; "
        f"get '{secured.folder}/job-1/an exam.zip' -o {tmp_path / 'l'}; quit"
    )
    run("lftp", "-c", script)
    assert (tmp_path / "l").read_bytes() == content


@pytest.mark.parametrize("size", [100, 24 * MIB])
def test_moodle_stores_and_retrieves(size: int, storage: FtpStorage, mounted: Mount) -> None:
    daemon = mounted(storage)
    mount = daemon.mountpoint / "archive"
    script, source = daemon.base / "moodle.php", daemon.base / "archive.zip"
    shutil.copy(MOODLE, script)
    source.write_bytes(random.Random(size).randbytes(size))
    (mount / "storage").mkdir()
    done = as_www_data("php", script, mount / "storage", source, "7", timeout_s=120)
    assert (done.returncode, done.stderr) == (0, ""), done
    steps = {step["step"]: step for step in map(json.loads, done.stdout.splitlines())}
    expected = hashlib.sha256(source.read_bytes()).hexdigest()
    assert steps["space"]["free"] > 1 << 30
    assert steps["store"]["ok"] is True
    assert steps["retrieve"]["sha256"] == [expected, expected]
    assert steps["delete"]["ok"] is False
    assert steps["rmdir"]["removed"] == 3
    assert hashlib.sha256(storage.plain(Key(b"storage/job-7/archive.zip"))).hexdigest() == expected


@pytest.mark.parametrize("storage", ["vsftpd", "proftpd", "vsftpd_once"], indirect=True)
def test_two_daemons_race_for_names(storage: FtpStorage, mounted: Mount, tmp_path: Path) -> None:
    one, two = mounted(storage), mounted(storage)
    place, other = one.mountpoint / "archive" / "p", two.mountpoint / "archive" / "p"
    place.mkdir()
    words = [8, 6, os.O_EXCL, tmp_path, place, other]
    done = run(sys.executable, "-I", RACE, *words)
    for number, told in enumerate(map(json.loads, done.splitlines())):
        winners = [racer for racer, words in enumerate(told) if words == "None"]
        assert len(winners) == 1, told
        assert set(told) <= {"None", f"open {errno.EEXIST}", f"open {errno.EBUSY}", f"close {errno.EEXIST}"}
        expected = f"{winners[0]:04}".encode() * 5000
        assert storage.plain(Key(b"p/%d" % number)) == expected
        assert (place / str(number)).read_bytes() == (other / str(number)).read_bytes() == expected


def examine(storage: FtpStorage, daemon: Daemon, logged: Logged) -> None:
    """What was acknowledged is there, whole, with its record; and nothing else but whole files."""
    wait_settled(daemon)
    mount = daemon.mountpoint / "archive"
    for key, digest in logged.stored.items():
        assert hashlib.sha256((mount / os.fsdecode(key)).read_bytes()).hexdigest() == digest, key
        assert os.getxattr(mount / os.fsdecode(key), "user.wormfs.state") == b"committed", key
    backend = storage.backend()
    backend.start()
    for name in storage.visible():
        key = Key(name)
        if storage.path_of(key).is_dir():
            continue
        assert hashlib.sha256(storage.plain(key)).hexdigest() == logged.tried[key], key
        record = backend.record(key)
        assert record is not None and record.sha256 == logged.tried[key]
    assert list(backend.findings()) == []
    backend.close()


@pytest.mark.parametrize("whom", ["worker", "server", "worker of a write-once server"])
def test_kill_under_load(whom: str, daemons: Callable[..., Daemon], tmp_path: Path, soak_factor: int) -> None:
    """The worker is killed under eight writers, or the server; what close acknowledged is there."""
    lines = [*storages_ftp.ONCE, storages_ftp.WHOLE] if "once" in whom else []
    server = FtpServer(Kind.VSFTPD, extra={"lines": lines})
    storage = storages_ftp.made(server, tmp_path)
    daemon = daemons()
    daemon.write_config({"archive": settings_of(storage, commit_timeout="5s")})
    daemon.start()
    chance = random.Random(3)
    with writers(daemon.mountpoint / "archive", daemon.base / "logs") as load:
        for number in range(soak_factor):
            begun = load.stored_so_far()
            load.start(8, str(number))
            wait_until(lambda begun=begun: load.stored_so_far() > begun + 5)
            time.sleep(chance.uniform(0, 0.3))
            if whom == "server":
                server.kill()
                time.sleep(0.5)
                # What is written now is safe in the spool, and close says that it is not at the server.
                server.start()
                time.sleep(1)
                for process in load._running:
                    process.kill()
                    process.wait()
                load._running.clear()
            else:
                (pid,) = worker_pids(daemon)
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: worker_pids(daemon) not in ([pid], []))
                load.wait()
            wait_settled(daemon)
        logged = load.logged()
    assert logged.stored
    examine(storage, daemon, logged)
    assert daemon.stop() == 0
    server.remove()
