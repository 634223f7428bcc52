"""What wormfs leaves in Moodle's tables and pool, and what it makes of what Moodle has there."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.drivers import ATTRIBUTES, RETAIN_NS, make_record, spooled
from tests.moodle.conftest import Site
from tests.support.moodle import COURSE, EMPTY_SHA1, context_of
from wormfs import clock, durability
from wormfs.backends.moodle.backend import MoodleBackend
from wormfs.backends.moodle.content import LOOK_AGAIN_S
from wormfs.backends.moodle.database import Cursor
from wormfs.backends.moodle.pool import Aside
from wormfs.backends.moodle.rows import Taken
from wormfs.errors import (
    AccessDenied,
    AlreadyExists,
    BackendFault,
    DigestMismatch,
    DirectoryNotEmpty,
    InvalidName,
    NameTooLong,
    NotADirectory,
    NotFound,
    Unavailable,
    WormfsError,
)
from wormfs.model import ROOT, DirectoryAttributes, FindingKind, Key, Kind, Retention

ANY = DirectoryAttributes()
CONTENT = b"an exam\n" * 100
SHA1 = hashlib.sha1(CONTENT).hexdigest()


def listed(backend: MoodleBackend, key: bytes = b"") -> list[bytes]:
    return sorted(info.key for info in backend.list(Key(key)))


def read(backend: MoodleBackend, key: bytes) -> bytes:
    info = backend.stat(Key(key))
    reader = backend.open(info)
    try:
        return reader.read(0, info.size_bytes + 1)
    finally:
        reader.close()


def test_rows_are_those_that_moodle_would_have_made(site: Site, backend: MoodleBackend) -> None:
    site.publish(backend, b"job-1/deep/exam.mbz", CONTENT)
    moodle = site.moodle
    assert moodle.rows() == {
        "job-1/deep/exam.mbz": (SHA1, len(CONTENT)),
        "job-1/deep/": (EMPTY_SHA1, 0),
        "job-1/": (EMPTY_SHA1, 0),
        "": (EMPTY_SHA1, 0),
    }
    ((*row,),) = moodle.execute(
        "SELECT contextid, mimetype, status, userid, referencefileid, sortorder, timecreated, timemodified "
        f"FROM {moodle.prefix}files WHERE filename = 'exam.mbz'"
    )
    seconds = [1_700_000_000, ATTRIBUTES.mtime_ns // 1_000_000_000]
    assert row == [context_of(COURSE), "application/vnd.moodle.backup", 0, None, None, 0, *seconds]
    assert moodle.content("job-1/deep/exam.mbz") == CONTENT


def test_pool_files_have_moodles_modes_and_the_pools_owner(site: Site) -> None:
    os.chown(site.moodle.filedir, 33, 33)
    backend = site.backend(directory_permissions="2770")
    site.store(backend, b"exam.zip", CONTENT)
    path = site.moodle.pool_path(SHA1)
    for place, mode in ((path, 0o660), (path.parent, 0o2770), (path.parent.parent, 0o2770)):
        status = place.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (33, 33, mode), place


def test_the_record_is_in_no_area_of_the_course(site: Site, backend: MoodleBackend) -> None:
    record = make_record(CONTENT, retention=Retention(RETAIN_NS, ("case 7",)))
    site.store(backend, b"exam.zip", CONTENT, record)
    moodle = site.moodle
    ((context, text, contenthash),) = moodle.execute(
        f"SELECT contextid, source, contenthash FROM {moodle.prefix}files WHERE filearea = 'record'"
    )
    assert (context, contenthash) == (1, EMPTY_SHA1)
    kept = json.loads(text)
    assert (kept["course"], kept["shortname"], kept["path"], kept["contenthash"]) == (
        7,
        "Law 1",
        "exam.zip",
        SHA1,
    )
    assert (kept["record"]["sha256"], kept["record"]["holds"]) == (record.sha256, ["case 7"])


def test_what_moodle_has_is_shown_and_stays(site: Site, backend: MoodleBackend) -> None:
    site.moodle.add_file("slides/week 1.pdf", b"pdf")
    info = backend.stat(Key(b"slides/week 1.pdf"))
    assert (info.size_bytes, info.recorded, info.mode, info.mtime_ns) == (
        3,
        False,
        0o440,
        1_600_000_001 * 10**9,
    )
    assert read(backend, b"slides/week 1.pdf") == b"pdf"
    assert listed(backend) == [b"slides"]
    with pytest.raises(AlreadyExists):
        backend.begin(Key(b"slides/week 1.pdf"))


def test_content_that_is_there_is_used_after_it_was_compared(site: Site, backend: MoodleBackend) -> None:
    site.moodle.add_file("theirs.zip", CONTENT)
    inode = site.moodle.pool_path(SHA1).stat().st_ino
    site.store(backend, b"ours.zip", CONTENT)
    assert site.moodle.pool_path(SHA1).stat().st_ino == inode
    assert site.moodle.pool_files() == {SHA1}


@pytest.mark.parametrize("damaged", [CONTENT[:-1], b"X" + CONTENT[1:]])
def test_a_damaged_pool_file_is_an_alert_and_never_replaced(
    damaged: bytes, site: Site, backend: MoodleBackend, caplog: pytest.LogCaptureFixture
) -> None:
    site.moodle.add_content(CONTENT)
    site.moodle.pool_path(SHA1).write_bytes(damaged)
    with pytest.raises(BackendFault, match="holds other bytes"), caplog.at_level(logging.ERROR):
        site.store(backend, b"exam.zip", CONTENT)
    assert site.moodle.pool_path(SHA1).read_bytes() == damaged
    assert "ALERT" in caplog.text
    assert site.moodle.rows() == {}
    site.moodle.pool_path(SHA1).unlink()
    site.store(backend, b"exam.zip", CONTENT)
    assert read(backend, b"exam.zip") == CONTENT


def test_content_that_is_gone_is_no_missing_name(site: Site, backend: MoodleBackend) -> None:
    site.store(backend, b"exam.zip", CONTENT)
    site.moodle.pool_path(SHA1).unlink()
    info = backend.stat(Key(b"exam.zip"))
    with pytest.raises(BackendFault, match=f"content {SHA1} is neither in"):
        backend.open(info)
    (finding,) = backend.findings()
    assert (finding.kind, finding.name) == (FindingKind.MISSING, b"exam.zip")
    site.moodle.add_content(CONTENT[1:] + b"?")
    os.makedirs(site.moodle.pool_path(SHA1).parent, exist_ok=True)
    site.moodle.pool_path(SHA1).write_bytes(CONTENT + b"longer")
    with pytest.raises(DigestMismatch, match="it was damaged"):
        backend.open(info)
    (finding,) = backend.findings()
    assert (finding.kind, finding.name) == (FindingKind.ALTERED, b"exam.zip")


@pytest.mark.parametrize("flat", [False, True])
def test_content_in_the_trash_is_brought_back(flat: bool, site: Site, backend: MoodleBackend) -> None:
    site.store(backend, b"exam.zip", CONTENT)
    site.moodle.trash(SHA1, unused=False)
    if flat:
        trashed = site.moodle.trashdir / SHA1[:2] / SHA1[2:4] / SHA1
        trashed.rename(site.moodle.trashdir / SHA1)
    assert read(backend, b"exam.zip") == CONTENT
    assert site.moodle.pool_path(SHA1).read_bytes() == CONTENT
    assert list(backend.findings()) == []


def test_other_bytes_in_the_trash_are_not_brought_back(site: Site, backend: MoodleBackend) -> None:
    site.store(backend, b"exam.zip", CONTENT)
    site.moodle.pool_path(SHA1).write_bytes(b"X" + CONTENT[1:])
    site.moodle.trash(SHA1, unused=False)
    with pytest.raises(BackendFault):
        backend.open(backend.stat(Key(b"exam.zip")))


@pytest.mark.parametrize("purged", [False, True])
def test_content_that_moodle_trashes_before_the_row_is_there_is_put_back(
    purged: bool, site: Site, backend: MoodleBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = backend.database.change
    times = iter([1, 2])

    def trashing(*arguments: object) -> object:
        if next(times, None):
            site.moodle.trash(SHA1)
            if purged:
                (site.moodle.trashdir / SHA1[:2] / SHA1[2:4] / SHA1).unlink(missing_ok=True)
        return change(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(backend.database, "change", trashing)
    site.store(backend, b"exam.zip", CONTENT)
    assert site.moodle.content("exam.zip") == CONTENT


def test_a_pool_whose_file_system_needs_names_for_staged_files(
    site: Site, backend: MoodleBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS, for one: as if there were no O_TMPFILE."""
    monkeypatch.setattr(backend.pool, "_can_be_nameless", False)
    monkeypatch.setattr(backend.pool, "can_link", False)
    site.store(backend, b"exam.zip", CONTENT)
    backend.begin(Key(b"other.zip")).abort()
    transfer = backend.begin(Key(b"third.zip"))
    with spooled(site.storage, CONTENT + b"third") as file:
        transfer.advance(file, len(CONTENT))
        (temporary,) = site.moodle.pool_files() - {SHA1}
        assert temporary.startswith(".wormfs-")
        transfer.publish(file, make_record(CONTENT + b"third"))
    third = hashlib.sha1(CONTENT + b"third").hexdigest()
    assert site.moodle.pool_files() == {SHA1, third}
    assert read(backend, b"third.zip") == CONTENT + b"third"


