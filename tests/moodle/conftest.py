"""A Moodle per test, on PostgreSQL and on MariaDB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conformance.drivers import make_record, spooled, store
from tests.conformance.storages_moodle import MoodleStorage
from tests.support.daemon import daemons
from tests.support.databases import KINDS
from tests.support.moodle import Moodle, make_moodle, secret
from wormfs.backends.moodle.backend import MoodleBackend, create
from wormfs.config.secret import parse_secret
from wormfs.model import Key, ObjectInfo, Record

__all__ = ["daemons"]


@dataclass
class Site:
    """A Moodle, and backends on it."""

    moodle: Moodle
    top: Path
    made: list[MoodleBackend] = field(default_factory=list)

    def backend(self, *, started: bool = True, **settings: object) -> MoodleBackend:
        """A backend of course 7 unless ``course`` says otherwise."""
        options = {"course": 7, "database_password": parse_secret(secret()), **settings}
        given = {name: value for name, value in options.items() if value is not None}
        backend = create("archive", self.moodle.options(**given))
        self.made.append(backend)
        if started:
            backend.start()
        return backend

    @property
    def storage(self) -> MoodleStorage:
        return MoodleStorage(self.top, self.moodle)

    def store(
        self, backend: MoodleBackend, key: bytes, content: bytes, record: Record | None = None
    ) -> ObjectInfo:
        return store(self.storage, backend, Key(key), content, record)

    def publish(self, backend: MoodleBackend, key: bytes, content: bytes) -> ObjectInfo:
        """As an entry that was taken up again."""
        record = make_record(content)
        with spooled(self.storage, content) as file:
            return backend.resume(Key(key)).publish(file, record)


@pytest.fixture(params=sorted(KINDS))
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = Site(make_moodle(request.param, tmp_path), tmp_path)
    yield site
    for backend in site.made:
        backend.close()
    site.moodle.remove()


@pytest.fixture
def backend(site: Site) -> MoodleBackend:
    return site.backend()
