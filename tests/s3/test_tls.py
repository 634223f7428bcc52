"""TLS to a store whose certificate is signed by a CA of its own."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.drivers import store
from tests.conformance.storages_s3 import S3Storage
from tests.support.ftpservers import Certificate, make_certificate
from tests.support.httpfaults import HttpFaults
from wormfs.errors import Unavailable
from wormfs.model import Key

KEY = Key(b"exam.zip")
CONTENT = b"an archive\n" * 100


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


@pytest.fixture
def front(plain: S3Storage, certificate: Certificate) -> Iterator[HttpFaults]:
    """SeaweedFS behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    host, port = plain.endpoint.removeprefix("http://").split(":")
    with HttpFaults((host, int(port)), tls=context) as proxy:
        yield proxy


def test_an_own_ca_is_trusted_when_it_is_named(
    plain: S3Storage, front: HttpFaults, certificate: Certificate
) -> None:
    backend = plain.backend(endpoint=front.endpoint, ca_file=str(certificate.ca))
    backend.start()
    info = store(plain, backend, KEY, CONTENT)
    assert backend.open(info).read(0, 5000) == CONTENT
    assert "tls" not in {result.name for result in backend.check()}
    backend.close()
    assert plain.plain(KEY) == CONTENT


@pytest.mark.parametrize("named", ["nothing", "another CA", "another host"])
def test_a_certificate_that_proves_nothing_is_refused(
    named: str, plain: S3Storage, front: HttpFaults, certificate: Certificate, tmp_path: Path
) -> None:
    changes: dict[str, object] = {"endpoint": front.endpoint, "patience_s": 0.2}
    if named == "another CA":
        (tmp_path / "other").mkdir()
        changes["ca_file"] = str(make_certificate(tmp_path / "other").ca)
    if named == "another host":
        # The certificate is for the address and not for this name of it.
        changes |= {
            "ca_file": str(certificate.ca),
            "endpoint": f"https://localhost:{front.address[1]}",
        }
    with pytest.raises(Unavailable, match="ca_file"):
        plain.backend(**changes).start()
    assert front.seen == [], "no request, and so no signature, goes to somebody who has not proved who he is"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_insecure_is_told_by_check(plain: S3Storage, front: HttpFaults) -> None:
    backend = plain.backend(endpoint=front.endpoint, insecure=True)
    told = {result.name: result for result in backend.check()}
    assert told["tls"].warning and "not verified" in told["tls"].detail
    backend.close()
