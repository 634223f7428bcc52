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
            question = _Question(handle)
            try:
                committed = await self._spool.close(entry, question)
            except threads.Stuck:
                # Some of /proc waits for locks that a process may hold while it waits for another file
                # system, a dead one perhaps: that must not hold up a close here.
                question.verdict = Unclear()
            await self._after(handle, question.verdict)
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


class _Question:
    """Asked by the thread that is going to seal: was it the last close, of a writer that ended well?"""

    patience_s = 2.0

    def __init__(self, handle: WriteHandle):
        self._file = OpenFile(
            pid=handle.writer.pid,
            opened_boot_s=handle.writer.opened_boot_s,
            inode=handle.inode,
            name=name_of(handle.entry.key),
            shared_before=handle.writer.shared_before,
            mappable=handle.writer.mappable,
        )
        self._failed_before = handle.writer.failed is not None
        self.claim = threads.Claim()
        self.verdict: Verdict = Unclear()

    def is_last(self) -> bool:
        """In the thread, once. No when the answer came too late: somebody else goes on with the file."""
        verdict = holders.inspect(self._file)
        if not self.claim.take():
            return False
        self.verdict = verdict
        return isinstance(verdict, LastClose) and not self._failed_before
