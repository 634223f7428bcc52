"""The time that retention believes, remembered over restarts. The rules are in ``worm.timekeeping``.

``<state directory>/clock/<backend>.json`` keeps the high-water mark and its anchor. It is written at the
start, when an administrator accepts a time, whenever the anchor moves, and every five minutes: what a crash
loses of the high-water mark, the wall clock says again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from wormfs import durability
from wormfs.audit import AuditLog, Event
from wormfs.clock import NS_PER_S, Clock
from wormfs.errors import Unavailable, WormfsError
from wormfs.worm import dates, timekeeping
from wormfs.worm.timekeeping import Believed, Judged, Reading, Trust

log = logging.getLogger(__name__)

_KEEP_EVERY_NS: Final = 300 * NS_PER_S
_ASK_EVERY_NS: Final = 60 * NS_PER_S
"""How old a backend's answer about the time may be; it goes on by the boot clock meanwhile."""
_VERSION: Final = 1


class TrustedClock:
    """One per backend. Every method may be called from any thread."""

    def __init__(
        self,
        backend: str,
        clock: Clock,
        boot_id: str,
        *,
        path: Path | None,
        backend_time_ns: Callable[[], int | None],
        trail: AuditLog | None = None,
    ):
        """Reads what is remembered. Blocks. Raises Unavailable.

        Args:
            boot_id: names this boot of the machine.
            path: where the mark is kept; ``None`` keeps it in memory alone.
            backend_time_ns: the backend's own clock, as the driver contract has it.
        """
        self._backend = backend
        self._clock = clock
        self._boot_id = boot_id
        self._path = path
        self._backend_time_ns = backend_time_ns
        self._trail = trail
        self._lock = threading.Lock()
        self._told: Trust = Trust.SURE
        self._backend_ahead_ns: int | None = None
        """The backend's clock minus the boot clock, at its last answer."""
        self._asked_ns: int | None = None
        self._believed = self._load()
        self._kept: Believed | None = self._believed

    def start_ns(self) -> int:
        """From when retention of a file runs that is sealed now. Takes microseconds."""
        return self._look().start_ns

    def expiry_ns(self) -> int | None:
        """The time for deciding what is over; ``None`` while the clock is in doubt. Takes microseconds
        where the backend has no clock, else it may ask the backend. Does not raise."""
        self.ask_backend()
        return self._look().expiry_ns

    def judged(self) -> Judged:
        """What is thought of the clocks now. Takes microseconds."""
        return self._look()

    def ask_backend(self, *, now: bool = False) -> None:
        """Ask the backend for its time if its last answer is old, or ``now``. Blocks; does not raise."""
        boot_ns = self._boot_ns()
        if not now and self._asked_ns is not None and boot_ns - self._asked_ns < _ASK_EVERY_NS:
            return
        try:
            answer = self._backend_time_ns()
        except WormfsError as error:
            log.info("%s: its time is not known: %s", self._backend, error)
            answer = None
        with self._lock:
            self._asked_ns = boot_ns
            self._backend_ahead_ns = None if answer is None else answer - boot_ns

    def accept(self, who: str) -> Judged:
        """An administrator says that the wall clock is right; recorded first. Blocks. Raises Unavailable."""
        before = self._look()
        if self._trail is not None:
            self._trail.note_durably(
                Event.CLOCK,
                who=who,
                accepted=dates.show(before.wall_ns),
                believed=dates.show(before.believed.high_ns),
                trust=before.trust.value,
            )
        with self._lock:
            self._believed = timekeeping.accepted(self._reading())
        self.keep()
        log.warning("%s: the clock was accepted at %s by %s", self._backend, dates.show(before.wall_ns), who)
        return self._look()

    def keep(self) -> None:
        """Bring the mark to the disk. Blocks. Raises Unavailable."""
        believed = self._look().believed
        if self._path is None or believed == self._kept:
            return
        text = json.dumps({"v": _VERSION, **dataclasses.asdict(believed)}).encode() + b"\n"
        try:
            durability.make_path_durably(os.fspath(self._path.parent), 0o700)
            durability.write_file_durably(os.fspath(self._path), text, mode=0o600)
        except OSError as error:
            raise Unavailable(
                f"the clock's mark {self._path} cannot be written: {error.strerror}", backend=self._backend
            ) from error
        self._kept = believed

    def keep_sometimes(self) -> None:
        """The same if it is worth it; what goes wrong is logged. For whoever comes by regularly. Blocks."""
        self.ask_backend()
        believed, kept = self._look().believed, self._kept
        moved = kept is None or dataclasses.replace(believed, high_ns=kept.high_ns) != kept
        if kept is None or moved or believed.high_ns - kept.high_ns >= _KEEP_EVERY_NS:
            try:
                self.keep()
            except Unavailable as error:
                log.warning("%s", error)

    # Inside

    def _look(self) -> Judged:
        with self._lock:
            judged = timekeeping.judge(self._believed, self._reading())
            self._believed = judged.believed
            changed, self._told = judged.trust is not self._told, judged.trust
        if changed:
            self._tell(judged)
        return judged

    def _reading(self) -> Reading:
        boot_ns = self._boot_ns()
        ahead_ns = self._backend_ahead_ns
        backend_ns = None if ahead_ns is None else ahead_ns + boot_ns
        return Reading(self._clock.now_ns(), self._boot_id, boot_ns, backend_ns)

    def _boot_ns(self) -> int:
        return int(self._clock.boot_s() * NS_PER_S)

    def _tell(self, judged: Judged) -> None:
        if judged.trust is Trust.SURE:
            log.warning("%s: the clock is believed again", self._backend)
        else:
            log.error("%s: ALERT: %s", self._backend, doubt(judged))
        if self._trail is not None:
            self._trail.note(
                Event.CLOCK,
                trust=judged.trust.value,
                wall=dates.show(judged.wall_ns),
                believed=dates.show(judged.believed.high_ns),
            )

    def _load(self) -> Believed | None:
        if self._path is None:
            return None
        try:
            kept: Any = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            kept = None
        except OSError as error:
            raise Unavailable(
                f"the clock's mark {self._path} cannot be read: {error.strerror}", backend=self._backend
            ) from error
        try:
            numbers = [kept[name] for name in ("high_ns", "anchor_wall_ns", "anchor_boot_ns")]
            if kept["v"] == _VERSION and all(isinstance(number, int) for number in numbers):
                return Believed(numbers[0], numbers[1], numbers[2], str(kept["anchor_boot_id"]))
        except (TypeError, KeyError):
            kept = None
        log.error("%s: ALERT: %s is damaged: the clock needs to be accepted", self._backend, self._path)
        # Ahead of the year 1970, whatever it says: in doubt.
        return Believed(0, 0, 0, "")


def doubt(judged: Judged) -> str:
    """What is wrong with the clock, and what to do."""
    wall, high = dates.show(judged.wall_ns), dates.show(max(judged.expected_ns, judged.believed.high_ns))
    expected = f"it says {wall}, expected was {high} or a little later"
    if judged.trust is Trust.BEHIND:
        expected = f"it says {wall}, but {dates.show(judged.believed.high_ns)} has been believed before"
    return (
        f"the machine's clock is more than a day {judged.trust.value} ({expected}): nothing counts as "
        "expired. Put the clock right; if it is right, say so with 'wormfs clock accept'"
    )
