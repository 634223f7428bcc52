"""``wormfs check`` for a Moodle: every promise tried out, nothing visible left behind.

One hidden object, in the file area ``local_wormfs/check`` of the system context, is made by the first check
of any host and stays. Every check tries to store under its name once more, and reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from wormfs import durability
from wormfs.backends.moodle import starting
from wormfs.backends.moodle.courses import CourseState
from wormfs.backends.moodle.names import Spot
from wormfs.backends.moodle.rows import NS_PER_S, Rows, Taken
from wormfs.backends.moodle.sidecar import CHECKS
from wormfs.backends.moodle.staging import Digests
from wormfs.errors import BackendFault, DigestMismatch, WormfsError
from wormfs.model import CheckResult
from wormfs.oserrors import translated

if TYPE_CHECKING:
    from wormfs.backends.moodle.backend import MoodleBackend

_CONTENT: Final = b"This file belongs to `wormfs check`, which proves with it that nothing can replace it.\n"
_KEY: Final = b"the test object"
_SAMPLE: Final = 20
_GIB: Final = 1 << 30


def run(backend: MoodleBackend) -> Iterator[CheckResult]:
    """The results one by one. A failure leaves out what depends on it."""
    check = _Check(backend)
    result = check.attempt("connect", check.connect)
    yield result
    if not result.passed:
        return
    for name, action in (
        ("authenticate", check.authenticate),
        ("write", check.write),
        ("overwrite refused", check.overwrite),
        ("read", check.read),
    ):
        result = check.attempt(name, action)
        yield result
        if not result.passed and name in ("authenticate", "write"):
            break
    yield check.attempt("free space", check.free_space)


class _Check:
    """One run."""

    def __init__(self, backend: MoodleBackend) -> None:
        self._backend = backend
        self._content = Digests(
            hashlib.sha1(_CONTENT, usedforsecurity=False).hexdigest(), hashlib.sha256(_CONTENT).hexdigest()
        )
        self._warnings: list[str] = []

    def attempt(self, name: str, action: Callable[[], str]) -> CheckResult:
        self._warnings.clear()
        try:
            detail = action()
        except OSError as error:
            return CheckResult(name, False, str(translated(error, self._backend.name, None, f"check {name}")))
        except WormfsError as error:
            return CheckResult(name, False, str(error))
        if self._warnings:
            return CheckResult(name, True, "; ".join([detail, *self._warnings]), warning=True)
        return CheckResult(name, True, detail)

    def connect(self) -> str:
        self._backend.connected_rows()
        options = self._backend.options
        warning = starting.settings_warning(self._backend)
        if warning is not None:
            self._warnings.append(warning)
        where = options.database_socket or options.database_host
        return f"{options.database} {options.database_name} at {where}, {self._backend.pool.path}"

    def authenticate(self) -> str:
        """Are table and pool of one Moodle? Then what Moodle stored last is in the pool."""
        backend = self._backend
        rows = backend.rows()
        if backend.options.course is not None and backend.fixed_course().state is CourseState.DELETED:
            raise BackendFault(
                f"Moodle has deleted the course {backend.options.course!r}: nothing can be stored there",
                backend=backend.name,
            )
        recent = backend.database.read(lambda connection: rows.recent_content(connection, _SAMPLE))
        lost = [contenthash for contenthash, size in recent if backend.pool.size_of(contenthash) != size]
        if recent and len(lost) == len(recent):
            raise BackendFault(
                f"of the last {len(recent)} files of this Moodle none is in {backend.pool.path}: set "
                "dataroot or filedir to this Moodle's ($CFG->dataroot, $CFG->filedir)",
                backend=backend.name,
            )
        if lost:
            self._warnings.append(
                f"{len(lost)} of its last {len(recent)} files have no content in {backend.pool.path}"
            )
        area = f"{backend.area.component}/{backend.area.filearea}"
        consequence = _CONSEQUENCES.get(area)
        if consequence is not None:
            self._warnings.append(f"the file area {area} {consequence}")
        return f"tables {backend.options.prefix}files, context and course, and the pool belong together"

    def write(self) -> str:
        """Content and row of the test object; those of an earlier check are as good."""
        backend = self._backend
        self._place()
        try:
            self._add()
        except Taken:
            return f"{len(_CONTENT)} bytes, synced, are there from an earlier check"
        return f"{len(_CONTENT)} bytes and a row in {backend.options.prefix}files"

    def overwrite(self) -> str:
        try:
            self._add()
        except Taken:
            return "a name that is taken stays taken"
        raise BackendFault("the row of the test object could be added twice", backend=self._backend.name)

    def read(self) -> str:
        backend = self._backend
        fd = backend.pool.open_content(self._content.sha1, len(_CONTENT), _KEY)
        with open(fd, "rb") as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != self._content.sha256:
            raise DigestMismatch(
                "the test object's bytes are not those that were stored", backend=backend.name
            )
        return "bytes match"

    def free_space(self) -> str:
        space = self._backend.space()
        free_bytes, total_bytes = space.free_bytes or 0, space.total_bytes or 0
        detail = f"{free_bytes / _GIB:.1f} GiB of {total_bytes / _GIB:.1f} GiB free"
        if free_bytes == 0 or (space.total_files and not space.free_files):
            raise BackendFault(f"{detail}: no further file can be stored", backend=self._backend.name)
        if free_bytes <= _GIB:
            self._warnings.append("Moodle wants more than 1 GiB")
        return detail

    def _place(self) -> None:
        pool = self._backend.pool
        staged = pool.stage()
        try:
            durability.write_fully(staged.fd, _CONTENT)
            pool.place(staged, self._content, len(_CONTENT))
        finally:
            pool.discard(staged)

    def _add(self) -> None:
        backend = self._backend
        rows: Rows = backend.rows()
        spot = Spot(CHECKS, rows.system_context_id, "object")
        now_s = backend.clock.now_ns() // NS_PER_S
        backend.database.change(
            lambda connection: rows.add_plain(connection, spot, self._content.sha1, len(_CONTENT), now_s)
        )


_CONSEQUENCES: Final = {
    "course/legacy": (
        "is listed for the teachers of the course, and with legacyfiles=2 students can download it"
    ),
    "backup/course": (
        "is shown to teachers, who can delete files in it, and plugins of Moodle may remove old files from it"
    ),
}
