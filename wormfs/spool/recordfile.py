"""One record file: two halves, written in turn, so that one whole record is always there.

::

    half A                          half B
    header 64 bytes | payload …     header 64 bytes | payload …

The file is written full of zeros and synced before its first use. Writing a half afterwards takes no
space, so it cannot fail for lack of it, and needs no more than fdatasync. docs/spool-format.md gives
the header byte by byte.

The rule that makes it safe: **the half with the newest durable record is never written to.** Records
that need not be durable may replace each other in the other half as often as they like.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from wormfs import durability
from wormfs.errors import JournalError
from wormfs.spool.journal import EntryRecord, decode

MAGIC: Final = b"WORMFSJ\n"
FORMAT_VERSION: Final = 1
HALF_BYTES: Final = 8192
"""One half of a new record file; keys and attributes that need more get a file of their own size."""

_PREFIX: Final = struct.Struct(">8sHHI")
_PREFIX_BODY: Final = struct.Struct(">8sHH")
_REST: Final = struct.Struct(">QII")
_DIGEST_BYTES: Final = 32
HEADER_BYTES: Final = _PREFIX.size + _REST.size + _DIGEST_BYTES
_PREFIX_NOW: Final = _PREFIX.pack(
    MAGIC,
    FORMAT_VERSION,
    HEADER_BYTES,
    zlib.crc32(_PREFIX_BODY.pack(MAGIC, FORMAT_VERSION, HEADER_BYTES)),
)
_OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as it was found: its place in time, its half (0 or 1), and what it says."""

    sequence: int
    half: int
    entry: EntryRecord


@dataclass(frozen=True, slots=True)
class Image:
    """What a record file holds: the newest whole record, or none."""

    half_bytes: int
    stored: Stored | None
    torn: int
    """Halves with bytes in them that are not a whole record."""


def record_name(number: int) -> str:
    """The file name of record ``number``."""
    return f"{number:06d}.record"


def half_for(payload_bytes: int) -> int:
    """The size of a half that holds ``payload_bytes``: a power of two, at least ``HALF_BYTES``."""
    half = HALF_BYTES
    while half - HEADER_BYTES < payload_bytes:
        half *= 2
    return half


def pack(number: int, sequence: int, payload: bytes) -> bytes:
    """Header and payload as they stand in a half of record file ``number``."""
    head = _PREFIX_NOW + _REST.pack(sequence, len(payload), number)
    digest = hashlib.sha256(head)
    digest.update(payload)
    return head + digest.digest() + payload


def unpack(number: int, half: bytes) -> tuple[int, bytes] | None:
    """Sequence and payload of a half; ``None`` when it does not hold a whole record of this file.

    Raises JournalError when the half was written in a format that this program does not know.
    """
    if len(half) < HEADER_BYTES or half[: len(MAGIC)] != MAGIC:
        return None
    _, version, header_bytes, checksum = _PREFIX.unpack_from(half)
    # The prefix has its own checksum, the same in every version to come: a flipped bit in the
    # version is damage, not a newer format.
    if zlib.crc32(half[: _PREFIX_BODY.size]) != checksum:
        return None
    if (version, header_bytes) != (FORMAT_VERSION, HEADER_BYTES):
        raise JournalError(
            f"a journal record has format version {version}; this wormfs knows {FORMAT_VERSION}"
        )
    sequence, payload_bytes, owner = _REST.unpack_from(half, _PREFIX.size)
    body = half[HEADER_BYTES : HEADER_BYTES + payload_bytes]
    if owner != number or len(body) != payload_bytes:
        return None
    signed = HEADER_BYTES - _DIGEST_BYTES
    digest = hashlib.sha256(half[:signed])
    digest.update(body)
    if digest.digest() != half[signed:HEADER_BYTES]:
        return None
    return sequence, body


