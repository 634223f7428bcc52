"""Secrets, and the rule for every file that may hold one.

A secret is named, not written: ``{file: /etc/wormfs/key}``, ``{env: WORMFS_KEY}`` or
``{credential: key}`` (systemd's LoadCredential). Written inline it works, too. No text that this
module makes, be it repr, message or dump, holds the value.
"""

from __future__ import annotations

import enum
import os
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from wormfs.config.units import quote
from wormfs.errors import SettingsError

MASK = "********"
WIDEST_MODE = 0o640
MAX_FILE_BYTES = 1 << 20

_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}", re.ASCII)
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class SecretSource(enum.Enum):
    """Where the value of a secret comes from."""

    FILE = "file"
    ENVIRONMENT = "env"
    CREDENTIAL = "credential"
    INLINE = "inline"


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that is read where it is used and shown nowhere.

    ``reference`` is a path, the name of a variable or of a credential; for an inline secret it is
    the value itself, which is why repr leaves it out.
    """

    source: SecretSource
    reference: str = field(repr=False)

    def __str__(self) -> str:
        return MASK

    def reveal(self) -> str:
        """The value, without one trailing newline. Reads a file: blocks.

        Raises SettingsError when it is missing, empty, not UTF-8, or lies in a file that others can read.
        """
        match self.source:
            case SecretSource.INLINE:
                value = self.reference
            case SecretSource.ENVIRONMENT:
                value = os.environ.get(self.reference, "")
            case SecretSource.CREDENTIAL:
                value = _read_secret(os.path.join(_credentials_directory(), self.reference))
            case SecretSource.FILE:
                value = _read_secret(self.reference)
        if not value:
            raise SettingsError(f"the secret in {self.describe()} is missing or empty")
        return value

    def describe(self) -> str:
        """Where it comes from, for messages."""
        if self.source is SecretSource.INLINE:
            return "the settings file"
        return f"{self.source.value} {self.reference}"

    def to_yaml(self, *, mask: bool) -> object:
        """As it stands in the settings file; only an inline value needs a mask."""
        if self.source is SecretSource.INLINE:
            return MASK if mask else self.reference
        return {self.source.value: self.reference}


def parse_secret(value: object) -> Secret:
    """A Secret from the settings file's text or mapping. Raises ValueError, without the value."""
    if isinstance(value, Secret):
        return value
    if isinstance(value, str):
        if not value:
            raise ValueError("is an empty secret")
        return Secret(SecretSource.INLINE, value)
    sources = {source.value: source for source in SecretSource if source is not SecretSource.INLINE}
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in sources:
        raise ValueError("must be exactly one of {file: PATH}, {env: VARIABLE} or {credential: NAME}")
    [(name, reference)] = value.items()
    if not isinstance(reference, str) or not reference:
        # Not shown: somebody may have put the secret itself here.
        raise ValueError(f"{name}: must be text, in quotes if it looks like a number")
    source = sources[name]
    if source is SecretSource.FILE and not os.path.isabs(reference):
        raise ValueError("file: must be an absolute path")
    if source is SecretSource.ENVIRONMENT and not _ENVIRONMENT_NAME.fullmatch(reference):
        raise ValueError("env: must be the name of an environment variable")
    if source is SecretSource.CREDENTIAL and not _CREDENTIAL_NAME.fullmatch(reference):
        raise ValueError("credential: must be the name of a systemd credential")
    return Secret(source, reference)


def read_private(path: str) -> bytes:
    """The content of a file that only root or the daemon's user may change and few may read. Blocks.

    Raises SettingsError with what is wrong and the command that repairs it; names the path.
    """
    try:
        # O_NONBLOCK: a FIFO in this place must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(f"{quote(path)} cannot be read: {error.strerror}") from None
    try:
        # The open file is judged, not the name: nobody can exchange it in between.
        _require_private(path, os.fstat(descriptor))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{quote(path)} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise SettingsError(f"{quote(path)} is larger than {MAX_FILE_BYTES} bytes")
    return content


def _require_private(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SettingsError(f"{quote(path)} is not a regular file")
    # -- and quoting: the command is meant to be copied to a root shell.
    shell_path = shlex.quote(path)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, os.geteuid()):
        raise SettingsError(
            f"{quote(path)} belongs to uid {status.st_uid}, who could change it; it must belong to root"
            f" or to the daemon's user: run `chown root -- {shell_path}`"
        )
    if mode & ~WIDEST_MODE:
        raise SettingsError(
            f"{quote(path)} has mode {mode:04o}, wider than {WIDEST_MODE:04o}:"
            f" run `chmod {WIDEST_MODE:o} -- {shell_path}`"
        )


def _read_secret(path: str) -> str:
    try:
        text = read_private(path).decode("utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"{quote(path)} does not hold UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")


def _credentials_directory() -> str:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise SettingsError("no credentials here: only systemd sets CREDENTIALS_DIRECTORY (LoadCredential=)")
    return directory
