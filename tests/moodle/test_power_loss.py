"""The power fails at every durable call: of whatever has a row, the content is on the disk.

The database makes its rows durable by itself; the disk under pool and spool here is one that forgets what was
not synced. The proof that this proves something: with one sync taken out, it fails.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.drivers import make_record
from tests.moodle.conftest import Site
from tests.support.powerloss import Moment, PowerLoss
from wormfs import durability
from wormfs.backends.moodle.backend import MoodleBackend
from wormfs.backends.moodle.database import Cursor
from wormfs.model import Key

CONTENTS = [b"one" * 3000, b"two" * 40_000, b"one" * 3000, b"", bytes(range(256)) * 20_000]
"""The third is the first again; the last is large enough to be written back early."""
NEEDED = [
    "backends.moodle.folders.sync:sync_directory",
    "backends.moodle.folders.sync:sync_directory#2",
    "backends.moodle.pool.place:sync_file",
]


class Run:
    """What was stored, with the moment from which on the database may tell of it."""

    def __init__(self, site: Site, forget: str | None = None) -> None:
        self.site = site
        self.disk = PowerLoss(site.top, forget)
        self.committed: list[tuple[int, bytes]] = []
        self.erased: list[tuple[int, bytes]] = []

    def store(self, backend: MoodleBackend, number: int, content: bytes) -> None:
        """As the spool does it: the bytes early, the record, a sync, the name."""
        record = make_record(content)
        with (self.site.storage.spool() / f"{number}.data").open("w+b") as file:
            file.write(content)
            file.flush()
            transfer = backend.begin(Key(b"exam-%d" % number))
            transfer.advance(file, len(content))
            transfer.prepare(file, record)
            durability.sync_file(file.fileno())
            transfer.publish(file, record)

    def record(self, monkeypatch: pytest.MonkeyPatch, *, copied: bool) -> None:
        backend = self.site.backend()
        backend.pool.can_link = not copied
        inside = backend.rows().add_file
        content = b""

        def add_file(cursor: Cursor, new: Any) -> bool:
            added = inside(cursor, new)
            if added:
                # Before the COMMIT: when its reply comes, the database has had the row for some time.
                self.committed.append((self.disk.now, content))
            return added

        monkeypatch.setattr(backend.rows(), "add_file", add_file)
        with self.disk.recording():
            for number, one in enumerate(CONTENTS):
                content = one
                self.store(backend, number, one)
            backend.erase(Key(b"exam-1"))
            self.erased.append((self.disk.now, CONTENTS[1]))
        backend.close()

    def examine(self, moment: Moment, target: Path, chance: random.Random | None) -> None:
        """A pool file is whole or not there; what has a row is there; what was erased is not."""
        self.disk.rebuild(moment, target, chance)
        pool = {path.name: path for path in (target / "moodledata" / "filedir").rglob("*") if path.is_file()}
        held = {name: path.read_bytes() for name, path in pool.items() if not name.startswith(".")}
        for name, content in held.items():
            assert hashlib.sha1(content).hexdigest() == name, "a pool file that is not what its name says"
        gone = {content for since, content in self.erased if since <= moment.number}
        for since, content in self.committed:
            if since <= moment.number and content not in {one for _, one in self.erased}:
                assert content in held.values(), "a row without its content"
        assert not gone & set(held.values()), "erased content came back"


def survive(run: Run, target: Path, seeds: Sequence[int]) -> None:
    for moment in run.disk.moments:
        for seed in (None, *seeds):
            chance = None if seed is None else random.Random(f"{seed} {moment.number}")
            place = target / f"{moment.number}-{seed}"
            try:
                run.examine(moment, place, chance)
            except BaseException as error:
                error.add_note(f"power lost at moment {moment.number}, {moment.after}; seed {seed}")
                raise


@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
@pytest.mark.parametrize("copied", [False, True], ids=["linked", "copied"])
def test_what_has_a_row_has_its_content(
    copied: bool, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = Run(site)
    run.record(monkeypatch, copied=copied)
    assert len(run.committed) == len(CONTENTS)
    assert len(run.disk.moments) > 30
    survive(run, tmp_path_factory.mktemp("after"), seeds=[1])


@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
@pytest.mark.parametrize("forget", NEEDED)
def test_each_sync_taken_out_is_noticed(
    forget: str,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run = Run(site, forget)
    run.record(monkeypatch, copied=True)
    assert forget in run.disk.sites
    with pytest.raises(AssertionError):
        survive(run, tmp_path_factory.mktemp("after"), seeds=[1, 2])
