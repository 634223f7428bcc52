"""One file on its way into Moodle: content into the pool first, then its row and record in one transaction.

Content without a row is nothing; a row without content would be a loss. Hence the order, and one more look
at the content after the commit: Moodle may have moved it to the trash between our look and our row. Whoever
takes content away looks for rows after that, so of the two at least one sees the other.
"""

from __future__ import annotations

import contextlib
import enum
import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final

from wormfs import durability
from wormfs.backends.moodle import info
from wormfs.backends.moodle.content import ContentKeeper
from wormfs.backends.moodle.courses import Course
from wormfs.backends.moodle.database import NO_PATIENCE, Database
from wormfs.backends.moodle.dberrors import Duplicate
from wormfs.backends.moodle.names import Spot
from wormfs.backends.moodle.pool import Pool
from wormfs.backends.moodle.rows import NS_PER_S, Found, NewFile, Rows, Taken
from wormfs.backends.moodle.sidecar import Sidecar, SidecarState
from wormfs.backends.moodle.staging import Digests, Staged
from wormfs.errors import AlreadyExists, BackendFault, DigestMismatch, NotFound, Unavailable, WormfsError
from wormfs.model import Key, ObjectInfo, Record
from wormfs.oserrors import translated

_ATTEMPTS: Final = 5
"""How often content is put back that goes while its row comes."""


class Origin(enum.Enum):
    """What may have happened to a file before."""

    NEW = "nothing"
    RESUMED = "an earlier publish may have arrived"


@dataclass(frozen=True, slots=True)
class Target:
    """What a transfer needs of its backend."""

    name: str
    database: Database
    pool: Pool
    content: ContentKeeper
    rows: Callable[[], Rows]


