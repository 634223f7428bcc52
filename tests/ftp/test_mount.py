"""A real mount over a real server: tools, Moodle's PHP, two daemons, kills, other FTP clients."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance import storages_ftp
from tests.conformance.storages_ftp import FtpStorage
from tests.crash.real import Logged
from tests.mount.conftest import Detached
from tests.support import ftpservers, overservers
from tests.support.daemon import Daemon, daemons
from tests.support.ftpservers import FtpServer, Kind, Security
from tests.support.overservers import run
from wormfs.model import Key

__all__ = ["daemons"]

MIB = 1 << 20
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
    """Mounts a server's directory as backend ``archive``."""
    with overservers.detached() as mount:
        yield lambda storage, **settings: mount(settings_of(storage, **settings))


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


def test_tools(storage: FtpStorage, mounted: Mount, tmp_path: Path) -> None:
    daemon = mounted(storage, capacity="20GiB")
    source = overservers.use_tools(daemon, tmp_path)
    for copy in ("copied", "synced", "untarred"):
        run("diff", "-r", source, storage.root / copy)
    assert (storage.root / "copied/below/file 1 ä").stat().st_mtime == 1_500_000_000
    os.chmod(daemon.mountpoint / "archive" / "copied/below/file 1 ä", 0o444)
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


@pytest.mark.parametrize(
    ("storage", "size"),
    [("vsftpd", 100), ("vsftpd", 24 * MIB), ("proftpd", 5 * MIB)],
    indirect=["storage"],
)
def test_moodle_stores_and_retrieves(size: int, storage: FtpStorage, mounted: Mount) -> None:
    overservers.use_moodle(mounted(storage), storage, size)


@pytest.mark.parametrize("storage", ["vsftpd", "proftpd", "vsftpd_once"], indirect=True)
def test_two_daemons_race_for_names(storage: FtpStorage, mounted: Mount, tmp_path: Path) -> None:
    overservers.race(mounted(storage), mounted(storage), storage, 6, tmp_path)


def examine(storage: FtpStorage, daemon: Daemon, logged: Logged) -> None:
    """What was acknowledged is there, whole, with its record; and nothing else but whole files."""
    overservers.must_show(daemon, logged)
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

    def restart() -> None:
        server.kill()
        time.sleep(0.5)
        server.start()

    logged = overservers.kill_under_load(daemon, soak_factor, restart if whom == "server" else None)
    examine(storage, daemon, logged)
    assert daemon.stop() == 0
    server.remove()
