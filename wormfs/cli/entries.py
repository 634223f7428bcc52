"""Entries of the spools as commands see them: what the files say, and what the daemon knows besides."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wormfs.cli.output import age_text, console, count_text, plain, shortened, size_text, time_text
from wormfs.clock import NS_PER_S, SystemClock
from wormfs.errors import InvalidArgument, NotFound, Refused, Unavailable, WormfsError
from wormfs.model import show
from wormfs.spool.inventory import StoredEntry
from wormfs.spool.inventory import read as read_spool
from wormfs.worm.lifecycle import EntryState

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table

    from wormfs.config import Settings
    from wormfs.daemon.spools import SpoolPlace
    from wormfs.spool.administration import LiveFacts

SHORT_ID = 8
_SHORTEST_ID = 4
_ROWS = 200
"""Rows that are laid out at once: thousands must neither take long nor much memory."""
_REASON_LINES = 3
_GAP = 2
_LONGEST_BACKEND = 16
_RIGHT = ("Size", "Age")


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry with all that is known of it."""

    place: SpoolPlace
    entry: StoredEntry
    live: LiveFacts | None
    """``None`` when it is not on its way, or no daemon told of it."""
    age_s: float
    """In its state."""
    interrupted: bool = False
    """Being written, it says, but no daemon runs."""

    @property
    def short_id(self) -> str:
        """The end of the id: the beginning is a time, and much the same for all."""
        return self.entry.entry_id.rpartition("-")[2][:SHORT_ID]

    @property
    def path(self) -> str:
        """Its path below the backend's directory, safe to print."""
        return "(name unknown)" if self.entry.key is None else show(self.entry.key)

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.short_id} {self.place.backend}/{self.path}"

    @property
    def size_bytes(self) -> int | None:
        return self.live.size_bytes if self.live is not None else self.entry.size_bytes

    @property
    def reason(self) -> str | None:
        """Why it is where it is, on one line, safe to print."""
        if self.interrupted:
            return "interrupted: goes to quarantine at the next start"
        text = (self.live.last_error if self.live is not None else None) or self.entry.reason
        return None if text is None else self.without_name(text)

    def without_name(self, message: str) -> str:
        """A message about this entry, safe to print; errors begin with the name, which is shown anyway."""
        backend, key = self.place.backend, self.entry.key or b""
        return plain(message.removeprefix(f"{backend}/{key.decode('utf-8', 'backslashreplace')}: "))

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` says of it; keys are only ever added."""
        entry, live = self.entry, self.live
        return {
            "id": entry.entry_id,
            "backend": self.place.backend,
            "state": entry.state.value,
            "path": None if entry.key is None else show(entry.key),
            "path_base64": None if entry.key is None else base64.b64encode(entry.key).decode("ascii"),
            "size_bytes": self.size_bytes,
            "sha256": entry.sha256,
            "created_at_ns": entry.record.created_at_ns if entry.record is not None else None,
            "since_ns": entry.since_ns,
            "age_s": self.age_s,
            "attempts": live.attempts if live is not None else None,
            "next_attempt_s": live.next_attempt_s if live is not None else None,
            "reason": self.reason,
            "data_path": entry.data_path,
        }


@dataclass(slots=True)
class Collected:
    """What was found in the spools that were asked for."""

    entries: list[Seen] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    """By backend: why its spool could not be read."""
    notes: dict[str, str] = field(default_factory=dict)
    """By backend: why the daemon could not add what it knows."""

    def find(self, wanted: str) -> Seen:
        """The entry with this id, or with an id of which this is the beginning of either half.

        Raises NotFound, InvalidArgument when several fit.
        """
        exact = [seen for seen in self.entries if seen.entry.entry_id == wanted]
        fitting = exact or [seen for seen in self.entries if _fits(wanted, seen.entry.entry_id)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            ids = ", ".join(seen.entry.entry_id for seen in fitting[:4])
            raise InvalidArgument(
                f"{wanted!r} may be any of {len(fitting)} entries: {ids}, …; give more of the id"
            )
        text = f"no entry {wanted!r} is in the spool; what is committed is there no more"
        unread = "".join(f"; {name} cannot be read: {why}" for name, why in self.problems.items())
        raise NotFound(text + unread)


def _fits(wanted: str, entry_id: str) -> bool:
    halves = (entry_id, entry_id.rpartition("-")[2])
    return len(wanted) >= _SHORTEST_ID and any(half.startswith(wanted) for half in halves)


def collect(settings: Settings, backends: Iterable[str] = ()) -> Collected:
    """Read the spools of ``backends`` (all, when there are none). Blocks for a file of each entry.

    Raises SettingsError for an unknown backend, Unavailable when the state directory cannot be read.
    """
    from wormfs.daemon.spools import places

    found = Collected()
    clock = SystemClock()
    for place in places(settings, backends):
        try:
            stored = read_spool(place.directory, clock)
        except WormfsError as error:
            found.problems[place.backend] = str(error)
            continue
        # After reading: what has ended meanwhile is then only missing among the live ones.
        live = _live(settings, place, found) if stored else {}
        now_ns = clock.now_ns()
        found.entries += [
            Seen(
                place=place,
                entry=one,
                live=None if live is None else live.get(one.entry_id),
                age_s=max(0.0, (now_ns - one.since_ns) / NS_PER_S),
                interrupted=live is None and one.state is EntryState.WRITING,
            )
            for one in stored
        ]
    return found


def _live(settings: Settings, place: SpoolPlace, found: Collected) -> dict[str, LiveFacts] | None:
    """What the daemon knows; ``None`` when none runs."""
    from wormfs.daemon.spools import SpoolClient

    try:
        return {
            facts.entry_id: facts for facts in SpoolClient(settings.state_directory, place.backend).live()
        }
    except Unavailable:
        return None
    except Refused as error:
        found.notes[place.backend] = str(error)
        return {}


# -- for people


def print_entries(entries: Sequence[Seen], *, stderr: bool = False) -> None:
    """A table of any length, at most as wide as the terminal, and a line that sums it up."""
    screen = console(stderr=stderr)
    widths = _widths(entries)
    rest = max(20, screen.width - sum(width + _GAP for width in widths.values()))
    for start in range(0, len(entries), _ROWS):
        table = _new_table(widths, rest, header=start == 0)
        for seen in entries[start : start + _ROWS]:
            _add_row(table, seen, rest)
        screen.print(table)
    counts = Counter(seen.entry.state.value for seen in entries)
    total = sum(seen.size_bytes or 0 for seen in entries)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    screen.print(
        f"{count_text(len(entries), 'entry', 'entries')}: {states}; {size_text(total)}"
        if entries
        else "no entries",
        soft_wrap=True,
    )


def _widths(entries: Sequence[Seen]) -> dict[str, int]:
    """Of the columns but the last; the same for all parts of a long table."""
    backend = max((len(seen.place.backend) for seen in entries), default=0)
    state = max((len(seen.entry.state.value) for seen in entries), default=0)
    return {
        "ID": SHORT_ID,
        "Backend": max(len("Backend"), min(backend, _LONGEST_BACKEND)),
        "State": max(len("State"), state),
        "Size": len("1023.9 MiB"),
        "Age": len("999d"),
    }


def _new_table(widths: Mapping[str, int], rest: int, *, header: bool) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, _GAP, 0, 0), show_header=header, pad_edge=False)
    for name, width in widths.items():
        side: JustifyMethod = "right" if name in _RIGHT else "left"
        table.add_column(name, justify=side, width=width, no_wrap=True, overflow="ellipsis")
    table.add_column("Path, and why", width=rest, overflow="fold")
    return table


def _add_row(table: Table, seen: Seen, rest: int) -> None:
    from rich.text import Text

    what = Text(shortened(seen.path, rest))
    why = seen.reason
    if seen.live is not None and seen.live.attempts:
        why = f"{count_text(seen.live.attempts, 'attempt', 'attempts')}: {why or 'no error is known'}"
    if why:
        longest = _REASON_LINES * rest
        what.append("\n" + (why if len(why) <= longest else why[: longest - 1] + "…"), "dim")
    state = seen.entry.state
    style = {EntryState.QUARANTINED: "bold red", EntryState.SEALED: "yellow"}.get(state, "")
    table.add_row(
        Text(seen.short_id),
        Text(seen.place.backend),
        Text(state.value, style),
        Text(size_text(seen.size_bytes)),
        Text(age_text(seen.age_s)),
        what,
    )


def print_entry(seen: Seen) -> None:
    """All that is known of one entry, one fact on each line."""
    screen = console()
    for name, value in _facts(seen):
        screen.print(f"{name:<12}{value}", soft_wrap=True)
    history = seen.entry.record.history if seen.entry.record is not None else ()
    for index, (state, at_ns, note) in enumerate(history):
        name = "History" if index == 0 else ""
        screen.print(f"{name:<12}{time_text(at_ns)}  {state.value:<13}{plain(note)}".rstrip(), soft_wrap=True)


def _facts(seen: Seen) -> Iterable[tuple[str, str]]:
    entry, record, live = seen.entry, seen.entry.record, seen.live
    yield "ID", entry.entry_id
    yield "Backend", seen.place.backend
    yield "Path", seen.path
    yield "State", f"{entry.state.value} for {age_text(seen.age_s)}"
    size = seen.size_bytes
    yield "Size", "the bytes are gone" if size is None else f"{size_text(size)} ({size} bytes)"
    yield "SHA-256", entry.sha256 or "unknown: it was never sealed"
    if record is not None:
        attributes = record.attributes
        yield "Mode", f"{attributes.mode:04o}, owner {attributes.uid}:{attributes.gid}"
        yield "Modified", time_text(attributes.mtime_ns)
        yield "Written by", f"uid {record.writer_uid}, process {record.writer_pid or 'unknown'}"
        yield "Created", time_text(record.created_at_ns)
        if record.settle_until_ns is not None:
            yield "Settles", f"until {time_text(record.settle_until_ns)}"
    if live is not None and live.attempts:
        next_s = live.next_attempt_s or 0.0
        yield "Attempts", f"{live.attempts}, the next within {next_s:.0f} s" if next_s else str(live.attempts)
    yield "Reason", seen.reason or "-"
    yield "Bytes in", plain(entry.data_path)


def entry_json(seen: Seen) -> dict[str, Any]:
    """What ``spool show --json`` says: as in the list, and the journal's record (docs/spool-format.md)."""
    from wormfs.spool.journal import encode_readable

    record = seen.entry.record
    history = record.history if record is not None else ()
    return {
        **seen.to_json(),
        "history": [{"state": state.value, "at_ns": at_ns, "note": note} for state, at_ns, note in history],
        "record": encode_readable(record) if record is not None else None,
    }