class MoodleTransfer:
    """A ``Transfer`` to one path of one course."""

    def __init__(self, target: Target, key: Key, spot: Spot, course: Course, origin: Origin) -> None:
        self._target = target
        self._key = key
        self._spot = spot
        self._course = course
        self._origin = origin
        self._staged: Staged | None = None
        self._placed: str | None = None
        """Content that this transfer brought to the pool and no row of its own uses yet."""

    def advance(self, spooled: BinaryIO, ready_bytes: int) -> None:
        """Copies and hashes what is ready. An error is met again by ``publish``, which begins anew."""
        try:
            self._copy(spooled, ready_bytes)
        except (OSError, WormfsError):
            self._drop_staged()

    def prepare(self, spooled: BinaryIO, record: Record) -> None:
        """A spool file that becomes the pool file gets its owner and mode, so that it is synced once.

        Of a large file the rest is hashed and copied here: the disk writes it while the spool syncs its own.
        """
        if self._staged is not None:
            self.advance(spooled, record.size_bytes)
        if self._staged is not None:
            try:
                self._staged.hurry(spooled)
            except OSError:
                # As in advance: the pool's disk must not keep the spool from sealing the file.
                self._drop_staged()
        try:
            self._target.pool.dress_spooled(spooled)
        except OSError as error:
            raise translated(error, self._target.name, self._key, "prepare the spool file") from error

    def publish(self, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        """See ``Transfer.publish``. BackendFault when Moodle has removed what had this name before."""
        if spooled is None or self._origin is Origin.RESUMED:
            found = self._own(record)
            if found is not None:
                self._make_durable()
                return self._finished(spooled, record, found)
            if spooled is None:
                raise NotFound("it was not published", backend=self._target.name, key=self._key)
        self._origin = Origin.RESUMED
        for _ in range(_ATTEMPTS):
            digests = self._place(spooled, record)
            contenthash = self._add(digests, record)
            if self._content_is_there(contenthash, record):
                self._drop_staged()
                self._placed = None
                self._target.content.stored(contenthash, record.size_bytes)
                return self._published_info(contenthash, record)
        raise self._fault("Moodle removes its content again and again while it is stored")

    def abort(self) -> None:
        """Content that no row uses goes the way on which Moodle sends it, if the database answers."""
        self._drop_staged()
        placed, self._placed = self._placed, None
        if placed is not None:
            with contextlib.suppress(WormfsError):
                self._target.content.give_up(placed, NO_PATIENCE)

    # Content

    def _copy(self, spooled: BinaryIO, end_bytes: int) -> Staged:
        pool = self._target.pool
        if self._staged is None:
            self._staged = pool.stage_spooled(spooled) or pool.stage()
        self._staged.copy(spooled, end_bytes)
        return self._staged

    def _place(self, spooled: BinaryIO, record: Record) -> Digests:
        """The whole content in its place in the pool, durably."""
        try:
            try:
                return self._place_once(spooled, record)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    # One file system, mounted twice: no names across the mounts.
                    self._target.pool.can_link = False
                elif not isinstance(error, FileNotFoundError):
                    raise
                # It had its place and has lost it: such a file cannot be linked again.
                self._drop_staged()
                return self._place_once(spooled, record)
        except OSError as error:
            self._drop_staged()
            raise translated(error, self._target.name, self._key, "store its content") from error
        except WormfsError as error:
            self._drop_staged()
            error.backend, error.key = self._target.name, self._key
            raise

    def _place_once(self, spooled: BinaryIO, record: Record) -> Digests:
        staged = self._copy(spooled, record.size_bytes)
        digests = staged.digests(record.sha256)
        if digests.sha256 != record.sha256:
            raise DigestMismatch("the bytes in the spool are not those that were sealed")
        if self._target.pool.place(staged, digests, record.size_bytes):
            self._placed = digests.sha1
        return digests

    def _content_is_there(self, contenthash: str, record: Record) -> bool:
        try:
            return self._target.pool.has(contenthash, record.size_bytes)
        except OSError as error:
            raise translated(error, self._target.name, self._key, "look at its content") from error

    def _drop_staged(self) -> None:
        staged, self._staged = self._staged, None
        if staged is not None:
            with contextlib.suppress(OSError):
                self._target.pool.discard(staged)

    # Row

    def _add(self, digests: Digests, record: Record) -> str:
        """Row and record; the row's content hash. Raises AlreadyExists."""
        course = self._course
        beside = Sidecar(
            SidecarState.KEPT, course.id, course.shortname, self._spot.path, digests.sha1, record
        )
        new = NewFile(self._spot, digests.sha1, beside)
        try:
            self._add_rows(new)
        except (Taken, Duplicate):
            found = self._own(record)
            if found is not None:
                self._make_durable()
                return found.contenthash
            raise Unavailable(
                "the name was taken and is free again: it is tried once more",
                backend=self._target.name,
                key=self._key,
            ) from None
        durability.step("moodle.row-committed")
        return digests.sha1

    def _add_rows(self, new: NewFile) -> None:
        """Raises Taken, Duplicate."""
        database, rows = self._target.database, self._target.rows()
        made_s = new.sidecar.record.committed_at_ns // NS_PER_S
        for _ in range(_ATTEMPTS):
            if database.write(lambda cursor: rows.add_file(cursor, new), self._key):
                return
            database.change(
                lambda connection: rows.make_directory_of(connection, self._spot, made_s), self._key
            )
        raise Unavailable("its directory is being removed", backend=self._target.name, key=self._key)

    def _make_durable(self) -> None:
        """What an earlier attempt has left can be seen; whether its COMMIT came to its end, nobody said."""
        database, rows = self._target.database, self._target.rows()
        if not database.write(lambda cursor: rows.touch_sidecar(cursor, self._spot), self._key):
            raise Unavailable("its record went away at that moment", backend=self._target.name, key=self._key)

    def _own(self, record: Record) -> Sidecar | None:
        """The record under this name if it is this very one; ``None``: the name is free.

        Raises AlreadyExists when it is anything else; BackendFault when Moodle has removed the file's row.
        """
        spots = [self._spot, *[spot for spot in self._spot.parent.lineage() if spot.path]]
        looked = self._target.rows().look(partial(self._target.database.ask, key=self._key), *spots)
        found = looked[0]
        if found.file is None and found.sidecar is not None:
            raise self._fault(
                "a file of this name was stored, and Moodle has removed it; its record remains, so that no "
                "other bytes get the name: erase it when its retention is over"
            )
        if _is_own(found, record):
            return found.sidecar
        taken_by = _taken_by(looked)
        if taken_by is not None:
            self._give_up_placed()
            raise AlreadyExists(f"the name is taken by {taken_by}", backend=self._target.name, key=self._key)
        return None

    def _give_up_placed(self) -> None:
        """Somebody else has the name: what was brought to the pool is not needed here."""
        self._drop_staged()
        placed, self._placed = self._placed, None
        if placed is not None:
            with contextlib.suppress(WormfsError):
                self._target.content.give_up(placed)

    def _finished(self, spooled: BinaryIO | None, record: Record, beside: Sidecar) -> ObjectInfo:
        """An earlier publish arrived: make sure of the content as well."""
        if not self._content_is_there(beside.contenthash, record):
            if spooled is None:
                raise self._fault(f"its content {beside.contenthash} is gone")
            self._place(spooled, record)
        self._drop_staged()
        self._placed = None
        return self._published_info(beside.contenthash, record)

    def _published_info(self, contenthash: str, record: Record) -> ObjectInfo:
        course = self._course
        beside = Sidecar(SidecarState.KEPT, course.id, course.shortname, self._spot.path, contenthash, record)
        return info.of_record(self._key, beside, contenthash, record.size_bytes)

    def _fault(self, message: str) -> BackendFault:
        return BackendFault(message, backend=self._target.name, key=self._key)


def _is_own(found: Found, record: Record) -> bool:
    """Whether the name holds a file published from this very record (its retention may have grown)."""
    if found.file is None or found.sidecar is None:
        return False
    kept = found.sidecar.record
    return (kept.entry_id, kept.sha256, kept.size_bytes, found.file.contenthash) == (
        record.entry_id,
        record.sha256,
        record.size_bytes,
        found.sidecar.contenthash,
    )


def _taken_by(looked: list[Found]) -> str | None:
    found, *above = looked
    if found.file is not None:
        return "another file"
    if found.directory is not None:
        return "a directory"
    if any(one.file is not None for one in above):
        return "a file in the place of its directory"
    return None
