"""Several hosts, Moodle itself and a plain SQL client at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import threading

import pytest

from tests.moodle.conftest import Site
from tests.support.moodle import COURSE, EMPTY_SHA1, context_of
from wormfs.errors import AlreadyExists, DirectoryNotEmpty, NotFound, WormfsError
from wormfs.model import DirectoryAttributes, Key, Kind

ANY = DirectoryAttributes()
ROUNDS = 12


def at_once(*calls: object) -> list[BaseException | None]:
    """Run all in threads that begin together; what each raised."""
    barrier = threading.Barrier(len(calls))

    def call(function: object) -> BaseException | None:
        barrier.wait()
        try:
            function()  # type: ignore[operator]
        except (WormfsError, AssertionError) as error:
            return error
        return None

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def test_a_file_and_a_directory_of_one_name_are_never_both(site: Site, soak_factor: int) -> None:
    one, two = site.backend(), site.backend()
    for number in range(ROUNDS * soak_factor):
        key = b"name-%d" % number
        failed = at_once(
            lambda key=key: site.publish(one, key, b"content"),
            lambda key=key: two.make_directory(Key(key), ANY),
        )
        assert [type(error) for error in failed].count(type(None)) == 1, failed
        assert all(isinstance(error, AlreadyExists | None) for error in failed), failed
        kind = one.stat(Key(key)).kind
        assert (key.decode() in site.moodle.rows()) == (kind is Kind.FILE)
        assert (f"{key.decode()}/" in site.moodle.rows()) == (kind is Kind.DIRECTORY)


def test_a_directory_that_goes_while_a_file_comes_is_made_again(site: Site, soak_factor: int) -> None:
    one, two = site.backend(), site.backend()
    for number in range(ROUNDS * soak_factor):
        folder = b"folder-%d" % number
        one.make_directory(Key(folder), ANY)
        _, failed = at_once(
            lambda folder=folder: site.publish(one, folder + b"/file", b"content"),
            lambda folder=folder: two.remove_directory(Key(folder)),
        )
        assert isinstance(failed, DirectoryNotEmpty | None)
        assert [info.key for info in two.list(Key(folder))] == [folder + b"/file"]


def test_equal_content_that_comes_and_goes_is_there_for_every_row(site: Site, soak_factor: int) -> None:
    """Publishing and erasing the same bytes under several names, all on one pool file."""
    content = b"the same bytes" * 1000
    backends = [site.backend() for _ in range(4)]

    def come_and_go(number: int) -> None:
        backend, key = backends[number], Key(b"file-%d" % number)
        for _ in range(8 * soak_factor):
            site.publish(backend, key, content)
            assert site.moodle.pool_path(hashlib.sha1(content).hexdigest()).read_bytes() == content
            if number:
                backend.erase(key)
        if number:
            site.publish(backend, key, content)

    def moodle_cleans_up() -> None:
        for _ in range(40):
            with contextlib.suppress(FileNotFoundError):
                cleaner.trash(hashlib.sha1(content).hexdigest())

    # A connection of its own.
    cleaner = dataclasses.replace(site.moodle)
    # File 0 stays after its first round: the others are told so (AlreadyExists would be a failure).
    site.publish(backends[0], b"stays", content)
    failed = at_once(*[lambda number=number: come_and_go(number) for number in (1, 2, 3)], moodle_cleans_up)
    cleaner.connection.close()
    assert failed == [None] * 4
    reader_backend = site.backend()
    for key in (b"stays", b"file-1", b"file-2", b"file-3"):
        reader = reader_backend.open(reader_backend.stat(Key(key)))
        assert reader.read(0, len(content) + 1) == content
        reader.close()
    assert list(reader_backend.findings()) == []
    for key in (b"stays", b"file-1", b"file-2", b"file-3"):
        reader_backend.erase(Key(key))
    assert site.moodle.pool_files() == set()


def test_many_hosts_and_a_plain_client_race_for_one_path(site: Site, soak_factor: int) -> None:
    backends = [site.backend(connections=4) for _ in range(4)]

    def insert(path: str, won: list[str]) -> None:
        """As Moodle does it; a client that is told of the unique index has lost."""
        plain = dataclasses.replace(site.moodle)
        try:
            plain.insert("/", path, site.moodle.add_content(b"plain"), 5)
            won.append("plain")
        except Exception as error:  # noqa: BLE001 (psycopg's or PyMySQL's)
            assert type(error).__name__ in ("UniqueViolation", "IntegrityError")
        finally:
            plain.connection.close()

    def publish(number: int, path: str, won: list[str]) -> None:
        try:
            site.publish(backends[number % 4], path.encode(), b"%d" % number)
        except AlreadyExists:
            return
        won.append(str(number))

    for turn in range(3 * soak_factor):
        path, won = f"raced-{turn}", list[str]()
        calls = [lambda n=n, path=path, won=won: publish(n, path, won) for n in range(15)]
        assert at_once(lambda path=path, won=won: insert(path, won), *calls) == [None] * 16
        assert len(won) == 1, won
        assert site.moodle.content(path) == won[0].encode()
    # The losers' content is gone: nothing but what won, and the test object of nobody.
    used = {contenthash for contenthash, _ in site.moodle.rows().values()} - {EMPTY_SHA1}
    plain = hashlib.sha1(b"plain").hexdigest()
    assert site.moodle.pool_files() - {plain} == used - {plain}


def test_two_erases_of_one_file(site: Site) -> None:
    one, two = site.backend(), site.backend()
    for number in range(ROUNDS):
        key = Key(b"file-%d" % number)
        site.publish(one, key, b"content %d" % number)
        failed = at_once(lambda key=key: one.erase(key), lambda key=key: two.erase(key))
        assert all(isinstance(error, NotFound | None) for error in failed), failed
        assert None in failed
    assert site.moodle.pool_files() == set()
    left = f"SELECT * FROM {site.moodle.prefix}files WHERE filename <> '.' AND contextid <> %s"
    assert site.moodle.execute(left, context_of(COURSE)) == []


@pytest.mark.parametrize("recorded", [True, False], ids=["of wormfs", "of Moodle"])
def test_an_erase_leaves_the_record_of_the_file_that_has_the_name_since(
    site: Site, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    slow, fast = site.backend(), site.backend()
    key = Key(b"exam.zip")
    if recorded:
        site.publish(slow, key, b"old")
    else:
        site.moodle.add_file("exam.zip", b"old")
    erase = slow.content.erase

    def overtaken(contenthash: str) -> None:
        erase(contenthash)
        with contextlib.suppress(NotFound):
            fast.erase(key)
        site.publish(fast, key, b"new")

    monkeypatch.setattr(slow.content, "erase", overtaken)
    slow.erase(key)
    record = fast.record(key)
    assert record is not None and record.size_bytes == 3
    assert site.moodle.content("exam.zip") == b"new"
    assert list(fast.findings()) == []
