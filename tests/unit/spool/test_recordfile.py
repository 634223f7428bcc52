"""Record files: a torn or damaged half never hides the whole one, and never passes for one."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wormfs.errors import JournalError
from wormfs.model import FileAttributes, Key
from wormfs.spool import journal, recordfile
from wormfs.spool.journal import EntryRecord, encode
from wormfs.spool.recordfile import HALF_BYTES, HEADER_BYTES, RecordFile, pack, parse, unpack
from wormfs.worm.lifecycle import EntryState

NUMBER = 7


def entry(size_bytes: int = 0, key: bytes = b"a") -> EntryRecord:
    entry_id = "17f0c0ffee000000-00000000deadbeef"
    return EntryRecord(
        entry_id=entry_id,
        state=EntryState.WRITING,
        key=Key(key),
        size_bytes=size_bytes,
        sha256=None,
        attributes=FileAttributes(0o644, 0, 0, 0, 0),
        writer_uid=0,
        writer_pid=0,
        created_at_ns=0,
        settle_until_ns=None,
        record=None,
        history=(),
        last_error=None,
        data_name=journal.data_name(entry_id),
    )


@pytest.fixture
def directory_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def image(*halves: bytes) -> bytes:
    return b"".join(half.ljust(HALF_BYTES, b"\0") for half in halves)


def seen_size(content: bytes) -> int | None:
    stored = parse(NUMBER, content).stored
    return None if stored is None else stored.entry.size_bytes


def test_the_newest_whole_half_counts() -> None:
    old, new = pack(NUMBER, 5, encode(entry(1))), pack(NUMBER, 6, encode(entry(2)))
    assert seen_size(image(old, new)) == seen_size(image(new, old)) == 2
    assert seen_size(image(old, b"")) == seen_size(image(b"", old)) == 1
    assert seen_size(image(b"", b"")) is None


def test_a_write_torn_at_any_byte_leaves_the_other_half() -> None:
    durable = pack(NUMBER, 9, encode(entry(1)))
    before = pack(NUMBER, 8, encode(entry(3, b"older-and-longer"))).ljust(HALF_BYTES, b"\0")
    after = pack(NUMBER, 10, encode(entry(2)))
    for cut in range(len(after)):
        torn = after[:cut] + before[cut:]
        assert seen_size(image(durable, torn)) == 1
        assert seen_size(image(torn, durable)) == 1
        # The end may reach the disk before the beginning.
        torn = before[:cut] + after[cut:] + before[len(after) :]
        # Headers begin alike: a few bytes may be missing without any being different.
        assert seen_size(image(durable, torn)) == (2 if torn.startswith(after) else 1)
    assert seen_size(image(durable, after)) == 2


def test_a_torn_first_write_is_no_record() -> None:
    first = pack(NUMBER, 1, encode(entry()))
    for cut in range(len(first)):
        found = parse(NUMBER, image(first[:cut], b""))
        assert found.stored is None
        assert found.torn == (1 if first[:cut].strip(b"\0") else 0)


def test_every_flipped_bit_is_noticed() -> None:
    whole = pack(NUMBER, 3, encode(entry()))
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        assert unpack(NUMBER, bytes(damaged)) is None, f"bit {bit}"


@given(st.binary(max_size=3 * HALF_BYTES))
@settings(max_examples=200, deadline=None)
def test_bytes_of_chance_are_never_a_record(content: bytes) -> None:
    try:
        assert parse(NUMBER, content).stored is None
    except JournalError:
        assert len(content) != 2 * HALF_BYTES


def test_a_half_of_another_file_is_passed_over() -> None:
    foreign = pack(NUMBER + 1, 99, encode(entry(9)))
    assert seen_size(image(foreign, pack(NUMBER, 1, encode(entry(1))))) == 1
    assert parse(NUMBER, image(foreign, b"")).torn == 1


@pytest.mark.parametrize("half", [0, 1])
def test_an_unknown_version_is_refused_even_beside_a_known_one(half: int) -> None:
    body = struct.pack(">8sHH", recordfile.MAGIC, 2, HEADER_BYTES)
    newer = body + struct.pack(">I", zlib.crc32(body)) + b"who knows"
    known = pack(NUMBER, 1, encode(entry(1)))
    with pytest.raises(JournalError, match="version 2"):
        parse(NUMBER, image(newer, known) if half == 0 else image(known, newer))


def test_a_whole_record_without_sense_is_refused() -> None:
    with pytest.raises(JournalError, match=r"000007\.record"):
        parse(NUMBER, image(pack(NUMBER, 1, b'{"state":"writing"}'), b""))


@pytest.mark.parametrize("length", [0, 1, 4096, HALF_BYTES, 2 * HALF_BYTES - 1, 3 * HALF_BYTES])
def test_a_file_that_was_never_finished_is_empty_and_one_with_bytes_is_refused(length: int) -> None:
    assert parse(NUMBER, bytes(length)) == recordfile.Image(0, None, 0)
    if length:
        with pytest.raises(JournalError):
            parse(NUMBER, bytes(length - 1) + b"x")


def test_the_durable_half_is_never_written_to(directory_fd: int) -> None:
    recordfile.create(directory_fd, NUMBER)
    file = RecordFile(directory_fd, NUMBER)
    sequence = iter(range(1, 1000))

    def durable_now() -> bytes:
        half = file.durable_half
        assert half is not None
        content = recordfile.read_image(directory_fd, NUMBER)
        return content[half * HALF_BYTES : (half + 1) * HALF_BYTES]

    file.write(next(sequence), encode(entry(0)))
    for round_ in range(4):
        file.write_durably(next(sequence), encode(entry(round_)))
        kept = durable_now()
        for size in range(3):
            file.write(next(sequence), encode(entry(100 + size)))
            assert durable_now() == kept
            assert seen_size(recordfile.read_image(directory_fd, NUMBER)) == 100 + size


def test_writing_takes_no_space(directory_fd: int) -> None:
    recordfile.create(directory_fd, NUMBER)
    name = recordfile.record_name(NUMBER)
    before = os.stat(name, dir_fd=directory_fd)
    file = RecordFile(directory_fd, NUMBER)
    longest = b"x" * file.capacity_bytes
    for sequence in range(1, 5):
        file.write_durably(sequence, longest)
    after = os.stat(name, dir_fd=directory_fd)
    assert (before.st_size, before.st_blocks) == (after.st_size, after.st_blocks)


def test_a_longer_record_gets_a_longer_file_that_keeps_what_was_said(directory_fd: int) -> None:
    recordfile.create(directory_fd, NUMBER)
    file = RecordFile(directory_fd, NUMBER)
    file.write(1, encode(entry(1)))
    file.grow(100_000, 2, encode(entry(1)))
    assert file.capacity_bytes >= 100_000
    assert file.oversize
    assert seen_size(recordfile.read_image(directory_fd, NUMBER)) == 1
    big = replace(entry(2), attributes=replace(entry().attributes, xattrs={b"user.x": b"\x00" * 64_000}))
    file.write_durably(3, encode(big))
    stored = parse(NUMBER, recordfile.read_image(directory_fd, NUMBER)).stored
    assert stored is not None
    assert stored.entry == big
