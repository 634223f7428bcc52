"""Directories of real FTP servers as storages for the tests of the driver contract."""

from __future__ import annotations

import atexit
import ftplib
import functools
import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import ftpservers
from tests.support.ftpservers import FtpServer, Security
from wormfs.backends.base import Backend
from wormfs.backends.ftp.backend import FtpBackend
from wormfs.backends.ftp.claims import DATA, META, encode_meta
from wormfs.backends.ftp.names import claim_name
from wormfs.backends.ftp.options import FtpOptions, Tls
from wormfs.config.secret import Secret, SecretSource
from wormfs.model import DirectoryAttributes, Key, Record

NO_ATTRIBUTES = DirectoryAttributes()


@functools.cache
def server(kind: ftpservers.Kind, security: Security = Security.PLAIN) -> FtpServer:
    """A server that all tests of this process share; each storage has a directory of its own there."""
    running = FtpServer(kind, security)
    atexit.register(running.remove)
    return running


@dataclass(frozen=True)
class FtpStorage:
    """A directory of a server. ``top``: a directory of the test, for spool files."""

    port: int
    files: Path
    top: Path
    tls: str = "none"
    ca_file: str | None = None
    folder: str = field(default_factory=lambda: f"t-{secrets.token_hex(6)}")

    @property
    def root(self) -> Path:
        return self.files / self.folder

    def options(self, **changes: Any) -> FtpOptions:
        settings: dict[str, Any] = {
            "host": "127.0.0.1",
            "user": ftpservers.USER,
            "password": Secret(SecretSource.INLINE, ftpservers.PASSWORD),
            "port": self.port,
            "directory": "/" + self.folder,
            "tls": Tls(self.tls),
            "ca_file": self.ca_file,
            "insecure": self.tls == "none",
            "timeout_s": 10.0,
            "patience_s": 3.0,
        }
        return FtpOptions(**settings | changes)

    def backend(self, **changes: Any) -> Backend:
        return FtpBackend("archive", self.options(**changes))

    def client(self) -> ftplib.FTP:
        """Somebody else's client, logged in; for plain servers."""
        client = ftplib.FTP(timeout=10)
        client.connect("127.0.0.1", self.port)
        client.login(ftpservers.USER, ftpservers.PASSWORD)
        return client

    def path_of(self, key: Key) -> Path:
        return self.root / os.fsdecode(key)

    def plain(self, key: Key) -> bytes:
        return self.path_of(key).read_bytes()

    def place_foreign(self, key: Key, content: bytes) -> None:
        path = self.path_of(key)
        path.write_bytes(content)
        os.chown(path, ftpservers.UID, ftpservers.UID)

    def alter(self, key: Key, content: bytes) -> None:
        """The final file overwritten in place: its owner, its mode, its time and its record stay."""
        path = self.path_of(key)
        status = path.stat()
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def lose(self, key: Key) -> None:
        self.path_of(key).unlink()
        shutil.rmtree(self.claim_of(key))

    def claim_of(self, key: Key) -> Path:
        """The directory of the claim of ``key``."""
        return self.root / ".wormfs" / "c" / os.fsdecode(claim_name(key))

    def leave_claim(self, key: Key, content: bytes, record: Record) -> None:
        """What a host leaves that dies between winning the name and giving it to the file."""
        claim = self.claim_of(key)
        claim.mkdir()
        (claim / DATA.decode()).write_bytes(content)
        (claim / META.decode()).write_bytes(encode_meta(key, record))
        for path in (claim, *claim.iterdir()):
            os.chown(path, ftpservers.UID, ftpservers.UID)

    def visible(self) -> set[bytes]:
        names: set[bytes] = set()
        for folder, folders, files in os.walk(os.fsencode(self.root)):
            folders[:] = [name for name in folders if not name.startswith(b".wormfs")]
            inside = os.path.relpath(folder, os.fsencode(self.root))
            names.update(os.path.normpath(os.path.join(inside, name)) for name in folders + files)
        return names

    def hidden(self) -> set[str]:
        """Everything below ``.wormfs``, as paths from there."""
        top = self.root / ".wormfs"
        return {str(path.relative_to(top)) for path in top.rglob("*")}

    def spool(self) -> Path:
        spool = self.top / "spool-files"
        spool.mkdir(exist_ok=True)
        return spool

    def rounds(self, full: int) -> int:
        """Each step is a question to a server: a tenth of what a disk is asked, but for ``make soak``."""
        return full if os.environ.get("WORMFS_SOAK") else max(min(full, 2), full // 10)

    def remove(self) -> None:
        shutil.rmtree(self.root)


def made(running: FtpServer, top: Path) -> FtpStorage:
    """A new directory at ``running``."""
    storage = FtpStorage(running.port, running.root, top, running.security.value, running.ca_file)
    storage.root.mkdir()
    os.chown(storage.root, ftpservers.UID, ftpservers.UID)
    return storage


def vsftpd(top: Path) -> FtpStorage:
    """vsftpd: no MLSD, no hashes."""
    return made(server(ftpservers.Kind.VSFTPD), top)


ONCE = (
    "guest_enable=YES", f"guest_username={ftpservers.USER}", "virtual_use_local_privs=NO",
    "anon_upload_enable=YES", "anon_mkdir_write_enable=YES", "anon_other_write_enable=NO", "anon_umask=022",
    "anon_world_readable_only=NO",
)  # fmt: skip
"""Lines with which vsftpd stores only what is not there yet, and renames and deletes nothing."""
WHOLE = "delete_failed_uploads=YES"
"""And with this one no part of a file stays."""


@functools.cache
def _once_server() -> FtpServer:
    running = FtpServer(ftpservers.Kind.VSFTPD, extra={"lines": [*ONCE, WHOLE]})
    atexit.register(running.remove)
    return running


def vsftpd_once(top: Path) -> FtpStorage:
    """vsftpd for its guests: everything is final. What erases or removes cannot be tried there."""
    return made(_once_server(), top)


def proftpd(top: Path) -> FtpStorage:
    """proftpd with mod_digest."""
    return made(server(ftpservers.Kind.PROFTPD), top)


def pureftpd(top: Path) -> FtpStorage:
    """pure-ftpd: mangles spaces and backslashes."""
    return made(server(ftpservers.Kind.PUREFTPD), top)


def pyftpdlib(top: Path) -> FtpStorage:
    """pyftpdlib: UTF-8 only."""
    return made(server(ftpservers.Kind.PYFTPDLIB), top)
