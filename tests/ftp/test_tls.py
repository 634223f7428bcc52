"""FTPS: the ways of a file once through each server and kind of TLS, and what is refused."""

from __future__ import annotations

import dataclasses
import ftplib
import random
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import storages_ftp
from tests.conformance.drivers import RETAIN_NS, S, make_record, spooled, store
from tests.conformance.storages_ftp import FtpStorage
from tests.support.ftpservers import PASSWORD, USER, Kind, Security, make_certificate
from wormfs.backends.ftp.backend import FtpBackend
from wormfs.backends.ftp.options import Tls, parse
from wormfs.config.secret import Secret, SecretSource
from wormfs.errors import AlreadyExists, NotFound, SettingsError, Unavailable, WormfsError
from wormfs.model import DirectoryAttributes, Key, RetentionChange

KEY = Key(b"job/exam.zip")
CONTENT = random.Random(3).randbytes(6_000_001)
SERVERS = [
    (Kind.VSFTPD, Security.EXPLICIT),
    (Kind.VSFTPD, Security.IMPLICIT),
    (Kind.PROFTPD, Security.EXPLICIT),
    (Kind.PROFTPD, Security.IMPLICIT),
    (Kind.PUREFTPD, Security.EXPLICIT),
    (Kind.PYFTPDLIB, Security.EXPLICIT),
    (Kind.PYFTPDLIB, Security.IMPLICIT),
]
"""pure-ftpd has no implicit TLS that can be switched on from its command line."""


@pytest.fixture(params=SERVERS, ids=lambda pair: f"{pair[0].value}-{pair[1].value}")
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FtpStorage]:
    kind, security = request.param
    made = storages_ftp.made(storages_ftp.server(kind, security), tmp_path)
    yield made
    made.remove()


@pytest.fixture
def backend(storage: FtpStorage) -> Iterator[FtpBackend]:
    backend = FtpBackend("archive", storage.options())
    backend.start()
    yield backend
    backend.close()


def test_all_the_ways_of_a_file(storage: FtpStorage, backend: FtpBackend) -> None:
    assert all(result.passed for result in backend.check())
    backend.make_directory(Key(b"job"), DirectoryAttributes())
    record = make_record(CONTENT)
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        for ready in range(0, len(CONTENT), 1 << 20):
            transfer.advance(file, ready)
        transfer.publish(file, record)
    assert storage.plain(KEY) == CONTENT
    assert backend.record(KEY) == record
    reader = backend.open(backend.stat(KEY))
    assert reader.read(len(CONTENT) - 1000, 1 << 20) == CONTENT[-1000:]
    found = b"".join(reader.read(offset, 131_072) for offset in range(0, len(CONTENT), 131_072))
    assert found == CONTENT
    reader.close()
    assert [info.key for info in backend.list(Key(b"job"))] == [KEY]
    with pytest.raises(AlreadyExists):
        backend.begin(KEY)
    longer = dataclasses.replace(record.retention, retain_until_ns=RETAIN_NS + S)
    changed = backend.change_retention(KEY, RetentionChange(extend=True, extend_to_ns=RETAIN_NS + S))
    assert changed.retention == longer
    backend.erase(KEY)
    with pytest.raises(NotFound):
        backend.stat(KEY)
    backend.remove_directory(Key(b"job"))
    assert storage.visible() == set()


def test_servers_demand_the_control_connections_session_again() -> None:
    """What wormfs does for it is needed: a client that does not is refused there."""
    for kind in (Kind.VSFTPD, Kind.PROFTPD):
        server = storages_ftp.server(kind, Security.EXPLICIT)
        client = ftplib.FTP_TLS(context=ssl.create_default_context(cafile=server.ca_file), timeout=10)
        client.connect("127.0.0.1", server.port)
        client.login(USER, PASSWORD)
        client.prot_p()
        with pytest.raises((ftplib.Error, OSError, EOFError)):
            client.retrlines("LIST", lambda line: None)
        client.close()


def test_a_certificate_of_somebody_else_is_refused(storage: FtpStorage) -> None:
    (storage.top / "other").mkdir()
    other = make_certificate(storage.top / "other")
    for ca_file in (str(other.ca), None):
        backend = FtpBackend("archive", storage.options(ca_file=ca_file))
        with pytest.raises(Unavailable, match="certificate"):
            backend.start()


def test_a_certificate_of_another_name_is_refused(storage: FtpStorage) -> None:
    with pytest.raises(Unavailable, match="certificate"):
        FtpBackend("archive", storage.options(host="localhost")).start()


def test_many_small_files_do_not_wait_for_acknowledgements(storage: FtpStorage, backend: FtpBackend) -> None:
    for number in range(20):
        store(storage, backend, Key(b"file-%d" % number), b"x" * 4096)
    assert len(storage.visible()) == 20


def test_plain_talk_with_a_server_that_wants_tls_is_refused(storage: FtpStorage) -> None:
    if storage.tls == "implicit":
        backend = FtpBackend("archive", storage.options(tls=Tls.EXPLICIT, timeout_s=1.0))
    else:
        backend = FtpBackend("archive", storage.options(tls=Tls.NONE, insecure=True))
    with pytest.raises(WormfsError, match="archive: "):
        backend.start()


def test_without_tls_the_word_insecure_must_be_written() -> None:
    given = {"host": "h", "user": "u", "password": Secret(SecretSource.INLINE, "p"), "tls": "none"}
    with pytest.raises(SettingsError, match="insecure: true"):
        parse("archive", given)
    assert parse("archive", {**given, "insecure": True}).tls is Tls.NONE
