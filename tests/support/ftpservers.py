"""Real FTP servers for tests: vsftpd, proftpd and pure-ftpd of Debian, pyftpdlib; plain or with TLS.

The three of Debian conflict as packages, so ``scripts/install test`` unpacks them to ``.venv/servers`` and
installs none. Each server runs on 127.0.0.1 with one user, whose files lie in a directory of its own, and
ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import enum
import ftplib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

USER = "archivist"
PASSWORD = "open sesame 7"
UID = 4242
PATIENCE_S = 20.0
GUARDED = (
    *("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL"),
    *("sh", "-c", '"$@" & wait "$!"', "guardian"),
)
"""Runs a server in a PID namespace of its own. A test run that is killed takes the guardian with it, the
guardian process 1 of the namespace, and the kernel then everything in there: what changed its user (proftpd)
or became a daemon as well, which a signal at a parent's death alone would not reach."""
REPOSITORY = Path(__file__).resolve().parents[2]
SERVERS = REPOSITORY / ".venv" / "servers"


class Kind(enum.Enum):
    """Which program serves."""

    VSFTPD = "vsftpd"
    PROFTPD = "proftpd"
    PUREFTPD = "pureftpd"
    PYFTPDLIB = "pyftpdlib"


class Security(enum.Enum):
    """How it talks."""

    PLAIN = "none"
    EXPLICIT = "explicit"
    IMPLICIT = "implicit"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> Path:
    """A program of the unpacked servers. Missing ones fail the test that needs them."""
    path = SERVERS / "usr" / name
    assert path.exists(), f"{path} is missing: run scripts/install test"
    return path


@dataclass
class Certificate:
    """A CA and a certificate for 127.0.0.1, and 127.0.0.2 where proxies listen, signed by it."""

    ca: Path
    both: Path
    """Key and certificate in one file."""
    key: Path
    chain: Path


