"""What ``wormfs verify`` reports of what Moodle does behind wormfs's back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.moodle.conftest import Site
from tests.support.moodle import COURSE
from tests.support.verifying import Verifier
from wormfs.backends.moodle.backend import MoodleBackend
from wormfs.errors import BackendFault, NotFound
from wormfs.model import ROOT, DirectoryAttributes, FindingKind, Key

ANY = DirectoryAttributes()
KEY = Key(b"job-1/exam.zip")
CONTENT = b"an archive\n" * 1000


def verifier_of(backend: MoodleBackend, tmp_path: Path) -> Verifier:
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    return Verifier(state, backend)


@pytest.mark.parametrize("known", [True, False], ids=["verified before", "never verified"])
def test_a_deleted_course_is_missed_file_by_file(site: Site, tmp_path: Path, known: bool) -> None:
    backend = site.backend()
    site.publish(backend, KEY, CONTENT)
    site.publish(backend, b"other.zip", b"other")
    if known:
        assert verifier_of(backend, tmp_path).verify() == {}
    site.moodle.delete_course()
    # Another process, as the command is, which knows nothing of the course.
    late = site.backend()
    verifier = verifier_of(late, tmp_path)
    for _ in range(2):
        assert verifier.verify() == dict.fromkeys((KEY, b"other.zip"), FindingKind.MISSING)
        assert f"course {COURSE} (Law 1)" in verifier.details[KEY]
    assert list(late.list(ROOT)) == []
    with pytest.raises(BackendFault, match="Moodle has removed"):
        late.open(late.stat(KEY))
    with pytest.raises(BackendFault, match="deleted the course"):
        late.begin(Key(b"new.zip"))
    failed = [result for result in late.check() if not result.passed]
    assert ["deleted the course" in result.detail for result in failed] == [True]
    # What is over its retention can still be erased, and then nobody misses it.
    for key in (KEY, Key(b"other.zip")):
        late.erase(key)
        verifier.say("erased", key)
    assert verifier.verify() == {}


@pytest.mark.parametrize("names", ["id", "shortname"])
def test_a_deleted_course_among_others_is_missed(site: Site, tmp_path: Path, names: str) -> None:
    site.moodle.add_course(8, "50% Law_2")
    site.moodle.add_course(88, "50% Law-2")
    course = {"id": b"8", "shortname": b"50% Law_2"}[names]
    backend = site.backend(course=None, course_names=names)
    site.publish(backend, course + b"/job/exam.zip", CONTENT)
    site.publish(backend, {"id": b"88", "shortname": b"50% Law-2"}[names] + b"/exam.zip", CONTENT)
    verifier = verifier_of(backend, tmp_path)
    assert verifier.verify() == {}
    site.moodle.delete_course(8)
    verifier = verifier_of(site.backend(course=None, course_names=names), tmp_path)
    key = Key(course + b"/job/exam.zip")
    for _ in range(2):
        assert verifier.verify() == {key: FindingKind.MISSING}
        assert "course 8 (50% Law_2)" in verifier.details[key]
    verifier.backend.erase(key)
    verifier.say("erased", key)
    assert verifier.verify() == {}
    late = site.backend(course=None, course_names=names)
    with pytest.raises(NotFound, match="no course"):
        late.stat(key)


def test_a_row_that_moodle_removed_is_missed(site: Site, tmp_path: Path) -> None:
    backend = site.backend()
    site.publish(backend, KEY, CONTENT)
    verifier = verifier_of(backend, tmp_path)
    assert verifier.verify() == {}
    contenthash, _ = site.moodle.rows()["job-1/exam.zip"]
    site.moodle.execute(f"DELETE FROM {site.moodle.prefix}files WHERE filename = 'exam.zip'")
    site.moodle.trash(contenthash)
    for _ in range(2):
        assert verifier.verify() == {KEY: FindingKind.MISSING}
        assert f"course {COURSE} (Law 1)" in verifier.details[KEY]
        assert contenthash in verifier.details[KEY]


def test_trashed_content_is_brought_back_and_gone_content_missed(site: Site, tmp_path: Path) -> None:
    backend = site.backend()
    site.publish(backend, KEY, CONTENT)
    contenthash, _ = site.moodle.rows()["job-1/exam.zip"]
    verifier = verifier_of(backend, tmp_path)
    assert verifier.verify() == {}
    site.moodle.trash(contenthash, unused=False)
    assert verifier.verify() == {}
    assert site.moodle.content("job-1/exam.zip") == CONTENT
    # What was brought back is in the trash, too, until Moodle empties it.
    shutil.rmtree(site.moodle.trashdir)
    assert verifier.verify() == {}
    site.moodle.pool_path(contenthash).unlink()
    assert set(verifier.verify()) == {KEY}
    assert FindingKind.MISSING in {kind for kind, _, _ in verifier.seen.found_now}
