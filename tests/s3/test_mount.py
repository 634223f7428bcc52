"""A real mount over a real bucket: tools, Moodle's PHP, two daemons, killed servers and daemons."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import botocore.exceptions
import pytest

from tests.conformance.storages_s3 import S3Storage
from tests.crash.real import Logged, kill_family, wait_until, worker_pids, writers
from tests.mount.conftest import Detached
from tests.support import overservers, s3servers
from tests.support.daemon import Daemon, daemons
from wormfs import durability
from wormfs.model import Key

__all__ = ["daemons"]

MIB = 1 << 20


def settings_of(storage: S3Storage, **settings: object) -> dict[str, object]:
    return {
        "type": "s3",
        "bucket": storage.bucket,
        "prefix": storage.prefix,
        "endpoint": storage.endpoint,
        "access_key": s3servers.ACCESS_KEY,
        "secret_key": s3servers.SECRET_KEY,
        "spool_reserve": "0",
        "empty_grace": "0s",
        **settings,
    }


@pytest.fixture
def mounted() -> Iterator[Callable[..., Detached]]:
    """Mounts a bucket as backend ``archive``."""
    with overservers.detached() as mount:
        yield lambda storage, **settings: mount(settings_of(storage, **settings))


def test_tools(plain: S3Storage, mounted: Callable[..., Detached], tmp_path: Path) -> None:
    daemon = mounted(plain, capacity="20GiB")
    source = overservers.use_tools(daemon, tmp_path)
    content = plain.plain(Key("copied/below/file 4 ä".encode()))
    assert content == (source / "below" / "file 4 ä").read_bytes()
    assert plain.uploads() == []
    assert s3servers.SECRET_KEY not in daemon.log_text()


@pytest.mark.parametrize("size", [100, 24 * MIB])
def test_moodle_stores_and_retrieves(size: int, plain: S3Storage, mounted: Callable[..., Detached]) -> None:
    overservers.use_moodle(mounted(plain), plain, size)


def test_two_daemons_race_for_names(
    plain: S3Storage, mounted: Callable[..., Detached], tmp_path: Path
) -> None:
    overservers.race(mounted(plain), mounted(plain), plain, 4, tmp_path)


def examine(storage: S3Storage, daemon: Daemon, logged: Logged) -> None:
    """What was acknowledged is there, whole, with its record; and nothing else but whole files."""
    overservers.must_show(daemon, logged)
    backend = storage.backend()
    backend.start()
    for name in storage.all_keys():
        if name.startswith(".wormfs/") or name.endswith("/"):
            continue
        key = Key(name.encode())
        content = storage.plain(key)
        assert hashlib.sha256(content).hexdigest() == logged.tried[key], key
        record = backend.record(key)
        assert record is not None and record.sha256 == logged.tried[key]
    backend.close()
    assert storage.uploads() == []


_STEPS = [step for step in durability.STEPS if step.startswith("spool.") and "quarantine" not in step]


@pytest.mark.parametrize("step", _STEPS)
def test_kill_at_every_durable_step(step: str, daemons: Callable[..., Daemon], plain: S3Storage) -> None:
    """As for a local directory; requests to the store are cut off in test_steps."""
    daemon = daemons()
    # Only what does not become a record at once needs a durable promise that it will.
    settle = "50ms" if step == "spool.sealed-synced" else "0s"
    daemon.write_config({"archive": settings_of(plain, settle=settle)})
    daemon.start(wait=True, **{durability.CRASH_VARIABLE: f"{step}:1"})
    first = worker_pids(daemon)
    with writers(daemon.mountpoint / "archive", daemon.base / "logs") as load:
        load.start(1, "first")
        load.wait()
        wait_until(lambda: not set(first) & set(worker_pids(daemon)))
        kill_family(daemon)
        daemon.start()
        load.start(2, "after", limit=5)
        load.wait()
        examine(plain, daemon, load.logged())
    assert daemon.stop() == 0


_VICTIMS = ["worker", "server", *(["server, SIGKILL"] if os.environ.get("WORMFS_SOAK") else [])]


@pytest.mark.parametrize("whom", _VICTIMS)
def test_kill_under_load(whom: str, daemons: Callable[..., Daemon], tmp_path: Path, soak_factor: int) -> None:
    """The worker is killed under eight writers, or the store; what close acknowledged is there afterwards."""
    server = s3servers.new_seaweedfs()
    server.start()
    server.client().create_bucket(Bucket="plain")
    storage = S3Storage(server.endpoint, "plain", tmp_path)
    daemon = daemons()
    daemon.write_config({"archive": settings_of(storage, commit_timeout="5s")})
    daemon.start()

    def restart() -> None:
        # By SIGKILL under soak only: what SeaweedFS itself keeps then is not ours to promise. The same
        # without wormfs is `test_what_seaweedfs_keeps_when_it_is_killed`.
        server.stop(signal.SIGKILL if "SIGKILL" in whom else signal.SIGTERM)
        time.sleep(0.5)
        server.start()

    logged = overservers.kill_under_load(daemon, soak_factor, None if whom == "worker" else restart)
    examine(storage, daemon, logged)
    assert daemon.stop() == 0
    server.remove()


def _put_until_killed(
    endpoint: str, number: int, acknowledged: dict[str, bytes], killed: threading.Event
) -> None:
    client = s3servers.make_client(endpoint, timeout_s=5)
    chance = random.Random(number)
    count = 0
    while not killed.is_set():
        count += 1
        content = chance.randbytes(chance.choice([0, 1, 1000, 4096, 70_000, 300_000]))
        try:
            client.put_object(Bucket="plain", Key=f"{number}/{count}", Body=content, IfNoneMatch="*")
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            continue
        acknowledged[f"{number}/{count}"] = content


def test_what_seaweedfs_keeps_when_it_is_killed(soak_factor: int) -> None:
    """The yardstick for the test above: the same puts by boto3 alone."""
    for _ in range(soak_factor):
        server = s3servers.new_seaweedfs()
        server.start()
        server.client().create_bucket(Bucket="plain")
        acknowledged: dict[str, bytes] = {}
        killed = threading.Event()
        with ThreadPoolExecutor(8) as pool:
            for number in range(8):
                pool.submit(_put_until_killed, server.endpoint, number, acknowledged, killed)
            wait_until(lambda kept=acknowledged: len(kept) > 40)
            server.stop(signal.SIGKILL)
            killed.set()
        server.start()
        client = server.client()
        for name, content in acknowledged.items():
            assert client.get_object(Bucket="plain", Key=name)["Body"].read() == content, name
        server.remove()
