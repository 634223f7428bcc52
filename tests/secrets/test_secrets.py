"""No secret leaves the program: unmistakable ones are planted in every secret setting of every driver, from
every source, right and wrong ones; then everything that it prints, stores and answers is searched for them.

The servers are real: one FTP server repeats a wrong password in its refusal, as some do.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support import s3servers
from tests.support.daemon import Daemon, environment, processes_of
from tests.support.databases import PASSWORD as DATABASE_PASSWORD
from tests.support.ftpservers import USER, FtpServer, Kind
from tests.support.moodle import Moodle, make_moodle
from tests.support.prometheus import free_port, scrape
from wormfs.config.base import BackendSettings
from wormfs.config.registry import MODELS
from wormfs.config.secret import Secret

SOURCES = ("inline", "file", "env", "credential")
RIGHT_FTP = "PLANTED-right ftp:/@%+pass"
INJECT = Path(__file__).parent.parent / "mount" / "inject"


@dataclass
class Planted:
    """A daemon with secrets, and all that was seen of it."""

    daemon: Daemon
    every: Daemon
    """Settings with all kinds of secrets; never started."""
    port: int
    variables: dict[str, str]
    secrets: dict[str, str]
    """What was planted, by where."""
    seen: dict[str, bytes] = field(default_factory=dict)

    def keep(self, where: str, what: str | bytes) -> None:
        self.seen[where] = what if isinstance(what, bytes) else what.encode("utf-8", "surrogateescape")

    def command(self, *words: str, of: Daemon | None = None) -> None:
        """Run a command, and keep what it prints."""
        daemon = of or self.daemon
        done = subprocess.run(
            [sys.executable, "-m", "wormfs", *words, "--config", str(daemon.config)],
            capture_output=True, text=True, cwd=self.daemon.base, check=False,
            env=environment(self.daemon.base) | self.variables,
        )  # fmt: skip
        self.keep(" ".join(["wormfs", *words, "of", daemon.base.name]), done.stdout + done.stderr)


class Planter:
    """Makes secrets and says how the settings name them."""

    def __init__(self, base: Path):
        self._files = base / "secrets"
        self._files.mkdir(mode=0o700)
        self.variables = {"CREDENTIALS_DIRECTORY": str(self._files)}
        self.secrets: dict[str, str] = {}

    def plant(self, driver: str, setting: str, source: str, value: str = "") -> object:
        name = f"{driver}.{setting}.{source}"
        # With what would be written in another way in an URL or in a shell.
        value = self.secrets[name] = value or f"PLANTED{os.urandom(6).hex()}:/@%+'\" x"
        match source:
            case "inline":
                return value
            case "env":
                variable = "PLANTED_" + name.upper().replace(".", "_").replace("-", "_")
                self.variables[variable] = value
                return {"env": variable}
        path = self._files / name
        path.write_text(value + "\n")
        path.chmod(0o600)
        return {"file": str(path)} if source == "file" else {"credential": name}


Backends = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Storages:
    """Real servers, and how a backend on each is set up but for its secrets."""

    ftp: FtpServer
    s3: s3servers.S3Server
    moodle: Moodle

    def settings(self, kind: str) -> dict[str, object]:
        common: dict[str, object] = {"type": kind, "spool_reserve": "0", "empty_grace": "0s"}
        match kind:
            case "ftp":
                return common | {
                    "host": "127.0.0.1", "port": self.ftp.port, "user": USER, "tls": "none", "insecure": True,
                }  # fmt: skip
            case "s3":
                return common | {"bucket": "planted", "endpoint": self.s3.endpoint}
            case _:
                return common | self.moodle.options(course=7)


def daemons_backends(planter: Planter, storages: Storages) -> Backends:
    """One of each driver that works, and one whose secrets are wrong; every source is there."""
    right: dict[str, dict[str, object]] = {
        "ftp": {"password": planter.plant("right-ftp", "password", "credential", RIGHT_FTP)},
        "s3": {
            # Known to all tests; worth nothing without the other.
            "access_key": s3servers.ACCESS_KEY,
            "secret_key": planter.plant("right-s3", "secret_key", "file", s3servers.SECRET_KEY),
        },
        "moodle": {
            "database_password": planter.plant("right-moodle", "database_password", "env", DATABASE_PASSWORD)
        },
    }
    wrong: dict[str, dict[str, object]] = {
        "ftp": {"password": planter.plant("ftp", "password", "file")},
        "s3": {
            "access_key": planter.plant("s3", "access_key", "inline"),
            "secret_key": planter.plant("s3", "secret_key", "env"),
            "session_token": planter.plant("s3", "session_token", "credential"),
        },
        "moodle": {"database_password": planter.plant("moodle", "database_password", "inline")},
    }
    made = {kind: storages.settings(kind) | secrets for kind, secrets in right.items()}
    return made | {f"{kind}-wrong": storages.settings(kind) | secrets for kind, secrets in wrong.items()}


def all_backends(planter: Planter, storages: Storages) -> Backends:
    """Every secret setting from every source, all wrong."""
    return {
        f"{kind}-{source}": storages.settings(kind)
        | {
            setting: planter.plant(kind, setting, SOURCES[(at + turn) % len(SOURCES)])
            for turn, setting in enumerate(secret_fields(MODELS[kind]))
        }
        for kind in ("ftp", "s3", "moodle")
        for at, source in enumerate(SOURCES)
    }


@pytest.fixture(scope="module")
def storages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storages]:
    ftp = FtpServer(Kind.PYFTPDLIB, extra={"echo": True, "password": RIGHT_FTP})
    s3 = s3servers.seaweedfs()
    client = s3.client()
    client.create_bucket(Bucket="planted")
    client.close()
    moodle = make_moodle("postgresql", tmp_path_factory.mktemp("moodle"))
    yield Storages(ftp, s3, moodle)
    moodle.remove()
    ftp.remove()


@pytest.fixture(scope="module")
def planted(storages: Storages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    base = tmp_path_factory.mktemp("planted")
    planter = Planter(base)
    port = free_port()
    daemon = Daemon(base, {})
    (base / "every").mkdir()
    textfile = base / "wormfs.prom"
    daemon.write_config(
        daemons_backends(planter, storages),
        # The most that it ever says.
        log_level="debug",
        metrics={"listen": f"127.0.0.1:{port}", "textfile": str(textfile), "every": "1s"},
    )
    every = Daemon(base / "every", all_backends(planter, storages))
    found = Planted(daemon, every, port, planter.variables, planter.secrets)
    try:
        with _service_manager(base / "notify") as notified:
            _drive(found, notified)
        yield found
    finally:
        daemon.clean_up()


@contextlib.contextmanager
def _service_manager(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(str(path))
        yield listening


def _all_of(notified: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield notified.recv(1 << 16)


def _drive(found: Planted, notified: socket.socket) -> None:
    """Everything that the program can do, with what it says kept."""
    daemon = found.daemon
    found.command("config", "check", of=found.every)
    found.command("config", "show", of=found.every)
    # Not the database's: a login that is refused is tried again for five seconds. The daemon meets one below.
    found.command(
        "check", *(f"{kind}-{source}" for kind in ("ftp", "s3") for source in SOURCES), of=found.every
    )
    inject = daemon.base / "inject"
    inject.mkdir()
    daemon.start(
        wait=False,
        **found.variables,
        NOTIFY_SOCKET=str(daemon.base / "notify"),
        WORMFS_TEST_INJECT=str(inject),
        PYTHONPATH=f"{INJECT}:{INJECT.parents[2]}",
    )

    said: list[bytes] = []

    def settled() -> bool:
        # The kernel keeps ten for who does not listen.
        said.extend(_all_of(notified))
        states = {name: one["state"] for name, one in daemon.status()["backends"].items()}
        return all(state == ("waiting" if "-" in name else "ready") for name, state in states.items())

    daemon.wait_for((daemon.state_directory / "control.sock").exists, "the daemon listens")
    daemon.wait_for(settled, "the right ones are mounted and the wrong ones refused", timeout_s=60)
    for name in ("ftp", "s3", "moodle"):
        file = daemon.mountpoint / name / "file.txt"
        file.write_text("content")
        assert file.read_text() == "content"
        with pytest.raises(PermissionError):
            file.unlink()
        found.keep(f"xattrs of {name}", b"\n".join(os.getxattr(file, one) for one in os.listxattr(file)))
        (inject / "lookup").write_text("ValueError")
        with pytest.raises(OSError):
            (daemon.mountpoint / name / "new").stat()
        (inject / "lookup").unlink()
    found.command("status")
    found.command("status", "--json")
    for name in ("ftp", "s3", "moodle"):
        found.command("verify", name)
    found.command("spool", "list")
    found.keep("metrics", scrape(found.port))
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{found.port}/other", timeout=5)
    _ask_control_socket(found)
    for pid in processes_of(daemon.base):
        for what in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                found.keep(f"/proc/{pid}/{what}", Path(f"/proc/{pid}/{what}").read_bytes())
    daemon.wait_for((daemon.base / "wormfs.prom").exists, "the metrics are in a file")
    found.keep("metrics file", (daemon.base / "wormfs.prom").read_bytes())
    found.command("umount")
    found.keep("sd_notify", b"\n".join([*said, *_all_of(notified)]))
    found.keep("log", daemon.log.read_bytes())
    for path in daemon.state_directory.rglob("*"):
        if path.is_file():
            found.keep(f"state {path.relative_to(daemon.state_directory)}", path.read_bytes())


def _ask_control_socket(found: Planted) -> None:
    requests = [
        {"request": "status"},
        {"request": "nonsense"},
        *(
            {"backend": name, "request": {"op": op}, "timeout_s": 2}
            for name in ("ftp", "ftp-wrong")
            for op in ("status", "metrics", "spool.live", "records.look", "clock.look", "nonsense")
        ),
    ]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(found.daemon.state_directory / "control.sock"))
        with connection.makefile("rb") as replies:
            for request in requests:
                connection.sendall(json.dumps(request).encode() + b"\n")
                found.keep(f"control socket {request}", replies.readline())


def written_ways(secret: str) -> set[bytes]:
    """As it is, and as programs write it elsewhere."""
    plain = secret.encode()
    ways = {
        secret, urllib.parse.quote(secret), urllib.parse.quote_plus(secret),
        urllib.parse.quote(secret, safe=""),
        json.dumps(secret)[1:-1], repr(secret)[1:-1], secret.replace("'", "''"), plain.hex(),
        # A part is a leak, too.
        secret[:19],
    }  # fmt: skip
    whole = base64.b64encode(plain).decode().rstrip("=")
    return {way.encode() for way in {*ways, whole[:-2]}}


def leaks(found: Planted, allowed: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Which secret was seen where."""
    return [
        (name, where)
        for name, secret in found.secrets.items()
        for where, what in found.seen.items()
        if any(way in what for way in written_ways(secret))
        and where.rpartition("/")[2] not in allowed.get(name, ())
    ]


