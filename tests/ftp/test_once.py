"""A server on which everything is final: vsftpd's guests may store, not replace, rename or delete."""

from __future__ import annotations

import concurrent.futures
import ftplib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import storages_ftp
from tests.conformance.drivers import RETAIN_NS, S, make_record, spooled, store
from tests.conformance.storages_ftp import ONCE, WHOLE, FtpStorage
from tests.crash.real import wait_until
from tests.ftp.test_steps import Cutter
from tests.support.ftpservers import UID, FtpServer, Kind, Security
from tests.support.verifying import Verifier
from wormfs.backends.base import Guarantee
from wormfs.backends.ftp.backend import FtpBackend
from wormfs.backends.ftp.session import EARLY_BYTES, Session
from wormfs.errors import (
    AccessDenied,
    AlreadyExists,
    BackendFault,
    NotFound,
    SettingsError,
    Unavailable,
    WormfsError,
)
from wormfs.model import ROOT, DirectoryAttributes, Key, Record, RetentionChange
from wormfs.model import Kind as ObjectKind

KEY = Key(b"job/exam.zip")
MARGIN = 1 << 20
"""What may be in buffers on its way."""
CONTENT = random.Random(1).randbytes(300_000)


@pytest.fixture(scope="module")
def secured() -> Iterator[FtpServer]:
    running = FtpServer(Kind.VSFTPD, Security.EXPLICIT, {"lines": [*ONCE, WHOLE]})
    yield running
    running.remove()


@pytest.fixture(params=["plain", "tls"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FtpStorage]:
    """Plain or with TLS."""
    if request.param == "tls":
        made = storages_ftp.made(request.getfixturevalue("secured"), tmp_path)
    else:
        made = storages_ftp.vsftpd_once(tmp_path)
    yield made
    made.remove()


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[FtpStorage]:
    made = storages_ftp.vsftpd_once(tmp_path)
    yield made
    made.remove()


@pytest.fixture
def hosts(storage: FtpStorage) -> Iterator[tuple[FtpBackend, FtpBackend]]:
    """Two hosts; the first has no patience."""
    pair = FtpBackend("archive", storage.options(patience_s=0.0)), FtpBackend("archive", storage.options())
    for host in pair:
        host.start()
    pair[1].make_directory(Key(b"job"), DirectoryAttributes())
    yield pair
    for host in pair:
        host.close()


def shown(host: FtpBackend) -> set[bytes]:
    """What the mount would show of the directory."""
    return {info.key for info in host.list(Key(b"job"))}


def test_a_file_is_stored_and_read(storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend]) -> None:
    one, two = hosts
    assert one.traits.guarantee is Guarantee.ATOMIC
    record = make_record(CONTENT)
    info = store(storage, one, KEY, CONTENT, record)
    assert (info.size_bytes, info.kind) == (len(CONTENT), ObjectKind.FILE)
    assert storage.plain(KEY) == CONTENT
    for host in hosts:
        assert host.stat(KEY).version == record.entry_id
        assert host.record(KEY) == record
        assert shown(host) == {KEY}
        with pytest.raises(AlreadyExists):
            host.begin(KEY)
    reader = two.open(two.stat(KEY))
    assert reader.read(100, 1000) == CONTENT[100:1100]
    reader.close()
    assert storage.path_of(KEY).stat().st_mode & 0o777 == 0o644


def test_what_such_a_server_cannot_do_is_said(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend]
) -> None:
    _, host = hosts
    store(storage, host, KEY, CONTENT)
    with pytest.raises(AccessDenied, match="lets nobody delete"):
        host.erase(KEY)
    with pytest.raises(NotFound):
        host.erase(Key(b"job/other"))
    host.make_directory(Key(b"empty"), DirectoryAttributes())
    with pytest.raises(AccessDenied, match="could not remove the directory"):
        host.remove_directory(Key(b"empty"))
    assert host.time_ns() is None
    assert storage.plain(KEY) == CONTENT


def test_retention_grows(storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend]) -> None:
    record = make_record(CONTENT)
    store(storage, hosts[0], KEY, CONTENT, record)

    for number in range(1, 4):
        until_ns = RETAIN_NS + number * S
        changed = hosts[number % 2].change_retention(KEY, RetentionChange(extend=True, extend_to_ns=until_ns))
        assert changed.retention.retain_until_ns == until_ns
        for host in hosts:
            assert host.record(KEY) == changed

    # A host that died between the two steps of a change has changed nothing, and is in nobody's way.
    begun = storage.claim_of(KEY) / "r000004"
    begun.mkdir()
    os.chown(begun, UID, UID)
    assert hosts[0].record(KEY) == changed

    def hold(number: int) -> None:
        hosts[number % 2].change_retention(KEY, RetentionChange(add_holds=(f"case {number}",)))

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(hold, range(6)))
    for host in hosts:
        now = host.record(KEY)
        assert now is not None and set(now.retention.holds) == {f"case {number}" for number in range(6)}


