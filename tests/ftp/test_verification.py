"""The real verification over what goes wrong at an FTP server only: claims and files that do not meet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import storages_ftp
from tests.conformance.drivers import make_record, store
from tests.conformance.storages_ftp import FtpStorage
from tests.support.verifying import Verifier
from wormfs.backends.base import Backend
from wormfs.errors import AlreadyExists
from wormfs.model import DirectoryAttributes, FindingKind, Key

KEY = Key(b"job-1/exam.zip")
KEPT = Key(b"job-1/kept.zip")
CONTENT = b"an archive\n" * 1000


@pytest.fixture(params=["vsftpd", "proftpd", "pureftpd", "pyftpdlib"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FtpStorage]:
    storage: FtpStorage = getattr(storages_ftp, request.param)(tmp_path)
    yield storage
    storage.remove()


@pytest.fixture
def backend(storage: FtpStorage) -> Iterator[Backend]:
    backend = storage.backend()
    backend.start()
    backend.make_directory(Key(b"job-1"), DirectoryAttributes())
    store(storage, backend, KEPT, b"kept")
    yield backend
    backend.close()


@pytest.fixture
def verifier(backend: Backend, tmp_path: Path) -> Verifier:
    state = tmp_path / "state"
    state.mkdir()
    return Verifier(state, backend)


@pytest.mark.parametrize("known", [True, False], ids=["verified before", "never verified"])
def test_a_file_that_is_gone_while_its_claim_stays_is_missing(
    storage: FtpStorage, backend: Backend, verifier: Verifier, known: bool
) -> None:
    store(storage, backend, KEY, CONTENT)
    if known:
        assert verifier.verify() == {}
    storage.path_of(KEY).unlink()
    assert verifier.verify() == {KEY: FindingKind.MISSING}
    assert verifier.verify() == {KEY: FindingKind.MISSING}, "it does not go away by itself"
    with pytest.raises(AlreadyExists, match="verification reports it"):
        store(storage, backend, KEY, b"another exam")
    assert verifier.verify() == {KEY: FindingKind.MISSING}


def test_a_claim_that_was_left_half_way_is_reported_and_the_next_writer_finishes_it(
    storage: FtpStorage, backend: Backend, verifier: Verifier
) -> None:
    storage.leave_claim(KEY, CONTENT, make_record(CONTENT))
    assert verifier.verify() == {KEY: FindingKind.UNEXPECTED}
    with pytest.raises(AlreadyExists):
        store(storage, backend, KEY, b"another exam")
    assert storage.plain(KEY) == CONTENT
    assert verifier.verify() == {}


def test_a_file_put_there_by_plain_ftp_is_unrecorded(
    storage: FtpStorage, backend: Backend, verifier: Verifier
) -> None:
    with storage.client() as client:
        for name in ("foreign.zip", "kept.zip.tmp"):
            with (storage.top / "upload").open("w+b") as upload:
                client.storbinary(f"STOR /{storage.folder}/job-1/{name}", upload)
    found = verifier.verify()
    assert found == {
        Key(b"job-1/foreign.zip"): FindingKind.UNRECORDED,
        Key(b"job-1/kept.zip.tmp"): FindingKind.UNRECORDED,
    }
    assert verifier.damaged() == frozenset()
