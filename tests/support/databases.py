"""Real PostgreSQL and MariaDB servers of the tests' own: unprivileged, in /tmp, on a unix socket only."""

from __future__ import annotations

import atexit
import contextlib
import functools
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pymysql

PASSWORD = "s3cret-of-the-tests"
USER = "moodle"
DATABASE = "moodle"
WAIT_S = 60.0
_IN_USE = "shared memory block"
_UNPRIVILEGED = "nobody"


@dataclass(frozen=True)
class Tls:
    """What a server shows, and by whom it was signed."""

    certificate: Path
    key: Path
    authority: Path


def make_tls(directory: Path, name: str) -> Tls:
    """An authority of its own in ``directory``, and a certificate by it for ``name`` only."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made = Tls(directory / "server.pem", directory / "server.key", directory / "authority.pem")
    authority_key = directory / "authority.key"
    openssl = ["openssl", "req", "-x509", *curve, "-days", "2"]
    for command in (
        [*openssl, "-subj", "/CN=the tests", "-keyout", authority_key, "-out", made.authority],
        [
            *openssl, "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-CA", made.authority, "-CAkey", authority_key, "-keyout", made.key, "-out", made.certificate,
        ],
    ):  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
    return made


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class DatabaseServer:
    """One server. ``start`` after ``make``; ``kill`` is what a crash does, ``stop`` takes everything away."""

    kind = ""
    port = 0

    def __init__(self, *, durable: bool = False, tls: Tls | None = None) -> None:
        """``durable``: sync as a real one does; else fast. ``tls``: also on 127.0.0.1, with it."""
        self.base = Path(tempfile.mkdtemp(prefix=f"wormfs-{self.kind}-"))
        self.base.chmod(0o755)
        self.data = self.base / "data"
        self.durable = durable
        self.port = 0 if tls is None else free_port()
        self.encrypts = True
        """Set to False before the start: on the port, but without TLS."""
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            user = pwd.getpwnam(_UNPRIVILEGED)
            os.chown(self.base, user.pw_uid, user.pw_gid)
        if tls is not None:
            for name in ("certificate", "key"):
                copied = self.base / name
                shutil.copy(getattr(tls, name), copied)
                copied.chmod(0o600)
                if os.geteuid() == 0:
                    os.chown(copied, user.pw_uid, user.pw_gid)

    @property
    def socket(self) -> Path:
        """What the setting ``database_socket`` names."""
        raise NotImplementedError

    def socket_file(self) -> str:
        return str(self.socket)

    def make(self) -> None:
        """Make the data directory, with the user and the database."""
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def connect(self) -> Any:
        """A plain connection (DB-API), committing each statement."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = self._spawn()
        until = time.monotonic() + WAIT_S
        while True:
            if self.process.poll() is not None and _IN_USE in self.log() and time.monotonic() < until:
                # After a kill PostgreSQL's sessions, in process groups of their own, end a moment later.
                self.process = self._spawn()
            try:
                # PyMySQL would leave the socket of a failed attempt open.
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(self.socket_file())
                self.connect().close()
            except (OSError, psycopg.OperationalError, pymysql.err.OperationalError):
                assert self.process.poll() is None and time.monotonic() < until, self.log()
                time.sleep(0.02)
            else:
                return

    def _spawn(self) -> subprocess.Popen[bytes]:
        with (self.base / "log").open("wb") as log:
            return subprocess.Popen(
                [*unprivileged(dying_with_us=True), *self.command()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.base, start_new_session=True,
            )  # fmt: skip

    def log(self) -> str:
        return (self.base / "log").read_text(errors="replace")

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(WAIT_S)

    def kill(self) -> None:
        """As a crash does: the server and what it has started are gone at once."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.end()

    def stop(self) -> None:
        """Everything away. May be called again."""
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.base, ignore_errors=True)


class PostgresqlServer(DatabaseServer):
    """PostgreSQL of the Debian package."""

    kind = "postgresql"

    @property
    def socket(self) -> Path:
        return self.base

    def socket_file(self) -> str:
        return str(self.base / f".s.PGSQL.{self.port or 5432}")

    def make(self) -> None:
        password = self.base / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        run(
            _postgresql("initdb"), "-D", self.data, "-U", USER, f"--pwfile={password}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", cwd=self.base,
        )  # fmt: skip

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.base),
            "max_connections": "200",
            "shared_buffers": "32MB",
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        if self.port:
            settings |= {
                "listen_addresses": "127.0.0.1", "port": str(self.port),
                "ssl": "on" if self.encrypts else "off",
                "ssl_cert_file": str(self.base / "certificate"), "ssl_key_file": str(self.base / "key"),
            }  # fmt: skip
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [_postgresql("postgres"), "-D", str(self.data), *options]

    def start(self) -> None:
        # A server that was killed leaves it; another process may have the number by now.
        with contextlib.suppress(FileNotFoundError):
            (self.data / "postmaster.pid").unlink()
        super().start()

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=str(self.base), port=self.port or 5432, user=USER, password=PASSWORD, dbname="postgres",
            autocommit=True,
        )  # fmt: skip


class MariadbServer(DatabaseServer):
    """MariaDB of the Debian package."""

    kind = "mariadb"

    @property
    def socket(self) -> Path:
        return self.base / "socket"

    def make(self) -> None:
        # Run at each start.
        (self.base / "init.sql").write_text(
            f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;\n"
            f"CREATE USER IF NOT EXISTS {USER} IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON {DATABASE}.* TO {USER};\n"
        )
        run(
            "mariadb-install-db", "--no-defaults", f"--datadir={self.data}", "--skip-test-db",
            "--auth-root-authentication-method=normal", "--innodb-log-file-size=8M",
            cwd=self.base,
        )  # fmt: skip

    def command(self) -> list[str]:
        options = [
            f"--datadir={self.data}", f"--socket={self.socket}", f"--pid-file={self.base}/pid",
            "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=64M",
            "--max-connections=200", f"--init-file={self.base}/init.sql",
        ]  # fmt: skip
        if self.port:
            options += ["--bind-address=127.0.0.1", f"--port={self.port}"]
            if self.encrypts:
                options += [f"--ssl-cert={self.base}/certificate", f"--ssl-key={self.base}/key"]
        else:
            options.append("--skip-networking")
        if not self.durable:
            options += ["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"]
        return ["/usr/sbin/mariadbd", "--no-defaults", *options]

    def connect(self) -> Any:
        return pymysql.connect(
            unix_socket=str(self.socket), user=USER, password=PASSWORD, database=DATABASE, autocommit=True
        )


KINDS: dict[str, type[DatabaseServer]] = {"postgresql": PostgresqlServer, "mariadb": MariadbServer}


def make_server(kind: str, *, durable: bool = False, tls: Tls | None = None) -> DatabaseServer:
    """A server of one's own, made and started. Its maker stops it."""
    server = KINDS[kind](durable=durable, tls=tls)
    try:
        server.make()
        server.start()
    except BaseException:
        server.stop()
        raise
    return server


@functools.cache
def shared_server(kind: str) -> DatabaseServer:
    """The server that all tests of this process share; it ends with the process."""
    server = make_server(kind)
    atexit.register(server.stop)
    return server


def unprivileged(*, dying_with_us: bool = False) -> list[str]:
    """The beginning of a command that is not to run as root."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam(_UNPRIVILEGED)
    command = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [*command, *(["--pdeathsig", "KILL"] if dying_with_us else []), "--"]


def run(*command: object, cwd: Path) -> None:
    """Run a command that is not to run as root; its output only if it fails."""
    done = subprocess.run(
        [*unprivileged(), *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _postgresql(program: str) -> str:
    """Debian has its programs outside PATH."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"))
    assert found, f"{program} is missing: scripts/install test"
    return found[-1]