def make_certificate(directory: Path) -> Certificate:
    """With openssl, in ``directory``."""
    run = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    subprocess.run(
        [*run, "-keyout", ca_key, "-out", ca, "-days", "30", "-subj", "/CN=test CA",
         "-addext", "keyUsage=critical,keyCertSign"],
        check=True, capture_output=True,
    )  # fmt: skip
    key, chain, both = directory / "server.key", directory / "server.pem", directory / "both.pem"
    subprocess.run(
        [*run, "-keyout", key, "-out", chain, "-days", "30", "-subj", "/CN=ftp test",
         "-CA", ca, "-CAkey", ca_key,
         "-addext", "subjectAltName=IP:127.0.0.1,IP:127.0.0.2",
         "-addext", "basicConstraints=critical,CA:FALSE"],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_text(key.read_text() + chain.read_text())
    both.chmod(0o600)
    return Certificate(ca, both, key, chain)


@dataclass
class FtpServer:
    """One running server. ``root`` holds the user's files, which the user sees as ``/``."""

    kind: Kind
    security: Security = Security.PLAIN
    extra: dict[str, Any] = field(default_factory=dict)
    """More for pyftpdlib, or lines of configuration under ``lines`` for the others."""
    address: str = "127.0.0.1"
    """Where it listens; ``::1`` for vsftpd and pyftpdlib."""
    port: int = 0

    def __post_init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"wormfs-{self.kind.value}-"))
        self.home.chmod(0o755)
        self.root = self.home / "files"
        self.root.mkdir()
        os.chown(self.root, UID, UID)
        self.certificate = make_certificate(self.home) if self.security is not Security.PLAIN else None
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def ca_file(self) -> str | None:
        return None if self.certificate is None else str(self.certificate.ca)

    @property
    def running(self) -> bool:
        return self._process is not None

    # Life

    def start(self) -> None:
        """Start, or start again at the same port."""
        assert self._process is None
        again = self.port != 0
        self.port = self.port or free_port()
        command = getattr(self, f"_{self.kind.value}")()
        log = (self.home / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [*GUARDED, *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=self._environment(),
            )  # fmt: skip
        self._wait(again)

    def _wait(self, again: bool) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, EOFError, ftplib.Error):
                if self.security is Security.IMPLICIT:
                    socket.create_connection((self.address, self.port), 2).close()
                    return
                client = ftplib.FTP(timeout=2)
                client.connect(self.address, self.port)
                client.close()
                return
            assert self._process is not None
            assert self._process.poll() is None, (self.home / "log").read_text(errors="replace")
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"{self.kind} did not start: {(self.home / 'log').read_text(errors='replace')}")

    def kill(self) -> None:
        """End it and every connection at once, as a power cut does."""
        process, self._process = self._process, None
        if process is None:
            return
        # The guardian's process 1 takes all others with it, and the guardian ends when they are gone.
        for pid in _descendants(process.pid) or [process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(PATIENCE_S)

    def remove(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def pids(self) -> list[int]:
        """The server and its children."""
        assert self._process is not None
        return [self._process.pid, *_descendants(self._process.pid)]

    def _environment(self) -> dict[str, str]:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        if self.kind is Kind.PROFTPD:
            environment["LD_LIBRARY_PATH"] = str(SERVERS / "usr/lib/proftpd")
        return environment

    # Commands

    def _lines(self) -> list[str]:
        return list(self.extra.get("lines", ()))

    def _vsftpd(self) -> list[str]:
        settings = {
            "listen_port": self.port, "background": "NO",
            "anonymous_enable": "NO", "local_enable": "YES", "write_enable": "YES",
            "chroot_local_user": "YES",
            "allow_writeable_chroot": "YES", "local_root": self.root, "pam_service_name": "wormfs-test",
            "force_dot_files": "YES", "use_localtime": "NO", "max_clients": 0,
            "max_per_ip": 0, "secure_chroot_dir": self.home / "empty", "seccomp_sandbox": "NO",
            "mdtm_write": "YES", "local_umask": "022",
        }  # fmt: skip
        if ":" in self.address:
            settings |= {"listen_ipv6": "YES", "listen_address6": self.address}
        else:
            settings |= {"listen": "YES", "listen_address": self.address, "pasv_address": self.address}
        if self.certificate is not None:
            settings |= {
                "ssl_enable": "YES", "rsa_cert_file": self.certificate.chain,
                "rsa_private_key_file": self.certificate.key, "force_local_logins_ssl": "YES",
                "force_local_data_ssl": "YES", "ssl_tlsv1": "YES", "ssl_ciphers": "HIGH",
                "require_ssl_reuse": "YES",
                "implicit_ssl": "YES" if self.security is Security.IMPLICIT else "NO",
            }  # fmt: skip
        lines = [f"{key}={value}" for key, value in settings.items()] + self._lines()
        (self.home / "empty").mkdir(exist_ok=True)
        (self.home / "conf").write_text("\n".join(lines) + "\n")
        self._make_accounts()
        # vsftpd asks PAM for a system user: one that exists in its own mount namespace only.
        script = (
            f"set -e; for f in passwd shadow group; do mount --bind {self.home}/$f /etc/$f; done; "
            f"mount --bind {self.home}/pam.d /etc/pam.d; exec {program('sbin/vsftpd')} {self.home}/conf"
        )
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]

    def _make_accounts(self) -> None:
        hashed = _hashed(PASSWORD)
        for name, line, mode in (
            ("passwd", f"{USER}:x:{UID}:{UID}::{self.root}:/bin/sh\n", 0o644),
            ("shadow", f"{USER}:{hashed}:19000:0:99999:7:::\n", 0o600),
            ("group", f"{USER}:x:{UID}:\n", 0o644),
        ):
            path = self.home / name
            path.write_text(Path("/etc", name).read_text() + line)
            path.chmod(mode)
        pam = self.home / "pam.d"
        if not pam.exists():
            shutil.copytree("/etc/pam.d", pam)
        (pam / "wormfs-test").write_text("auth required pam_unix.so\naccount required pam_unix.so\n")

    def _proftpd(self) -> list[str]:
        users = self.home / "users"
        users.write_text(f"{USER}:{_hashed(PASSWORD)}:{UID}:{UID}::{self.root}:/bin/sh\n")
        users.chmod(0o600)
        lines = [
            f"ModulePath {SERVERS}/usr/lib/proftpd", "LoadModule mod_digest.c", "LoadModule mod_quotatab.c",
            "LoadModule mod_quotatab_file.c", "LoadModule mod_tls.c", "ServerType standalone",
            "DefaultAddress 127.0.0.1", "UseIPv6 off", f"Port {self.port}", "SocketBindTight on",
            "User nobody", "Group nogroup", "AuthPAM off", f"AuthUserFile {users}",
            "AuthOrder mod_auth_file.c",
            "RequireValidShell off", "DefaultRoot ~", "TimesGMT on", 'ListOptions "-a"', "AllowOverwrite on",
            "AllowStoreRestart on", "DigestAlgorithms sha1 sha256", f"PidFile {self.home}/pid",
            "UseReverseDNS off", f"ScoreboardFile {self.home}/scoreboard", "WtmpLog off",
            "TransferLog none", "MaxInstances 300",
            f"DelayTable {self.home}/delay", "DelayEngine off", "Umask 022",
        ]  # fmt: skip
        if self.certificate is not None:
            options = " UseImplicitSSL" if self.security is Security.IMPLICIT else ""
            lines += [
                "TLSEngine on", "TLSRequired on", f"TLSECCertificateFile {self.certificate.chain}",
                f"TLSECCertificateKeyFile {self.certificate.key}", "TLSVerifyClient off",
                *([f"TLSOptions{options}"] if options else []),
            ]  # fmt: skip
        (self.home / "conf").write_text("\n".join(lines + self._lines()) + "\n")
        return [str(program("sbin/proftpd")), "-n", "-q", "-c", str(self.home / "conf")]

    def _pureftpd(self) -> list[str]:
        passwords, database = self.home / "pw", self.home / "pw.pdb"
        passwords.write_text(f"{USER}:{_hashed(PASSWORD)}:{UID}:{UID}::{self.root}/./::::::::::::\n")
        subprocess.run(
            [program("bin/pure-pw"), "mkdb", database, "-f", passwords], check=True, capture_output=True
        )
        command = [
            str(program("sbin/pure-ftpd")), "-S", f"127.0.0.1,{self.port}", "-l", f"puredb:{database}",
            "-A", "-E", "-4", "-H", "-c", "100", "-C", "100", "-I", "15", "-z", "-D", "-u", "1",
            "-U", "133:022",
            "-g", str(self.home / "pid"), "-L", "100000:50",
        ]  # fmt: skip
        if self.certificate is not None:
            command += [
                "-Y",
                "3" if self.security is Security.IMPLICIT else "2",
                "-2",
                str(self.certificate.both),
            ]
        return command + self._lines()

    def _pyftpdlib(self) -> list[str]:
        options = {
            "root": str(self.root),
            "user": USER,
            "password": PASSWORD,
            "port": self.port,
            "address": self.address,
            **self.extra,
        }
        if self.certificate is not None:
            options |= {
                "certificate": str(self.certificate.both), "implicit": self.security is Security.IMPLICIT,
            }  # fmt: skip
        return [sys.executable, "-B", str(REPOSITORY / "tests/support/pyftpd.py"), json.dumps(options)]


def _hashed(password: str) -> str:
    done = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=password, text=True, capture_output=True, check=True
    )
    return done.stdout.strip()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    for line in listing.stdout.split():
        found += [int(line), *_descendants(int(line))]
    return found
