"""Nothing but FUSEError may leave a handler: anything else would end pyfuse3's main loop.

Every handler is wrapped here, once. Foreseen errors become an errno; unforeseen ones become EIO and one
traceback in the log, and the mount lives on. A test holds that no handler is without the guard.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio

from wormfs.errors import WormfsError
from wormfs.fuse import refusals
from wormfs.fuse.errno_table import errno_of

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def guarded(handler: Callable[_P, Coroutine[Any, Any, _R]]) -> Callable[_P, Coroutine[Any, Any, _R]]:
    """Wrap a handler so that only FUSEError (and trio's own cancellation) can leave it."""

    @functools.wraps(handler)
    async def guard(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except trio.Cancelled:
            raise
        except Exception as error:
            number = number_for(error, handler.__name__)
            refusals.note(args, handler.__name__, cause_of(error))
            raise pyfuse3.FUSEError(number) from error

    guard.__guarded__ = True  # type: ignore[attr-defined]
    return guard


def guarded_unanswered(
    handler: Callable[_P, Coroutine[Any, Any, None]],
) -> Callable[_P, Coroutine[Any, Any, None]]:
    """The same for ``forget``: nobody waits for an errno, and pyfuse3 ends its loop even at FUSEError."""
    inner = guarded(handler)

    @functools.wraps(handler)
    async def guard(*args: _P.args, **kwargs: _P.kwargs) -> None:
        # The failure is in the log already; what stays is an inode that is remembered too long.
        with contextlib.suppress(pyfuse3.FUSEError):
            await inner(*args, **kwargs)

    guard.__guarded__ = True  # type: ignore[attr-defined]
    return guard


def cause_of(error: Exception) -> BaseException:
    """What stands behind an error that may have come through nurseries."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        # A nursery wraps what comes out of it, though it is one foreseen error.
        cause = cause.exceptions[0]
    return cause


def number_for(error: Exception, operation: str) -> int:
    """The errno that a caller sees, and the log line that an administrator does."""
    cause = cause_of(error)
    if isinstance(cause, pyfuse3.FUSEError):
        return int(cause.errno)
    if isinstance(cause, WormfsError):
        number = errno_of(cause)
        if number == errno.EIO:
            log.warning("%s failed: %s", operation, cause)
        return number
    log.error("unforeseen failure in %s", operation, exc_info=error)
    return errno.EIO
