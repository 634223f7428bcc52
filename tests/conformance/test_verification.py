"""Verification over every storage: what was changed behind wormfs's back is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.drivers import Storage, removing, store
from tests.support.verifying import Verifier
from wormfs.backends.base import Backend
from wormfs.model import DirectoryAttributes, FindingKind, Key

CONTENT = b"an archive\n" * 1000
KEY = Key(b"job-1/exam.zip")
OTHER = Key(b"job-1/other.zip")


@pytest.fixture
def verifier(storage: Storage, backend: Backend, tmp_path: Path) -> Verifier:
    backend.make_directory(Key(b"job-1"), DirectoryAttributes())
    store(storage, backend, KEY, CONTENT)
    store(storage, backend, OTHER, b"")
    state = tmp_path / "state"
    state.mkdir()
    return Verifier(state, backend)


def found_about(verifier: Verifier, key: Key) -> set[FindingKind]:
    """Drivers may name what they find themselves in their storage's words; the key is part of these."""
    return {kind for name, kind in verifier.verify().items() if key in name}


def test_what_is_whole_is_found_whole(verifier: Verifier) -> None:
    assert verifier.verify() == {}
    assert verifier.run is not None
    assert (verifier.run.files, verifier.run.size_bytes) == (2, len(CONTENT))
    assert verifier.damaged() == frozenset()


@pytest.mark.parametrize("content", [b"AN archive\n" + CONTENT[11:], CONTENT[:-1], CONTENT + b"x", b""])
@pytest.mark.parametrize("known", [True, False], ids=["verified before", "never verified"])
def test_other_bytes_are_found(verifier: Verifier, storage: Storage, content: bytes, known: bool) -> None:
    if known:
        assert verifier.verify() == {}
    storage.alter(KEY, content)
    assert FindingKind.ALTERED in found_about(verifier, KEY)
    assert FindingKind.ALTERED in found_about(verifier, KEY), "it does not go away by itself"


def test_a_lost_file_is_found_once_it_was_known(verifier: Verifier, storage: Storage) -> None:
    assert verifier.verify() == {}
    storage.lose(KEY)
    assert found_about(verifier, KEY) == {FindingKind.MISSING}
    assert found_about(verifier, KEY) == {FindingKind.MISSING}


@removing
def test_an_erased_file_is_not_missed(verifier: Verifier, backend: Backend) -> None:
    assert verifier.verify() == {}
    backend.erase(KEY)
    verifier.say("erased", KEY)
    assert verifier.verify() == {}


def test_a_file_of_somebody_else_is_found(verifier: Verifier, storage: Storage) -> None:
    storage.place_foreign(Key(b"job-1/foreign.zip"), CONTENT)
    assert found_about(verifier, Key(b"job-1/foreign.zip")) == {FindingKind.UNRECORDED}
    assert verifier.damaged() == frozenset()
