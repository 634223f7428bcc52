"""What the spool's tests share: a clock that stands still, entries, stores, and small disks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from wormfs.model import FileAttributes, Key, Record
from wormfs.spool.journal import EntryRecord
from wormfs.spool.store import Slot, SpoolStore
from wormfs.worm.lifecycle import EntryState

ENTRY_ID = "17f0c0ffee000000-00000000deadbeef"


@dataclass
class HandClock:
    """A clock that tests move."""

    wall_ns: int = 1_700_000_000_000_000_000
    seconds: float = 1000.0

    def now_ns(self) -> int:
        self.wall_ns += 1
        return self.wall_ns

    def monotonic(self) -> float:
        return self.seconds

    def boot_s(self) -> float:
        return self.seconds


class Spooler:
    """Does what the layer above does with a slot, in the shortest way."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self._slots: list[Slot] = []

    def close(self) -> None:
        """Give back descriptors that tests have left open, or a small disk cannot be unmounted."""
        for slot in self._slots:
            slot.close_data()

    def attributes(self, **xattrs: bytes) -> FileAttributes:
        return FileAttributes(0o644, 33, 33, 1, 2, {f"user.{n}".encode(): v for n, v in xattrs.items()})

    def writing(self, store: SpoolStore, key: bytes = b"job-1/a.tgz", data: bytes = b"content") -> Slot:
        slot = store.allocate()
        self._slots.append(slot)
        slot.write(
            EntryRecord(
                entry_id=store.new_id(),
                state=EntryState.WRITING,
                key=Key(key),
                size_bytes=0,
                sha256=None,
                attributes=self.attributes(),
                writer_uid=33,
                writer_pid=4711,
                created_at_ns=self.clock.now_ns(),
                settle_until_ns=None,
                record=None,
                history=((EntryState.WRITING, self.clock.now_ns(), ""),),
                last_error=None,
                data_name=slot.data_name,
            )
        )
        os.pwrite(slot.data_fd, data, 0)
        return slot

    def as_sealed(self, record: EntryRecord, size_bytes: int, sha256: str = "ab" * 32) -> EntryRecord:
        promise = Record(record.entry_id, sha256, size_bytes, record.attributes, 5, 33, "1.0")
        ready = replace(record, size_bytes=size_bytes, sha256=sha256, record=promise)
        return ready.moved(EntryState.SEALED, self.clock.now_ns(), "closed")

    def sealed(self, store: SpoolStore, key: bytes = b"job-1/a.tgz", data: bytes = b"content") -> Slot:
        slot = self.writing(store, key, data)
        assert slot.record is not None
        slot.write_durably(self.as_sealed(slot.record, len(data)))
        return slot

    def quarantined(self, store: SpoolStore, key: bytes = b"job-1/a.tgz", data: bytes = b"content") -> str:
        slot = self.writing(store, key, data)
        assert slot.record is not None
        record = replace(slot.record, size_bytes=len(data))
        store.quarantine(slot, record.moved(EntryState.QUARANTINED, self.clock.now_ns(), "writer killed"))
        return record.entry_id


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def spooler(clock: HandClock) -> Iterator[Spooler]:
    spooler = Spooler(clock)
    yield spooler
    spooler.close()


@pytest.fixture
def open_store(tmp_path: Path, clock: HandClock) -> Iterator[Callable[..., SpoolStore]]:
    """Opens stores, by default all on one directory; what is open at the end is closed."""
    opened: list[SpoolStore] = []

    def open_one(directory: Path = tmp_path / "spool", backend: str = "exams") -> SpoolStore:
        store = SpoolStore(str(directory), clock, backend)
        store.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., SpoolStore]) -> SpoolStore:
    """A store that has come through its start."""
    store = open_store()
    store.sweep(store.recover())
    return store


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB of its own."""
    mountpoint = tmp_path / "disk"
    mountpoint.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "wormfs-test", str(mountpoint)]
    else:
        image = tmp_path / "disk.img"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(mountpoint)]
    subprocess.run(command, check=True)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


def fill(directory: Path) -> Path:
    """Use up every block that is left."""
    path = directory / "ballast"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (1 << 20, 4096, 1):
            while True:
                try:
                    os.write(fd, bytes(size))
                except OSError:
                    break
        os.fsync(fd)
    finally:
        os.close(fd)
    return path


@pytest.fixture
def fill_disk() -> Callable[[Path], Path]:
    return fill
