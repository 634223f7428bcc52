"""``wormfs spool`` without a daemon: what the files of a spool say, and what may be done with them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from tests.unit.spool.conftest import HandClock, Spooler
from wormfs.cli import entries, output
from wormfs.cli.entries import Collected, Seen
from wormfs.cli.main import cli
from wormfs.cli.who import whoami
from wormfs.daemon.spools import SpoolPlace
from wormfs.errors import InvalidArgument, NotFound
from wormfs.model import Key
from wormfs.spool.inventory import StoredEntry, Where, read
from wormfs.spool.journal import EntryRecord, new_entry_id
from wormfs.spool.store import Slot, SpoolStore
from wormfs.worm.lifecycle import EntryState

INSTANCE_ID = "0123456789abcdef"


class Site:
    """Settings with two backends, and the spool of one of them."""

    def __init__(self, base: Path):
        self.config = base / "config.yaml"
        self.state = base / "state"
        self.backends = {name: base / name for name in ("exams", "other")}
        for path in self.backends.values():
            path.mkdir()
        self.config.write_text(
            yaml.safe_dump(
                {
                    "mountpoint": str(base / "mnt"),
                    "state_directory": str(self.state),
                    "backends": {
                        name: {"type": "local", "path": str(path)} for name, path in self.backends.items()
                    },
                }
            )
        )
        self.config.chmod(0o600)
        self.directory = self.backends["exams"] / ".wormfs" / "spool" / INSTANCE_ID

    def has_run(self) -> None:
        self.state.mkdir(mode=0o700)
        (self.state / "instance-id").write_text(INSTANCE_ID + "\n")

    def run(self, command: str, *arguments: str, stdin: str = "") -> Result:
        words = ["spool", command, "--config", str(self.config), *arguments]
        return CliRunner().invoke(cli, words, input=stdin, prog_name="wormfs", standalone_mode=False)

    def listed(self, *arguments: str) -> dict[str, dict[str, Any]]:
        return {
            entry["id"]: entry
            for entry in json.loads(self.run("list", "--json", *arguments).stdout)["entries"]
        }


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.has_run()
    return site


@pytest.fixture
def clock() -> HandClock:
    return HandClock(wall_ns=time.time_ns() - 3600 * 10**9)


@pytest.fixture
def spooler(clock: HandClock) -> Iterator[Spooler]:
    spooler = Spooler(clock)
    yield spooler
    spooler.close()


@pytest.fixture
def opened(site: Site, clock: HandClock) -> Iterator[SpoolStore]:
    """The store of exams, as a daemon has it open."""
    store = SpoolStore(str(site.directory), clock, "exams")
    store.open()
    store.sweep(store.recover())
    yield store
    store.close()


def really_sealed(spooler: Spooler, store: SpoolStore, key: bytes, data: bytes) -> Slot:
    slot = spooler.writing(store, key, data)
    assert slot.record is not None
    slot.write_durably(spooler.as_sealed(slot.record, len(data), hashlib.sha256(data).hexdigest()))
    return slot


def test_nothing_ever_ran(tmp_path: Path) -> None:
    site = Site(tmp_path)
    result = site.run("list")
    assert (result.return_value, result.output) == (0, "no entries\n")
    assert json.loads(site.run("list", "--json").stdout) == {"entries": [], "problems": []}


def test_unknown_backend(site: Site) -> None:
    result = site.run("list", "exam")
    assert "exams" in str(result.exception)


def test_a_spool_that_cannot_be_read_does_not_hide_the_others(
    site: Site, opened: SpoolStore, spooler: Spooler
) -> None:
    entry_id = spooler.quarantined(opened)
    broken = site.backends["other"] / ".wormfs" / "spool" / INSTANCE_ID
    broken.mkdir(parents=True)
    (broken / "format").write_text('{"format": "wormfs spool", "version": 99, "backend": "other"}')
    result = site.run("list")
    assert result.return_value == 1
    assert "the spool of other cannot be read" in result.stderr and "99" in result.stderr
    assert "job-1/a.tgz" in result.stdout
    found = json.loads(site.run("list", "--json").stdout)
    assert [entry["id"] for entry in found["entries"]] == [entry_id]
    assert [problem["backend"] for problem in found["problems"]] == ["other"]
    result = site.run("show", "ffffffff")
    assert "other cannot be read" in str(result.exception)


def test_states_and_filters(site: Site, opened: SpoolStore, spooler: Spooler) -> None:
    writing = spooler.writing(opened, b"w", b"some").record
    sealed = spooler.sealed(opened, b"s").record
    quarantined = spooler.quarantined(opened, b"q")
    assert writing is not None and sealed is not None
    found = site.listed()
    assert [found[i]["state"] for i in (writing.entry_id, sealed.entry_id, quarantined)] == [
        "writing",
        "sealed",
        "quarantined",
    ]
    assert found[writing.entry_id]["size_bytes"] == 4
    assert found[quarantined]["reason"] == "writer killed"
    assert 3500 < found[quarantined]["age_s"] < 3700
    assert list(site.listed("--state", "sealed")) == [sealed.entry_id]
    assert site.listed("other") == {}


def test_names_with_any_bytes_are_shown_safely_and_kept_exactly(
    site: Site, opened: SpoolStore, spooler: Spooler
) -> None:
    name = b"job/\xff\x1b[2J\n\xe2\x80\xae[red]\\"
    entry_id = spooler.quarantined(opened, name)
    for result in (site.run("list"), site.run("show", entry_id)):
        assert "\x1b" not in result.output and "\u202e" not in result.output
        assert "\\x1b[2J\\n\\u202e[red]\\" in result.output.replace("\n", "")

    assert base64.b64decode(site.listed()[entry_id]["path_base64"]) == name


def test_lost_descriptions_and_lost_bytes(
    site: Site, opened: SpoolStore, spooler: Spooler, tmp_path: Path
) -> None:
    nameless, gone = spooler.quarantined(opened, b"a"), spooler.quarantined(opened, b"b")
    (site.directory / "quarantine" / f"{nameless}.json").unlink()
    (site.directory / "quarantine" / f"{gone}.data").unlink()
    found = site.listed()
    assert found[nameless]["path"] is None and "description is missing" in found[nameless]["reason"]
    assert found[gone]["size_bytes"] is None
    assert "(name unknown)" in site.run("list").output
    assert site.run("export", nameless, str(tmp_path / "x")).return_value is None
    assert (tmp_path / "x").read_bytes() == b"content"
    result = site.run("export", gone, str(tmp_path / "y"))
    assert "no bytes" in str(result.exception) and not (tmp_path / "y").exists()
    assert "bytes are gone" in site.run("show", gone).output


def test_an_entry_cut_off_on_its_way_back_is_sealed(site: Site, opened: SpoolStore, spooler: Spooler) -> None:
    """A crash between the sealed record and the end of the names in quarantine."""
    slot = really_sealed(spooler, opened, b"f", b"content")
    assert slot.record is not None
    opened.quarantined.receive(slot.record.moved(EntryState.QUARANTINED, 1, "conflict"), slot.data_fd)
    entry_id = slot.record.entry_id
    assert site.listed()[entry_id]["state"] == "sealed"
    result = site.run("discard", "--yes", "--reason", "r", entry_id)
    assert "cannot be discarded" in str(result.exception)
    assert opened.quarantined.holds(entry_id)


# -- export


def test_export_of_sealed_bytes_is_verified(
    site: Site, opened: SpoolStore, spooler: Spooler, tmp_path: Path
) -> None:
    good = really_sealed(spooler, opened, b"good", b"content").record
    bad = spooler.sealed(opened, b"bad")  # with a digest of other bytes
    assert good is not None and bad.record is not None
    target = tmp_path / "out"
    result = site.run("export", good.entry_id, str(target), "--json")
    assert json.loads(result.stdout) == {
        "id": good.entry_id,
        "path": str(target),
        "size_bytes": 7,
        "sha256": hashlib.sha256(b"content").hexdigest(),
        "verified": True,
    }
    assert target.stat().st_mode & 0o777 == 0o600
    result = site.run("export", bad.record.entry_id, str(tmp_path / "no"))
    assert "not those that were recorded" in str(result.exception)
    assert bad.data_path in str(result.exception)
    assert not (tmp_path / "no").exists()


def test_export_says_where_it_cannot_write(
    site: Site, opened: SpoolStore, spooler: Spooler, tmp_path: Path
) -> None:
    entry_id = spooler.quarantined(opened)
    target = tmp_path / "missing" / "out"
    assert str(target) in str(site.run("export", entry_id, str(target)).exception)
    assert "is not overwritten" in str(site.run("export", entry_id, str(tmp_path)).exception)


# -- discard


def test_discard_asks_and_tells_what_will_be_lost(site: Site, opened: SpoolStore, spooler: Spooler) -> None:
    entry_id = spooler.quarantined(opened)
    opened.close()
    for answer in ("n\n", "\n"):
        result = site.run("discard", "--reason", "r", entry_id, stdin=answer)
        assert result.return_value == 1
        assert "job-1/a.tgz" in result.stderr and "lost for good" in result.stderr
    assert list(site.listed()) == [entry_id]
    result = site.run("discard", "--reason", "because", "--json", entry_id, stdin="y\n")
    assert json.loads(result.stdout) == {"discarded": [entry_id]}
    assert site.listed() == {}
    line = json.loads((site.directory / "quarantine" / "discarded.log").read_text())
    assert (line["who"], line["why"], line["entry_id"]) == (whoami(), "because", entry_id)


def test_discard_does_nothing_at_an_end_of_input(site: Site, opened: SpoolStore, spooler: Spooler) -> None:
    entry_id = spooler.quarantined(opened)
    opened.close()
    assert site.run("discard", "--reason", "r", entry_id).exit_code != 0
    assert list(site.listed()) == [entry_id]


def test_one_wrong_id_discards_nothing(site: Site, opened: SpoolStore, spooler: Spooler) -> None:
    entry_id = spooler.quarantined(opened)
    sealed = spooler.sealed(opened, b"s").record
    assert sealed is not None
    opened.close()
    for wrong in ("ffffffff", sealed.entry_id):
        result = site.run("discard", "--yes", "--reason", "r", entry_id, wrong)
        assert result.exception is not None
        assert entry_id in site.listed()


def test_discard_needs_a_reason(site: Site, opened: SpoolStore, spooler: Spooler) -> None:
    entry_id = spooler.quarantined(opened)
    assert site.run("discard", "--yes", entry_id).exit_code == 1
    assert "must say something" in str(site.run("discard", "--yes", "--reason", " ", entry_id).exception)


def test_discard_while_somebody_else_has_the_spool(site: Site, opened: SpoolStore, spooler: Spooler) -> None:
    entry_id = spooler.quarantined(opened)
    result = site.run("discard", "--yes", "--reason", "r", entry_id)
    assert f"process {os.getpid()}" in str(result.exception)
    assert "no wormfs daemon is running" in str(result.exception)
    assert list(site.listed()) == [entry_id]


# -- retry


@pytest.mark.parametrize("arguments", [(), ("--all", "12345678"), ("--all", "--as-is")])
def test_retry_wants_either_ids_or_all(site: Site, arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, ["spool", "retry", "--config", str(site.config), *arguments])
    assert result.exit_code == 2


def test_retry_needs_the_daemon(site: Site, opened: SpoolStore, spooler: Spooler) -> None:
    entry_id = spooler.quarantined(opened)
    assert "only a running daemon can commit" in str(site.run("retry", entry_id).exception)
    assert site.run("retry", "--all").output == "nothing is sealed: nothing to try\n"


# -- ids, and the layout of tables


def seen(entry_id: str, key: bytes = b"f", reason: str | None = None, backend: str = "exams") -> Seen:
    record = None
    entry = StoredEntry(
        entry_id, Where.QUARANTINE, EntryState.QUARANTINED, 5 << 30, 0, reason, record, "/spool/x"
    )
    return Seen(SpoolPlace(backend, "/spool"), replace(entry, record=_record(entry_id, key)), None, 90_061.0)


def _record(entry_id: str, key: bytes) -> EntryRecord:
    clock = HandClock()
    return EntryRecord(
        entry_id=entry_id, state=EntryState.QUARANTINED, key=Key(key), size_bytes=0, sha256=None,
        attributes=Spooler(clock).attributes(), writer_uid=0, writer_pid=0, created_at_ns=0,
        settle_until_ns=None, record=None, history=((EntryState.QUARANTINED, 1, "x"),), last_error=None,
        data_name=entry_id + ".data",
    )  # fmt: skip


def test_ids_may_be_shortened_at_either_half() -> None:
    one, two = "18a2b3c4d5e6f708-3f9c2a1b00000001", "18a2b3c4d5e6f709-3f9c2a1c00000002"
    found = Collected([seen(one), seen(two)])
    assert found.find(one).entry.entry_id == one
    assert found.find("3f9c2a1c").entry.entry_id == two
    assert found.find("18a2b3c4d5e6f709").entry.entry_id == two
    assert found.find(found.entries[0].short_id).entry.entry_id == one
    with pytest.raises(InvalidArgument, match="any of 2 entries"):
        found.find("18a2b3c4")
    for unknown in ("3f9", "", "ffff0000", "2a1c"):
        with pytest.raises(NotFound):
            found.find(unknown)


def test_thousands_of_entries_and_long_paths_keep_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    keys = [b"k" * 4000, "日本語".encode() * 300, b"a/b/c", b"x" * 79]
    many = [
        seen(new_entry_id(number), keys[number % 4], "why " * (number % 200), "a-backend-with-a-long-name")
        for number in range(3000)
    ]
    begun = time.monotonic()
    entries.print_entries(many)
    assert time.monotonic() - begun < 60
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3000 entries: 3000 quarantined; 14.6 TiB"
    assert sum(line.startswith("ID ") for line in lines) == 1
    from rich.cells import cell_len

    assert max(cell_len(line) for line in lines) <= 80
    starts = [line for line in lines if line[:1].strip()]
    assert len(starts) == 3000 + 2, "a line for each, the head and the sum"


def test_sizes_ages_and_times() -> None:
    assert [output.size_text(n) for n in (0, 1023, 1024, 5 << 40, None)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 TiB", "unknown",
    ]  # fmt: skip
    assert [output.age_text(s) for s in (-5, 59.9, 60, 3600, 90_000)] == ["0s", "59s", "1m", "1h", "1d"]
    assert output.time_text(1_700_000_000 * 10**9) == "2023-11-14 22:13:20 UTC"
    assert output.time_text((1 << 63) - 1).startswith("2262") and output.time_text(-1).startswith("1969")
    assert output.shortened("abcdef", 4) == "…def"
    assert output.plain("a\x1b[0m\nb\udcff") == "a\\x1b[0m\\nb\\udcff"


def test_whoami_names_all_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert whoami().startswith(f"uid {os.getuid()} (")
    monkeypatch.setenv("SUDO_USER", "alice")
    assert "SUDO_USER alice" in whoami()


def test_reading_a_directory_without_a_spool(tmp_path: Path) -> None:
    assert read(str(tmp_path / "missing"), HandClock()) == []
