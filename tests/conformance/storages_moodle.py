"""Moodle's file storage on PostgreSQL and MariaDB for the conformance tests: one course per backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.moodle import Moodle, make_moodle, secret
from wormfs.backends import registry
from wormfs.backends.base import Backend
from wormfs.config.secret import parse_secret
from wormfs.model import Key


@dataclass(frozen=True)
class MoodleStorage:
    """The file area of one course."""

    top: Path
    moodle: Moodle
    certain_key_bytes: int = 255
    """Keys of that length fit, however they are divided into directories and a name."""

    def backend(self) -> Backend:
        options = self.moodle.options(course=7, database_password=parse_secret(secret()))
        return registry.create("archive", "moodle", options)

    def plain(self, key: Key) -> bytes:
        return self.moodle.content(key.decode())

    def place_foreign(self, key: Key, content: bytes) -> None:
        self.moodle.insert("/", key.decode(), self.moodle.add_content(content), len(content))

    def visible(self) -> set[bytes]:
        return {path.encode() for path in self.moodle.rows() if path}

    def spool(self) -> Path:
        spool = self.top / "spool"
        spool.mkdir(exist_ok=True)
        return spool

    def rounds(self, full: int) -> int:
        return max(5, full // 3)

    def remove(self) -> None:
        self.moodle.remove()


def postgresql(top: Path) -> MoodleStorage:
    return MoodleStorage(top, make_moodle("postgresql", top))


def mariadb(top: Path) -> MoodleStorage:
    return MoodleStorage(top, make_moodle("mariadb", top))
