"""A real mount over a real bucket: tools, Moodle's PHP, two daemons, killed servers and daemons."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import botocore.exceptions
import pytest

from tests.conformance.storages_s3 import S3Storage
from tests.crash.real import Logged, kill_family, wait_settled, wait_until, worker_pids, writers
from tests.mount.conftest import Detached
from tests.support import s3servers
from tests.support.daemon import Daemon, daemons
from tests.support.tools import as_www_data
from wormfs import durability
from wormfs.model import Key

__all__ = ["daemons"]

MIB = 1 << 20
RACE = Path(__file__).parent.parent / "mount" / "programs" / "race.py"
MOODLE = Path(__file__).parent.parent / "mount" / "php" / "moodle.php"


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
def mounted() -> Iterator[Callable[[S3Storage], Detached]]:
    """Mounts a bucket as backend ``archive``, by a daemon that is no child of the tests."""
    made: list[Detached] = []

    def mount(storage: S3Storage, **settings: object) -> Detached:
        base = Path(tempfile.mkdtemp(prefix="wormfs-s3-"))
        base.chmod(0o755)
        daemon = Detached(base, {"archive": settings_of(storage, **settings)})
        made.append(daemon)
        daemon.start()
        return daemon

    yield mount
    for daemon in made:
        daemon.clean_up()
        assert daemon.mounted() == []
        shutil.rmtree(daemon.base)


def run(*words: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def test_tools(plain: S3Storage, mounted: Callable[..., Detached], tmp_path: Path) -> None:
    daemon = mounted(plain, capacity="20GiB")
    mount = daemon.mountpoint / "archive"
    source = tmp_path / "source"
    (source / "below" / "deep").mkdir(parents=True)
    for number, size in enumerate((0, 1, 4096, 100_000, 20_000_000)):
        (source / "below" / f"file {number} ä").write_bytes(random.Random(number).randbytes(size))
    os.utime(source / "below" / "file 1 ä", (1_600_000_000, 1_500_000_000))
    run("cp", "-a", source, mount / "copied")
    # It sets the mode after close: without a settle window only one that changes nothing.
    run("rsync", "-rp", "--inplace", "--whole-file", "--chmod=F400", f"{source}/", mount / "synced")
    run("tar", "-cf", tmp_path / "all.tar", "-C", source, ".")
    (mount / "untarred").mkdir()
    run("tar", "-xf", tmp_path / "all.tar", "-C", mount / "untarred", "--no-same-owner")
    for copy in ("copied", "synced", "untarred"):
        run("diff", "-r", source, mount / copy)
    assert (mount / "copied/below/file 1 ä").stat().st_mtime == 1_500_000_000
    listing = run("ls", "-lR", mount / "copied")
    assert "20000000" in listing and "100000" in listing
    assert run("df", "-B1", "--output=size", mount).split()[1] == str(20 << 30)
    with pytest.raises(PermissionError):
        (mount / "copied/below/file 1 ä").write_bytes(b"other")
    content = plain.plain(Key("copied/below/file 4 ä".encode()))
    assert content == (source / "below" / "file 4 ä").read_bytes()
    assert plain.uploads() == []
    assert "Traceback" not in daemon.log_text()
    for secret in (s3servers.SECRET_KEY,):
        assert secret not in daemon.log_text()


@pytest.mark.parametrize("size", [100, 24 * MIB])
def test_moodle_stores_and_retrieves(size: int, plain: S3Storage, mounted: Callable[..., Detached]) -> None:
    daemon = mounted(plain)
    mount = daemon.mountpoint / "archive"
    script, source = daemon.base / "moodle.php", daemon.base / "archive.zip"
    shutil.copy(MOODLE, script)
    source.write_bytes(random.Random(size).randbytes(size))
    (mount / "storage").mkdir()
    (mount / "storage").chmod(0o777)
    done = as_www_data("php", script, mount / "storage", source, "7", timeout_s=120)
    assert (done.returncode, done.stderr) == (0, ""), done
    steps = {step["step"]: step for step in map(json.loads, done.stdout.splitlines())}
    expected = hashlib.sha256(source.read_bytes()).hexdigest()
    assert steps["space"]["free"] > 1 << 30
    assert steps["store"]["ok"] is True
    assert steps["retrieve"]["sha256"] == [expected, expected]
    assert steps["delete"]["ok"] is False
    assert steps["rmdir"]["removed"] == 3
    assert hashlib.sha256(plain.plain(Key(b"storage/job-7/archive.zip"))).hexdigest() == expected


def test_two_daemons_race_for_names(
    plain: S3Storage, mounted: Callable[..., Detached], tmp_path: Path
) -> None:
    one, two = mounted(plain), mounted(plain)
    place, other = one.mountpoint / "archive" / "p", two.mountpoint / "archive" / "p"
    place.mkdir()
    words = [8, 4, os.O_EXCL, tmp_path, place, other]
    done = run(sys.executable, "-I", RACE, *words)
    for number, told in enumerate(map(json.loads, done.splitlines())):
        winners = [racer for racer, words in enumerate(told) if words == "None"]
        assert len(winners) == 1, told
        assert set(told) <= {"None", f"open {errno.EEXIST}", f"open {errno.EBUSY}", f"close {errno.EEXIST}"}
        expected = f"{winners[0]:04}".encode() * 5000
        assert plain.plain(Key(b"p/%d" % number)) == expected
        assert (place / str(number)).read_bytes() == (other / str(number)).read_bytes() == expected


def examine(storage: S3Storage, daemon: Daemon, logged: Logged) -> None:
    """What was acknowledged is there, whole, with its record; and nothing else but whole files."""
    wait_settled(daemon)
    mount = daemon.mountpoint / "archive"
    for key, digest in logged.stored.items():
        assert hashlib.sha256((mount / os.fsdecode(key)).read_bytes()).hexdigest() == digest, key
        assert os.getxattr(mount / os.fsdecode(key), "user.wormfs.state") == b"committed", key
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
    chance = random.Random(3)
    with writers(daemon.mountpoint / "archive", daemon.base / "logs") as load:
        for number in range(soak_factor):
            begun = load.stored_so_far()
            load.start(8, str(number))
            wait_until(lambda begun=begun: load.stored_so_far() > begun + 5)
            time.sleep(chance.uniform(0, 0.3))
            if whom != "worker":
                # By SIGKILL under soak only: what SeaweedFS itself keeps then is not ours to promise. The
                # same without wormfs is `test_what_seaweedfs_keeps_when_it_is_killed`.
                server.stop(signal.SIGKILL if "SIGKILL" in whom else signal.SIGTERM)
                time.sleep(0.5)
                # What is written now is safe in the spool, and close says that it is not at the store.
                server.start()
                time.sleep(1)
                for process in load._running:
                    process.kill()
                    process.wait()
                load._running.clear()
            else:
                (pid,) = worker_pids(daemon)
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: worker_pids(daemon) not in ([pid], []))
                load.wait()
            wait_settled(daemon)
        logged = load.logged()
    assert logged.stored
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
