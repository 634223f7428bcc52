"""Runs over a local backend: what is chosen, what is remembered, what an interruption costs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.drivers import LocalStorage, make_record, store
from tests.support.verifying import Verifier
from wormfs.backends.local import stored
from wormfs.errors import BackendFault, Busy, NotFound, Unavailable
from wormfs.model import DirectoryAttributes, FindingKind, Key, ObjectInfo, Record
from wormfs.verify.catalog import catalog_path
from wormfs.verify.damage import DamageList
from wormfs.verify.request import Request
from wormfs.verify.run import Options
from wormfs.verify.summary import summarize

MISSING, ALTERED, UNRECORDED = FindingKind.MISSING, FindingKind.ALTERED, FindingKind.UNRECORDED
DAY_S = 86400.0


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


@pytest.fixture
def verifier(storage: LocalStorage, tmp_path: Path) -> Iterator[Verifier]:
    backend = storage.backend()
    backend.start()
    (tmp_path / "state").mkdir()
    yield Verifier(tmp_path / "state", backend)
    backend.close()


def fill(storage: LocalStorage, verifier: Verifier, *names: str) -> None:
    for name in names:
        folder = name.rpartition("/")[0]
        if folder and not storage.path_of(Key(folder.encode())).exists():
            verifier.backend.make_directory(Key(folder.encode()), DirectoryAttributes())
        store(storage, verifier.backend, Key(name.encode()), name.encode() * 10)


def many(storage: LocalStorage, verifier: Verifier, count: int = 300) -> list[str]:
    names = [f"job-{number % 3}/{number:04}" for number in range(count)]
    fill(storage, verifier, *names)
    return names


# Choice


def test_only_what_is_asked_for_is_read(storage: LocalStorage, verifier: Verifier) -> None:
    fill(storage, verifier, "a", "b/1", "b/2", "b-1", "b.x", "b0")
    for scope, files in ((b"", 6), (b"b", 2), (b"b/1", 1), (b"a", 1)):
        verifier.verify(Request(scope=Key(scope)))
        assert verifier.seen.files == files, scope


def test_a_loss_outside_the_scope_is_no_finding_of_it(storage: LocalStorage, verifier: Verifier) -> None:
    fill(storage, verifier, "a", "b/1", "b/2", "b-1", "b0")
    verifier.verify()
    for name in (b"a", b"b/1", b"b-1", b"b0"):
        storage.lose(Key(name))
    assert verifier.verify(Request(scope=Key(b"b"))) == {b"b/1": MISSING}
    storage.lose(Key(b"b/2"))
    storage.path_of(Key(b"b")).rmdir()
    assert verifier.verify(Request(scope=Key(b"b"))) == {b"b/1": MISSING, b"b/2": MISSING}
    assert verifier.verify().keys() == {b"a", b"b/1", b"b/2", b"b-1", b"b0"}


def test_a_path_that_never_was_is_an_error_and_leaves_no_run(
    storage: LocalStorage, verifier: Verifier
) -> None:
    with pytest.raises(NotFound):
        verifier.verify(Request(scope=Key(b"typo")))
    found = summarize(verifier.state, "archive")
    assert found is not None
    assert (found.last, found.unfinished) == (None, 0)


def test_only_what_was_not_verified_lately_is_read(storage: LocalStorage, verifier: Verifier) -> None:
    fill(storage, verifier, "old")
    verifier.verify()
    verifier.clock.advance(20 * DAY_S)
    fill(storage, verifier, "new")
    verifier.verify(Request(older_than_s=30 * DAY_S))
    assert verifier.seen.files == 1, "only the new one was never verified"
    verifier.clock.advance(20 * DAY_S)
    verifier.verify(Request(older_than_s=30 * DAY_S))
    assert verifier.seen.files == 1, "only the old one was verified so long ago"


def test_a_damaged_file_is_looked_at_again_however_young_the_last_look(
    storage: LocalStorage, verifier: Verifier
) -> None:
    fill(storage, verifier, "a", "b")
    verifier.verify()
    storage.alter(Key(b"a"), b"x" * 10)
    assert verifier.verify() == {b"a": ALTERED}
    assert verifier.verify(Request(older_than_s=30 * DAY_S)) == {b"a": ALTERED}
    assert verifier.seen.files == 1


def test_a_sample_is_a_share_and_another_one_each_time(storage: LocalStorage, verifier: Verifier) -> None:
    many(storage, verifier)
    sizes = []
    for _ in range(3):
        verifier.verify(Request(sample=0.2))
        sizes.append(verifier.seen.files)
    assert all(30 < size < 100 for size in sizes)
    storage.lose(Key(b"job-1/0001"))
    storage.lose(Key(b"job-2/0002"))
    verified = {name for name, kind in verifier.verify(Request(sample=0.01)).items() if kind is MISSING}
    assert verified <= {b"job-1/0001", b"job-2/0002"}, "what was known and is missing is always seen"


# Interruption


def test_an_interrupted_run_goes_on_where_it_was(storage: LocalStorage, verifier: Verifier) -> None:
    many(storage, verifier, 600)
    storage.alter(Key(b"job-0/0000"), b"x")
    with pytest.raises(KeyboardInterrupt):
        verifier.verify(stop_after=100)
    first = verifier.seen.files
    assert verifier.verify() == {b"job-0/0000": ALTERED}
    assert verifier.run is not None
    assert verifier.run.resumed
    assert verifier.seen.due[0] < 600
    assert verifier.seen.files + first >= 600
    assert verifier.run.files == 600, "each once"
    verifier.verify()
    assert not verifier.run.resumed
    assert verifier.seen.files == 600


def test_restart_begins_anew_and_other_requests_are_runs_of_their_own(
    storage: LocalStorage, verifier: Verifier
) -> None:
    many(storage, verifier)
    with pytest.raises(KeyboardInterrupt):
        verifier.verify(stop_after=100)
    verifier.verify(Request(scope=Key(b"job-1")))
    assert verifier.run is not None
    assert not verifier.run.resumed
    assert verifier.seen.files == 100
    verifier.verify(options=Options(jobs=2, anew=True))
    assert (verifier.run.resumed, verifier.seen.files) == (False, 300)
    found = summarize(verifier.state, "archive")
    assert found is not None
    assert found.unfinished == 0


def test_a_run_of_another_kind_in_between_takes_nothing_away(
    storage: LocalStorage, verifier: Verifier
) -> None:
    many(storage, verifier, 600)
    with pytest.raises(KeyboardInterrupt):
        verifier.verify(stop_after=100)
    first = verifier.seen.files
    with pytest.raises(KeyboardInterrupt):
        verifier.verify(Request(scope=Key(b"job-1")), stop_after=50)
    verifier.verify(Request(sample=0.1))
    assert verifier.verify() == {}, "what another run has listed is not missing from this one"
    assert verifier.run is not None
    assert verifier.run.resumed
    assert verifier.seen.files >= 600 - first - 200
    assert verifier.run.files == 600


def test_an_unreachable_backend_ends_the_run_which_goes_on_later(
    storage: LocalStorage, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(storage, verifier)
    backend = verifier.backend
    stat = backend.stat

    def away(key: Key) -> ObjectInfo:
        if key == b"job-1/0151" or (key == b"" and away_now):
            raise Unavailable("gone", backend="archive", key=key)
        return stat(key)

    away_now = False
    monkeypatch.setattr(backend, "stat", away)
    assert verifier.verify() == {b"job-1/0151": FindingKind.UNREADABLE}, "one file is not the backend"
    away_now = True
    # From the moment on in which it knows what there is to read.
    monkeypatch.setattr(backend, "stat", lambda key: away(key) if verifier.seen.due[0] else stat(key))
    with pytest.raises(Unavailable):
        verifier.verify()
    monkeypatch.setattr(backend, "stat", stat)
    assert verifier.verify() == {}
    assert verifier.run is not None
    assert verifier.run.resumed


# Memory of what was


def test_both_bytes_and_record_replaced_are_found(storage: LocalStorage, verifier: Verifier) -> None:
    fill(storage, verifier, "a")
    verifier.verify()
    storage.lose(Key(b"a"))
    store(storage, verifier.backend, Key(b"a"), b"forged")
    assert verifier.verify() == {b"a": ALTERED}
    assert verifier.damaged() == {b"a"}
    assert verifier.verify(options=Options(jobs=2, accept=True)) == {b"a": ALTERED}
    assert verifier.damaged() == frozenset()
    assert verifier.verify() == {}


def test_erased_and_committed_again_is_no_finding(storage: LocalStorage, verifier: Verifier) -> None:
    fill(storage, verifier, "a")
    verifier.say("committed", Key(b"a"))
    verifier.verify()
    verifier.backend.erase(Key(b"a"))
    verifier.say("erasing", Key(b"a"))
    verifier.say("erased", Key(b"a"))
    store(storage, verifier.backend, Key(b"a"), b"another one")
    verifier.say("committed", Key(b"a"))
    assert verifier.verify(Request(older_than_s=DAY_S)) == {}
    assert verifier.seen.files == 1, "this one was not verified yet"
    storage.lose(Key(b"a"))
    assert verifier.verify() == {b"a": MISSING}


def test_an_erasure_that_failed_explains_no_loss(storage: LocalStorage, verifier: Verifier) -> None:
    fill(storage, verifier, "a", "b")
    verifier.verify()
    for name in (b"a", b"b"):
        verifier.say("erasing", Key(name))
    verifier.say("not-erased", Key(b"a"))
    assert verifier.verify() == {}
    for name in (b"a", b"b"):
        storage.lose(Key(name))
    assert verifier.verify() == {b"a": MISSING}, "that of b may have happened"


def test_a_commit_of_the_audit_trail_whose_file_was_never_seen_is_missing(
    storage: LocalStorage, verifier: Verifier
) -> None:
    fill(storage, verifier, "a", "b")
    for name in (b"a", b"b", b"lost"):
        verifier.say("committed", Key(name))
    verifier.clock.advance(2)
    found = verifier.verify()
    assert found == {b"(name unknown) subject of " + b"lost".hex().encode(): MISSING}
    assert verifier.verify() == found
    assert verifier.verify(options=Options(jobs=2, accept=True)) == found
    assert verifier.verify() == {}


def test_what_is_committed_while_it_runs_is_no_finding(storage: LocalStorage, verifier: Verifier) -> None:
    fill(storage, verifier, "a")
    verifier.verify()
    # Of the same second: nobody can tell whether its name came before the listing or after it.
    verifier.say("committed", Key(b"later"))
    assert verifier.verify() == {}
    verifier.clock.advance(1)
    assert len(verifier.verify()) == 1


def test_missing_is_told_until_it_is_accepted_or_comes_back(
    storage: LocalStorage, verifier: Verifier
) -> None:
    fill(storage, verifier, "a", "b")
    verifier.verify()
    kept = storage.path_of(Key(b"a")).rename(storage.top / "kept")
    storage.lose(Key(b"b"))
    assert verifier.verify() == {b"a": MISSING, b"b": MISSING}
    kept.rename(storage.path_of(Key(b"a")))
    assert verifier.verify(options=Options(jobs=2, accept=True)) == {b"b": MISSING}
    assert verifier.verify() == {}


def test_a_removed_record_is_found_and_the_bytes_compared_with_what_was_known(
    storage: LocalStorage, verifier: Verifier
) -> None:
    fill(storage, verifier, "a", "b")
    verifier.verify()
    for name in (b"a", b"b"):
        path = storage.path_of(Key(name))
        path.chmod(0o600)
        os.removexattr(path, stored.RECORD_XATTR)
    storage.alter(Key(b"b"), b"b" * 9 + b"x")
    assert verifier.verify() == {b"a": UNRECORDED, b"b": ALTERED}
    assert verifier.damaged() == {b"b"}


def test_an_unreadable_record_is_told_and_the_bytes_are_compared_all_the_same(
    storage: LocalStorage, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(storage, verifier, "a")

    def broken(key: Key) -> Record | None:
        raise BackendFault("the record is not JSON", backend="archive", key=key)

    verifier.verify()
    monkeypatch.setattr(verifier.backend, "record", broken)
    assert verifier.verify() == {b"a": FindingKind.UNREADABLE}
    assert "its bytes are those" in verifier.details[b"a"]
    storage.alter(Key(b"a"), b"x" * 10)
    assert verifier.verify() == {b"a": ALTERED}


def test_a_record_that_was_changed_alone_is_found(storage: LocalStorage, verifier: Verifier) -> None:
    fill(storage, verifier, "a")
    path = storage.path_of(Key(b"a"))
    with path.open("rb") as file:
        record = stored.read_record(file.fileno())
        assert record is not None
        stored.replace_record(
            file.fileno(), dataclasses.replace(record, sha256=make_record(b"y" * 10).sha256)
        )
    assert verifier.verify() == {b"a": ALTERED}


# Damage


def test_damage_is_known_at_once_and_ends_when_the_file_is_whole_again(
    storage: LocalStorage, verifier: Verifier
) -> None:
    names = many(storage, verifier)
    good = storage.plain(Key(names[7].encode()))
    storage.alter(Key(names[7].encode()), b"x")
    with pytest.raises(KeyboardInterrupt):
        verifier.verify(stop_after=299)
    assert verifier.damaged() == {names[7].encode()}
    assert (ALTERED, names[7].encode(), True) in verifier.seen.found_now
    storage.alter(Key(names[7].encode()), good)
    verifier.verify(options=Options(jobs=2, anew=True))
    assert verifier.damaged() == frozenset()
    assert verifier.seen.times_mended == 1


def test_a_name_that_stands_for_another_file_is_forgotten(storage: LocalStorage, verifier: Verifier) -> None:
    fill(storage, verifier, "a", "b")
    verifier.verify()
    for name in (b"a", b"b"):
        storage.alter(Key(name), b"x")
    verifier.verify()
    DamageList(verifier.state, "archive").forget(Key(b"a"))
    assert verifier.damaged() == {b"b"}
    storage.lose(Key(b"b"))
    DamageList(verifier.state, "archive").forget_erased(Key(b"b"))
    assert verifier.damaged() == frozenset()
    assert b"b" not in verifier.verify()


# The catalog itself


def test_two_verifications_at_once_are_refused(verifier: Verifier) -> None:
    with verifier.catalog(), pytest.raises(Busy):
        verifier.verify()


def test_the_catalog_is_private(verifier: Verifier) -> None:
    verifier.verify()
    path = catalog_path(verifier.state, "archive")
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_what_root_verifies_the_daemons_user_can_read(storage: LocalStorage, verifier: Verifier) -> None:
    fill(storage, verifier, "a")
    os.chown(verifier.state, 33, 33)
    verifier.verify()
    path = catalog_path(verifier.state, "archive")
    owners = {entry.stat().st_uid for entry in [path.parent, *path.parent.iterdir()]}
    assert owners == {33}
    with verifier.catalog():
        owners = {entry.stat().st_uid for entry in path.parent.iterdir()}
        assert owners == {33}, "SQLite's own files, too"


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_no_link_makes_root_give_away_another_file(
    verifier: Verifier, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    precious = tmp_path / "shadow"
    precious.touch()
    path = catalog_path(verifier.state, "archive")
    path.parent.mkdir()
    os.chown(verifier.state, 33, 33)
    link(precious, path)
    with pytest.raises(Unavailable):
        verifier.verify()
    assert precious.stat().st_uid == 0


def test_a_damaged_catalog_says_what_to_do(verifier: Verifier) -> None:
    path = catalog_path(verifier.state, "archive")
    path.parent.mkdir()
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(BackendFault, match="delete it and verify again"):
        verifier.verify()


def test_the_summary_tells_the_last_run(storage: LocalStorage, verifier: Verifier) -> None:
    assert summarize(verifier.state, "archive") is None
    fill(storage, verifier, "a", "b")
    verifier.verify()
    verifier.clock.advance(DAY_S)
    storage.alter(Key(b"a"), b"x")
    verifier.verify()
    found = summarize(verifier.state, "archive")
    assert found is not None
    assert found.last is not None
    assert (found.last.files, found.last.findings, found.damaged) == (2, {ALTERED: 1}, 1)
    assert found.last.oldest_ns is not None
    assert found.last.ended_ns - found.last.oldest_ns >= DAY_S * 1e9
