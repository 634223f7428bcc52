"""Real mounts on a Moodle: tools, PHP on both sides, two daemons, a daemon that dies."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.moodle.conftest import Site
from tests.support.daemon import Daemon, processes_of
from tests.support.databases import DATABASE
from tests.support.moodle import COMPONENT, COURSE, FILEAREA, context_of, secret
from tests.support.tools import as_www_data
from wormfs import audit, durability

CONTENT = b"content of the exam" * 1000
PHP = Path(__file__).parents[1] / "mount" / "php" / "moodle.php"
WRITER = r"""
import os, sys
directory, start = sys.argv[1], sys.argv[2]
sys.stdin.readline()
for turn in range(int(sys.argv[3])):
    try:
        fd = os.open(f"{directory}/raced-{turn}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, start.encode())
        os.close(fd)
        print(turn, flush=True)
    except OSError:
        pass
"""


@pytest.fixture
def mounted(site: Site) -> Iterator[Callable[..., Daemon]]:
    """Daemons on the site's course 7, in directories that every user may enter."""
    base = Path(tempfile.mkdtemp(prefix="wormfs-moodle-"))
    base.chmod(0o755)
    made: list[Daemon] = []
    password = base / "password"
    password.write_text(secret())
    password.chmod(0o600)
    os.chown(site.moodle.filedir, 33, 33)

    def make(settings: dict[str, object] | None = None, **variables: str) -> Daemon:
        top = base / f"daemon{len(made)}"
        top.mkdir()
        options = site.moodle.options(course=COURSE, database_password={"file": str(password)})
        law = {"type": "moodle", "spool_reserve": "0", "empty_grace": "0s", **options, **(settings or {})}
        made.append(Daemon(top, {"law": law}))
        made[-1].start(**variables)
        return made[-1]

    yield make
    for daemon in made:
        daemon.clean_up()
    shutil.rmtree(base)


def write(path: Path, content: bytes) -> None:
    """By a program of its own: the tests have sockets, for which wormfs commits a little after close."""
    done = subprocess.run(["cp", "/dev/stdin", path], input=content, capture_output=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.decode())


# The kind of database makes no difference to what follows; each gets its share.


@pytest.mark.parametrize("site", ["mariadb"], indirect=True)
def test_tools_and_the_record(site: Site, mounted: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = mounted()
    law = daemon.mountpoint / "law"
    source = tmp_path / "tree"
    shutil.copytree(Path(__file__).parent, source / "Prüfung 1", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "large").write_bytes(os.urandom(9 << 20))
    subprocess.run(["cp", "-r", source, law / "copied"], check=True)
    (law / "unpacked").mkdir()
    with subprocess.Popen(["tar", "cf", "-", "-C", source, "."], stdout=subprocess.PIPE) as packing:
        unpack = ["tar", "xf", "-", "--no-same-owner", "-C", law / "unpacked"]
        assert subprocess.run(unpack, stdin=packing.stdout, check=False).returncode == 0
    for copy in ("copied", "unpacked"):
        assert subprocess.run(["diff", "-r", source, law / copy], check=False).returncode == 0
    assert sorted(os.listdir(law)) == ["copied", "unpacked"]
    content = (source / "large").read_bytes()
    assert site.moodle.content("copied/large") == site.moodle.content("unpacked/large") == content
    digest = os.getxattr(law / "copied" / "large", "user.wormfs.sha256").decode()
    assert digest == hashlib.sha256(content).hexdigest()
    assert os.statvfs(law).f_blocks == os.statvfs(site.moodle.filedir).f_blocks
    for refused in (["rm", "-rf", law / "copied"], ["mv", law / "copied", law / "moved"]):
        assert subprocess.run(refused, capture_output=True, check=False).returncode != 0
    subprocess.run(["diff", "-r", source, law / "copied"], check=True)
    site.moodle.pool_path(hashlib.sha1(content).hexdigest()).unlink()
    # The kernel may still have what it read before; a new mount has not.
    assert daemon.stop() == 0
    daemon.start()
    with pytest.raises(OSError, match="Input/output error"):
        (law / "copied" / "large").read_bytes()


def php_finds(site: Site, filepath: str, filename: str) -> dict[str, object]:
    moodle = site.moodle
    dsn = (
        f"pgsql:host={moodle.server.socket};dbname=postgres"
        if moodle.kind == "postgresql"
        else f"mysql:unix_socket={moodle.server.socket};dbname={DATABASE};charset=utf8mb4"
    )
    place = [context_of(COURSE), COMPONENT, FILEAREA, 0, filepath, filename]
    done = subprocess.run(
        ["php", Path(__file__).parent / "find.php", dsn, moodle.prefix, moodle.filedir, *map(str, place)],
        input=secret(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_php_finds_what_was_stored_as_moodle_does(site: Site, mounted: Callable[..., Daemon]) -> None:
    daemon = mounted()
    folder = daemon.mountpoint / "law" / "job-17" / "Prüfung"
    folder.mkdir(parents=True)
    content = os.urandom(100_000)
    write(folder / "exam ä.zip", content)
    assert php_finds(site, "/job-17/Prüfung/", "exam ä.zip") == {
        "mimetype": "application/zip",
        "status": 0,
        "size_fits": True,
        "sha1_fits": True,
        "sha256": hashlib.sha256(content).hexdigest(),
        "directories": {"/job-17/Prüfung/": True, "/job-17/": True, "/": True},
        "listed": ["/job-17/Prüfung/exam ä.zip"],
    }


@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
def test_moodles_own_way_of_storing_works_on_it(site: Site, mounted: Callable[..., Daemon]) -> None:
    """The steps of archivingstore_localdir, as www-data."""
    daemon = mounted()
    source = daemon.base / "archive.zip"
    source.write_bytes(os.urandom(6 << 20))
    source.chmod(0o644)
    script = daemon.base / "moodle.php"
    shutil.copy(PHP, script)
    done = as_www_data("php", script, daemon.mountpoint / "law", source, "7", timeout_s=120)
    assert (done.returncode, done.stderr) == (0, ""), done
    steps = {step["step"]: step for step in map(json.loads, done.stdout.splitlines())}
    assert steps["store"]["ok"] is True
    assert steps["space"]["free"] > 1 << 30
    for refused in ("store-again", "put-contents", "append", "rename-onto", "delete", "rmdir-used"):
        assert steps[refused]["ok"] is False, refused
    assert steps["retrieve"]["sha256"] == [hashlib.sha256(source.read_bytes()).hexdigest()] * 2
    assert steps["mkdir"]["ok"] is True
    assert steps["rmdir"]["removed"] == 3
    assert site.moodle.content("job-7/archive.zip") == source.read_bytes()


def test_sixteen_processes_on_two_daemons_and_a_plain_client(
    site: Site, mounted: Callable[..., Daemon]
) -> None:
    turns = 5
    daemons = [mounted(), mounted()]
    laws = [daemon.mountpoint / "law" for daemon in daemons]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, laws[number % 2], f"racer {number}", str(turns)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(16)
    ]  # fmt: skip

    def plain() -> list[int]:
        won = []
        for turn in range(turns):
            with contextlib.suppress(Exception):  # the database's own word for "taken"
                site.moodle.insert("/", f"raced-{turn}", site.moodle.add_content(b"plain"), 5)
                won.append(turn)
        return won

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        client = pool.submit(plain)
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        told = {number: racer.communicate(timeout=120)[0].split() for number, racer in enumerate(racers)}
        won = {"plain": [str(turn) for turn in client.result()]}
    won |= {f"racer {number}": turns_won for number, turns_won in told.items()}
    for turn in range(turns):
        content = site.moodle.content(f"raced-{turn}").decode()
        # close(2) told exactly one of them that it has stored its file.
        assert [name for name, turns_won in won.items() if str(turn) in turns_won] == [content]
        for daemon in daemons:
            assert (daemon.mountpoint / "law" / f"raced-{turn}").read_text() == content


STEPS = [name for name in durability.STEPS if name.startswith("moodle.")]
ERASING = [name for name in durability.STEPS if name.startswith("moodle-erase.")]


def kill_family(daemon: Daemon) -> None:
    for pid in processes_of(daemon.base):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    assert daemon.process is not None
    daemon.process.wait(20)
    daemon.process = None


@pytest.mark.parametrize("site", ["postgresql"], indirect=True)
@pytest.mark.parametrize("step", [*STEPS, "spool.sealed-synced", "spool.data-unlinked"])
def test_a_daemon_that_dies_at_each_durable_step(
    step: str, site: Site, mounted: Callable[..., Daemon]
) -> None:
    daemon = mounted(**{durability.CRASH_VARIABLE: f"{step}:3"})
    law = daemon.mountpoint / "law"
    stored, tried = {}, {}
    for number in range(6):
        tried[f"file-{number}"] = content = b"content %d" % number * 1000
        try:
            write(law / f"file-{number}", content)
        except OSError:
            break
        stored[f"file-{number}"] = content
    assert len(stored) < 6, "it did not die"
    kill_family(daemon)
    daemon.start()
    daemon.wait_for(lambda: not daemon.status()["backends"]["law"]["spool"]["waiting"], "recovery")
    for name, content in stored.items():
        assert site.moodle.content(name) == (law / name).read_bytes() == content
    for name in site.moodle.rows():
        if name:
            assert site.moodle.content(name) == tried[name]
    write(law / "after", b"goes on")
    assert daemon.stop() == 0
    backend = site.backend()
    assert list(backend.findings()) == []
    used = {contenthash for contenthash, _ in site.moodle.rows().values()}
    assert site.moodle.pool_files() <= used, "content that no row uses is left"


@pytest.mark.parametrize("site", ["mariadb"], indirect=True)
@pytest.mark.parametrize("step", [*ERASING, "erase.recorded", "erase.proved"])
def test_a_daemon_that_dies_at_each_step_of_an_erase(
    step: str, site: Site, mounted: Callable[..., Daemon]
) -> None:
    """What was asked to go is gone after the next start, with its tombstone, and nothing else is."""
    daemon = mounted({"erase": "always"}, **{durability.CRASH_VARIABLE: step})
    law = daemon.mountpoint / "law"
    write(law / "exam", CONTENT)
    write(law / "other", b"stays")
    with pytest.raises(OSError, match=r"abort|not connected|Input/output"):
        (law / "exam").unlink()
    kill_family(daemon)
    # As it is now: whole, or somebody remembers that it was to go.
    intents = list((daemon.state_directory / "erasing" / "law").glob("*.json"))
    assert intents, "nobody would go on with it"
    daemon.start()
    daemon.wait_for(lambda: "other" in os.listdir(law), "the new mount")
    with pytest.raises(FileNotFoundError):
        (law / "exam").stat()
    assert (law / "other").read_bytes() == b"stays"
    assert hashlib.sha1(CONTENT).hexdigest() not in {name[:40] for name in site.moodle.pool_files()}
    assert not [name for name in site.moodle.pool_files() if name.startswith(".")]
    records = f"SELECT source FROM {site.moodle.prefix}files WHERE filearea = 'record' AND filename <> '.'"
    assert [json.loads(row[0])["path"] for row in site.moodle.execute(records)] == ["other"]
    lines = audit.read(audit.audit_path(daemon.state_directory, "law"))
    assert len([line for line in lines if line["event"] == "erased"]) == 1
    assert list((daemon.state_directory / "erasing" / "law").glob("*.json")) == []
    write(law / "exam", b"a new file of that name")
    assert site.moodle.content("exam") == b"a new file of that name"
