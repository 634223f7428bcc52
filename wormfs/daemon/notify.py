"""sd_notify(3): tell systemd how the daemon is. Says nothing when nobody asked."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)

_VARIABLE = "NOTIFY_SOCKET"


class Notifier:
    """Sends states to the socket that the service manager named, if there is one.

    Failures are logged and otherwise ignored: a service manager that does not listen must
    never stop the file system.
    """

    def __init__(self, address: str | None):
        self._address = address

    @classmethod
    def from_environment(cls) -> Notifier:
        """Takes the variable out of the environment: workers must not speak for the supervisor."""
        return cls(os.environ.pop(_VARIABLE, None))

    def ready(self, status: str) -> None:
        """READY=1 with a line for ``systemctl status``."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={_line(status)}")

    def stopping(self, status: str) -> None:
        """STOPPING=1: what follows is an orderly end."""
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # "@" stands for the NUL byte of Linux' abstract socket names.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.connect(address)
                sender.send(message.encode("utf-8", "backslashreplace"))
        except OSError as error:
            log.warning("the service manager cannot be told (%s): %s", self._address, error)


def _line(text: str) -> str:
    return text.replace("\n", " ")
