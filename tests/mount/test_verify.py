"""``wormfs verify`` beside a daemon: what was done behind its back is found, and is not served any more."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import mmap
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bagit
import pytest

from tests.support.daemon import Daemon, environment
from tests.support.tools import Place, eventually, refused, run, works

SIZE = 1 << 20


@pytest.fixture
def daemon(fresh_daemon: Callable[..., Daemon]) -> Daemon:
    daemon = fresh_daemon(exams={"empty_grace": "0s"})
    daemon.start()
    return daemon


@pytest.fixture
def place(daemon: Daemon) -> Place:
    return Place(daemon, "exams", "job").make()


def verify(daemon: Daemon, *arguments: str, status: int) -> dict[str, str]:
    """What was found, by path below the backend."""
    done = daemon.run("verify", "--json", *arguments)
    assert done.returncode == status, done
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["passed"] == (status == 0)
    findings = [finding for backend in found["backends"].values() for finding in backend["findings"]]
    return {os.fsdecode(base64.b64decode(one["path_base64"])): one["kind"] for one in findings}


def stop(daemon: Daemon) -> None:
    done = daemon.run("umount")
    assert done.returncode == 0, done


def change_in_place(path: Path) -> bytes:
    """One bit, behind wormfs's back; size and times stay. The bytes before."""
    before = path.read_bytes()
    status = path.stat()
    with path.open("r+b") as file:
        file.write(bytes([before[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return before


def restore(path: Path, content: bytes) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_everything_done_behind_its_back_is_found(daemon: Daemon, place: Place) -> None:
    names = ("whole", "altered", "truncated", "grown", "removed")
    for name in names:
        (place / name).write_bytes(os.urandom(SIZE))
    assert verify(daemon, status=0) == {}
    change_in_place(place.data / "altered")
    os.truncate(place.data / "truncated", SIZE - 1)
    with (place.data / "grown").open("ab") as file:
        file.write(b"x")
    (place.data / "removed").unlink()
    (place.data / "added").write_bytes(b"x")
    (place.data / "link").symlink_to("whole")
    expected = {
        "job/altered": "altered",
        "job/truncated": "altered",
        "job/grown": "altered",
        "job/removed": "missing",
        "job/added": "unrecorded",
        "job/link": "unexpected",
    }
    assert verify(daemon, status=1) == expected
    assert verify(daemon, "exams", "job", status=1) == expected
    assert verify(daemon, "exams", str(place / "altered"), status=1) == {"job/altered": "altered"}
    assert verify(daemon, "exams", "job/whole", status=0) == {}


@pytest.mark.row("read-changed")
def test_a_damaged_file_is_not_served_until_it_is_whole_again(daemon: Daemon, place: Place) -> None:
    path, stored = place / "altered", place.data / "altered"
    path.write_bytes(os.urandom(SIZE))
    good = change_in_place(stored)
    # All of it, damaged as it is, in the kernel's cache of the mount; and open files and a mapping of it.
    assert path.read_bytes() != good
    with path.open("rb", buffering=0) as before, path.open("rb") as mapped_file:
        mapped = mmap.mmap(mapped_file.fileno(), 0, prot=mmap.PROT_READ)
        assert mapped[0] == good[0] ^ 1
        assert verify(daemon, status=1) == {"job/altered": "altered"}
        with refused(errno.EIO):
            path.open("rb")
        with refused(errno.EIO):
            os.pread(before.fileno(), 10, 0)
        mapped.close()
    assert "ALERT: 1 damaged file is not served" in daemon.log_text()
    assert "open failed: exams/job/altered: ALERT: verification found it damaged" in daemon.log_text()
    stop(daemon)
    daemon.start()
    with refused(errno.EIO):
        path.read_bytes()
    assert path.stat().st_size == SIZE
    restore(stored, good)
    with refused(errno.EIO):
        path.read_bytes()
    assert verify(daemon, status=0) == {}
    assert path.read_bytes() == good


def test_a_name_made_anew_is_served(daemon: Daemon, place: Place) -> None:
    path = place / "f"
    path.write_bytes(b"old")
    change_in_place(place.data / "f")
    verify(daemon, status=1)
    (place.data / "f").unlink()
    eventually(lambda: not path.exists(), "the name is free")
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    stop(daemon)
    daemon.start()
    assert path.read_bytes() == b"new"


def test_without_a_daemon_it_works_and_the_next_start_knows(daemon: Daemon, place: Place) -> None:
    (place / "f").write_bytes(b"good")
    stop(daemon)
    change_in_place(place.data / "f")
    assert verify(daemon, status=1) == {"job/f": "altered"}
    daemon.start()
    with refused(errno.EIO):
        (place / "f").read_bytes()


def test_a_file_in_the_spool_or_being_written_is_no_finding(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon(exams={"settle": "1h"})
    daemon.start()
    place = Place(daemon, "exams", "job").make()
    (place / "settling").write_bytes(b"x")
    with (place / "writing").open("wb") as file:
        file.write(b"x")
        file.flush()
        assert verify(daemon, status=0) == {}


def test_killed_it_goes_on_where_it_was(daemon: Daemon, place: Place) -> None:
    for number in range(40):
        (place / f"{number:02}").write_bytes(os.urandom(SIZE))
    change_in_place(place.data / "00")
    command = [sys.executable, "-m", "wormfs", "verify", "--config", str(daemon.config), "--rate", "8MiB/s"]
    killed = subprocess.Popen([*command, "--jobs", "1"], env=environment(daemon.base), cwd=daemon.base)
    # What is found is noted at once.
    eventually(lambda: not readable(place / "00"), "the first file is looked at")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert daemon.status()["backends"]["exams"]["verification"]["unfinished"] == 1
    done = daemon.run("verify", "--json")
    assert "going on after an interruption" in done.stderr
    found = json.loads(done.stdout)["backends"]["exams"]
    assert (found["files"], found["resumed"], len(found["findings"])) == (40, True, 1)
    assert found["counts"]["altered"] == 1
    status = daemon.status()["backends"]["exams"]["verification"]
    assert (status["files"], status["findings"], status["damaged"], status["unfinished"]) == (
        40,
        {"altered": 1},
        1,
        0,
    )
    verified_again = json.loads(daemon.run("verify", "--json", "--older-than", "1h").stdout)
    assert verified_again["backends"]["exams"]["files"] == 1, "only the damaged one is still due"


def readable(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.read_bytes()
        return True
    return False


def test_interrupted_by_a_person_it_says_how_to_go_on(daemon: Daemon, place: Place) -> None:
    for number in range(20):
        (place / f"{number:02}").write_bytes(os.urandom(SIZE))
    change_in_place(place.data / "00")
    command = [sys.executable, "-m", "wormfs", "verify", "--config", str(daemon.config), "--rate", "4MiB/s"]
    process = subprocess.Popen(
        [*command, "--jobs", "1"],
        env=environment(daemon.base),
        cwd=daemon.base,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: not readable(place / "00"), "the first file is looked at")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command goes on where it was" in said


def test_what_cannot_be_verified_is_no_success(daemon: Daemon, place: Place) -> None:
    (place / "f").write_bytes(b"x")
    stop(daemon)
    daemon.data("exams").rename(daemon.base / "away")
    done = daemon.run("verify", "--json")
    assert done.returncode == 2
    assert "does not exist" in json.loads(done.stdout)["backends"]["exams"]["error"]
    (daemon.base / "away").rename(daemon.data("exams"))
    for wrong in (
        ["nowhere"],
        ["--sample", "5"],
        ["--rate", "fast"],
        ["--older-than", "x"],
        ["exams", "../x"],
    ):
        assert daemon.run("verify", *wrong).returncode in (1, 2), wrong
    done = daemon.run("verify", "exams", "typo")
    assert done.returncode == 2
    assert "typo" in done.stderr


def test_the_manifest_is_what_sha256sum_takes_on_the_mount(daemon: Daemon, place: Place) -> None:
    names = [b"a", b"a\\b", b"new\nline", b"end\r", b"-", b" lead", b"*star", b"\xff\xfe", "ü".encode()]
    for name in names:
        (place / os.fsdecode(name)).write_bytes(name * 5)
    manifest = subprocess.run(
        [sys.executable, "-m", "wormfs", "manifest", "--config", str(daemon.config), "exams"],
        env=environment(daemon.base),
        cwd=daemon.base,
        capture_output=True,
        check=True,
    ).stdout
    (daemon.base / "manifest").write_bytes(manifest)
    checked = works(
        "sha256sum", "--strict", "--check", daemon.base / "manifest", cwd=daemon.mountpoint / "exams"
    )
    assert checked.count(": OK\n") == len(names)
    change_in_place(place.data / "a")
    done = run("sha256sum", "--quiet", "-c", daemon.base / "manifest", cwd=daemon.data("exams"))
    assert done.returncode == 1
    assert "job/a: FAILED" in done.stdout
    (place.data / "foreign").write_bytes(b"x")
    done_manifest = daemon.run("manifest", "exams", "job/foreign")
    assert (done_manifest.returncode, done_manifest.stdout) == (1, "")
    assert "left out: exams/job/foreign" in done_manifest.stderr


def test_a_tree_is_exported_as_a_bag(daemon: Daemon, place: Place) -> None:
    content = os.urandom(SIZE)
    (place / "f").write_bytes(content)
    bag = daemon.base / "bag"
    done = daemon.run("export", "--bagit", "exams/job", str(bag))
    assert (done.returncode, done.stderr) == (0, "")
    bagit.Bag(str(bag)).validate()
    assert (bag / "data" / "f").read_bytes() == content
    change_in_place(place.data / "f")
    done = daemon.run("export", "--bagit", "exams/job", str(daemon.base / "bag2"))
    assert done.returncode == 1
    assert "exams/job/f: it is not what its record says" in done.stderr
    assert not (daemon.base / "bag2").exists()
    events = (daemon.state_directory / "audit" / "exams.jsonl").read_text()
    assert '"event":"exported"' in events
    assert "job" not in events, "no names in the audit trail"


def test_the_audit_trail_tells_of_verifications(daemon: Daemon, place: Place) -> None:
    (place / "secret-name").write_bytes(b"x")
    change_in_place(place.data / "secret-name")
    verify(daemon, status=1)
    lines = (daemon.state_directory / "audit" / "exams.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    told = [event["event"] for event in events if event["event"] in ("verifying", "found", "verified")]
    assert told == ["verifying", "found", "verified"]
    assert events[-1]["altered"] == 1
    assert "secret-name" not in "".join(lines)


def test_a_person_sees_a_table(daemon: Daemon, place: Place) -> None:
    (place / "evil\x1b[31m").write_bytes(b"x")
    assert daemon.run("verify").stdout == "exams: 1 file, 1 B read in 0s: all is well\n"
    change_in_place(place.data / "evil\x1b[31m")
    done = daemon.run("verify")
    assert done.returncode == 1
    assert "1 altered" in done.stdout
    assert "altered: not served any more; restore" in done.stdout
    assert "\x1b" not in done.stdout
    text = daemon.run("status").stdout
    assert "exams: verified 0s ago, 1 file: 1 altered" in text
    assert "1 damaged file not served" in text
    shown = daemon.run("stat", str(place / "evil\x1b[31m")).stdout
    assert "state           damaged" in shown and "not served until it was restored" in shown


def test_an_erased_file_is_not_missed_and_its_name_is_forgotten_at_once(
    fresh_daemon: Callable[..., Daemon],
) -> None:
    daemon = fresh_daemon(exams={"erase": "expired", "retention": {"period": "1s"}})
    daemon.start()
    place = Place(daemon, "exams", "job").make()
    for name in ("kept", "anna-mueller"):
        (place / name).write_bytes(b"x")
    assert verify(daemon, status=0) == {}
    catalog = daemon.state_directory / "verify" / "exams.sqlite"
    assert b"anna-mueller" in catalog.read_bytes()
    eventually(lambda: erased(place / "anna-mueller"), "it may be erased")
    assert b"anna-mueller" not in b"".join(path.read_bytes() for path in catalog.parent.iterdir())
    assert verify(daemon, status=0) == {}
    (place / "anna-mueller").write_bytes(b"another")
    assert verify(daemon, status=0) == {}
    (place.data / "anna-mueller").unlink()
    assert verify(daemon, status=1) == {"job/anna-mueller": "missing"}


def erased(path: Path) -> bool:
    with contextlib.suppress(PermissionError):
        path.unlink()
        return True
    return False


def test_a_commit_that_nobody_ever_saw_again_is_missing(daemon: Daemon, place: Place) -> None:
    (place / "f").write_bytes(b"x")
    (place.data / "f").unlink()
    # Commits of the second in which a verification begins are left to the next one.
    eventually(lambda: daemon.run("verify").returncode == 1, "the commit in the audit trail is missed")
    found = verify(daemon, status=1)
    assert list(found.values()) == ["missing"]
    assert next(iter(found)).startswith("(name unknown) ")
    assert verify(daemon, "--accept", status=1) == found
    assert verify(daemon, status=0) == {}


def test_on_a_terminal_there_is_a_bar(daemon: Daemon, place: Place) -> None:
    (place / "f").write_bytes(os.urandom(8 * SIZE))
    command = f"{sys.executable} -m wormfs verify --config {daemon.config} --rate 16MiB/s"
    shown = works("script", "-qc", command, "/dev/null", cwd=daemon.base, env=environment(daemon.base))
    assert re.search(r"exams .*0/1 files.*/8.0 MiB", shown)
    assert "MiB/s" in shown
    assert "all is well" in shown