def test_a_file_of_somebody_else_is_shown_and_never_ours(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend]
) -> None:
    _, host = hosts
    with spooled(storage, CONTENT) as file:
        transfer = host.begin(KEY)
        storage.place_foreign(KEY, b"foreign")
        with pytest.raises(AlreadyExists):
            transfer.publish(file, make_record(CONTENT))
    assert shown(host) == {KEY}
    assert host.record(KEY) is None
    assert storage.plain(KEY) == b"foreign"
    assert not storage.claim_of(KEY).exists()


def test_nothing_piles_up_at_each_start_and_check(storage: FtpStorage) -> None:
    seen = []
    for _ in range(3):
        host = FtpBackend("archive", storage.options())
        host.start()
        results = list(host.check())
        assert all(result.passed for result in results), results
        assert [result.name for result in results] == [
            "connect", "authenticate", "write", "overwrite refused", "read", "free space",
        ]  # fmt: skip
        assert list(host.findings()) == []
        host.close()
        seen.append(storage.hidden())
    assert seen[0] == seen[1] == seen[2]
    assert storage.visible() == set()


def test_of_many_hosts_one_wins(storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend]) -> None:
    for turn in range(3):
        key = Key(b"job/%d" % turn)

        def race(number: int, key: Key = key) -> bool:
            try:
                store(storage, hosts[number % 2], key, b"%02d" % number * 5000)
            except (AlreadyExists, Unavailable):
                return False
            return True

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            won = list(pool.map(race, range(8)))
        assert sum(won) == 1
        assert storage.plain(key) == b"%02d" % won.index(True) * 5000


@pytest.mark.parametrize("arrives", [False, True], ids=["request-lost", "reply-lost"])
def test_cut_off_anywhere_it_is_finished_by_its_own_host_and_never_shown_in_part(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend], arrives: bool
) -> None:
    dying, living = hosts
    with pytest.MonkeyPatch.context() as patch:
        cutter = Cutter(patch)
        for at in range(1, 40):
            key, record = Key(b"job/%d" % at), make_record(CONTENT)
            done = True
            with spooled(storage, CONTENT) as file:
                with cutter.cutting(at, arrives=arrives):
                    try:
                        dying.begin(key).publish(file, record)
                    except WormfsError:
                        done = False
                if key in shown(living):
                    assert (storage.plain(key), living.record(key)) == (CONTENT, record)
                else:
                    with pytest.raises(NotFound):
                        living.stat(key)
                # Another host does not get a name that is claimed; of a free one it knows nothing.
                if storage.claim_of(key).joinpath("meta").exists():
                    with pytest.raises(AlreadyExists):
                        living.begin(key)
                living.resume(key).publish(file, record)
            assert (storage.plain(key), living.record(key)) == (CONTENT, record)
            assert key in shown(living)
            if done and not cutter.reached:
                assert list(living.findings()) == []
                return
    pytest.fail("the publish never came to its end")


def test_what_a_dead_host_left_whole_is_finished_by_whoever_wants_the_name(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend]
) -> None:
    _, living = hosts
    record = make_record(CONTENT)
    store(storage, living, KEY, CONTENT, record)
    storage.claim_of(KEY).joinpath("done").rmdir()
    assert shown(living) == set()
    assert [finding.name for finding in living.findings()] == [KEY]
    with pytest.raises(AlreadyExists):
        living.begin(KEY)
    assert shown(living) == {KEY}
    assert living.record(KEY) == record


def test_bytes_in_the_way_that_are_not_ours_are_never_taken_for_ours(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend]
) -> None:
    _, living = hosts
    for other in (CONTENT[:-1], CONTENT[:-1] + b"x"):
        record = make_record(CONTENT)
        store(storage, living, KEY, CONTENT, record)
        storage.claim_of(KEY).joinpath("done").rmdir()
        storage.path_of(KEY).write_bytes(other)
        with spooled(storage, CONTENT) as file:
            with pytest.raises(BackendFault, match="remove that file at the server itself"):
                living.resume(KEY).publish(file, record)
            assert shown(living) == set()
            storage.path_of(KEY).unlink()
            living.resume(KEY).publish(file, record)
        assert storage.plain(KEY) == CONTENT
        storage.lose(KEY)


