"""The background check of a mounted bucket whose store goes away and comes back."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.storages_s3 import S3Storage
from tests.mount.conftest import Detached
from tests.s3.test_mount import mounted
from tests.support import s3servers
from tests.support.faultproxy import FaultProxy, Refuse
from tests.support.health import OFTEN, check_lines, wait_check

__all__ = ["mounted"]


def test_a_store_that_goes_away_turns_red_and_green_again(
    plain: S3Storage, mounted: Callable[..., Detached]
) -> None:
    host, _, port = plain.endpoint.removeprefix("http://").partition(":")
    with FaultProxy((host, int(port))) as proxy:
        endpoint = "http://{}:{}".format(*proxy.address)
        daemon = mounted(plain, endpoint=endpoint, timeout="3s", **OFTEN)
        check = wait_check(daemon, ok=True)
        assert [one["name"] for one in check["warnings"]] == ["tls"]
        assert "archive: check 'tls': the connection is not encrypted" in daemon.run("status").stdout
        refusing = proxy.add(Refuse())
        proxy.cut()
        failed = wait_check(daemon, ok=False)
        assert failed["failed"][0]["name"] in ("connect", "answer")
        done = daemon.run("status")
        assert done.returncode == 2 and "archive: critical: the check failed at '" in done.stdout
        proxy.remove(refusing)
        wait_check(daemon, ok=True)
        assert check_lines(daemon) == ["failed", "passes"]
        assert s3servers.SECRET_KEY not in daemon.log_text() + daemon.run("status", "--json").stdout
    assert plain.visible() == set()
