"""The kernel keeps what cannot change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.tools import Place, bytes_read, drop_cached, eventually, sha256, works

SIZE = 16 << 20


@pytest.fixture
def record(place: Place) -> Path:
    path = place / "f"
    path.write_bytes(os.urandom(SIZE))
    drop_cached(path)
    return path


@pytest.mark.row("open-read-committed")
def test_a_second_read_never_reaches_the_worker(place: Place, record: Path) -> None:
    worker = place.daemon.worker_pid("exams")
    read = []
    for _ in range(3):
        before = bytes_read(worker)
        works("sha256sum", record)
        read.append(bytes_read(worker) - before)
    assert read[0] >= SIZE
    assert max(read[1:]) < SIZE // 64, "only questions, no content"


@pytest.mark.row("cache")
def test_a_file_erased_and_made_again_elsewhere_is_read_anew(place: Place, record: Path) -> None:
    old = sha256(record)
    stored = place.stored(record)
    stored.unlink()
    stored.write_bytes(os.urandom(SIZE))
    new = sha256(stored)
    assert old != new
    eventually(lambda: sha256(record) == new, "the new bytes are read", timeout_s=5)
    assert works("sha256sum", record).split()[0] == new


@pytest.mark.row("cache")
def test_the_same_with_another_length(place: Place, record: Path) -> None:
    record.stat()
    stored = place.stored(record)
    stored.unlink()
    stored.write_bytes(b"short")
    eventually(lambda: record.stat().st_size == 5, "the new length is shown", timeout_s=5)
    assert record.read_bytes() == b"short"


@pytest.mark.row("cache")
def test_who_has_the_old_one_open_reads_the_old_one(place: Place, record: Path) -> None:
    expected = sha256(record)
    with record.open("rb") as file:
        place.stored(record).unlink()
        place.stored(record).write_bytes(b"new")
        drop_cached(place.stored(record))
        content = file.read()
    assert len(content) == SIZE
    record.with_name("copy").write_bytes(content)
    assert sha256(record.with_name("copy")) == expected