def _publish_slowly(storage: FtpStorage, content: bytes, record: Record) -> None:
    """In a process of its own: half of the bytes are sent, then it waits to be killed."""
    host = FtpBackend("archive", storage.options())
    host.start()
    opened = Session.transfer

    def transfer(session: Session, line: bytes, offset: int = 0) -> object:
        stream = opened(session, line, offset)
        if line.endswith(KEY) and line.startswith(b"STOR"):
            send = stream.send  # type: ignore[union-attr]

            def half(fd: int, offset: int, size: int) -> object:
                send(fd, offset, size // 2)
                signal.pause()
                return None

            stream.send = half  # type: ignore[union-attr,method-assign,assignment]
        return stream

    Session.transfer = transfer  # type: ignore[method-assign,assignment]
    with spooled(storage, content) as file:
        host.begin(KEY).publish(file, record)


def test_a_host_that_is_killed_in_the_middle_leaves_no_part_of_a_file(either: FtpStorage) -> None:
    living = FtpBackend("archive", either.options())
    living.start()
    living.make_directory(Key(b"job"), DirectoryAttributes())
    content = random.Random(2).randbytes(8_000_000)
    record = make_record(content)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_publish_slowly, args=(either, content, record))
    process.start()
    path = either.path_of(KEY)
    wait_until(lambda: path.exists() and path.stat().st_size >= len(content) // 2 - MARGIN)
    assert shown(living) == set()
    with pytest.raises(NotFound):
        living.stat(KEY)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    process.close()
    wait_until(lambda: not path.exists())
    assert shown(living) == set()
    with spooled(either, content) as file:
        living.resume(KEY).publish(file, record)
    assert either.plain(KEY) == content
    assert list(living.findings()) == []
    living.close()


def _publish_and_die(
    storage: FtpStorage, content: bytes, record: Record, ending: str, pause_s: float
) -> None:
    """In a process of its own, which dies when it has asked the server to store this and has no reply yet."""
    host = FtpBackend("archive", storage.options())
    host.start()
    put = ftplib.FTP.putline

    def putline(ftp: ftplib.FTP, line: str) -> None:
        put(ftp, line)
        if line.startswith("STOR ") and line.endswith(ending):
            time.sleep(pause_s)
            os.kill(os.getpid(), signal.SIGKILL)

    ftplib.FTP.putline = putline  # type: ignore[method-assign]
    with spooled(storage, content) as file:
        host.begin(KEY).publish(file, record)


@pytest.mark.parametrize("pause_s", [0, 0.02])
@pytest.mark.parametrize("ending", ["/meta", "/exam.zip"])
def test_a_host_that_dies_between_its_question_and_the_reply_finishes_later(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend], ending: str, pause_s: float
) -> None:
    """vsftpd ends at its second word to a dead host, before it removes what it has opened."""
    content = random.Random(3).randbytes(EARLY_BYTES)
    record = make_record(content)
    process = multiprocessing.get_context("fork").Process(
        target=_publish_and_die, args=(storage, content, record, ending, pause_s)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    process.close()
    _, living = hosts
    with spooled(storage, content) as file:
        living.resume(KEY).publish(file, record)
    assert storage.plain(KEY) == content
    assert living.record(KEY) == record


def test_a_server_that_keeps_parts_is_refused(tmp_path: Path) -> None:
    server = FtpServer(Kind.VSFTPD, extra={"lines": list(ONCE)})
    try:
        storage = storages_ftp.made(server, tmp_path)
        for alone in (False, True):
            with pytest.raises(SettingsError, match="delete_failed_uploads=YES"):
                FtpBackend("archive", storage.options(exclusive_writer=alone)).start()
        (result,) = [each for each in FtpBackend("archive", storage.options()).check() if not each.passed]
        assert "delete_failed_uploads" in result.detail
        assert storage.visible() == set()
    finally:
        server.remove()


def test_verification_finds_what_was_changed_at_the_server(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend], tmp_path: Path
) -> None:
    _, host = hosts
    store(storage, host, KEY, CONTENT)
    state = tmp_path / "state"
    state.mkdir()
    verifier = Verifier(state, host)
    assert verifier.verify() == {}
    storage.alter(KEY, b"X" + CONTENT[1:])
    assert set(verifier.verify()) == {KEY}


def test_a_directory_of_many_files_is_listed(
    storage: FtpStorage, hosts: tuple[FtpBackend, FtpBackend]
) -> None:
    _, host = hosts
    for number in range(300):
        storage.place_foreign(Key(b"file-%03d" % number), b"x")
    assert sum(1 for info in host.list(ROOT) if info.kind is ObjectKind.FILE) == 300