def test_a_spool_on_another_file_system_is_copied(
    site: Site, backend: MoodleBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half way into it, the kernel says that these are two mounts.
    publish_link, refused = durability.publish_link, []

    def link(source_fd: int, name: str, directory_fd: int) -> None:
        if not refused:
            refused.append(name)
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        publish_link(source_fd, name, directory_fd)

    monkeypatch.setattr(durability, "publish_link", link)
    with spooled(site.storage, CONTENT) as file:
        transfer = backend.begin(Key(b"exam.zip"))
        transfer.advance(file, 100)
        transfer.publish(file, make_record(CONTENT))
        assert os.fstat(file.fileno()).st_ino != site.moodle.pool_path(SHA1).stat().st_ino
    assert refused == [SHA1]
    site.store(backend, b"other.zip", b"other")
    assert site.moodle.content("other.zip") == b"other"


def test_a_spool_on_the_pools_file_system_is_not_copied(site: Site, backend: MoodleBackend) -> None:
    with spooled(site.storage, CONTENT) as file:
        transfer = backend.begin(Key(b"exam.zip"))
        transfer.publish(file, make_record(CONTENT))
        status = site.moodle.pool_path(SHA1).stat()
        assert (status.st_ino, status.st_mode & 0o7777) == (os.fstat(file.fileno()).st_ino, 0o666)
    assert site.moodle.content("exam.zip") == CONTENT


def test_staged_files_of_crashed_daemons_go_after_a_week(site: Site, backend: MoodleBackend) -> None:
    old, young = site.moodle.filedir / ".wormfs-old.tmp", site.moodle.filedir / ".wormfs-young.tmp"
    for path, days in ((old, 8), (young, 6)):
        path.write_bytes(b"half")
        at_ns = backend.clock.now_ns() - days * 86_400 * 10**9
        os.utime(path, ns=(at_ns, at_ns))
    backend.start()
    assert site.moodle.pool_files() == {young.name}


# What Moodle removes


def test_a_row_that_moodle_removed_is_a_loss_and_its_name_stays_taken(
    site: Site, backend: MoodleBackend
) -> None:
    info = site.store(backend, b"exam.zip", CONTENT)
    site.moodle.execute(f"DELETE FROM {site.moodle.prefix}files WHERE filename = 'exam.zip'")
    assert backend.stat(Key(b"exam.zip")) == info
    with pytest.raises(BackendFault, match="Moodle has removed this file"):
        backend.open(info)
    with pytest.raises(AlreadyExists):
        backend.begin(Key(b"exam.zip"))
    # The same bytes neither: they would be thought stored.
    for content in (CONTENT, b"other"):
        with pytest.raises(BackendFault, match="Moodle has removed it"):
            site.publish(backend, b"exam.zip", content)
    (finding,) = backend.findings()
    assert (finding.kind, finding.name) == (FindingKind.MISSING, b"exam.zip")
    assert "course 7 (Law 1)" in finding.detail and SHA1 in finding.detail
    backend.erase(Key(b"exam.zip"))
    assert list(backend.findings()) == []
    site.store(backend, b"exam.zip", b"new")


def test_a_deleted_course_is_reported_by_the_whole_sites_backend(site: Site) -> None:
    backend = site.backend(course=None)
    site.moodle.add_course(8, "Law 2")
    site.store(backend, b"7/exam.zip", CONTENT)
    site.publish(backend, b"8/job/exam.zip", b"other")
    site.moodle.delete_course(8)
    (finding,) = backend.findings()
    assert (finding.kind, finding.name) == (FindingKind.MISSING, b"8/job/exam.zip")
    assert "course 8 (Law 2)" in finding.detail
    late = site.backend(course=None)
    assert late.stat(Key(b"8/job/exam.zip")).size_bytes == 5
    with pytest.raises(NotFound, match="no course '9'"):
        late.stat(Key(b"9/job/exam.zip"))
    assert listed(late) == [b"7"]


def test_nothing_is_stored_into_a_course_that_is_gone(site: Site, backend: MoodleBackend) -> None:
    site.moodle.delete_course()
    with pytest.raises(BackendFault, match="deleted the course"):
        site.publish(backend, b"job/exam.zip", CONTENT)
    with pytest.raises(BackendFault):
        backend.make_directory(Key(b"job"), ANY)
    assert site.moodle.rows(None) == {}
    with pytest.raises(WormfsError, match="Moodle has no course"):
        site.backend()


def test_a_row_that_names_other_content_is_reported(site: Site, backend: MoodleBackend) -> None:
    site.store(backend, b"exam.zip", CONTENT)
    other = site.moodle.add_content(b"exchanged")
    site.moodle.execute(
        f"UPDATE {site.moodle.prefix}files SET contenthash = %s, filesize = 9 WHERE filename = 'exam.zip'",
        other,
    )
    (finding,) = backend.findings()
    assert (finding.kind, finding.name) == (FindingKind.ALTERED, b"exam.zip")


def test_other_content_than_was_stored_is_not_served(site: Site, backend: MoodleBackend) -> None:
    site.store(backend, b"exam.zip", CONTENT)
    other = site.moodle.add_content(b"X" * len(CONTENT))
    site.moodle.execute(
        f"UPDATE {site.moodle.prefix}files SET contenthash = %s WHERE filename = 'exam.zip'", other
    )
    with pytest.raises(DigestMismatch, match="other content"):
        backend.open(backend.stat(Key(b"exam.zip")))


# Erasing


def test_content_that_another_row_uses_stays(site: Site, backend: MoodleBackend) -> None:
    site.moodle.add_file("theirs.zip", CONTENT)
    site.store(backend, b"ours.zip", CONTENT)
    backend.erase(Key(b"ours.zip"))
    assert site.moodle.content("theirs.zip") == CONTENT
    assert set(site.moodle.rows()) == {"theirs.zip", ""}


def test_a_row_that_moodle_adds_while_content_is_being_erased_keeps_it(
    site: Site, backend: MoodleBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.store(backend, b"ours.zip", CONTENT)
    set_aside = backend.pool.set_aside

    @contextlib.contextmanager
    def meanwhile(contenthash: str) -> Iterator[Aside | None]:
        with set_aside(contenthash) as aside:
            # Moodle had seen the content before it was set aside, and does not look again.
            site.moodle.insert("/", "theirs.zip", contenthash, len(CONTENT))
            yield aside

    monkeypatch.setattr(backend.pool, "set_aside", meanwhile)
    backend.erase(Key(b"ours.zip"))
    assert site.moodle.content("theirs.zip") == CONTENT
    assert site.moodle.pool_files() == {SHA1}


def test_an_erased_file_leaves_no_bytes_in_pool_or_trash(site: Site, backend: MoodleBackend) -> None:
    site.store(backend, b"exam.zip", CONTENT)
    copy = site.moodle.trashdir / SHA1[:2] / SHA1[2:4] / SHA1
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    backend.erase(Key(b"exam.zip"))
    assert site.moodle.pool_files() == set()
    assert not copy.exists()
    assert site.moodle.execute(f"SELECT * FROM {site.moodle.prefix}files WHERE filename <> '.'") == []


def test_the_content_of_empty_files_stays(site: Site, backend: MoodleBackend) -> None:
    site.store(backend, b"empty", b"")
    backend.erase(Key(b"empty"))
    assert site.moodle.pool_files() == {EMPTY_SHA1}


def test_an_erase_that_was_cut_off_can_be_gone_on_with(
    site: Site, backend: MoodleBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.store(backend, b"exam.zip", CONTENT)

    def cut_off(contenthash: str) -> None:
        raise Unavailable("as if the daemon had died")

    with monkeypatch.context() as patch:
        patch.setattr(backend.content, "erase", cut_off)
        with pytest.raises(Unavailable):
            backend.erase(Key(b"exam.zip"))
    assert backend.stat(Key(b"exam.zip")).kind is Kind.FILE
    with pytest.raises(AlreadyExists):
        backend.begin(Key(b"exam.zip"))
    (finding,) = backend.findings()
    assert (finding.kind, finding.name) == (FindingKind.UNEXPECTED, b"exam.zip")
    # Cut off a little later: the content was set aside already.
    aside = site.moodle.pool_path(SHA1).with_name(f".wormfs-{SHA1}-0123abcd.erasing")
    site.moodle.pool_path(SHA1).rename(aside)
    backend.erase(Key(b"exam.zip"))
    assert site.moodle.pool_files() == set()
    with pytest.raises(NotFound):
        backend.stat(Key(b"exam.zip"))


def test_content_left_aside_is_found_again(site: Site, backend: MoodleBackend) -> None:
    site.store(backend, b"exam.zip", CONTENT)
    site.moodle.pool_path(SHA1).rename(site.moodle.pool_path(SHA1).with_name(f".wormfs-{SHA1}-01.erasing"))
    assert read(backend, b"exam.zip") == CONTENT
    assert site.moodle.pool_files() == {SHA1}


def test_content_of_a_lost_race_goes_to_moodles_trash(site: Site, backend: MoodleBackend) -> None:
    site.store(backend, b"exam.zip", CONTENT)
    with pytest.raises(AlreadyExists):
        site.publish(backend, b"exam.zip", b"late")
    transfer = backend.begin(Key(b"other.zip"))
    transfer.abort()
    assert site.moodle.pool_files() == {SHA1}


# Names


def test_names_that_differ_in_case_or_accents_only_are_different_names(
    site: Site, backend: MoodleBackend
) -> None:
    """MariaDB's collation thinks otherwise."""
    names = ["Exam", "exam", "éxam", "exam ", "e\u0301xam"]
    for name in names:
        site.store(backend, name.encode(), name.encode())
        backend.make_directory(Key(b"d-" + name.encode()), ANY)
    assert listed(backend) == sorted(
        [name.encode() for name in names] + [b"d-" + name.encode() for name in names]
    )
    site.store(backend, b"d-Exam/file", b"x")
    assert listed(backend, b"d-exam") == []
    backend.remove_directory(Key(b"d-exam"))
    with pytest.raises(DirectoryNotEmpty):
        backend.remove_directory(Key(b"d-Exam"))


def test_signs_that_sql_patterns_know_are_plain(site: Site, backend: MoodleBackend) -> None:
    for name in (b"a%", b"a_", b"ab", b"a!", b"a!_"):
        backend.make_directory(Key(name), ANY)
        backend.make_directory(Key(name + b"/x"), ANY)
    for name in (b"a%", b"a_", b"a!", b"a!_"):
        assert listed(backend, name) == [name + b"/x"]
        backend.remove_directory(Key(name + b"/x"))
        backend.remove_directory(Key(name))
    assert listed(backend) == [b"ab"]


def test_characters_that_moodle_would_drop_are_refused(backend: MoodleBackend) -> None:
    for character in "&<>\"`|':\\\n\x7f\x85":
        name = f"a{character}b".encode()
        with pytest.raises(InvalidName):
            backend.validate(name)
        with pytest.raises(InvalidName):
            backend.begin(Key(name))


def test_paths_as_long_as_moodles_columns(site: Site, backend: MoodleBackend) -> None:
    folder = "ü" * 100 + "/" + "ä" * 100 + "/" + "x" * 51
    file = folder + "/" + "ö" * 127
    site.publish(backend, file.encode(), CONTENT)
    assert read(backend, file.encode()) == CONTENT
    assert len(file.encode()) <= backend.traits.max_key_bytes
    with pytest.raises(NameTooLong):
        backend.make_directory(Key(folder.encode() + b"y"), ANY)
    with pytest.raises(NameTooLong):
        backend.resume(Key(folder.encode() + b"y/file"))


def test_a_file_hides_a_directory_of_its_name(site: Site, backend: MoodleBackend) -> None:
    """Moodle lets both be."""
    site.moodle.add_file("name/below.txt", b"below")
    site.moodle.add_file("name", b"file")
    assert [(info.key, info.kind) for info in backend.list(ROOT)] == [(b"name", Kind.FILE)]
    assert backend.stat(Key(b"name")).kind is Kind.FILE
    with pytest.raises(NotADirectory):
        backend.list(Key(b"name"))
    (finding,) = backend.findings()
    assert (finding.kind, finding.name) == (FindingKind.UNEXPECTED, b"name")


# Courses


def test_courses_are_directories_that_only_moodle_makes(site: Site) -> None:
    backend = site.backend(course=None)
    site.moodle.add_course(8, "Law 2")
    assert listed(backend) == []
    assert backend.stat(Key(b"8")).kind is Kind.DIRECTORY
    site.store(backend, b"8/exam.zip", CONTENT)
    assert listed(backend) == [b"8"]
    assert listed(backend, b"8") == [b"8/exam.zip"]
    assert site.moodle.content("exam.zip", 8) == CONTENT
    for unknown in (b"9", b"08", b"+8", "８".encode(), b"Law 2"):
        with pytest.raises(NotFound):
            backend.stat(Key(unknown))
        for call in (lambda key: backend.make_directory(key, ANY), backend.begin):
            with pytest.raises(AccessDenied):
                call(Key(unknown))
    with pytest.raises(AlreadyExists):
        backend.make_directory(Key(b"8"), ANY)
    with pytest.raises(AlreadyExists):
        backend.begin(Key(b"8"))
    with pytest.raises(AccessDenied):
        backend.remove_directory(Key(b"8"))
    with pytest.raises(NotFound):
        backend.begin(Key(b"9/file"))


def test_courses_by_their_short_names(site: Site) -> None:
    for number, name in ((8, "WS24/25"), (9, "Straße"), (10, ".."), (11, "law 1")):
        site.moodle.add_course(number, name)
        site.moodle.add_file("file", b"x", number)
    site.moodle.add_file("file", b"x")
    backend = site.backend(course=None, course_names="shortname")
    assert listed(backend) == sorted([b"Law 1", "Straße".encode(), b"law 1"])
    # MariaDB would find them.
    for unknown in ("STRASSE", "LAW 1", "Law 1 "):
        with pytest.raises(NotFound):
            backend.stat(Key(unknown.encode()))
    site.store(backend, "Straße/exam.zip".encode(), CONTENT)
    assert site.moodle.content("exam.zip", 9) == CONTENT
    assert list(site.backend(course="Straße", course_names="shortname").findings()) == []
    assert listed(site.backend(course="Straße", course_names="shortname")) == [b"exam.zip", b"file"]


def test_many_courses_and_files_are_streamed_in_pages(site: Site) -> None:
    for number in range(100, 350):
        site.moodle.add_course(number, f"C{number}")
        site.moodle.insert("/", ".", EMPTY_SHA1, 0, number)
    for number in range(600):
        site.moodle.insert("/", f"{number}", EMPTY_SHA1, 0, 100)
    backend = site.backend(course=None)
    assert listed(backend) == sorted(b"%d" % number for number in range(100, 350))
    assert listed(backend, b"100") == sorted(b"100/%d" % number for number in range(600))


def test_several_backends_on_one_moodle_keep_apart(site: Site) -> None:
    one, two = site.backend(), site.backend(filearea="other", itemid=3)
    site.store(one, b"exam.zip", CONTENT)
    site.store(two, b"exam.zip", b"other")
    assert read(one, b"exam.zip") == CONTENT
    assert read(two, b"exam.zip") == b"other"
    site.moodle.delete_course()
    for backend in (one, two):
        (finding,) = [f for f in _findings_of(backend) if f is FindingKind.MISSING]
        assert finding is FindingKind.MISSING


def _findings_of(backend: MoodleBackend) -> list[FindingKind]:
    return [finding.kind for finding in backend.findings()]


def test_the_databases_clock(backend: MoodleBackend) -> None:
    before = backend.clock.now_ns()
    found = backend.time_ns()
    assert found is not None
    assert abs(found - before) < 60 * 10**9


def test_the_retention_of_a_file_is_in_its_record(site: Site, backend: MoodleBackend) -> None:
    record = make_record(CONTENT, attributes=dataclasses.replace(ATTRIBUTES, xattrs={b"user.a": b"\0\xff\n"}))
    site.store(backend, b"exam.zip", CONTENT, record)
    assert backend.record(Key(b"exam.zip")) == record


# What is on the disk when a file is told as stored


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of what is synced, in order."""
    paths: list[str] = []

    def noting(sync: Callable[[int], None]) -> Callable[[int], None]:
        def note(fd: int) -> None:
            paths.append(os.readlink(f"/proc/self/fd/{fd}"))
            sync(fd)

        return note

    for name in ("sync_file", "sync_directory"):
        monkeypatch.setattr(durability, name, noting(getattr(durability, name)))
    return paths


def test_folders_that_moodle_made_are_synced_once(
    site: Site, backend: MoodleBackend, synced: list[str]
) -> None:
    """Moodle syncs nothing: a power loss could take the folder away with what is stored in it."""
    leaf = site.moodle.pool_path(site.moodle.add_content(CONTENT)).parent
    site.publish(backend, b"exam.zip", CONTENT)
    assert {str(leaf), str(leaf.parent), str(site.moodle.filedir)} <= set(synced)
    synced.clear()
    site.publish(backend, b"again.zip", CONTENT)
    assert str(leaf) in synced
    assert not {str(leaf.parent), str(site.moodle.filedir)} & set(synced)
    # Put back from a backup while wormfs runs, say: nothing is known of it any more.
    shutil.rmtree(leaf.parent)
    synced.clear()
    site.publish(backend, b"third.zip", CONTENT)
    assert {str(leaf), str(leaf.parent), str(site.moodle.filedir)} <= set(synced)
    assert read(backend, b"exam.zip") == CONTENT


def test_a_prepared_spool_file_is_not_synced_again(
    site: Site, backend: MoodleBackend, synced: list[str]
) -> None:
    site.store(backend, b"exam.zip", CONTENT)
    assert [path for path in synced if os.path.isfile(path) or "deleted" in path] == []
    status = site.moodle.pool_path(SHA1).stat()
    assert (status.st_mode & 0o7777, status.st_uid) == (0o666, site.moodle.filedir.stat().st_uid)
    # What was not prepared, so that it was changed since the spool synced it, is.
    site.publish(backend, b"other.zip", b"other")
    assert any("/spool/" in path for path in synced)


def test_content_that_moodle_trashes_after_our_last_look_is_brought_back_before_the_trash_is_emptied(
    site: Site, backend: MoodleBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moodle looked for rows before ours came, and moves when we have looked."""
    site.store(backend, b"exam.zip", CONTENT)
    site.moodle.trash(SHA1, unused=False)
    backend.space()
    assert site.moodle.pool_files() == set(), "not at once: Moodle may not have moved it yet"
    now = clock.monotonic
    monkeypatch.setattr(clock, "monotonic", lambda: now() + LOOK_AGAIN_S)
    backend.space()
    assert site.moodle.pool_files() == {SHA1}
    site.store(backend, b"other.zip", b"other")
    site.moodle.trash(hashlib.sha1(b"other").hexdigest(), unused=False)
    backend.close()
    shutil.rmtree(site.moodle.trashdir)
    assert site.moodle.content("other.zip") == b"other"


def test_what_a_daemon_stored_that_ended_is_looked_at_by_the_next(site: Site) -> None:
    before = site.backend()
    site.store(before, b"exam.zip", CONTENT)
    site.moodle.add_file("elsewhere.zip", b"of Moodle")
    before.close()
    # Moodle looked for rows before that.
    site.moodle.trash(SHA1, unused=False)
    now = site.backend()
    now.content.look_again(0.0)
    shutil.rmtree(site.moodle.trashdir)
    assert site.moodle.content("exam.zip") == CONTENT


def test_stored_content_that_is_gone_is_an_alert_but_not_what_was_erased(
    site: Site, backend: MoodleBackend, caplog: pytest.LogCaptureFixture
) -> None:
    site.store(backend, b"erased.zip", b"erased")
    backend.erase(Key(b"erased.zip"))
    backend.content.look_again(0.0)
    assert caplog.records == []
    site.store(backend, b"exam.zip", CONTENT)
    site.moodle.pool_path(SHA1).unlink()
    backend.content.look_again(0.0)
    assert [SHA1 in record.getMessage() for record in caplog.records] == [True]


def test_an_erase_takes_what_was_stored_and_what_the_row_names_now(
    site: Site, backend: MoodleBackend
) -> None:
    site.store(backend, b"exam.zip", CONTENT)
    other = site.moodle.add_content(b"exchanged")
    site.moodle.execute(
        f"UPDATE {site.moodle.prefix}files SET contenthash = %s, filesize = 9 WHERE filename = 'exam.zip'",
        other,
    )
    backend.erase(Key(b"exam.zip"))
    assert site.moodle.pool_files() == set()


def test_a_name_just_looked_up_is_begun_without_the_database(
    site: Site, backend: MoodleBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel looks a name up and creates it in the same moment; later, or twice, it is asked again."""
    now = clock.monotonic()
    monkeypatch.setattr(backend._free_names, "_monotonic", lambda: now)
    asked: list[object] = []
    ask = backend.database.ask
    monkeypatch.setattr(backend.database, "ask", lambda *a, **n: asked.append(a) or ask(*a, **n))
    key = Key(b"exam.zip")

    def look_up(one: Key) -> None:
        with pytest.raises(NotFound):
            backend.stat(one)
        asked.clear()

    assert backend.begin_ready(key) is None, "nobody has looked"
    look_up(key)
    assert backend.begin_ready(key) is not None
    assert asked == []
    assert backend.begin_ready(key) is None, "once"
    look_up(key)
    now += 0.3
    assert backend.begin_ready(key) is None, "that was a while ago"
    look_up(Key(b"missing/exam.zip"))
    assert backend.begin_ready(Key(b"missing/exam.zip")) is None, "its directory is not there"
    look_up(key)
    site.store(backend, key, CONTENT)
    backend.stat(key)
    assert backend.begin_ready(key) is None, "it is there"
    look_up(Key(b"a:b"))
    with pytest.raises(InvalidName):
        backend.begin_ready(Key(b"a:b"))
    # Whoever is told "free" and was overtaken learns it from the unique index.
    look_up(Key(b"raced"))
    transfer = backend.begin_ready(Key(b"raced"))
    assert transfer is not None
    site.moodle.add_file("raced", b"Moodle's")
    with spooled(site.storage, CONTENT) as file, pytest.raises(AlreadyExists):
        transfer.publish(file, make_record(CONTENT))
    assert site.moodle.content("raced") == b"Moodle's"


def test_a_transaction_that_comes_to_nothing_leaves_no_lock(site: Site, backend: MoodleBackend) -> None:
    """It would hold up Moodle; the same connection goes on with the next file."""
    site.store(backend, b"exam.zip", CONTENT)

    def refused(cursor: Cursor) -> None:
        cursor.execute(f"UPDATE {site.moodle.prefix}files SET sortorder = 7 WHERE filename = '.'")
        raise Taken

    with pytest.raises(Taken):
        backend.database.write(refused)
    # Fails at once if anybody has a lock on the directory's row, as each store takes one.
    root = (
        f"SELECT id FROM {site.moodle.prefix}files WHERE filename = '.' AND contextid = %s FOR UPDATE NOWAIT"
    )
    assert len(site.moodle.execute(root, context_of(COURSE))) == 1
    site.store(backend, b"next.zip", CONTENT)


def test_a_deadlock_is_run_again(site: Site, backend: MoodleBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: two transactions that lock two rows in the opposite order; the database ends one."""
    site.store(backend, b"one", b"1")
    site.store(backend, b"two", b"2")
    files = f"{site.moodle.prefix}files"
    other = dataclasses.replace(site.moodle)
    lock = f"UPDATE {files} SET sortorder = sortorder + 1 WHERE filename = %s"
    runs: list[int] = []
    both_have_one = threading.Barrier(2)

    def ours(cursor: Cursor) -> None:
        runs.append(len(runs))
        cursor.execute(lock, ("one",))
        if len(runs) == 1:
            both_have_one.wait(20)
        cursor.execute(lock, ("two",))

    def theirs() -> None:
        with other.connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(lock, ("two",))
            both_have_one.wait(20)
            try:
                cursor.execute(lock, ("one",))
                cursor.execute("COMMIT")
            except Exception:  # noqa: BLE001 (the database has chosen this one)
                cursor.execute("ROLLBACK")

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        second = pool.submit(theirs)
        backend.database.write(ours)
        second.result(30)
    other.connection.close()
    changed = site.moodle.execute(f"SELECT filename, sortorder FROM {files} WHERE filename IN ('one', 'two')")
    # Each transaction that came to its end counts in both rows, and ours did once, however often it was run.
    assert {row[1] for row in changed} <= {1, 2}
    assert len({row[1] for row in changed}) == 1
