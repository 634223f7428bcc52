"""One verification of one backend, from listing to the last finding.

::

    listing ──► reading ──► missing ──► backend ──► ended
       │           │           │            └ what the driver knows to be wrong (``Backend.findings``)
       │           │           └ what the catalog knows and no listing shows; what the audit trail promises
       │           └ size and SHA-256 of every file that is due, by several threads
       └ every directory, into the catalog: from there the order of reading comes, and what it will take

Each step is noted in the catalog, so that a run that was cut off goes on where it was: what the last second
brought and files half read are read again. Memory is bounded whatever the number and size of files.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from wormfs import threads
from wormfs.backends.base import Backend
from wormfs.clock import Clock, timestamp
from wormfs.errors import NotADirectory, NotFound
from wormfs.model import Finding, FindingKind, Key, Kind, ObjectInfo
from wormfs.verify.catalog import Catalog, Due, Known, Noted, Run
from wormfs.verify.examine import Examiner
from wormfs.verify.pace import Pace
from wormfs.verify.reading import Digester, Stopped
from wormfs.verify.request import Request, within
from wormfs.verify.trail import Trail
from wormfs.verify.walk import listing

_T = TypeVar("_T")

_LARGE_BYTES: Final = 32 << 20
_BATCH_FILES: Final = 50
_BATCH_BYTES: Final = 8 << 20
_LISTED: Final = 1000
_KEEP_EVERY_S: Final = 1.0
_NAMELESS: Final = b"(name unknown) "


class Watcher(Protocol):
    """Who is told how it goes on. Called from the thread of ``verify`` unless said otherwise."""

    def begin(self, run: Run) -> None:
        """It begins, or goes on."""
        ...

    def listed(self, files: int) -> None:
        """That many more files were listed."""
        ...

    def reading(self, files: int, size_bytes: int) -> None:
        """What is to be read."""
        ...

    def read(self, size_bytes: int) -> None:
        """That many more bytes were read. From any thread."""
        ...

    def examined(self, files: int) -> None:
        """That many more files were looked at."""
        ...

    def found(self, finding: Finding, *, damaged: bool) -> None:
        """Something is wrong; durably noted already. ``damaged``: reads must be refused from now on."""
        ...

    def mended(self) -> None:
        """A file that was damaged is whole again, or gone."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """How it is done, not what."""

    jobs: int
    """Files that are read at once."""
    bytes_per_s: int | None = None
    anew: bool = False
    """An unfinished run of the same kind is given up."""
    accept: bool = False
    """What is missing or was replaced is told once more, and taken as it is from then on."""


@dataclass(slots=True)
class Verification:
    """All that one run needs. ``verify`` once."""

    backend: Backend
    catalog: Catalog
    request: Request
    options: Options
    clock: Clock
    watcher: Watcher
    trail: Trail | None = None
    _pending: list[Noted] = field(default_factory=list)
    _kept_at: float = 0.0

    def verify(self) -> Run:
        """Run to the end. Blocks, for days perhaps.

        Raises Unavailable when the backend cannot be reached, NotFound when the scope does not exist (and
        never did). Whatever is raised, KeyboardInterrupt too: the next verification of the same kind goes on
        from here.
        """
        self._scope()
        run = self.catalog.begin(self.request, self.clock.now_ns(), anew=self.options.anew)
        self.watcher.begin(run)
        steps: list[tuple[str, Callable[[Run], None]]] = [
            ("listing", self._list),
            ("reading", self._read),
            ("missing", self._miss),
            ("backend", self._ask_backend),
        ]
        names = [name for name, _ in steps]
        for name, step in steps[names.index(run.phase) :]:
            self.catalog.enter(run, name)
            step(run)
        self.catalog.end(run, self.clock.now_ns())
        return run

    def _scope(self) -> ObjectInfo | None:
        """Where the verification begins; ``None`` if all of it has gone. Raises NotFound if it never was."""
        try:
            return self.backend.stat(self.request.scope)
        except NotFound:
            if not self.catalog.knows(self.request.scope):
                raise
            return None

    # Listing

    def _list(self, run: Run) -> None:
        if self.trail is not None:
            self.trail.catch_up(self.catalog)
        info = self._scope()
        if info is None:
            return  # it was there once: a finding
        if info.kind is Kind.FILE:
            self._saw(run, [info])
            return
        self.catalog.begin_listing(self.request.scope)
        while (folder := self.catalog.next_folder()) is not None:
            self._list_folder(run, folder)
            self.catalog.folder_done(folder)

    def _list_folder(self, run: Run, folder: Key) -> None:
        # Removed since it was listed, or a file now: the files that were in it are looked for later.
        with contextlib.suppress(NotFound, NotADirectory), listing(self.backend, folder) as entries:
            for infos in _slices(entries, _LISTED):
                self.catalog.add_folders(info.key for info in infos if info.kind is Kind.DIRECTORY)
                self._saw(run, [info for info in infos if info.kind is Kind.FILE])

    def _saw(self, run: Run, infos: list[ObjectInfo]) -> None:
        if self.trail is not None and self.catalog.has_heard():
            # First: a file that was erased and committed again was not verified yet.
            subject = self.trail.subject
            self.catalog.met((info.key, subject(info.key)) for info in infos)
        files = [(info.key, info.size_bytes, self.request.chooses(info.key, run.number)) for info in infos]
        self.catalog.saw(run, files, self.request.before_ns(run.started_ns), self.clock.now_ns())
        self.watcher.listed(len(infos))

    # Reading

    def _read(self, run: Run) -> None:
        self.watcher.reading(*self.catalog.totals(run))
        self._kept_at = self.clock.monotonic()
        digester = Digester(self.options.jobs, Pace(self.options.bytes_per_s), self.watcher.read)
        pool = threads.Beside(self.options.jobs)
        try:
            examiner = Examiner(self.backend, digester, accept=self.options.accept)
            self._drive(run, pool, examiner)
        finally:
            digester.stop()
            pool.close()
            digester.close()
            self._keep(run)

    def _drive(self, run: Run, pool: threads.Beside, examiner: Examiner) -> None:
        """Keep all threads busy, and never more waiting than they need."""
        batches = _batches(self.catalog.due(run, _LARGE_BYTES))
        under_way: set[Future[list[Noted]]] = set()
        exhausted = False
        while under_way or not exhausted:
            while not exhausted and len(under_way) < 2 * self.options.jobs:
                batch = next(batches, None)
                exhausted = batch is None
                if batch is not None:
                    under_way.add(pool.start(_examine_all, examiner, batch))
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                self._take(run, future.result())

    def _take(self, run: Run, noted: list[Noted]) -> None:
        self._pending += noted
        self.watcher.examined(len(noted))
        urgent = any(one.finding is not None for one in noted)
        if urgent or self.clock.monotonic() - self._kept_at >= _KEEP_EVERY_S:
            self._keep(run)

    def _keep(self, run: Run) -> None:
        pending, self._pending = self._pending, []
        mended = self.catalog.note(run, pending, self.clock.now_ns())
        self._kept_at = self.clock.monotonic()
        for one in pending:
            if one.finding is not None:
                self.watcher.found(one.finding, damaged=one.damaged)
        if mended:
            self.watcher.mended()

    # What is not there

    def _miss(self, run: Run) -> None:
        if self.trail is not None:
            self.trail.catch_up(self.catalog)
        mended = 0
        for keys in _slices(self.catalog.unlisted(run, self.request.scope), _LISTED):
            gone = [key for key in keys if not self._is_file(key)]
            missing = [finding for key in gone if (finding := self._missing(key)) is not None]
            kept = set() if self.options.accept else {finding.name for finding in missing}
            mended += self.catalog.forget(key for key in gone if key not in kept)
            self._tell(run, missing)
        if not self.request.scope:
            self._miss_nameless(run)
        if mended:
            self.watcher.mended()

    def _is_file(self, key: Key) -> bool:
        try:
            return self.backend.stat(key).kind is Kind.FILE
        except (NotFound, NotADirectory):
            return False

    def _missing(self, key: Key) -> Finding | None:
        """``None``: it was erased, or never was a record."""
        known = self.catalog.known(key)
        if known is None or (
            self.trail is not None and self.catalog.heard(self.trail.subject(key)) == "erased"
        ):
            return None
        return Finding(FindingKind.MISSING, key, self._accepted(_description(known)))

    def _miss_nameless(self, run: Run) -> None:
        """Commits in the audit trail, before this run, whose file was never seen: only the time is known."""
        for commits in _slices(self.catalog.unmet(_second(run.started_ns)), _LISTED):
            self._tell(
                run,
                [
                    Finding(
                        FindingKind.MISSING,
                        _NAMELESS + subject.encode(),
                        self._accepted(
                            f"the audit trail says that it was committed at {at}, under this subject"
                        ),
                    )
                    for subject, at in commits
                ],
            )
            if self.options.accept:
                self.catalog.forget_heard(subject for subject, _ in commits)

    def _accepted(self, detail: str) -> str:
        return f"{detail} (accepted)" if self.options.accept else detail

    # What the driver knows

    def _ask_backend(self, run: Run) -> None:
        mine = (finding for finding in self.backend.findings() if within(finding.name, self.request.scope))
        for some in _slices(mine, _LISTED):
            self._tell(run, some)

    def _tell(self, run: Run, findings: list[Finding]) -> None:
        self.catalog.found(run, findings)
        for finding in findings:
            self.watcher.found(finding, damaged=False)


def _examine_all(examiner: Examiner, batch: list[Due]) -> list[Noted]:
    """In a thread. A batch that is stopped gives what it has."""
    noted: list[Noted] = []
    with contextlib.suppress(Stopped):
        noted.extend(examiner.examine(due) for due in batch)
    return noted


def _second(at_ns: int) -> str:
    """The second of a time, as the times of the audit trail begin: no line of this second comes before it."""
    return timestamp(at_ns).removesuffix("Z")


def _batches(due: Iterator[Due]) -> Iterator[list[Due]]:
    """Small files together, so that a thread is not asked for each; large ones alone."""
    batch: list[Due] = []
    size_bytes = 0
    for one in due:
        if batch and (len(batch) >= _BATCH_FILES or size_bytes + one.size_bytes > _BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(one)
        size_bytes += one.size_bytes
    if batch:
        yield batch


def _slices(items: Iterable[_T], length: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while some := list(itertools.islice(iterator, length)):
        yield some


def _description(known: Known) -> str:
    return f"it had {known.size_bytes} bytes with SHA-256 {known.sha256}"
