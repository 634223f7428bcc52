"""Credentials that boto3 finds itself: a profile, the environment, an instance's role, which is renewed."""

from __future__ import annotations

import datetime
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.drivers import store
from tests.conformance.storages_s3 import S3Storage
from tests.support import s3servers
from wormfs.errors import AccessDenied, SettingsError
from wormfs.model import Key

KEY = Key(b"exam.zip")
CONTENT = b"an archive\n" * 100
FOUND = {"access_key": None, "secret_key": None}
"""Settings that leave credentials to boto3."""


@pytest.fixture(autouse=True)
def nothing_of_this_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this host's own files and variables, nor a metadata service of whoever runs it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def use(plain: S3Storage, **settings: object) -> None:
    backend = plain.backend(**FOUND, **settings)
    backend.start()
    info = store(plain, backend, KEY, CONTENT)
    assert backend.open(info).read(0, len(CONTENT)) == CONTENT
    backend.close()
    assert plain.plain(KEY) == CONTENT


def test_a_profile(plain: S3Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(
        "[default]\naws_access_key_id = nobody\naws_secret_access_key = wrong\n"
        f"[exams]\naws_access_key_id = {s3servers.ACCESS_KEY}\n"
        f"aws_secret_access_key = {s3servers.SECRET_KEY}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    use(plain, profile="exams")
    with pytest.raises(AccessDenied):
        plain.backend(**FOUND).start()
    with pytest.raises(SettingsError, match="profile"):
        plain.backend(**FOUND, profile="missing").start()


def test_the_environment(plain: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3servers.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3servers.SECRET_KEY)
    use(plain)


def test_none_at_all_is_told(plain: S3Storage) -> None:
    with pytest.raises(AccessDenied, match="no credentials"):
        plain.backend(**FOUND).start()


class Metadata(http.server.ThreadingHTTPServer):
    """An instance's metadata service (IMDSv2) with one role."""

    def __init__(self, lifetime_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _MetadataHandler)
        self.daemon_threads = True
        self.lifetime_s = lifetime_s
        self.given = 0

    def credentials(self) -> bytes:
        self.given += 1
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.lifetime_s)
        return json.dumps(
            {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "AccessKeyId": s3servers.ACCESS_KEY,
                "SecretAccessKey": s3servers.SECRET_KEY,
                "Token": "",
                "Expiration": f"{ends:%Y-%m-%dT%H:%M:%SZ}",
            }
        ).encode()


class _MetadataHandler(http.server.BaseHTTPRequestHandler):
    server: Metadata
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self._answer(b"a-token" if self.path == "/latest/api/token" else None)

    def do_GET(self) -> None:
        roles = "/latest/meta-data/iam/security-credentials/"
        if self.headers.get("x-aws-ec2-metadata-token") != "a-token":
            self._answer(None)
        elif self.path == roles:
            self._answer(b"archivist")
        else:
            self._answer(self.server.credentials() if self.path == f"{roles}archivist" else None)

    def _answer(self, body: bytes | None) -> None:
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Not to the tests' output."""


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    server = Metadata(lifetime_s=6 * 3600)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}/")
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_the_role_of_an_instance(plain: S3Storage, metadata: Metadata) -> None:
    use(plain)
    assert metadata.given >= 1


def test_a_role_is_asked_again_before_it_ends(plain: S3Storage, metadata: Metadata) -> None:
    backend = plain.backend(**FOUND)
    backend.start()
    before = metadata.given
    # As if six hours had passed; a short life would not do, botocore stretches it.
    credentials = backend._started().store._quick._credentials  # type: ignore[union-attr]
    credentials._expiry_time = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    store(plain, backend, KEY, CONTENT)
    given = metadata.given
    backend.close()
    assert given == before + 1
