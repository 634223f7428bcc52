"""Files that the kernel reads by itself (FUSE_PASSTHROUGH, Linux 6.9), which libfuse 3.14 cannot say.

The kernel is given a descriptor of the file below (an ioctl on the device answers with a *backing id*), and
the answer to OPEN carries that id. From there on reads, mmap and splice of this open file go to the file
below; the daemon is not asked.

pyfuse3 knows nothing of such an answer, so it is changed on its way: at the end of the handler ``divert``
puts a socket in the place of the session's descriptor (dup2), libfuse writes its answer into it, and the
first thing that pyfuse3's task does afterwards (take its turn at reading, or end) calls ``forward``, which
puts the device back and passes the answer on with the id in it. Nothing is awaited between the two, and all
of it happens on the event loop's thread, so no other answer comes between; one that did would be passed on
as it is. The other threads that write to the device, those that make the kernel forget something, are led
past the session's descriptor: such a write may wait in the kernel for an answer of ours, so it must never
end up in the socket, for the event loop to do.

Sources: linux/include/uapi/linux/fuse.h, Documentation/filesystems/fuse/fuse-passthrough.rst.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Callable

import pyfuse3

log = logging.getLogger(__name__)

_BACKING_OPEN = 0x4010E501
"""_IOW(229, 1, struct fuse_backing_map)."""
_BACKING_CLOSE = 0x4004E502
"""_IOW(229, 2, uint32_t)."""
_BACKING_MAP = struct.Struct("=iIQ")

_KEEP_CACHE = 1 << 1
_PASSTHROUGH = 1 << 7
_OUT_HEADER = struct.Struct("=IiQ")
_OPEN_OUT = struct.Struct("=QIi")
"""struct fuse_open_out: fh, open_flags, backing_id."""
_OPEN_REPLY_BYTES = _OUT_HEADER.size + _OPEN_OUT.size

_INVAL_INODE = 2
_INVAL_ENTRY = 3


class Passthrough:
    """The exchange about such files on one session. Lives on the event loop."""

    def __init__(self, refused: Callable[[str], None], undelivered: Callable[[int], None]):
        """Does nothing until ``begin``.

        Args:
            refused: called once, with the reason, if the kernel cannot do it.
            undelivered: called with a handle whose answer the kernel did not take; it will not release it.
        """
        self._refused = refused
        self._undelivered = undelivered
        self._device_fd = -1
        self._session_fd = -1
        self._ours: socket.socket | None = None
        self._theirs: socket.socket | None = None
        self._awaited: tuple[int, int] | None = None
        """Handle and backing id of the answer that is diverted now."""

    def begin(self, device_fd: int | None, session_fd: int) -> None:
        """After the handshake.

        Args:
            device_fd: a descriptor of the device, taken over; ``None`` if the kernel does not offer it.
            session_fd: where libfuse writes its answers.
        """
        if device_fd is None:
            self._refused("this kernel does not offer it (Linux 6.9 or later does)")
            return
        self._device_fd, self._session_fd = device_fd, session_fd
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        # Looked up there at each call, in its own thread as well.
        pyfuse3.invalidate_inode = self.invalidate_inode
        pyfuse3.invalidate_entry = self.invalidate_entry

    def end(self) -> None:
        """Let go of the device: the connection ends when nobody has it any more."""
        fd, self._device_fd = self._device_fd, -1
        if fd >= 0:
            os.close(fd)
        for end in (self._ours, self._theirs):
            if end is not None:
                end.close()

    # -- files

    def register(self, fd: int) -> int:
        """Tell the kernel of a file that it may read; its number there. The caller may close ``fd``.

        Microseconds. Raises OSError: EPERM without CAP_SYS_ADMIN, ELOOP for a file system on top of another.
        """
        if self._device_fd < 0:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        request = bytearray(_BACKING_MAP.pack(fd, 0, 0))
        number: int = fcntl.ioctl(self._device_fd, _BACKING_OPEN, request, True)
        return number

    def unregister(self, number: int) -> None:
        """The kernel forgets the number. What is open by it stays open. Never raises."""
        if self._device_fd < 0:
            return  # the connection is gone, and the number with it
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._device_fd, _BACKING_CLOSE, struct.pack("=I", number))

    # -- the answer to OPEN

    def divert(self, handle: int, number: int) -> None:
        """The answer that this task gives next is that of opening ``handle``; the kernel shall read the
        file ``number`` for it. The handler must return without waiting for anything."""
        assert self._theirs is not None, "numbers are given out only after begin"
        self.forward()
        self._awaited = (handle, number)
        os.dup2(self._theirs.fileno(), self._session_fd, inheritable=False)

    def forward(self) -> None:
        """Put the device back and pass on what was answered meanwhile, if anything was diverted."""
        if self._awaited is None:
            return
        (handle, number), self._awaited = self._awaited, None
        os.dup2(self._device_fd, self._session_fd, inheritable=False)
        assert self._ours is not None
        with contextlib.suppress(BlockingIOError):
            while reply := self._ours.recv(1 << 21):
                changed = with_backing(reply, handle, number)
                self._send(reply if changed is None else changed, None if changed is None else handle)

    def _send(self, reply: bytes, handle: int | None) -> None:
        try:
            os.write(self._device_fd, reply)
        except OSError as error:
            # Nobody waits for it any more (ENOENT), or the connection has been cut.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                log.exception("the kernel did not take an answer")
                self._answer_failed(reply)
            if handle is not None:
                self._undelivered(handle)

    def _answer_failed(self, reply: bytes) -> None:
        """Whoever waits must not wait for ever."""
        unique = _OUT_HEADER.unpack_from(reply)[2]
        with contextlib.suppress(OSError):
            os.write(self._device_fd, _OUT_HEADER.pack(_OUT_HEADER.size, -errno.EIO, unique))

    # -- what the kernel shall forget; in other threads, see the module's text

    def invalidate_inode(self, inode: pyfuse3.InodeT, attr_only: bool = False) -> None:
        """In the place of pyfuse3's function. Blocks. Raises OSError."""
        self._notify(_INVAL_INODE, struct.pack("=Qqq", inode, -1 if attr_only else 0, 0))

    def invalidate_entry(
        self, inode_p: pyfuse3.InodeT, name: pyfuse3.FileNameT, deleted: pyfuse3.InodeT | None = None
    ) -> None:
        """In the place of pyfuse3's function. Blocks. Raises OSError."""
        self._notify(_INVAL_ENTRY, struct.pack("=QII", inode_p, len(name), 0) + name + b"\0")

    def _notify(self, code: int, body: bytes) -> None:
        os.write(self._device_fd, _OUT_HEADER.pack(_OUT_HEADER.size + len(body), code, 0) + body)


def with_backing(reply: bytes, handle: int, number: int) -> bytes | None:
    """The successful answer to opening ``handle``, changed so that the kernel reads the file ``number``.

    ``None`` if it is any other message.
    """
    if len(reply) != _OPEN_REPLY_BYTES:
        return None
    length, error, unique = _OUT_HEADER.unpack_from(reply)
    answered, flags, _ = _OPEN_OUT.unpack_from(reply, _OUT_HEADER.size)
    if length != _OPEN_REPLY_BYTES or error or not unique or answered != handle:
        return None
    # Nothing of such a file goes through the mount's own page cache, and the kernel insists on saying so.
    flags = (flags & ~_KEEP_CACHE) | _PASSTHROUGH
    return reply[: _OUT_HEADER.size] + _OPEN_OUT.pack(handle, flags, number)
