"""The first exchange with the kernel, with more capabilities than libfuse 3.14 knows.

Without FUSE_HANDLE_KILLPRIV_V2 the kernel asks for the xattr ``security.capability`` before
*every* write, which doubles the cost of PHP's 8 KiB writes (measured: 52,201 questions for 52,711
writes). With it the file system promises to clear setuid and setgid bits itself when a file is
written, which ``fs`` does. libfuse learned the flag in 3.17; pyfuse3 does not pass it on.

With FUSE_PASSTHROUGH (Linux 6.9) the kernel can read files by itself (see ``passthrough``). It is asked for
only where the settings want it.

So wormfs mounts by itself, gives libfuse one end of a socket pair instead of the device, hands
the kernel's INIT request through, adds the flags to libfuse's answer where the kernel offered them,
and then puts the device in the socket's place (dup2). From there on libfuse talks to the kernel directly.

Source: linux/include/uapi/linux/fuse.h (struct fuse_in_header, fuse_init_in, fuse_init_out).
"""

from __future__ import annotations

import os
import socket
import struct
import sys

_FUSE_INIT = 26
_HANDLE_KILLPRIV_V2 = 1 << 28
_INIT_EXT = 1 << 30
"""There are more flags in ``flags2``."""
_PASSTHROUGH = 1 << (37 - 32)
"""In ``flags2``."""
_STACK_DEPTH = 1
"""On what the kernel may read from by itself: a plain file system, none that stands on another one. The mount
can then still be a layer of an overlay."""
_REQUEST_BYTES = 1 << 21
_IN_HEADER = struct.Struct("<IIQQIIIHH")
_OUT_HEADER = struct.Struct("<IiQ")
_FLAGS_AT = 12
"""Offset of ``flags`` in the bodies of fuse_init_in and fuse_init_out."""
_FLAGS2_IN_AT = 16
_FLAGS2_OUT_AT = 32
_STACK_DEPTH_AT = 36
_INIT_OUT_BYTES = 64


class HandshakeError(Exception):
    """The kernel or libfuse did not begin with INIT."""


class Handshake:
    """The exchange on one connection; used once."""

    def __init__(self, device_fd: int, *, passthrough: bool = False):
        """Takes over ``device_fd``. Blocks until the kernel has sent INIT (it does so on mounting).

        Args:
            passthrough: also ask for the right to have the kernel read files by itself.
        """
        self._device_fd = device_fd
        self._passthrough = passthrough
        self._request = os.read(device_fd, _REQUEST_BYTES)
        if _IN_HEADER.unpack_from(self._request)[1] != _FUSE_INIT:
            raise HandshakeError("the kernel did not begin with FUSE_INIT")
        self._ours, libfuse_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.send(self._request)
        self.session_fd = libfuse_end.detach()
        """What libfuse is given: first the socket, after ``finish`` the device."""

    def finish(self) -> int | None:
        """Pass libfuse's answer on and put the device in the socket's place.

        Called after libfuse has handled its first request. Does not block for long. Returns another
        descriptor of the device, now the caller's, if passthrough was asked for and the kernel has it.
        """
        reply = bytearray(self._ours.recv(4096))
        passthrough = False
        if _OUT_HEADER.unpack_from(reply)[1] == 0:
            self._add(reply, _FLAGS_AT, self._offered(_FLAGS_AT) & _HANDLE_KILLPRIV_V2)
            passthrough = self._passthrough and self._add_passthrough(reply)
        os.write(self._device_fd, reply)
        os.dup2(self._device_fd, self.session_fd, inheritable=False)
        self._ours.close()
        if passthrough:
            return self._device_fd
        os.close(self._device_fd)
        return None

    def _add_passthrough(self, reply: bytearray) -> bool:
        """Whether the kernel has it and libfuse's answer has room for it."""
        extended = self._offered(_FLAGS_AT) & _INIT_EXT
        if not (extended and self._offered(_FLAGS2_IN_AT) & _PASSTHROUGH):
            return False
        if len(reply) < _OUT_HEADER.size + _INIT_OUT_BYTES:
            return False
        self._add(reply, _FLAGS_AT, _INIT_EXT)
        self._add(reply, _FLAGS2_OUT_AT, _PASSTHROUGH)
        self._add(reply, _STACK_DEPTH_AT, _STACK_DEPTH)
        return True

    def _offered(self, at: int) -> int:
        """The 32 bits at ``at`` of the kernel's INIT; 0 where it is shorter."""
        at += _IN_HEADER.size
        return int.from_bytes(self._request[at : at + 4], sys.byteorder)

    @staticmethod
    def _add(reply: bytearray, at: int, bits: int) -> None:
        at += _OUT_HEADER.size
        (wanted,) = struct.unpack_from("=I", reply, at)
        struct.pack_into("=I", reply, at, wanted | bits)
