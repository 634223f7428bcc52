"""The first exchange with the kernel, with one more capability than libfuse 3.14 knows.

Without FUSE_HANDLE_KILLPRIV_V2 the kernel asks for the xattr ``security.capability`` before
*every* write, which doubles the cost of PHP's 8 KiB writes (measured: 52,201 questions for 52,711
writes). With it the file system promises to clear setuid and setgid bits itself when a file is
written, which ``fs`` does. libfuse learned the flag in 3.17; pyfuse3 does not pass it on.

So wormfs mounts by itself, gives libfuse one end of a socket pair instead of the device, hands
the kernel's INIT request through, adds the flag to libfuse's answer where the kernel offered it,
and then puts the device in the socket's place (dup2). From there on libfuse talks to the kernel directly.

Source: linux/include/uapi/linux/fuse.h (struct fuse_in_header, fuse_init_in, fuse_init_out).
"""

from __future__ import annotations

import os
import socket
import struct

_FUSE_INIT = 26
_HANDLE_KILLPRIV_V2 = 1 << 28
_REQUEST_BYTES = 1 << 21
_IN_HEADER = struct.Struct("<IIQQIIIHH")
_OUT_HEADER = struct.Struct("<IiQ")
_FLAGS_AT = 12
"""Offset of ``flags`` in the bodies of fuse_init_in and fuse_init_out."""


class HandshakeError(Exception):
    """The kernel or libfuse did not begin with INIT."""


class Handshake:
    """The exchange on one connection; used once."""

    def __init__(self, device_fd: int):
        """Takes over ``device_fd``. Blocks until the kernel has sent INIT (it does so on mounting)."""
        self._device_fd = device_fd
        self._request = os.read(device_fd, _REQUEST_BYTES)
        if _IN_HEADER.unpack_from(self._request)[1] != _FUSE_INIT:
            raise HandshakeError("the kernel did not begin with FUSE_INIT")
        self._ours, libfuse_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.send(self._request)
        self.session_fd = libfuse_end.detach()
        """What libfuse is given: first the socket, after ``finish`` the device."""

    def finish(self) -> None:
        """Pass libfuse's answer on and put the device in the socket's place.

        Called after libfuse has handled its first request. Does not block for long.
        """
        reply = bytearray(self._ours.recv(4096))
        if _OUT_HEADER.unpack_from(reply)[1] == 0:
            (offered,) = struct.unpack_from("<I", self._request, _IN_HEADER.size + _FLAGS_AT)
            at = _OUT_HEADER.size + _FLAGS_AT
            (wanted,) = struct.unpack_from("<I", reply, at)
            struct.pack_into("<I", reply, at, wanted | (offered & _HANDLE_KILLPRIV_V2))
        os.write(self._device_fd, reply)
        os.dup2(self._device_fd, self.session_fd, inheritable=False)
        os.close(self._device_fd)
        self._ours.close()
