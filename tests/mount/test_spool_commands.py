"""``wormfs spool`` on real mounts: killed writers, outages, and what an administrator does about them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, environment
from tests.support.tools import Place, ends, eventually, python, refused, sha256, state, works

WRITE_AND_WAIT = """
import os, sys
with open(sys.argv[1], "wb", buffering=0) as file:
    file.write(sys.argv[2].encode())
    os.write(1, b"x")
    os.read(0, 1)
"""


@pytest.fixture
def daemon(fresh_daemon: Callable[..., Daemon]) -> Daemon:
    daemon = fresh_daemon(exams={"commit_timeout": "1s"})
    daemon.start()
    return daemon


@pytest.fixture
def place(daemon: Daemon) -> Place:
    return Place(daemon, "exams", "job").make()


def spool(daemon: Daemon, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return daemon.wormfs("spool", command, "--config", str(daemon.config), *arguments)


def listed(daemon: Daemon, *arguments: str) -> list[dict[str, Any]]:
    done = spool(daemon, "list", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    entries: list[dict[str, Any]] = json.loads(done.stdout)["entries"]
    return entries


def only(daemon: Daemon) -> dict[str, Any]:
    [entry] = listed(daemon)
    return entry


def killed_writer(place: Place, name: str, content: str = "half an archive") -> str:
    """Leaves bytes in quarantine; the id of their entry."""
    before = {entry["id"] for entry in listed(place.daemon)}
    writer = python(WRITE_AND_WAIT, place / name, content)
    assert writer.stdout is not None
    writer.stdout.read(1)
    writer.kill()
    ends(writer, -signal.SIGKILL)
    place.wait_quarantined()
    [entry] = [entry for entry in listed(place.daemon) if entry["id"] not in before]
    return str(entry["id"])


@contextlib.contextmanager
def outage(place: Place, name: str | None = None) -> Iterator[None]:
    """The backend takes no file in the meantime; the file ``name`` has just been closed then."""
    fd = -1
    if name is not None:
        fd = os.open(place / name, os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"precious")
    works("chattr", "+i", place.data)
    try:
        if name is not None:
            with refused(errno.EIO):
                os.close(fd)
        yield
    finally:
        works("chattr", "-i", place.data)


def test_killed_writer_is_listed_exported_and_discarded(daemon: Daemon, place: Place, tmp_path: Path) -> None:
    entry_id = killed_writer(place, "f")
    entry = only(daemon)
    assert (entry["state"], entry["path"], entry["backend"]) == ("quarantined", "job/f", "exams")
    assert (entry["size_bytes"], entry["sha256"]) == (15, None)
    assert "signal 9" in entry["reason"]
    table = spool(daemon, "list").stdout
    short = entry_id.rpartition("-")[2][:8]
    assert short in table and "job/f" in table and "signal 9" in " ".join(table.split())
    assert max(map(len, table.splitlines())) <= 80

    shown = json.loads(spool(daemon, "show", short, "--json").stdout)
    assert [step["state"] for step in shown["history"]] == ["writing", "quarantined"]
    assert "signal 9" in spool(daemon, "show", entry_id).stdout

    target = tmp_path / "rescued"
    done = spool(daemon, "export", short, str(target))
    assert (done.returncode, done.stderr) == (0, "")
    assert target.read_bytes() == b"half an archive"
    again = spool(daemon, "export", short, str(target))
    assert again.returncode == 1 and "is not overwritten" in again.stderr

    asked = asked_to_discard(daemon, "n\n", short)
    assert asked.returncode == 1
    assert (
        "job/f" in asked.stderr
        and "lost for good" in asked.stderr
        and "nothing was discarded" in asked.stderr
    )
    assert only(daemon)["id"] == entry_id
    done = asked_to_discard(daemon, "y\n", short)
    assert done.returncode == 0, done.stderr
    assert listed(daemon) == []
    assert place.quarantined() == []
    line = discarded(daemon)[-1]
    assert (line["entry_id"], line["why"]) == (entry_id, "killed, repeated")
    assert line["who"].startswith(f"uid {os.getuid()} ") and "SUDO_USER alice" in line["who"]
    assert f"entry {entry_id} in quarantine was discarded by uid" in daemon.log_text()


def asked_to_discard(daemon: Daemon, answer: str, entry_id: str) -> subprocess.CompletedProcess[str]:
    """``discard`` with somebody at the keyboard who has come by sudo."""
    words = ("--config", str(daemon.config), "--reason", "killed, repeated", entry_id)
    return subprocess.run(
        [sys.executable, "-m", "wormfs", "spool", "discard", *words],
        input=answer,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(daemon.base) | {"SUDO_USER": "alice"},
    )


def discarded(daemon: Daemon) -> list[dict[str, Any]]:
    [log] = (daemon.data("exams") / ".wormfs" / "spool").glob("*/quarantine/discarded.log")
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_outage_is_listed_and_retried_at_once_after_repair(
    daemon: Daemon, place: Place, tmp_path: Path
) -> None:
    with outage(place, "f"):
        # By now the delay is longer than this test waits.
        eventually(lambda: only(daemon)["attempts"] >= 4, "some attempts have failed")
        entry = only(daemon)
        assert (entry["state"], entry["path"], entry["size_bytes"]) == ("sealed", "job/f", 8)
        assert "EPERM" in entry["reason"]
        status = daemon.status()["backends"]["exams"]["spool"]
        assert (status["entries"], status["bytes"], status["waiting"]) == ({"sealed": 1}, 8, 1)
        assert "EPERM" in status["last_error"] and status["oldest_s"] > 0
        table = daemon.run("status").stdout
        assert (
            "1 sealed, 8 B" in table
            and "oldest waits" in table
            and "exams: warning: 1 closed file waits" in table
        )
        done = spool(daemon, "retry", entry["id"])
        assert done.returncode == 3, done
        assert "not committed yet" in done.stdout and "EPERM" in done.stdout
        done = spool(daemon, "discard", "--yes", "--reason", "r", entry["id"])
        assert done.returncode == 1 and "cannot be discarded" in done.stderr
        done = spool(daemon, "export", entry["id"], str(tmp_path / "copy"))
        assert done.returncode == 0 and "as it was sealed" in done.stdout
        assert (tmp_path / "copy").read_bytes() == b"precious"
        assert state(place / "f") == "sealed"
    done = spool(daemon, "retry", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert "job/f: committed" in done.stdout
    assert state(place / "f") == "committed"
    assert place.stored(place / "f").read_bytes() == b"precious"
    assert listed(daemon) == []
    done = spool(daemon, "retry", "--all", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"counts": {}, "entries": []})


def test_bytes_of_a_killed_writer_become_a_record_by_decision_only(daemon: Daemon, place: Place) -> None:
    entry_id = killed_writer(place, "f")
    done = spool(daemon, "retry", entry_id)
    assert done.returncode == 1
    assert "never sealed" in done.stdout and "--as-is" in done.stdout
    assert place.visible() == set()
    done = spool(daemon, "retry", "--as-is", entry_id)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "job/f: committed" in done.stdout
    assert (place / "f").read_bytes() == b"half an archive"
    assert state(place / "f") == "committed"
    assert os.getxattr(place / "f", "user.wormfs.sha256").decode() == sha256(place.stored(place / "f"))
    assert place.stored(place / "f").stat().st_mode & 0o222 == 0
    assert listed(daemon) == [] and place.quarantined() == []
    with refused(errno.EPERM):
        os.open(place / "f", os.O_WRONLY)


def test_a_taken_name_stays_with_whom_it_is(daemon: Daemon, place: Place) -> None:
    entry_id = killed_writer(place, "f")
    (place / "f").write_bytes(b"the second attempt")
    done = spool(daemon, "retry", "--as-is", entry_id)
    assert done.returncode == 1 and "the name is taken" in done.stdout
    assert (place / "f").read_bytes() == b"the second attempt"
    assert only(daemon)["state"] == "quarantined"
    (other,) = (killed_writer(place, "g"),)
    with (place / "g").open("wb") as file:
        done = spool(daemon, "retry", "--as-is", other)
        assert done.returncode == 1 and "file on its way" in done.stdout
        file.write(b"new")
    assert (place / "g").read_bytes() == b"new"


def test_a_retried_entry_survives_an_outage_and_a_restart(daemon: Daemon, place: Place) -> None:
    entry_id = killed_writer(place, "f")
    with outage(place):
        done = spool(daemon, "retry", "--as-is", entry_id)
        assert done.returncode == 3 and "EPERM" in done.stdout
        assert (only(daemon)["state"], only(daemon)["id"]) == ("sealed", entry_id)
        assert (place / "f").read_bytes() == b"half an archive"
        assert place.quarantined() == []
        daemon.clean_up()
    daemon.start()
    eventually(lambda: state(place / "f") == "committed", "it is committed by the next daemon")


def test_a_lost_directory_comes_back_with_its_file(daemon: Daemon, place: Place) -> None:
    entry_id = killed_writer(place, "f")
    place.path.rmdir()
    done = spool(daemon, "retry", "--as-is", entry_id)
    assert done.returncode == 0, done
    assert place.stored(place / "f").read_bytes() == b"half an archive"


def test_without_a_daemon(daemon: Daemon, place: Place, tmp_path: Path) -> None:
    quarantined = killed_writer(place, "q\x1b[31m\n\udcff")
    with outage(place, "s"):
        assert daemon.run("umount", "--timeout", "1").returncode == 0
        found = {entry["state"]: entry for entry in listed(daemon)}
        assert set(found) == {"sealed", "quarantined"}
        assert found["quarantined"]["path"] == "job/q\\x1b[31m\\n\\xff"
        assert found["sealed"]["attempts"] is None
        table = spool(daemon, "list").stdout
        assert "\x1b" not in table and "2 entries: 1 quarantined, 1 sealed" in table
        assert "sealed" in spool(daemon, "show", found["sealed"]["id"]).stdout
        for entry, content in ((found["sealed"], b"precious"), (found["quarantined"], b"half an archive")):
            target = tmp_path / entry["state"]
            assert spool(daemon, "export", entry["id"], str(target)).returncode == 0
            assert target.read_bytes() == content
        done = spool(daemon, "retry", found["sealed"]["id"])
        assert done.returncode == 1
        assert (
            "no wormfs daemon is running" in done.stderr and "tries what is sealed by itself" in done.stderr
        )
        done = spool(daemon, "discard", "--yes", "--reason", "nobody needs it", quarantined)
        assert done.returncode == 0, done.stderr
        assert discarded(daemon)[-1]["why"] == "nobody needs it"
        assert [entry["state"] for entry in listed(daemon)] == ["sealed"]
    daemon.start()
    eventually(lambda: listed(daemon) == [], "the next daemon commits what was sealed")
    assert place.stored(place / "s").read_bytes() == b"precious"


def test_what_a_dead_daemon_left_half_written_is_told(daemon: Daemon, place: Place) -> None:
    with (place / "f").open("wb", buffering=0) as file:
        file.write(b"half")
        entry = only(daemon)
        assert (entry["state"], entry["size_bytes"], entry["reason"]) == ("writing", 4, None)
        done = spool(daemon, "discard", "--yes", "--reason", "r", entry["id"])
        assert done.returncode == 1 and "remove the file from the mount" in done.stderr
        done = spool(daemon, "export", entry["id"], str(daemon.base / "copy"))
        assert done.returncode == 1 and "may still change" in done.stderr
        daemon.clean_up()
        entry = only(daemon)
        assert (entry["state"], entry["size_bytes"]) == ("writing", 4)
        assert "goes to quarantine at the next start" in entry["reason"]
        with contextlib.suppress(OSError):
            file.close()


def test_status_counts_quarantine(daemon: Daemon, place: Place) -> None:
    spooled = daemon.status()["backends"]["exams"]["spool"]
    assert spooled["quarantine"] == {"entries": 0, "bytes": 0}
    killed_writer(place, "f")
    killed_writer(place, "g", "more")
    spooled = daemon.status()["backends"]["exams"]["spool"]
    assert spooled["quarantine"] == {"entries": 2, "bytes": 19}
    done = daemon.run("status")
    assert "quarantine 2, 19 B" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
