"""Servers as they are found: few connections, short patience, little room, old, lying, started again."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import storages_ftp
from tests.conformance.drivers import make_record, spooled, store
from tests.conformance.storages_ftp import FtpStorage
from tests.support.ftpservers import UID, USER, FtpServer, Kind, Security, program
from wormfs.backends.base import Guarantee
from wormfs.backends.ftp.backend import FtpBackend
from wormfs.config.secret import Secret, SecretSource
from wormfs.errors import (
    AccessDenied,
    BackendFault,
    DigestMismatch,
    OutOfSpace,
    SettingsError,
    Unavailable,
    WormfsError,
)
from wormfs.model import ROOT, DirectoryAttributes, Key, Space

KEY = Key(b"exam.zip")
CONTENT = bytes(range(256)) * 40_000
Start = Callable[..., FtpServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server of its own for a test."""
    running: list[FtpServer] = []

    def begin(kind: Kind = Kind.PYFTPDLIB, security: Security = Security.PLAIN, **extra: Any) -> FtpServer:
        server = FtpServer(kind, security, extra)
        running.append(server)
        return server

    yield begin
    for server in running:
        server.remove()


def started(storage: FtpStorage, **changes: Any) -> FtpBackend:
    backend = FtpBackend("archive", storage.options(**changes))
    backend.start()
    return backend


def read_all(backend: FtpBackend, key: Key) -> bytes:
    info = backend.stat(key)
    reader = backend.open(info)
    try:
        return reader.read(0, info.size_bytes + 1)
    finally:
        reader.close()


LIMITED = [
    (Kind.PYFTPDLIB, {"connections": 2}),
    (Kind.PROFTPD, {"lines": ["MaxClients 2"]}),
    (Kind.VSFTPD, {"lines": ["max_clients=2"]}),
    (Kind.VSFTPD, {"lines": ["max_per_ip=1"]}),
]


@pytest.mark.parametrize(("kind", "extra"), LIMITED, ids=lambda value: str(getattr(value, "value", "")))
def test_a_server_with_few_connections_is_enough(
    start: Start, tmp_path: Path, kind: Kind, extra: dict[str, Any]
) -> None:
    server = start(kind, **extra)
    storage = storages_ftp.made(server, tmp_path)
    until = time.monotonic() + 5
    while True:
        try:
            backend = started(storage)
            break
        except (Unavailable, AccessDenied):
            # The server still counts the connection with which it was seen to be up.
            assert time.monotonic() < until
    # Each reader keeps a stream open: they have to give way.
    for number in range(4):
        store(storage, backend, Key(b"file-%d" % number), CONTENT + b"%d" % number)
    readers = [backend.open(backend.stat(Key(b"file-%d" % number))) for number in range(4)]

    def work(number: int) -> bytes:
        readers[number].read(0, 100)
        store(storage, backend, Key(b"more-%d" % number), b"%d" % number * 1000)
        return readers[number].read(len(CONTENT) // 2, 1 << 20) + readers[number].read(len(CONTENT), 1)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        half = CONTENT[len(CONTENT) // 2 :][: 1 << 20]
        assert list(pool.map(work, range(4))) == [half + b"%d" % number for number in range(4)]
    for reader in readers:
        reader.close()
    assert backend.connected().limit <= 2
    assert len(list(backend.list(ROOT))) == 8
    backend.close()


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        (Kind.PYFTPDLIB, {"idle_s": 1}),
        (Kind.VSFTPD, {"lines": ["idle_session_timeout=1"]}),
        (Kind.PROFTPD, {"lines": ["TimeoutIdle 1"]}),
    ],
    ids=lambda value: str(getattr(value, "value", "")),
)
def test_a_server_that_closes_idle_connections_is_not_noticed(
    start: Start, tmp_path: Path, kind: Kind, extra: dict[str, Any]
) -> None:
    storage = storages_ftp.made(start(kind, **extra), tmp_path)
    backend = started(storage, patience_s=0.0)
    store(storage, backend, KEY, CONTENT)
    session = backend.connected().take()
    backend.connected().give(session)
    deadline = time.monotonic() + 10
    while session.quiet() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not session.quiet(), "the server was to close it"
    # At once, with no patience: no call sees the dead connection.
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(Key(b"later.zip"))
        transfer.publish(file, make_record(CONTENT))
    assert read_all(backend, KEY) == CONTENT
    backend.close()


def test_a_quota_that_ends_in_the_middle_of_an_upload(start: Start, tmp_path: Path) -> None:
    storage = storages_ftp.made(start(quota_bytes=1_000_000), tmp_path)
    backend = started(storage)
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        transfer.advance(file, len(CONTENT))
        with pytest.raises(OutOfSpace, match="Quota"):
            transfer.publish(file, make_record(CONTENT))
        transfer.abort()
    assert storage.visible() == set()
    assert [name for name in storage.hidden() if name.startswith("s/")] == []
    store(storage, backend, KEY, b"small")
    backend.close()