def test_no_secret_is_seen_anywhere(planted: Planted) -> None:
    # What the administrator has put into the environment of the daemon is there, and nowhere else.
    allowed = {name: {"environ"} for name in planted.secrets if name.endswith(".env")}
    assert len(planted.seen) > 40
    assert leaks(planted, allowed) == []


def test_the_search_has_seen_what_it_is_for(planted: Planted) -> None:
    log = planted.seen["log"].decode()
    assert "ValueError: injected" in log and "unlink refused" in log
    for name in ("ftp-wrong", "s3-wrong", "moodle-wrong"):
        assert f"warning {name}: " in log, name
    assert b"********" in planted.seen["wormfs config show of every"]
    assert (
        b"wormfs_backend_up" in planted.seen["metrics"]
        and b"wormfs_backend_up" in planted.seen["metrics file"]
    )
    assert b"STATUS=" in planted.seen["sd_notify"]
    assert any(b"PLANTED_" in what for where, what in planted.seen.items() if where.endswith("environ"))
    assert any(where.startswith("state audit/") for where in planted.seen)
    # A secret that is printed would be found, however it is written.
    for name, secret in planted.secrets.items():
        for way in written_ways(secret):
            shown = replace(planted, seen={"somewhere": b"x" + way + b"x"})
            assert (name, "somewhere") in leaks(shown, {}), way


def test_every_secret_setting_of_every_driver_was_planted_from_every_source(planted: Planted) -> None:
    wanted = {
        f"{kind}.{field}.{source}"
        for kind, model in MODELS.items()
        for field in secret_fields(model)
        for source in SOURCES
    }
    assert len(wanted) == 20
    assert wanted - set(planted.secrets) == set()


def secret_fields(model: type[BackendSettings]) -> list[str]:
    """Those whose value is a Secret."""
    return [name for name, field in model.model_fields.items() if _may_hold(field.annotation)]


def _may_hold(annotation: object) -> bool:
    return annotation is Secret or Secret in getattr(annotation, "__args__", ())
