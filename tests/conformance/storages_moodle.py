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
        folder, _, name = key.decode().rpartition("/")
        contenthash = self.moodle.add_content(content)
        self.moodle.insert(f"/{folder}/" if folder else "/", name, contenthash, len(content))

    def alter(self, key: Key, content: bytes) -> None:
        # In place, so that it stays the file that other names of it are, whatever its mode.
        contenthash, _ = self.moodle.rows()[key.decode()]
        with self.moodle.pool_path(contenthash).open("r+b") as file:
            file.write(content)
            file.truncate()

    def lose(self, key: Key) -> None:
        self.moodle.lose(key.decode())

    def visible(self) -> set[bytes]:
        return {path.encode() for path in self.moodle.rows() if path}

    def spool(self) -> Path:
        spool = self.top / "spool"
        spool.mkdir(exist_ok=True)
        return spool

    def rounds(self, full: int) -> int:
        # A listing asks for 256 at once: 1,500 must become more than that.
        return max(min(full, 5), full // 5)

    def remove(self) -> None:
        self.moodle.remove()


def postgresql(top: Path) -> MoodleStorage:
    return MoodleStorage(top, make_moodle("postgresql", top))


def mariadb(top: Path) -> MoodleStorage:
    return MoodleStorage(top, make_moodle("mariadb", top))