@pytest.mark.parametrize("kind", [Kind.VSFTPD, Kind.PROFTPD, Kind.PUREFTPD])
def test_a_disk_that_fills_up_at_the_server(start: Start, tmp_path: Path, kind: Kind) -> None:
    server = start(kind)
    small = server.root / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=777", "tmpfs", small], check=True)
    try:
        if kind is Kind.VSFTPD:  # it sees the mounts of its start
            server.kill()
            server.start()
        storage = FtpStorage(server.port, server.root, tmp_path, folder="small")
        backend = started(storage)
        with spooled(storage, CONTENT) as file:
            transfer = backend.begin(KEY)
            with pytest.raises((OutOfSpace, AccessDenied, BackendFault, Unavailable)) as caught:
                transfer.publish(file, make_record(CONTENT))
            transfer.abort()
        assert isinstance(caught.value, OutOfSpace), caught.value
        assert storage.visible() == set()
        store(storage, backend, KEY, b"it fits")
        backend.close()
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_server_that_lies_about_sizes_gets_no_record(start: Start, tmp_path: Path) -> None:
    storage = storages_ftp.made(start(lie=5), tmp_path)
    with pytest.raises(WormfsError):
        started(storage).close()


@pytest.mark.parametrize("lie", [5, -5])
def test_a_size_that_is_not_what_was_sent_is_no_success(start: Start, tmp_path: Path, lie: int) -> None:
    """Of large files only: what is tried at the start is told as it is."""
    storage = storages_ftp.made(start(lie=lie, lie_from=1_000_000), tmp_path)
    for verify in (True, False):
        backend = started(storage, verify_upload=verify)
        with spooled(storage, CONTENT) as file:
            transfer = backend.begin(KEY)
            with pytest.raises(BackendFault, match=rf"kept {len(CONTENT) + lie} of {len(CONTENT)} bytes"):
                transfer.publish(file, make_record(CONTENT))
            transfer.abort()
        assert storage.visible() == set()
        assert [name for name in storage.hidden() if name.startswith("s/")] == []
        store(storage, backend, Key(b"small-%d" % verify), b"told as it is")
        backend.close()
        storage.path_of(Key(b"small-%d" % verify)).unlink()


def test_a_server_that_damages_bytes_is_found_out(start: Start, tmp_path: Path) -> None:
    storage = storages_ftp.made(start(damage=True), tmp_path)
    backend = started(storage)
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        with pytest.raises(DigestMismatch):
            transfer.publish(file, make_record(CONTENT))
        transfer.abort()
    assert storage.visible() == set()
    backend.close()
    trusting = started(storage, verify_upload=False)
    store(storage, trusting, KEY, CONTENT)
    assert storage.plain(KEY) != CONTENT
    trusting.close()


def test_a_server_without_mlsd(start: Start, tmp_path: Path) -> None:
    storage = storages_ftp.made(start(mlsd=False), tmp_path)
    backend = started(storage)
    backend.make_directory(Key(b"job"), DirectoryAttributes())
    store(storage, backend, Key(b"job/exam.zip"), CONTENT)
    assert {info.key for info in backend.list(Key(b"job"))} == {b"job/exam.zip"}
    assert backend.stat(Key(b"job/exam.zip")).size_bytes == len(CONTENT)
    backend.close()


def test_a_server_that_merges_directories_is_refused_unless_this_host_is_alone(
    start: Start, tmp_path: Path
) -> None:
    storage = storages_ftp.made(start(merges=True), tmp_path)
    with pytest.raises(SettingsError, match="exclusive_writer"):
        started(storage)
    backend = started(storage, exclusive_writer=True)
    assert backend.traits.guarantee is Guarantee.EXCLUSIVE_WRITER
    assert all(result.passed for result in backend.check())
    start_line = concurrent.futures.ThreadPoolExecutor(8)

    def race(number: int) -> str:
        try:
            store(storage, backend, KEY, b"%d" % number * 100)
        except WormfsError:
            return "lost"
        return "won"

    with start_line as pool:
        results = list(pool.map(race, range(8)))
    assert results.count("won") == 1
    assert storage.plain(KEY) == b"%d" % results.index("won") * 100
    backend.close()


