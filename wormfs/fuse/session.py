"""One FUSE session: mount, answer requests until the kernel has let go of the mount."""

from __future__ import annotations

import functools

import pyfuse3
import trio

from wormfs import threads
from wormfs.fuse import loop
from wormfs.fuse.caches import KernelCaches
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
    caches: KernelCaches,
    passthrough: Passthrough | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount at ``mountpoint`` and serve until it is unmounted and nothing is open any more.

    Reports itself started when the mount answers. One session per process (pyfuse3 keeps it in
    module globals). Raises OSError when mounting fails. Does not unmount: whoever wants the end
    unmounts (``mounting.unmount``), lazily if files may be open.

    Args:
        caches: what threads tell the kernel of this session by.
        passthrough: where files are to be read by the kernel itself, if it can.
    """
    # In threads: the mounter that is asked may be slow, and the event loop has more to do than this.
    device_fd = await threads.run(functools.partial(mount_fuse, mountpoint, fsname=fsname))
    handshake = Handshake(device_fd, passthrough=passthrough is not None)
    agreed = trio.Event()
    served = loop.install(counters.watch(operations), handshake, agreed.set, passthrough)
    pyfuse3.init(served, f"/dev/fd/{handshake.session_fd}", set())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_ahead, mountpoint, agreed)
            # The kernel queues requests from the moment of mounting, so it answers from here on.
            task_status.started()
            await pyfuse3.main(min_tasks=1, max_tasks=_MAX_REQUESTS_AT_ONCE)
            nursery.cancel_scope.cancel()
    finally:
        if caches.end():  # else a thread still uses it, and it ends with the process
            pyfuse3.close(unmount=False)
        if passthrough is not None:
            passthrough.end()


async def _read_ahead(mountpoint: str, agreed: trio.Event) -> None:
    # Only after the handshake: the kernel sets its own default when it reads the answer to INIT.
    await agreed.wait()
    # Nothing depends on it: at the end of the session it is not waited for.
    await threads.run_abandonable(raise_read_ahead, mountpoint, READ_AHEAD_KB)
