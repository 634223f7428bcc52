"""Retention, legal holds and erasing on a real mount, by every way there is."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, environment
from tests.support.tools import Place, as_www_data, eventually, refused, unchanged, xattrs_of
from wormfs import audit

YEAR_2040 = b"2040-12-31T23:59:59Z"
SHORT = "1s"


@pytest.fixture(scope="module")
def daemon(module_daemon: Callable[..., Daemon]) -> Iterator[Daemon]:
    """Backends of every kind; ``never`` and ``court`` erase nothing by themselves."""
    made = module_daemon(
        kept={
            "retention": {"period": "10y", "max": "20y", "rules": [{"match": "*/short-*", "period": SHORT}]},
            "erase": "expired",
            "atime_retention": True,
        },
        short={"retention": {"period": SHORT}, "erase": "expired"},
        scratch={"erase": "always"},
        never={"retention": {"period": SHORT}},
        court={"retention": {"period": "10y"}},
        compliance={"retention": {"period": "10y", "compliance": True}, "erase": "expired"},
    )
    made.start()
    yield made
    assert "Traceback" not in made.log_text()


@pytest.fixture
def make(daemon: Daemon, request: pytest.FixtureRequest) -> Callable[[str], Place]:
    return lambda backend: Place(daemon, backend, request.node.name.replace("/", "-")).make()


def expired(path: Path, content: bytes = b"old") -> Path:
    """A file whose second is over."""
    path.write_bytes(content)
    until = retain_until(path)
    eventually(lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > until, "it is past its date")
    return path


def retain_until(path: Path) -> str:
    return os.getxattr(path, "user.wormfs.retain_until").decode()


def holds(path: Path) -> bytes:
    return os.getxattr(path, "user.wormfs.hold")


def events(place: Place, path: Path) -> list[dict[str, object]]:
    """What the audit trail says of a file."""
    trail = audit.audit_path(place.daemon.state_directory, place.backend)
    subject = subject_of(place, path)
    return [dict(line) for line in audit.read(trail, subject.encode())]


def subject_of(place: Place, path: Path) -> str:
    import hmac

    salt = bytes.fromhex((place.daemon.state_directory / "audit" / "salt").read_text())
    key = os.fsencode(path.relative_to(place.root))
    return hmac.digest(salt, place.backend.encode() + b"\0" + key, "sha256").hex()


# Erasing


@pytest.mark.row("erase")
def test_what_has_expired_can_be_deleted_by_anybody_who_may_delete(make: Callable[[str], Place]) -> None:
    place = make("short")
    path = expired(place / "f")
    script = "exit(unlink($argv[1]) ? 0 : 1);"
    assert as_www_data("php", "-r", script, path).returncode == 0
    assert place.visible() == set()
    assert not place.stored(path).exists()
    assert [line["event"] for line in events(place, path)] == ["committed", "erasing", "erased"]
    tombstone = events(place, path)[-1]
    assert (tombstone["uid"], tombstone["reason"], tombstone["size"]) == (33, "expired", 3)
    assert set(tombstone) >= {"content", "committed_at", "retain_until"}


@pytest.mark.row("unlink-committed")
def test_php_cannot_delete_what_is_retained_and_the_log_says_until_when(make: Callable[[str], Place]) -> None:
    place = make("kept")
    (place / "f").write_bytes(b"record")
    with unchanged(place, place / "f"):
        done = as_www_data("php", "-r", "exit(@unlink($argv[1]) ? 0 : 1);", place / "f")
        assert done.returncode == 1
        with refused(errno.EPERM):
            (place / "f").unlink()
    lines = [line for line in place.daemon.log_text().splitlines() if f"{place.path.name}/f" in line]
    assert len(lines) == 2
    assert all(f"retained until {retain_until(place / 'f')}" in line for line in lines)
    refusals = [line for line in events(place, place / "f") if line["event"] == "refused"]
    assert [line["uid"] for line in refusals] == [33, 0]


@pytest.mark.row("unlink-committed")
def test_never_means_never(make: Callable[[str], Place]) -> None:
    place = make("never")
    path = expired(place / "f")
    with unchanged(place, path), refused(errno.EPERM):
        path.unlink()


@pytest.mark.row("erase")
def test_the_name_may_be_used_again_and_open_readers_read_on(make: Callable[[str], Place]) -> None:
    place = make("short")
    path = expired(place / "f", b"old" * 100_000)
    with path.open("rb") as file:
        assert file.read(3) == b"old"
        inode = os.fstat(file.fileno()).st_ino
        path.unlink()
        path.write_bytes(b"new")
        assert file.read() == (b"old" * 100_000)[3:]
        assert os.fstat(file.fileno()).st_size == 300_000
        assert path.stat().st_ino != inode
        with refused(errno.ENOENT, errno.EPERM):
            os.setxattr(file.fileno(), "user.wormfs.retain_until", YEAR_2040)
        assert path.read_bytes() == b"new"
    assert path.read_bytes() == b"new"
    assert retain_until(path) < "2040"


@pytest.mark.row("erase")
def test_an_immutable_file_goes_as_well(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon(exams={"immutable": True, "retention": {"period": "0s"}, "erase": "expired"})
    daemon.start()
    path = expired(daemon.mountpoint / "exams" / "f")
    path.unlink()
    assert not (daemon.data("exams") / "f").exists()


@pytest.mark.row("erase")
def test_a_scratch_directory_is_one_from_the_first_moment_and_says_so(make: Callable[[str], Place]) -> None:
    place = make("scratch")
    (place / "f").write_bytes(b"x")
    assert retain_until(place / "f") == "none"
    (place / "f").unlink()
    assert place.visible() == set()
    assert "ALERT: 'erase: always'" in place.daemon.log_text()
    assert "scratch: a scratch directory" in place.daemon.run("status").stdout


@pytest.mark.row("erase")
def test_dates_and_holds_count_in_a_scratch_directory_too(make: Callable[[str], Place]) -> None:
    place = make("scratch")
    for name, xattr, value in (("f", "retain_until", YEAR_2040), ("g", "hold", b"AZ 1")):
        (place / name).write_bytes(b"x")
        os.setxattr(place / name, f"user.wormfs.{xattr}", value)
        with refused(errno.EPERM):
            (place / name).unlink()


@pytest.mark.row("erase")
def test_many_at_once(make: Callable[[str], Place]) -> None:
    place = make("scratch")
    paths = [place / f"f{number}" for number in range(60)]
    for path in paths:
        path.write_bytes(b"x")
    workers = [
        threading.Thread(target=lambda part=part: [path.unlink() for path in paths[part::6]])
        for part in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert place.visible() == set()
    assert list(place.data.iterdir()) == []
    assert list((place.daemon.state_directory / "erasing" / "scratch").iterdir()) == []


def test_of_two_who_delete_one_file_one_is_told_that_it_is_gone(make: Callable[[str], Place]) -> None:
    place = make("scratch")
    answers: list[int] = []

    def remove(path: Path) -> None:
        try:
            os.unlink(path)
            answers.append(0)
        except OSError as error:
            answers.append(error.errno or -1)

    for number in range(20):
        path = place / f"f{number}"
        path.write_bytes(b"x")
        pair = [threading.Thread(target=remove, args=(path,)) for _ in range(2)]
        for one in pair:
            one.start()
        for one in pair:
            one.join()
    assert sorted(set(answers)) == [0, errno.ENOENT]
    assert answers.count(0) == 20


# Extending, by every way there is; never shortening


def by_xattr(place: Place, path: Path, date: str) -> bool:
    return _allowed(lambda: os.setxattr(path, "user.wormfs.retain_until", date.encode()))


def by_setfattr(place: Place, path: Path, date: str) -> bool:
    return _ran("setfattr", "-n", "user.wormfs.retain_until", "-v", date, path)


def by_atime(place: Place, path: Path, date: str) -> bool:
    return _ran("touch", "-c", "-a", "-d", date, path)


def by_command(place: Place, path: Path, date: str) -> bool:
    return place.daemon.run("retain", "--until", date, str(path)).returncode == 0


def _allowed(call: Callable[[], None]) -> bool:
    try:
        call()
    except PermissionError as error:
        assert error.errno == errno.EPERM
        return False
    return True


def _ran(*command: object) -> bool:
    return subprocess.run([str(word) for word in command], capture_output=True).returncode == 0


WAYS = [by_xattr, by_setfattr, by_atime, by_command]


@pytest.mark.row("retention-extend")
@pytest.mark.row("retention-atime")
@pytest.mark.parametrize("way", WAYS)
def test_extended_and_never_shortened(
    make: Callable[[str], Place], way: Callable[[Place, Path, str], bool]
) -> None:
    place = make("kept")
    (place / "f").write_bytes(b"record")
    first = retain_until(place / "f")
    assert way(place, place / "f", "2040-06-01")
    extended = retain_until(place / "f")
    assert first < extended
    assert extended.startswith("2040-06-01")
    with unchanged(place, place / "f"):
        for earlier in ("2040-05-31", "2030-01-01", "1970-01-02"):
            assert not way(place, place / "f", earlier), earlier
        assert not way(place, place / "f", "2140-01-01"), "beyond max"
    assert retain_until(place / "f") == extended
    assert (place / "f").read_bytes() == b"record"


def onto_by_cp(place: Place, path: Path, older: Path) -> bool:
    return _ran("cp", "-p", older, path)


def onto_by_rsync(place: Place, path: Path, older: Path) -> bool:
    return _ran("rsync", "-t", "--inplace", "--ignore-times", older, path)


def times_by_rsync(place: Place, path: Path, older: Path) -> bool:
    return _ran("rsync", "-tU", "--size-only", older, path)


def by_php_touch(place: Place, path: Path, older: Path) -> bool:
    program = "exit(@touch($argv[1], filemtime($argv[1]), fileatime($argv[2])) ? 0 : 1);"
    return _ran("php", "-r", program, path, older)


def by_touch_reference(place: Place, path: Path, older: Path) -> bool:
    return _ran("touch", "-a", "-r", older, path)


def by_removing_the_xattr(place: Place, path: Path, older: Path) -> bool:
    return _ran("setfattr", "-x", "user.wormfs.retain_until", path)


@pytest.mark.row("retention-extend")
@pytest.mark.row("retention-atime")
@pytest.mark.parametrize(
    "way",
    [onto_by_cp, onto_by_rsync, times_by_rsync, by_php_touch, by_touch_reference, by_removing_the_xattr],
)
def test_no_tool_shortens(
    make: Callable[[str], Place], way: Callable[[Place, Path, Path], bool], tmp_path: Path
) -> None:
    place = make("kept")
    path, older = place / "f", tmp_path / "f"
    path.write_bytes(b"record")
    older.write_bytes(b"record")
    os.utime(older, (978_307_200, 978_307_200))
    assert by_setfattr(place, path, "2040-06-01")
    before = retain_until(path)
    with unchanged(place, path):
        assert not way(place, path, older)
    assert retain_until(path) == before


@pytest.mark.row("retention-extend")
def test_another_host_with_other_settings_shortens_nothing(
    fresh_daemon: Callable[..., Daemon],
) -> None:
    first = fresh_daemon(exams={"retention": {"period": "10y"}, "erase": "expired"})
    other = fresh_daemon(exams={})
    shorter = {"type": "local", "retention": {"period": "0s"}, "erase": "expired"}
    other.write_config({"exams": {**shorter, "path": str(first.data("exams"))}})
    first.start()
    other.start()
    mine, theirs = (daemon.mountpoint / "exams" / "f" for daemon in (first, other))
    mine.write_bytes(b"record")
    before = retain_until(mine)
    eventually(theirs.exists, "the other host sees it")
    assert retain_until(theirs) == before
    with refused(errno.EPERM):
        theirs.unlink()
    with refused(errno.EPERM):
        os.setxattr(theirs, "user.wormfs.retain_until", b"2027-01-01")
    os.setxattr(theirs, "user.wormfs.retain_until", b"2041-01-01")
    with refused(errno.EPERM):
        os.setxattr(mine, "user.wormfs.retain_until", b"2040-01-01")
    assert retain_until(mine).startswith("2041-01-01")
    for daemon in (other, first):
        assert daemon.run("umount").returncode == 0


@pytest.mark.row("retention-extend")
def test_what_is_no_date_and_what_is_for_ever(make: Callable[[str], Place]) -> None:
    place = make("court")
    (place / "f").write_bytes(b"record")
    for value in (b"", b"soon", b"2040-13-01", b"\xff"):
        with refused(errno.EINVAL):
            os.setxattr(place / "f", "user.wormfs.retain_until", value)
    os.setxattr(place / "f", "user.wormfs.retain_until", b"2041-01-01T12:00:00+02:00")
    assert retain_until(place / "f") == "2041-01-01T10:00:00Z"
    os.setxattr(place / "f", "user.wormfs.retain_until", b"forever")
    with unchanged(place, place / "f"):
        for value in (YEAR_2040, b"9999-12-31"):
            with refused(errno.EPERM):
                os.setxattr(place / "f", "user.wormfs.retain_until", value)
        with refused(errno.EPERM):
            os.removexattr(place / "f", "user.wormfs.retain_until")
    assert retain_until(place / "f") == "forever"


@pytest.mark.row("retention-atime")
def test_by_atime_only_where_it_is_on_and_alone(make: Callable[[str], Place]) -> None:
    off, on = make("short"), make("kept")
    for place in (off, on):
        (place / "f").write_bytes(b"record")
    with unchanged(off, off / "f"):
        assert not by_atime(off, off / "f", "2040-06-01")
    # With another mtime it is no extension.
    with unchanged(on, on / "f"), refused(errno.EPERM):
        os.utime(on / "f", ns=(2_222_222_222 * 10**9, 5))
    (on / "mine").write_bytes(b"record")
    done = as_www_data("touch", "-c", "-a", "-d", "2040-06-01", on / "mine")
    assert done.returncode != 0, "it belongs to root"
    assert as_www_data("sh", "-c", f"echo x > {on / 'theirs'}").returncode == 0
    as_www_data("touch", "-c", "-a", "-d", "2040-06-01", on / "theirs")
    assert retain_until(on / "theirs").startswith("2040-06-01"), "the owner may"


@pytest.mark.row("retention-extend")
def test_settings_that_come_later_change_no_record(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon(exams={"retention": {"period": "10y"}, "erase": "expired"})
    daemon.start()
    path = daemon.mountpoint / "exams" / "f"
    path.write_bytes(b"record")
    before = retain_until(path)
    for retention, erase in (({"period": "0s"}, "expired"), ({}, "always")):
        assert daemon.run("umount").returncode == 0
        daemon.write_config({"exams": daemon.local("exams", retention=retention, erase=erase)})
        daemon.start()
        assert retain_until(path) == before
        with refused(errno.EPERM):
            path.unlink()


# Holds


@pytest.mark.row("hold")
def test_a_hold_blocks_whatever_the_date(make: Callable[[str], Place]) -> None:
    place = make("short")
    path = expired(place / "f")
    os.setxattr(path, "user.wormfs.hold", b"AZ 1")
    os.setxattr(path, "user.wormfs.hold", "AZ 2,Fall \N{LATIN SMALL LETTER SHARP S}".encode())
    assert holds(path) == "AZ 1,AZ 2,Fall \N{LATIN SMALL LETTER SHARP S}".encode()
    with unchanged(place, path):
        with refused(errno.EPERM):
            path.unlink()
        for value in (b"", b",", b"x" * 100):
            with refused(errno.EINVAL):
                os.setxattr(path, "user.wormfs.hold", value)
    os.removexattr(path, "user.wormfs.hold")
    assert holds(path) == b""
    path.unlink()
    said = [line["event"] for line in events(place, path) if line["event"] != "refused"]
    assert said == ["committed", "held", "held", "released", "erasing", "erased"]


@pytest.mark.row("hold")
def test_only_root_holds(make: Callable[[str], Place]) -> None:
    place = make("short")
    assert as_www_data("sh", "-c", f"echo x > {place / 'f'}").returncode == 0
    with unchanged(place, place / "f"):
        done = as_www_data("setfattr", "-n", "user.wormfs.hold", "-v", "AZ 1", place / "f")
        assert done.returncode != 0


@pytest.mark.row("hold-early")
def test_in_the_settle_window_there_is_no_hold_and_no_date_yet_and_it_is_told_when(
    fresh_daemon: Callable[..., Daemon],
) -> None:
    daemon = fresh_daemon(exams={"settle": "1h"})
    daemon.start()
    path = daemon.mountpoint / "exams" / "f"
    path.write_bytes(b"x")
    assert xattrs_of(path)["user.wormfs.state"] == b"settling"
    for name, value, what in (("hold", b"AZ 1", "legal hold"), ("retain_until", YEAR_2040, "date")):
        with refused(errno.EPERM):
            os.setxattr(path, f"user.wormfs.{name}", value)
        with refused(errno.EPERM):
            os.removexattr(path, f"user.wormfs.{name}")
        told = f"only a committed file takes a {what}: set it when user.wormfs.state is 'committed'"
        daemon.wait_for(lambda told=told: told in daemon.log_text(), "the log says what to do")  # type: ignore[misc]
    os.setxattr(path, "user.mine", b"value")


@pytest.mark.row("hold")
@pytest.mark.row("xattr-own")
def test_files_that_are_not_committed_and_directories_have_none(
    make: Callable[[str], Place], fresh_daemon: Callable[..., Daemon]
) -> None:
    place = make("kept")
    with (place / "f").open("wb") as file:
        file.write(b"x")
        for name, value in (("hold", b"AZ 1"), ("retain_until", YEAR_2040)):
            with refused(errno.EPERM):
                os.setxattr(file.fileno(), f"user.wormfs.{name}", value)
    for name, value in (("hold", b"AZ 1"), ("retain_until", YEAR_2040)):
        with refused(errno.EOPNOTSUPP):
            os.setxattr(place.path, f"user.wormfs.{name}", value)
    place.stored(place / "theirs").write_bytes(b"foreign")
    with refused(errno.EOPNOTSUPP):
        os.setxattr(place / "theirs", "user.wormfs.hold", b"AZ 1")
    assert xattrs_of(place / "f")["user.wormfs.hold"] == b""


# Commands


def test_hold_commands_on_a_tree(make: Callable[[str], Place], daemon: Daemon) -> None:
    place = make("short")
    (place / "d").mkdir()
    files = [place / "a", place / "d" / "b", place / "d" / "c"]
    for path in files:
        path.write_bytes(b"x")
    done = daemon.wormfs("hold", "add", "-c", str(daemon.config), "AZ 1", str(place.path))
    assert (done.returncode, done.stdout) == (0, "3 files held for AZ 1\n"), done.stderr
    done = daemon.wormfs("hold", "add", "-c", str(daemon.config), "AZ 2", str(files[1]))
    assert done.returncode == 0
    assert [holds(path) for path in files] == [b"AZ 1", b"AZ 1,AZ 2", b"AZ 1"]
    listed = daemon.wormfs("hold", "list", "-c", str(daemon.config), "AZ 2", str(place.path), "--json")
    assert [one["holds"] for one in json.loads(listed.stdout)["files"]] == [["AZ 1", "AZ 2"]]
    done = daemon.wormfs("hold", "remove", "-c", str(daemon.config), "AZ 1", str(place.path))
    assert (done.returncode, done.stdout) == (0, "3 files not held for AZ 1 any more\n"), done.stderr
    assert [holds(path) for path in files] == [b"", b"AZ 2", b""]
    done = daemon.wormfs("hold", "remove", "-c", str(daemon.config), "AZ 1", str(files[0]))
    assert done.returncode == 1
    assert "it is not held for AZ 1" in done.stderr
    done = daemon.wormfs("hold", "remove", "-c", str(daemon.config), "AZ 1", str(place.path))
    assert (done.returncode, done.stdout) == (1, "0 files not held for AZ 1 any more\n"), (
        "of the whole tree none"
    )


def test_what_is_not_committed_yet_cannot_be_held_and_says_so(
    fresh_daemon: Callable[..., Daemon],
) -> None:
    daemon = fresh_daemon(exams={"settle": "1h"})
    daemon.start()
    (daemon.mountpoint / "exams" / "f").write_bytes(b"x")
    top = str(daemon.mountpoint / "exams")
    done = daemon.wormfs("hold", "add", "-c", str(daemon.config), "AZ 1", top)
    assert done.returncode == 1
    until = rf"settling until {datetime.datetime.now(datetime.UTC).year}-\S+Z"
    assert re.search(rf"exams/f: it is not committed yet \({until}\): try again when it is", done.stderr)
    done = daemon.run("retain", "--until", "2040-06-01", f"{top}/f")
    assert done.returncode == 1 and "it is not committed yet (settling until " in done.stderr
    assert daemon.run("stat", f"{top}/f").stdout.splitlines()[1].split() == ["state", "settling"]
    assert "it does not exist" in daemon.run("stat", f"{top}/g").stdout


def test_hold_retain_and_erase_take_paths_from_the_current_directory(
    make: Callable[[str], Place], daemon: Daemon
) -> None:
    place = make("kept")
    (place / "d").mkdir()
    (place / "d" / "f").write_bytes(b"x")
    config = ("--config", str(daemon.config))

    def there(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wormfs", *words],
            capture_output=True, text=True, timeout=60, check=False,
            cwd=place / "d", env=environment(daemon.base),
        )  # fmt: skip

    for path in ("f", "./f", "../d/f", "."):
        done = there("hold", "add", *config, "AZ 1", path)
        assert (done.returncode, done.stdout) == (0, "1 file held for AZ 1\n"), done.stderr
    assert holds(place / "d" / "f") == b"AZ 1"
    assert there("hold", "remove", *config, "AZ 1", "..").returncode == 0
    assert there("retain", *config, "--until", "2045-06-01", "./f").returncode == 0
    assert retain_until(place / "d" / "f") == "2045-06-01T23:59:59Z"
    for words in (("kept", "./f"), ("./f",), (".",)):
        done = there("verify", *config, "--json", *words)
        assert done.returncode == 0, done
        assert [one["files"] for one in json.loads(done.stdout)["backends"].values()] == [1]
    done = there("erase", *config, "--reason", "3 K 12/26", "./f")
    assert (done.returncode, (place / "d" / "f").exists()) == (0, False), done.stderr


def test_expire_lists_and_erases_what_is_due_and_nothing_else(
    make: Callable[[str], Place], daemon: Daemon
) -> None:
    place = make("kept")
    kept, held, due = place / "f", place / "short-held", place / "short-due"
    kept.write_bytes(b"record")
    os_bytes = place.path / os.fsdecode(b"short-\xff")
    os_bytes.write_bytes(b"12345")
    held.write_bytes(b"held")
    os.setxattr(held, "user.wormfs.hold", b"AZ 1")
    expired(due)
    listed = json.loads(daemon.run("expire", "kept", "--json").stdout)
    mine = {one["path"] for one in listed["due"] if one["path"].startswith(place.path.name)}
    assert mine == {f"{place.path.name}/short-due", f"{place.path.name}/short-\\xff"}
    assert place.visible() == {"f", "short-held", "short-due", os.fsdecode(b"short-\xff")}
    done = daemon.run("expire", "kept", "--yes")
    assert done.returncode == 0, done.stderr
    assert place.visible() == {"f", "short-held"}
    assert [line["event"] for line in events(place, due)] == ["committed", "erasing", "erased"]
    for path in (due, os_bytes):
        # At once, though nobody asked the kernel to forget the name.
        assert not path.exists()


def test_expire_does_nothing_where_erase_is_never(make: Callable[[str], Place], daemon: Daemon) -> None:
    place = make("never")
    path = expired(place / "f")
    done = daemon.run("expire", "--yes", "never")
    assert done.returncode == 0
    assert "nothing is erased here" in done.stdout
    assert path.read_bytes() == b"old"


def test_expire_warns_of_files_past_their_max(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon(exams={"retention": {"period": "0s", "max": "1s"}, "erase": "expired"})
    daemon.start()
    path = expired(daemon.mountpoint / "exams" / "f")
    os.setxattr(path, "user.wormfs.hold", b"AZ 1")
    daemon.wait_for(lambda: daemon.run("expire").returncode == 3, "a second is over")
    done = daemon.run("expire", "--yes")
    assert done.returncode == 3
    assert "exams/f: should have gone by" in done.stdout
    os.removexattr(path, "user.wormfs.hold")
    assert daemon.run("expire", "--yes").returncode == 0
    assert not path.exists()


def test_a_backend_that_is_down_keeps_no_other_from_its_turn(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon(exams={"retention": {"period": "0s"}, "erase": "expired"})
    away = {"type": "local", "path": str(daemon.base / "away")}
    exams = daemon.local("exams", retention={"period": "0s"}, erase="expired")
    daemon.write_config({"away": away, "exams": exams})
    daemon.start(wait=False)
    daemon.wait_mounted("exams")
    path = expired(daemon.mountpoint / "exams" / "f")
    done = daemon.run("expire", "--yes")
    assert done.returncode == 1
    assert "wormfs: away: not looked at to the end" in done.stderr
    assert not path.exists()
    done = daemon.wormfs("clock", "accept", "-c", str(daemon.config))
    assert done.returncode == 1
    assert "wormfs: away: " in done.stderr
    assert "exams: believed" in done.stdout


def test_erase_by_court_order(make: Callable[[str], Place], daemon: Daemon) -> None:
    place = make("court")
    path = place / "f"
    path.write_bytes(b"record")
    os.setxattr(path, "user.wormfs.hold", b"AZ 1")
    with unchanged(place, path):
        done = daemon.run("erase", "--reason", "3 K 12/26", str(path))
        assert done.returncode == 1
        assert "legal hold AZ 1" in done.stderr
        assert daemon.run("erase", "--reason", " ", str(path)).returncode == 2
    os.removexattr(path, "user.wormfs.hold")
    assert path.read_bytes() == b"record"
    done = daemon.run("erase", "--reason", "3 K 12/26", str(path))
    assert done.returncode == 0, done.stderr
    assert not path.exists()
    assert not place.stored(path).exists()
    tombstone = events(place, path)[-1]
    assert (tombstone["event"], tombstone["reason"], tombstone["early"]) == ("erased", "3 K 12/26", True)
    shown = daemon.run("stat", str(path))
    assert shown.returncode == 1
    assert "3 K 12/26" in shown.stdout


def test_not_in_compliance_mode(make: Callable[[str], Place], daemon: Daemon) -> None:
    place = make("compliance")
    (place / "f").write_bytes(b"record")
    with unchanged(place, place / "f"):
        done = daemon.run("erase", "--reason", "3 K 12/26", str(place / "f"))
        assert done.returncode == 1
        assert "compliance" in done.stderr
    assert events(place, place / "f")[-1]["event"] == "refused"


def test_retain_takes_trees_only_when_told(make: Callable[[str], Place], daemon: Daemon) -> None:
    place = make("kept")
    (place / "f").write_bytes(b"record")
    assert daemon.run("retain", "--until", "2040-06-01", str(place.path)).returncode == 2
    done = daemon.run("retain", "--until", "2040-06-01", "-r", str(place.path))
    assert (done.returncode, done.stdout) == (0, "1 file kept until 2040-06-01\n")
    assert retain_until(place / "f") == "2040-06-01T23:59:59Z"
    assert daemon.run("retain", "--until", "2041-01-01", "/etc/hostname").returncode == 1


def test_stat(make: Callable[[str], Place], daemon: Daemon) -> None:
    place = make("kept")
    (place / "f").write_bytes(b"record")
    shown = daemon.run("stat", "--history", str(place / "f"))
    assert shown.returncode == 0, shown.stderr
    for text in (
        retain_until(place / "f"),
        "may be erased   no",
        subject_of(place, place / "f"),
        "committed",
    ):
        assert text in shown.stdout
    (found,) = json.loads(daemon.run("stat", "--json", str(place / "f")).stdout)["files"]
    assert (found["state"], found["size_bytes"], found["verdict"]) == ("committed", 6, "retained")
    assert daemon.run("stat", str(place / "absent")).returncode == 1


# The clock


def set_mark(daemon: Daemon, backend: str, high_s: float) -> None:
    """As if the highest time that was believed had been that one, before the machine was started again."""
    path = daemon.state_directory / "clock" / f"{backend}.json"
    high_ns = int(high_s * 1e9)
    mark = {
        "v": 1,
        "high_ns": high_ns,
        "anchor_wall_ns": high_ns,
        "anchor_boot_ns": 1,
        "anchor_boot_id": "old",
    }
    path.write_text(json.dumps(mark))


@pytest.mark.row("unlink-committed")
@pytest.mark.parametrize("days", [-3, 3])
def test_nothing_expires_while_the_clock_is_in_doubt(fresh_daemon: Callable[..., Daemon], days: int) -> None:
    daemon = fresh_daemon(exams={"retention": {"period": "0s"}, "erase": "expired"})
    daemon.start()
    path = expired(daemon.mountpoint / "exams" / "f")
    assert daemon.run("umount").returncode == 0
    set_mark(daemon, "exams", time.time() + days * 86400)
    daemon.start()
    with refused(errno.EPERM):
        path.unlink()
    assert "nothing counts as expired" in daemon.run("status").stdout
    assert "ALERT: the machine's clock" in daemon.log_text()
    assert json.loads(daemon.run("expire", "--json").stdout)["due"] == []
    clock = ("-c", str(daemon.config))
    assert daemon.wormfs("clock", "status", *clock).returncode == 3
    assert daemon.wormfs("clock", "accept", *clock).returncode == 0
    assert daemon.wormfs("clock", "status", *clock).returncode == 0
    path.unlink()
    with contextlib.suppress(FileNotFoundError):
        path.stat()
        pytest.fail("it is still there")


# The audit trail


def test_every_commit_is_a_line(make: Callable[[str], Place]) -> None:
    place = make("kept")
    (place / "f").write_bytes(b"record")
    (line,) = events(place, place / "f")
    assert (line["event"], line["size"], line["uid"]) == ("committed", 6, 0)
    assert line["retain_until"] == retain_until(place / "f")


def test_the_state_directory_names_no_file_once_it_is_erased(make: Callable[[str], Place]) -> None:
    place = make("scratch")
    (place / "mueller-anna").write_bytes(b"x")
    (place / "mueller-anna").unlink()
    done = subprocess.run(["grep", "-rl", "mueller-anna", place.daemon.state_directory], capture_output=True)
    assert done.stdout == b""


def test_without_a_trail_nothing_is_erased_and_every_file_is_taken(
    fresh_daemon: Callable[..., Daemon],
) -> None:
    daemon = fresh_daemon(exams={"erase": "always"})
    with contextlib.ExitStack() as stack:
        size = ["-t", "tmpfs", "-o", "size=1m", "wormfs-test", str(daemon.state_directory)]
        daemon.state_directory.mkdir()
        subprocess.run(["mount", *size], check=True)
        stack.callback(subprocess.run, ["umount", "-l", str(daemon.state_directory)], check=True)
        stack.callback(daemon.clean_up)
        daemon.start()
        top = daemon.mountpoint / "exams"
        (top / "before").write_bytes(b"x")
        with contextlib.suppress(OSError):
            (daemon.state_directory / "filler").write_bytes(bytes(2 << 20))
        for number in range(40):
            (top / f"f{number}").write_bytes(b"taken")
            assert (top / f"f{number}").read_bytes() == b"taken"
        with refused(errno.EIO):
            (top / "before").unlink()
        assert (top / "before").read_bytes() == b"x"
        assert "audit trail cannot be written" in daemon.run("status").stdout
        (daemon.state_directory / "filler").unlink()
        daemon.wait_for(lambda: "written again" in daemon.log_text(), "the trail is written again")
        (top / "before").unlink()
        trail = audit.audit_path(daemon.state_directory, "exams")
        found = [line["event"] for line in audit.read(trail)]
        assert found.count("committed") == 41
        assert found[-1] == "erased"
