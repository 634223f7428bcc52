"""TLS to the database: real servers on 127.0.0.1 whose certificate is for ``localhost``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.drivers import make_record, spooled
from tests.conformance.storages_moodle import MoodleStorage
from tests.support.databases import KINDS, Tls, make_server, make_tls
from tests.support.moodle import Moodle, make_moodle, secret
from wormfs.backends.moodle.backend import MoodleBackend, create
from wormfs.config.secret import parse_secret
from wormfs.errors import Unavailable
from wormfs.model import Key


@dataclass
class Guarded:
    """A site whose database speaks TLS."""

    moodle: Moodle
    tls: Tls
    top: Path

    def backend(self, **settings: object) -> MoodleBackend:
        options = self.moodle.options(
            **{
                "course": 7, "database_password": parse_secret(secret()), "database_host": "localhost",
                "database_port": self.moodle.server.port, **settings,
            },
        )  # fmt: skip
        del options["database_socket"]
        return create("archive", options)

    def encrypted(self, backend: MoodleBackend) -> bool:
        """What the server says of the connection."""
        if self.moodle.kind == "postgresql":
            rows = backend.database.ask("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", ())
        else:
            rows = backend.database.ask("SHOW SESSION STATUS LIKE 'Ssl_cipher'", ())
        return rows[0][-1] not in (False, "")


@pytest.fixture(scope="module", params=sorted(KINDS))
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    top = tmp_path_factory.mktemp("tls")
    tls = make_tls(top, "localhost")
    server = make_server(request.param, tls=tls)
    try:
        moodle = make_moodle(request.param, top, server)
        yield Guarded(moodle, tls, top)
        moodle.connection.close()
    finally:
        server.stop()


@pytest.mark.parametrize(("word", "encrypted"), [("verify", True), ("require", True), ("off", False)])
def test_files_are_stored_over_it(word: str, encrypted: bool, guarded: Guarded) -> None:
    ca = {"database_ca": str(guarded.tls.authority)} if word == "verify" else {}
    backend = guarded.backend(database_tls=word, **ca)
    backend.start()
    assert guarded.encrypted(backend) is encrypted
    content = word.encode() * 1000
    record = make_record(content)
    with spooled(MoodleStorage(guarded.top, guarded.moodle), content) as file:
        transfer = backend.begin(Key(word.encode()))
        transfer.prepare(file, record)
        transfer.publish(file, record)
    assert guarded.moodle.content(word) == content
    backend.close()


def test_another_authority_is_refused(guarded: Guarded, tmp_path: Path) -> None:
    """Somebody in between has a certificate of his own."""
    other = make_tls(tmp_path, "localhost")
    backend = guarded.backend(database_tls="verify", database_ca=str(other.authority))
    with pytest.raises(Unavailable, match=r"(?i)certificate"):
        backend.start()
    backend.close()


def test_another_name_is_refused(guarded: Guarded) -> None:
    """A good certificate, but of another machine."""
    backend = guarded.backend(database_tls="verify", database_ca=str(guarded.tls.authority))
    named = guarded.backend(
        database_tls="verify", database_ca=str(guarded.tls.authority), database_host="127.0.0.1"
    )
    backend.start()
    with pytest.raises(Unavailable, match=r"(?i)certificate|hostname|127\.0\.0\.1"):
        named.start()
    for one in (backend, named):
        one.close()


def test_a_server_without_it_is_refused(guarded: Guarded, tmp_path: Path) -> None:
    """Asked for TLS, wormfs does not fall back to plain text, as clients of MySQL like to do."""
    server = KINDS[guarded.moodle.kind](tls=guarded.tls)
    server.encrypts = False
    try:
        server.make()
        server.start()
        moodle = make_moodle(guarded.moodle.kind, tmp_path, server)
        plain = Guarded(moodle, guarded.tls, tmp_path)
        backend = plain.backend(database_tls="off")
        backend.start()
        backend.close()
        for asked in (
            {"database_tls": "require"},
            {"database_tls": "verify", "database_ca": str(guarded.tls.authority)},
        ):
            backend = plain.backend(**asked)
            with pytest.raises(Unavailable, match="SSL"):
                backend.start()
            backend.close()
        moodle.connection.close()
    finally:
        server.stop()
