"""Who was refused what: for the log, and for the audit trail of operations that keep one.

A refused overwrite is a line of the log (``info``): open for writing, truncate, chmod and the like, unlink
and rename of a committed file, and a rename onto any name that exists. Not told, because nobody has tried to
change anything: ``O_EXCL`` and ``mkdir`` on names that exist (lock files work like that, and the kernel
mostly answers by itself), a second writer of a file that is not finished, links and devices. The metrics
count them.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol, runtime_checkable

import pyfuse3

from wormfs.errors import AlreadyExists, Refused, WormfsError, show
from wormfs.fs.processes import process_of, program_of

log = logging.getLogger("wormfs.refused")


@runtime_checkable
class RefusalKeeper(Protocol):
    """Operations that want to know of refusals."""

    def refused(self, operation: str, uid: int, error: Refused) -> None: ...


def note(arguments: tuple[object, ...], operation: str, cause: BaseException) -> None:
    """Tell of ``cause``, if it is a refusal. Some 30 µs then; waits for nothing.

    Args:
        arguments: those of the handler: the operations first, and the kernel's word on who asks.
    """
    onto = isinstance(cause, AlreadyExists) and operation == "rename"
    if not isinstance(cause, WormfsError) or not (onto or isinstance(cause, Refused)):
        return
    context = next((one for one in arguments if isinstance(one, pyfuse3.RequestContext)), None)
    _tell(operation, cause, context)
    if isinstance(cause, Refused) and arguments and isinstance(arguments[0], RefusalKeeper):
        arguments[0].refused(operation, -1 if context is None else context.uid, cause)


def _tell(operation: str, cause: WormfsError, context: pyfuse3.RequestContext | None) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    if context is None:
        # The kernel does not say who uses a descriptor.
        log.info("%s refused: %s", operation, cause)
        return
    # FUSE names the thread, and nobody (0) in another pid namespace.
    pid = (process_of(context.pid) or context.pid) if context.pid > 0 else 0
    program = (program_of(pid) if pid > 0 else None) or "?"
    facts: dict[str, Any] = {"operation": operation, "uid": context.uid, "pid": pid, "program": program}
    if cause.key is not None:
        facts["file"] = show(cause.key)
    # The name last, in quotes: it is the process's own word.
    log.info(
        "%s refused: %s; asked by uid %d, pid %d, program %r",
        operation, cause, context.uid, pid, program,
        # One uid's loop does not silence what others try.
        extra={"fields": facts, "volume": context.uid},
    )  # fmt: skip