def test_a_server_that_was_started_again(start: Start, tmp_path: Path) -> None:
    server = start(Kind.VSFTPD)
    storage = storages_ftp.made(server, tmp_path)
    backend = started(storage, patience_s=1.0, timeout_s=3.0)
    store(storage, backend, KEY, CONTENT)
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(Key(b"later.zip"))
        transfer.advance(file, 6_000_000)
        server.kill()
        with pytest.raises(Unavailable):
            transfer.publish(file, make_record(CONTENT))
        transfer.abort()
        with pytest.raises(Unavailable):
            backend.stat(KEY)
        server.start()
        assert read_all(backend, KEY) == CONTENT
        transfer = backend.resume(Key(b"later.zip"))
        transfer.advance(file, len(CONTENT))
        transfer.publish(file, make_record(CONTENT))
    assert storage.plain(Key(b"later.zip")) == CONTENT
    backend.close()


def test_twenty_thousand_names_in_a_directory(start: Start, tmp_path: Path) -> None:
    storage = storages_ftp.made(start(Kind.VSFTPD), tmp_path)
    for number in range(20_000):
        (storage.root / f"file-{number:05}").touch()
    backend = started(storage)
    assert sum(1 for _ in backend.list(ROOT)) == 20_000
    assert backend.stat(Key(b"file-19999")).size_bytes == 0
    backend.close()


# Logging in


def test_a_wrong_password_says_so_and_does_not_show_it(start: Start, tmp_path: Path) -> None:
    storage = storages_ftp.made(start(Kind.PROFTPD), tmp_path)
    wrong = Secret(SecretSource.INLINE, "not the right one")
    with pytest.raises(AccessDenied) as caught:
        started(storage, password=wrong)
    assert "not the right one" not in str(caught.value)
    assert "archivist" in str(caught.value)
    results = list(FtpBackend("archive", storage.options(password=wrong)).check())
    assert [(result.name, result.passed) for result in results] == [
        ("connect", True),
        ("authenticate", False),
    ]


def test_a_server_that_repeats_the_password_does_not_make_wormfs_show_it(
    start: Start, tmp_path: Path
) -> None:
    storage = storages_ftp.made(start(echo=True), tmp_path)
    wrong = Secret(SecretSource.INLINE, "geheïm")
    with pytest.raises(AccessDenied, match=r"530 'PASS \[the password\]' is wrong"):
        started(storage, password=wrong)
    shown = [result.detail for result in FtpBackend("archive", storage.options(password=wrong)).check()]
    assert not any("gehe" in detail for detail in shown)


def test_a_directory_that_does_not_exist_is_not_made(start: Start, tmp_path: Path) -> None:
    storage = storages_ftp.made(start(), tmp_path)
    with pytest.raises(SettingsError, match="directory"):
        started(storage, directory="/elsewhere")
    assert not (storage.files / "elsewhere").exists()


# What servers tell, and what wormfs does at a start


@pytest.mark.parametrize("make", ["vsftpd", "proftpd", "pureftpd", "pyftpdlib"])
def test_the_clock_of_the_server(tmp_path: Path, make: str) -> None:
    storage = getattr(storages_ftp, make)(tmp_path)
    backend = started(storage)
    now_ns = backend.time_ns()
    assert now_ns is not None
    assert abs(now_ns - time.time_ns()) < 5_000_000_000
    assert [name for name in storage.hidden() if name.startswith("s/")] == []
    backend.close()
    storage.remove()


def test_what_hosts_left_on_its_way_is_swept_after_a_week(start: Start, tmp_path: Path) -> None:
    storage = storages_ftp.made(start(Kind.VSFTPD), tmp_path)
    started(storage).close()
    for name, days in (("old", 8), ("recent", 6)):
        place = storage.root / ".wormfs" / "s" / name
        place.mkdir()
        (place / "data").write_bytes(b"x")
        at = time.time() - days * 86400
        os.utime(place / "data", (at, at))
        os.utime(place, (at, at))
        for path in (place, place / "data"):
            os.chown(path, UID, UID)
    started(storage).close()
    assert {path.name for path in (storage.root / ".wormfs" / "s").iterdir()} == {"recent"}


def test_the_rest_of_what_was_given_up_is_swept_after_a_week_and_that_of_an_erase_stays(
    start: Start, tmp_path: Path
) -> None:
    storage = storages_ftp.made(start(Kind.VSFTPD), tmp_path)
    started(storage).close()
    for name, days in (("0" * 32, 8), ("1" * 32, 6), ("2" * 64 + "-" + "0" * 32, 8)):
        place = storage.root / ".wormfs" / "e" / name
        place.mkdir()
        (place / "data").write_bytes(b"x")
        at = time.time() - days * 86400
        for path in (place / "data", place):
            os.chown(path, UID, UID)
            os.utime(path, (at, at))
    backend = started(storage)
    assert {path.name[0] for path in (storage.root / ".wormfs" / "e").iterdir()} == {"1", "2"}
    told = {finding.name[10:11]: finding.detail for finding in backend.findings()}
    assert "given up" in told[b"1"] and "erase the file again" in told[b"2"]
    backend.close()


