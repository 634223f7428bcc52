"""What a close means: nothing yet, the end of writing, or the end of a writer that failed.

FLUSH comes for every descriptor that is closed, RELEASE once nobody has any. Only in FLUSH does the
closing program still wait and can be told of an error; so the last FLUSH seals and commits. ``holders``
says which it is.
"""

from __future__ import annotations

import logging
from typing import assert_never

from wormfs import threads
from wormfs.errors import WormfsError
from wormfs.fs import holders
from wormfs.fs.handles import WriteHandle
from wormfs.fs.holders import LastClose, OpenFile, StillOpen, Unclear, Verdict, WriterFailed
from wormfs.model import name_of, show
from wormfs.spool.spool import Spool, Waiting
from wormfs.worm.lifecycle import EntryState

log = logging.getLogger(__name__)

_PATIENCE_S = 2.0


class Closing:
    """Decides at FLUSH and RELEASE of files that are written."""

    def __init__(self, spool: Spool):
        self._spool = spool

    async def flush(self, handle: WriteHandle) -> None:
        """Raises what the closing program shall see."""
        entry, writer = handle.entry, handle.writer
        committed: Waiting | None = None
        async with entry.closing:
            if entry.state is not EntryState.WRITING or entry.writer is not writer:
                return
            seen: list[Verdict] = []

            def is_last() -> bool:
                """In a thread, in the same trip that then seals."""
                seen.append(self._inspect(handle))
                return isinstance(seen[0], LastClose) and writer.failed is None

            committed = await self._spool.close(entry, is_last)
            await self._after(handle, seen[0])
        if committed is not None:
            # Outside the lock: whoever asks for this file meanwhile gets an answer.
            await committed()

    async def _after(self, handle: WriteHandle, verdict: Verdict) -> None:
        """What else a FLUSH means that did not seal."""
        entry, writer = handle.entry, handle.writer
        match verdict:
            case StillOpen(writer_failed, heir, alone):
                writer.shared_before = writer.shared_before or not alone
                writer.failed = writer.failed or writer_failed
                if heir is not None:
                    # The writer has let go of it; how this one ends is what matters from now on.
                    writer.pid, writer.opened_boot_s = heir.pid, heir.started_boot_s
                if entry.write_error is not None:
                    raise entry.write_error
            case WriterFailed(reason):
                await self._spool.quarantine(entry, reason)
            case LastClose():
                if writer.failed is not None:
                    await self._spool.quarantine(entry, writer.failed)
            case Unclear():
                # RELEASE decides; but the bytes must not be lost when close(2) has returned.
                writer.shared_before = True
                await self._spool.sync_closed(entry)
            case _:
                assert_never(verdict)

    async def release(self, handle: WriteHandle) -> None:
        """Nobody waits any more: errors are for the log."""
        entry, writer = handle.entry, handle.writer
        async with entry.closing:
            if entry.state is not EntryState.WRITING or entry.writer is not writer:
                return
            reason = writer.failed or await threads.run(holders.ended_badly, writer.pid, writer.opened_boot_s)
            if reason is not None:
                await self._spool.quarantine(entry, reason)
                return
            try:
                await self._spool.close(entry)
            except WormfsError as error:
                log.warning("%s: not committed at the end of writing: %s", show(entry.key), error)

    @staticmethod
    def _inspect(handle: WriteHandle) -> Verdict:
        file = OpenFile(
            pid=handle.writer.pid,
            opened_boot_s=handle.writer.opened_boot_s,
            inode=handle.inode,
            name=name_of(handle.entry.key),
            shared_before=handle.writer.shared_before,
            mappable=handle.writer.mappable,
        )
        try:
            # Some of /proc waits for locks that a process may hold while it waits for another file system,
            # a dead one perhaps: that must not hold up a close here.
            return threads.within(_PATIENCE_S, holders.inspect, file)
        except TimeoutError:
            return Unclear()
