"""One FUSE session: mount, answer requests until the kernel has let go of the mount."""

from __future__ import annotations

import functools

import pyfuse3
import trio

from wormfs.fuse import loop
from wormfs.fuse.counters import Counters
from wormfs.fuse.handshake import Handshake
from wormfs.fuse.mounting import mount_fuse, raise_read_ahead
from wormfs.fuse.passthrough import Passthrough

_MAX_REQUESTS_AT_ONCE = 4096
"""Every close that waits for its backend holds one; reads and stats must still get through."""

READ_AHEAD_KB = 1024


async def serve(
    operations: pyfuse3.Operations,
    mountpoint: str,
    *,
    fsname: str,
    counters: Counters,
    passthrough: Passthrough | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount at ``mountpoint`` and serve until it is unmounted and nothing is open any more.

    Reports itself started when the mount answers. One session per process (pyfuse3 keeps it in
    module globals). Raises OSError when mounting fails. Does not unmount: whoever wants the end
    unmounts (``mounting.unmount``), lazily if files may be open.

    Args:
        passthrough: where files are to be read by the kernel itself, if it can.
    """
    handshake = Handshake(mount_fuse(mountpoint, fsname=fsname), passthrough=passthrough is not None)
    # Only after the handshake: the kernel sets its own default when it reads the answer to INIT.
    ready = functools.partial(raise_read_ahead, mountpoint, READ_AHEAD_KB)
    served = loop.install(counters.watch(operations), handshake, ready, passthrough)
    pyfuse3.init(served, f"/dev/fd/{handshake.session_fd}", set())
    try:
        # The kernel queues requests from the moment of mounting, so it answers from here on.
        task_status.started()
        await pyfuse3.main(min_tasks=1, max_tasks=_MAX_REQUESTS_AT_ONCE)
    finally:
        pyfuse3.close(unmount=False)
        if passthrough is not None:
            passthrough.end()