@pytest.mark.parametrize("kind", [Kind.VSFTPD, Kind.PYFTPDLIB])
def test_active_mode(start: Start, tmp_path: Path, kind: Kind) -> None:
    storage = storages_ftp.made(start(kind), tmp_path)
    backend = started(storage, passive=False)
    store(storage, backend, KEY, CONTENT)
    assert read_all(backend, KEY) == CONTENT
    assert [info.key for info in backend.list(ROOT)] == [KEY]
    backend.close()


def test_free_space_by_site_quota(start: Start, tmp_path: Path) -> None:
    server = start(Kind.PROFTPD)
    server.kill()
    tables = {"limit": server.home / "limits", "tally": server.home / "tallies"}
    tool = ["perl", program("sbin/ftpquota")]
    for kind, path in tables.items():
        subprocess.run([*tool, "--create-table", f"--type={kind}", f"--table-path={path}"], check=True)
    subprocess.run(
        [*tool, "--add-record", "--type=limit", f"--table-path={tables['limit']}", f"--name={USER}",
         "--quota-type=user", "--limit-type=hard", "--bytes-upload=15", "--units=Mb"],
        check=True,
    )  # fmt: skip
    server.extra["lines"] = [
        "QuotaEngine on", f"QuotaLimitTable file:{tables['limit']}",
        f"QuotaTallyTable file:{tables['tally']}",
        "QuotaShowQuotas on",
    ]  # fmt: skip
    server.start()
    storage = storages_ftp.made(server, tmp_path)
    backend = started(storage)
    before = backend.space()
    assert before.total_bytes == 15 << 20
    store(storage, backend, KEY, CONTENT)
    after = backend.space()
    assert before.free_bytes is not None and after.free_bytes is not None
    assert before.free_bytes - after.free_bytes >= len(CONTENT)
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(Key(b"too much.zip"))
        with pytest.raises(OutOfSpace):
            transfer.publish(file, make_record(CONTENT))
        transfer.abort()
    backend.close()


def test_capacity_minus_what_is_there(start: Start, tmp_path: Path) -> None:
    storage = storages_ftp.made(start(), tmp_path)
    (storage.root / "below").mkdir()
    storage.place_foreign(Key(b"below/foreign"), b"x" * 1000)
    backend = started(storage, capacity_bytes=1_000_000)
    assert backend.space() == Space(1_000_000, 999_000)
    store(storage, backend, KEY, b"y" * 500)
    assert backend.space() == Space(1_000_000, 998_500)
    backend.close()


@pytest.mark.parametrize("kind", [Kind.VSFTPD, Kind.PYFTPDLIB])
def test_over_ipv6(tmp_path: Path, kind: Kind) -> None:
    """Data connections by EPSV (RFC 2428)."""
    server = FtpServer(kind, address="::1")
    try:
        storage = storages_ftp.made(server, tmp_path)
        backend = started(storage, host="::1")
        store(storage, backend, KEY, CONTENT)
        assert read_all(backend, KEY) == CONTENT
        assert [info.key for info in backend.list(ROOT)] == [KEY]
        backend.close()
        backend = started(storage, host="::1", passive=False)
        assert read_all(backend, KEY) == CONTENT
        backend.close()
    finally:
        server.remove()


def test_free_space_by_avbl(start: Start, tmp_path: Path) -> None:
    storage = storages_ftp.made(start(available_bytes=123_456_789_012), tmp_path)
    backend = started(storage, capacity_bytes=1_000_000)
    assert backend.space() == Space(None, 123_456_789_012)
    backend.close()


@pytest.mark.parametrize("pause_s", [0.0, 0.1], ids=["a flood", "drop by drop"])
def test_a_reply_without_an_end_has_one(tmp_path: Path, pause_s: float) -> None:
    ended = threading.Event()

    def talk(listening: socket.socket) -> None:
        with listening.accept()[0] as connection, contextlib.suppress(OSError):
            while not ended.wait(pause_s):
                connection.sendall(b"220-and one more thing\r\n" * (1 if pause_s else 1000))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        talking = threading.Thread(target=talk, args=(listening,))
        talking.start()
        storage = FtpStorage(listening.getsockname()[1], tmp_path, tmp_path)
        begun = time.monotonic()
        try:
            with pytest.raises(Unavailable):
                storage.backend(timeout_s=0.5).start()
            assert time.monotonic() - begun < 15
        finally:
            ended.set()
            talking.join()