def parse(number: int, image: bytes) -> Image:
    """What the bytes of record file ``number`` say.

    A half that is torn or foreign is passed over when the other is whole. Raises JournalError for an
    unknown version, for a record that is whole but makes no sense, and for a file whose length cannot be.
    """
    half_bytes = len(image) // 2
    if len(image) < 2 * HALF_BYTES or half_bytes & (half_bytes - 1):
        if image.strip(b"\0"):
            raise JournalError(
                f"{record_name(number)} is {len(image)} bytes long, which no record file can be"
            )
        # Made, but not written full before the machine stopped: never used.
        return Image(0, None, 0)
    best: tuple[int, int, bytes] | None = None
    torn = 0
    for half in (0, 1):
        content = image[half * half_bytes : (half + 1) * half_bytes]
        found = unpack(number, content)
        if found is None:
            torn += bool(content.strip(b"\0"))
        elif best is None or found[0] > best[0]:
            best = (found[0], half, found[1])
    if best is None:
        return Image(half_bytes, None, torn)
    try:
        entry = decode(best[2])
    except JournalError as error:
        raise JournalError(f"{record_name(number)}: {error}") from error
    return Image(half_bytes, Stored(best[0], best[1], entry), torn)


def read_image(directory_fd: int, number: int) -> bytes:
    """All bytes of a record file. Raises OSError."""
    fd = os.open(record_name(number), os.O_RDONLY | _OPEN_FLAGS, dir_fd=directory_fd)
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def create(directory_fd: int, number: int) -> None:
    """Make an empty record file whose blocks are on stable storage. Its name is not: the caller syncs
    the directory. Blocks; raises OSError."""
    name = record_name(number)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN_FLAGS, 0o600, dir_fd=directory_fd)
    try:
        durability.write_fully(fd, bytes(2 * HALF_BYTES))
        durability.sync_file(fd)
    except BaseException:
        durability.unlink(name, directory_fd)
        raise
    finally:
        os.close(fd)


class RecordFile:
    """Writes one record file. One thread at a time. Keeps no descriptor: opening costs 3 µs."""

    __slots__ = ("_directory_fd", "_durable_half", "_half_bytes", "_latest_half", "number")

    def __init__(
        self, directory_fd: int, number: int, half_bytes: int = HALF_BYTES, durable_half: int | None = None
    ):
        """``durable_half``: the half whose record is known to be on stable storage."""
        self._directory_fd = directory_fd
        self.number = number
        self._half_bytes = half_bytes
        self._durable_half = durable_half
        self._latest_half = durable_half

    @property
    def capacity_bytes(self) -> int:
        """The longest payload that fits."""
        return self._half_bytes - HEADER_BYTES

    @property
    def oversize(self) -> bool:
        """Bigger than usual; not worth keeping when its entry has ended."""
        return self._half_bytes > HALF_BYTES

    @property
    def durable_half(self) -> int | None:
        """Which half holds the newest durable record."""
        return self._durable_half

    def write(self, sequence: int, payload: bytes) -> None:
        """Safe against the death of this process, not against power loss. Raises OSError."""
        fd = self._open()
        try:
            self._put(fd, sequence, payload)
        finally:
            os.close(fd)

    def write_durably(self, sequence: int, payload: bytes, written_step: str | None = None) -> None:
        """On stable storage when it returns. ``written_step`` is announced before the sync. Blocks."""
        fd = self._open()
        try:
            half = self._put(fd, sequence, payload)
            if written_step is not None:
                durability.step(written_step)
            durability.sync_data(fd)
        finally:
            os.close(fd)
        self._durable_half = half

    def grow(self, room_bytes: int, sequence: int, payload: bytes | None) -> None:
        """Replace the file by one with room for payloads of ``room_bytes``; durable. Raises OSError.

        The old file stays as it is until the new one is complete, with ``payload`` as its record
        (``None``: none yet).
        """
        half_bytes = half_for(room_bytes)
        content = b"" if payload is None else pack(self.number, sequence, payload)
        image = content.ljust(2 * half_bytes, b"\0")
        durability.write_file_durably(record_name(self.number), image, directory_fd=self._directory_fd)
        self._half_bytes = half_bytes
        self._durable_half = self._latest_half = None if payload is None else 0

    def _open(self) -> int:
        return os.open(record_name(self.number), os.O_WRONLY | _OPEN_FLAGS, dir_fd=self._directory_fd)

    def _put(self, fd: int, sequence: int, payload: bytes) -> int:
        assert len(payload) <= self.capacity_bytes, "the caller grows the file first"
        half = self._next_half()
        content = pack(self.number, sequence, payload)
        # A short write leaves this half torn and the durable one whole.
        if os.pwrite(fd, content, half * self._half_bytes) != len(content):
            raise OSError(5, "a journal record was written only in part")
        self._latest_half = half
        return half

    def _next_half(self) -> int:
        if self._durable_half is not None:
            return 1 - self._durable_half
        return 0 if self._latest_half is None else 1 - self._latest_half
