"""What an error says to people."""

from __future__ import annotations

from wormfs.errors import NotFound


def test_it_names_backend_and_file_and_what_happened() -> None:
    error = NotFound("no such name", backend="exams", key=b"job-1/Pr\xc3\xbcfung.zip")
    assert str(error) == "exams/job-1/Prüfung.zip: no such name"
    assert str(NotFound(backend="exams")) == "exams: NotFound"


def test_names_cannot_write_to_a_terminal() -> None:
    error = NotFound("no such name", backend="exams", key=b"a\r\x1b[2Jb\xff")
    assert str(error) == "exams/a\\r\\x1b[2Jb\\xff: no such name"
