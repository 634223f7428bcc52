"""What verification remembers of one backend: every file it has seen, its runs, findings and damaged files.

One SQLite database, ``<state directory>/verify/<backend>.sqlite``, private to the daemon's user: it holds
names of files. A commit pays nothing for it: it learns of files when it sees them and from the audit trail
(``trail``). What was erased leaves it with the next verification, and SQLite overwrites it
(``secure_delete``).

It is no archive: should it be lost or damaged, delete it, and the next verification begins a new one, which
knows of nothing that went missing before.

One process verifies a backend at a time (``Catalog.open`` holds a lock); ``damage`` and ``summary`` look into
the database beside it, which SQLite's write-ahead log lets them. Durable in SQLite's own way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from wormfs import ownership
from wormfs.errors import BackendFault, Busy, Unavailable
from wormfs.model import Finding, FindingKind, Key, Record
from wormfs.verify.request import Request

VERSION: Final = 1
_WAIT_S: Final = 20.0

_SCHEMA: Final = """
CREATE TABLE files (
    key BLOB PRIMARY KEY,
    seen_ns INTEGER NOT NULL,
    listed INTEGER NOT NULL,
    verified_ns INTEGER,
    entry TEXT, sha256 TEXT, recorded_size INTEGER
) WITHOUT ROWID;
CREATE TABLE due (
    run INTEGER NOT NULL, key BLOB NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (run, key)
) WITHOUT ROWID;
CREATE TABLE folders (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    phase TEXT NOT NULL,
    started_ns INTEGER NOT NULL,
    ended_ns INTEGER,
    files INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    oldest_ns INTEGER,
    whole_backend INTEGER NOT NULL
);
CREATE TABLE findings (
    run INTEGER NOT NULL, kind TEXT NOT NULL, name BLOB NOT NULL, detail TEXT NOT NULL,
    PRIMARY KEY (run, kind, name)
) WITHOUT ROWID;
CREATE TABLE damaged (key BLOB PRIMARY KEY, since_ns INTEGER NOT NULL, detail TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE heard (subject TEXT PRIMARY KEY, state TEXT NOT NULL, at TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
# files.listed: the run that saw it last.
# files.entry, sha256, recorded_size: of its record when it was first found whole.
# heard: what the audit trail says of files by their subjects; see trail.py.


@dataclass(frozen=True, slots=True)
class Known:
    """What the record of a file said when the file was first found whole."""

    entry_id: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Due:
    """A file that is to be read."""

    key: Key
    size_bytes: int
    """When it was listed."""
    known: Known | None


@dataclass(slots=True)
class Run:
    """A verification, new or gone on with."""

    number: int
    phase: str
    started_ns: int
    resumed: bool
    files: int
    """Looked at so far."""
    size_bytes: int
    """Read so far."""


def catalog_path(state_directory: str | Path, backend: str) -> Path:
    """Where the catalog of a backend lies."""
    return Path(state_directory) / "verify" / f"{backend}.sqlite"


@contextlib.contextmanager
def database(path: Path, backend: str, *, make: bool = False) -> Iterator[sqlite3.Connection | None]:
    """The database, open; ``None`` when there is none and it is not to be made.

    SQLite's errors leave as Unavailable, BackendFault for a file that is no catalog of this version.
    """
    try:
        if make:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(_open_as_owner(path))
        elif not path.exists():
            yield None
            return
        # Statements open a transaction by themselves; ``with connection`` commits it.
        with contextlib.closing(
            sqlite3.connect(path, timeout=_WAIT_S, check_same_thread=False)
        ) as connection:
            _prepare(connection, path, backend)
            yield connection
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}", backend=backend) from error
    except sqlite3.OperationalError as error:
        raise Unavailable(f"the catalog {path}: {error}", backend=backend) from error
    except sqlite3.DatabaseError as error:
        raise BackendFault(
            f"{path} is no catalog of verification, or it is damaged ({error}): delete it and verify again",
            backend=backend,
        ) from error


def _prepare(connection: sqlite3.Connection, path: Path, backend: str) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        raise BackendFault(
            f"{path} has version {version}, this wormfs knows version {VERSION}: use the wormfs "
            "that made it, or delete it and verify again",
            backend=backend,
        )


def forget(connection: sqlite3.Connection, key: Key) -> int:
    """Nothing of a file stays. Whether it was damaged: 1 or 0. In the caller's transaction."""
    connection.execute("DELETE FROM files WHERE key = ?", (key,))
    connection.execute("DELETE FROM findings WHERE name = ?", (key,))
    return connection.execute("DELETE FROM damaged WHERE key = ?", (key,)).rowcount


class Catalog:
    """The catalog for the one process that verifies. For one thread; every method blocks for the disk."""

    def __init__(self, connection: sqlite3.Connection):
        self._db = connection

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, backend: str) -> Iterator[Self]:
        """Open, made when missing, alone among processes. Raises Busy, Unavailable, BackendFault."""
        with database(path, backend, make=True) as connection, _alone(path, backend):
            assert connection is not None
            yield cls(connection)

    # Runs

    def begin(self, request: Request, now_ns: int, *, anew: bool) -> Run:
        """The unfinished run of the same kind, or a new one. ``anew``: unfinished ones are given up."""
        with self._db:
            if not anew:
                row = self._db.execute(
                    "SELECT id, phase, started_ns, files, bytes FROM runs "
                    "WHERE kind = ? AND ended_ns IS NULL ORDER BY id DESC LIMIT 1",
                    (request.kind,),
                ).fetchone()
                if row is not None:
                    return Run(row[0], row[1], row[2], True, row[3], row[4])
            self._db.execute("DELETE FROM runs WHERE kind = ? AND ended_ns IS NULL", (request.kind,))
            number = self._db.execute(
                "INSERT INTO runs (id, kind, phase, started_ns, whole_backend) "
                "VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM runs), ?, 'listing', ?, ?)",
                (request.kind, now_ns, not request.scope),
            ).lastrowid
            assert number is not None
            # Of another run that has the same number, should it have been given up.
            self._db.execute("DELETE FROM findings WHERE run = ?", (number,))
            self._db.execute("DELETE FROM due WHERE run NOT IN (SELECT id FROM runs) OR run = ?", (number,))
        return Run(number, "listing", now_ns, False, 0, 0)

    def enter(self, run: Run, phase: str) -> None:
        """Note that a phase is done and the next begins."""
        # A listing is repeated after a crash; what was read, and above all what is damaged, must be kept.
        self._db.execute(f"PRAGMA synchronous = {'NORMAL' if phase == 'listing' else 'FULL'}")
        with self._db:
            self._db.execute("UPDATE runs SET phase = ? WHERE id = ?", (phase, run.number))
        run.phase = phase

    def end(self, run: Run, now_ns: int) -> None:
        """The run is finished. Findings of runs long ago are forgotten."""
        with self._db:
            (oldest,) = self._db.execute("SELECT MIN(COALESCE(verified_ns, seen_ns)) FROM files").fetchone()
            self._db.execute(
                "UPDATE runs SET ended_ns = ?, oldest_ns = ?, phase = 'ended' WHERE id = ?",
                (now_ns, oldest, run.number),
            )
            self._db.execute("DELETE FROM runs WHERE ended_ns IS NOT NULL AND id <= ?", (run.number - _RUNS,))
            self._db.execute("DELETE FROM findings WHERE run NOT IN (SELECT id FROM runs)")

    # Listing

    def begin_listing(self, scope: Key) -> None:
        """``scope`` is the first directory to list."""
        with self._db:
            self._db.execute("DELETE FROM folders")
            self._db.execute("INSERT INTO folders VALUES (?)", (scope,))

    def next_folder(self) -> Key | None:
        """A directory that is still to be listed."""
        row = self._db.execute("SELECT key FROM folders ORDER BY key LIMIT 1").fetchone()
        return None if row is None else Key(row[0])

    def add_folders(self, keys: Iterable[Key]) -> None:
        """Directories that are to be listed, too."""
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO folders VALUES (?)", ((key,) for key in keys))

    def folder_done(self, key: Key) -> None:
        """It was listed to its end."""
        with self._db:
            self._db.execute("DELETE FROM folders WHERE key = ?", (key,))

    def saw(
        self, run: Run, files: Sequence[tuple[Key, int, bool]], before_ns: int | None, now_ns: int
    ) -> None:
        """Files that were listed: key, size, whether chance chose it."""
        whole_before = (1 << 63) - 1 if before_ns is None else before_ns
        with self._db:
            self._db.executemany(
                "INSERT INTO files (key, seen_ns, listed) VALUES (?1, ?2, ?3) "
                "ON CONFLICT (key) DO UPDATE SET listed = ?3",
                ((key, now_ns, run.number) for key, _, _ in files),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO due SELECT ?1, key, ?3 FROM files "
                "WHERE key = ?2 AND (verified_ns IS NULL OR verified_ns < ?4)",
                ((run.number, key, size, whole_before) for key, size, chosen in files if chosen),
            )

    # Reading

    def totals(self, run: Run) -> tuple[int, int]:
        """Number and bytes of the files that are still to be read."""
        row = self._db.execute(
            "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM due WHERE run = ?", (run.number,)
        ).fetchone()
        return int(row[0]), int(row[1])

    def due(self, run: Run, large_bytes: int) -> Iterator[Due]:
        """What is still to be read, streamed: files of ``large_bytes`` and more first, each part in the order
        of keys.

        A large file then never stands alone at the end with the other cores idle.
        """
        yield from self._due(run.number, large_bytes, (1 << 63) - 1)
        yield from self._due(run.number, 0, large_bytes - 1)

    def _due(self, number: int, least_bytes: int, most_bytes: int) -> Iterator[Due]:
        # Pages, not one long query: a reader that stays open keeps the write-ahead log from being cut.
        after = b""
        while True:
            rows = self._db.execute(
                "SELECT key, size, entry, sha256, recorded_size FROM due LEFT JOIN files USING (key) "
                "WHERE run = ? AND key > ? AND size BETWEEN ? AND ? ORDER BY key LIMIT ?",
                (number, after, least_bytes, most_bytes, _PAGE),
            ).fetchall()
            for key, size, entry, sha256, recorded_size in rows:
                known = None if sha256 is None else Known(entry, sha256, recorded_size)
                yield Due(Key(key), size, known)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def knows(self, scope: Key) -> bool:
        """Whether a file at or below ``scope`` was ever seen (and is not forgotten)."""
        row = self._db.execute(
            "SELECT 1 FROM files WHERE key = ? OR (key > ? AND key < ?) LIMIT 1",
            (scope, scope + b"/", scope + b"0"),
        ).fetchone()
        return row is not None or not scope

    def known(self, key: Key) -> Known | None:
        """What is remembered of a file's record."""
        row = self._db.execute(
            "SELECT entry, sha256, recorded_size FROM files WHERE key = ? AND sha256 IS NOT NULL", (key,)
        ).fetchone()
        return None if row is None else Known(*row)

    def note(self, run: Run, outcomes: Iterable[Noted], now_ns: int) -> int:
        """What came of looking at files: one transaction. How many were damaged and are whole again."""
        with self._db:
            mended = sum([self._note(run, one, now_ns) for one in outcomes])
            self._db.execute(
                "UPDATE runs SET files = ?, bytes = ? WHERE id = ?", (run.files, run.size_bytes, run.number)
            )
        return mended

    def _note(self, run: Run, one: Noted, now_ns: int) -> int:
        run.files += 1
        run.size_bytes += one.read_bytes
        self._db.execute("DELETE FROM due WHERE run = ? AND key = ?", (run.number, one.key))
        if one.gone:
            # Looked at again when the erasures of the audit trail are known.
            self._db.execute("UPDATE files SET listed = 0 WHERE key = ?", (one.key,))
            return 0
        mended = 0
        if one.whole is not None:
            self._db.execute(
                "UPDATE files SET verified_ns = ?, entry = ?, sha256 = ?, recorded_size = ? WHERE key = ?",
                (now_ns, one.whole.entry_id, one.whole.sha256, one.whole.size_bytes, one.key),
            )
            mended = self._db.execute("DELETE FROM damaged WHERE key = ?", (one.key,)).rowcount
        if one.finding is not None:
            self._find(run, one.finding)
            if one.whole is None:
                # Due again at the next opportunity, however lately it was whole.
                self._db.execute("UPDATE files SET verified_ns = NULL WHERE key = ?", (one.key,))
            if one.damaged:
                self._db.execute(
                    "INSERT INTO damaged VALUES (?, ?, ?) "
                    "ON CONFLICT (key) DO UPDATE SET detail = excluded.detail",
                    (one.key, now_ns, one.finding.detail),
                )
        return mended

    # What is not there any more

    def unlisted(self, run: Run, scope: Key) -> Iterator[Key]:
        """Files of the catalog below ``scope`` that ``run`` did not see."""
        # What lies below a scope begins with it and a slash; "0" is what comes after a slash.
        after: bytes = b""
        while True:
            rows = self._db.execute(
                "SELECT key FROM files WHERE listed <> ?1 AND key > ?2 "
                "AND (?3 = x'' OR key = ?3 OR (key > ?4 AND key < ?5)) ORDER BY key LIMIT ?6",
                (run.number, after, bytes(scope), scope + b"/", scope + b"0", _PAGE),
            ).fetchall()
            yield from (Key(key) for (key,) in rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def found(self, run: Run, findings: Iterable[Finding]) -> None:
        """Findings that belong to no file that was read."""
        with self._db:
            for finding in findings:
                self._find(run, finding)

    def _find(self, run: Run, finding: Finding) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO findings VALUES (?, ?, ?, ?)",
            (run.number, finding.kind.value, finding.name, finding.detail),
        )

    def forget(self, keys: Iterable[Key]) -> int:
        """Files that are rightly gone: nothing of them stays, earlier findings included.

        How many of them were damaged.
        """
        with self._db:
            return sum([forget(self._db, key) for key in keys])

    # Findings

    def findings(self, run: Run) -> Iterator[Finding]:
        """All of a run, the gravest kinds first, streamed."""
        order = list(FindingKind)
        for kind in order:
            rows = self._db.execute(
                "SELECT name, detail FROM findings WHERE run = ? AND kind = ? ORDER BY name",
                (run.number, kind.value),
            )
            for name, detail in rows:
                yield Finding(kind, name, detail)

    def counts(self, run: Run) -> dict[FindingKind, int]:
        """How many findings of each kind a run has."""
        rows = self._db.execute(
            "SELECT kind, COUNT(*) FROM findings WHERE run = ? GROUP BY kind", (run.number,)
        )
        return {FindingKind(kind): count for kind, count in rows}

    # The audit trail (see trail.py)

    def fact(self, name: str) -> str | None:
        """A remembered value."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def hear(self, events: Iterable[tuple[str, str, str]], position: str) -> None:
        """Take in lines of the trail (subject, ``committed`` or ``erased``, when); how far it was read."""
        with self._db:
            for subject, state, at in events:
                self._db.execute(
                    "INSERT INTO heard VALUES (?1, ?2, ?3) ON CONFLICT (subject) DO UPDATE SET at = ?3, "
                    "state = CASE WHEN ?2 = 'committed' AND state IN ('erased', 'recommitted') "
                    "THEN 'recommitted' ELSE ?2 END",
                    (subject, state, at),
                )
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('trail', ?)", (position,))

    def heard(self, subject: str) -> str | None:
        """``committed``, ``erased``, ``recommitted`` (erased and committed again), or nothing."""
        row = self._db.execute("SELECT state FROM heard WHERE subject = ?", (subject,)).fetchone()
        return None if row is None else str(row[0])

    def met(self, files: Iterable[tuple[Key, str]]) -> None:
        """Listed files with their subjects: what was heard of their commits is seen to be true."""
        with self._db:
            for key, subject in files:
                state = self.heard(subject)
                if state == "recommitted":
                    self._db.execute(
                        "UPDATE files SET entry = NULL, sha256 = NULL, recorded_size = NULL, "
                        "verified_ns = NULL WHERE key = ?",
                        (key,),
                    )
                if state in ("committed", "recommitted"):
                    self._db.execute("DELETE FROM heard WHERE subject = ?", (subject,))

    def has_heard(self) -> bool:
        """Whether ``met`` could find anything."""
        return self._db.execute("SELECT 1 FROM heard WHERE state <> 'erased' LIMIT 1").fetchone() is not None

    def unmet(self, until: str) -> Iterator[tuple[str, str]]:
        """Subject and time of commits before ``until`` whose file was never listed."""
        yield from self._db.execute(
            "SELECT subject, at FROM heard WHERE state <> 'erased' AND at < ? ORDER BY at, subject", (until,)
        ).fetchall()

    def forget_heard(self, subjects: Iterable[str]) -> None:
        """An administrator knows of these."""
        with self._db:
            self._db.executemany("DELETE FROM heard WHERE subject = ?", ((one,) for one in subjects))


@dataclass(slots=True)
class Noted:
    """What came of looking at one file."""

    key: Key
    read_bytes: int = 0
    gone: bool = False
    whole: Known | None = None
    """All bytes were read and are those of the record, which said this."""
    finding: Finding | None = None
    damaged: bool = False
    """Its bytes must not be served any more."""


def known_of(record: Record) -> Known:
    """What is remembered of a record."""
    return Known(record.entry_id, record.sha256, record.size_bytes)


_PAGE = 1000
_RUNS = 200
"""How many runs are remembered."""


def _open_as_owner(path: Path) -> int:
    """The file, made when missing. Root makes it for the daemon's user, to whom the state directory belongs.

    (SQLite gives the files that it makes beside a database to the database's owner.)
    """
    owner = path.parent.parent.stat()
    ownership.give_directory_to_owner(path.parent, owner)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        ownership.give_to_owner(fd, owner)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def _alone(path: Path, backend: str) -> Iterator[None]:
    fd = _open_as_owner(path.with_suffix(".lock"))
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy("another wormfs verify is looking at it; wait for its end", backend=backend) from error
        yield
    finally:
        os.close(fd)
