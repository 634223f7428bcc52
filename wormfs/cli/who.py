"""Who gives a command: for decisions that are written down."""

from __future__ import annotations

import contextlib
import os
import pwd

_NO_LOGIN = 0xFFFF_FFFF


def whoami() -> str:
    """User, ``SUDO_USER`` and the name of the login that all of it began with, as far as they are known."""
    uid = os.getuid()
    parts = [f"uid {uid} ({_name(uid)})"]
    sudo_user = os.environ.get("SUDO_USER")
    if sudo_user:
        parts.append(f"SUDO_USER {sudo_user}")
    login = _login()
    if login:
        parts.append(f"login {login}")
    return ", ".join(parts)


def _login() -> str | None:
    # Kept by the kernel from the login on, whatever su and sudo do; os.getlogin() needs a terminal.
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/loginuid", encoding="ascii") as file:
            uid = int(file.read())
        if uid != _NO_LOGIN:
            return _name(uid)
    with contextlib.suppress(OSError):
        return os.getlogin()
    return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
