"""sd_notify(3): tell systemd how the daemon is. Says nothing when nobody asked."""

from __future__ import annotations

import logging
import os
import socket

from wormfs.clock import monotonic

log = logging.getLogger(__name__)

_VARIABLE = "NOTIFY_SOCKET"
_WATCHDOG_TIME = "WATCHDOG_USEC"
_WATCHDOG_PROCESS = "WATCHDOG_PID"
_BEATS = 4
"""How often the watchdog is told within its time: one that comes late, or is lost, is no death."""


class Notifier:
    """Sends states to the socket that the service manager named, if there is one.

    Failures are logged and otherwise ignored: a service manager that does not listen must
    never stop the file system.
    """

    def __init__(self, address: str | None, watchdog_s: float | None = None):
        """``watchdog_s``: how long the service manager waits for ``alive`` before it kills us, in seconds."""
        self._address = address
        self.beat_s = watchdog_s / _BEATS if watchdog_s is not None else None
        """How often ``alive`` has to be said, in seconds; ``None``: nobody waits for it."""

    @classmethod
    def from_environment(cls) -> Notifier:
        """Takes the variables out of the environment: workers must not speak for the supervisor."""
        watchdog_us = os.environ.pop(_WATCHDOG_TIME, "")
        meant = os.environ.pop(_WATCHDOG_PROCESS, "") in ("", str(os.getpid()))
        watched = meant and watchdog_us.isdecimal() and int(watchdog_us) > 0
        return cls(os.environ.pop(_VARIABLE, None), int(watchdog_us) / 1e6 if watched else None)

    def ready(self, status: str) -> None:
        """READY=1 with a line for ``systemctl status``."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={_line(status)}")

    def reloading(self, status: str) -> None:
        """RELOADING=1: until the next READY=1 the settings are being taken over."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(monotonic() * 1e6)}\nSTATUS={_line(status)}")

    def alive(self) -> None:
        """WATCHDOG=1: the event loop turns, and nothing hangs that cannot be cured from here."""
        self._send("WATCHDOG=1")

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
