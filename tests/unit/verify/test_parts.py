"""The small parts: pace, requests, manifest lines, reading."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from wormfs.errors import Unavailable
from wormfs.model import Key
from wormfs.verify.manifest import line
from wormfs.verify.pace import Pace
from wormfs.verify.reading import BLOCK_BYTES, Digester, Stopped
from wormfs.verify.request import Request, within


class Time:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_the_pace_is_kept_and_a_pause_is_not_made_up_for() -> None:
    time = Time()
    pace = Pace(1000, monotonic=time.monotonic, pause=time.pause)
    for _ in range(10):
        pace.spend(500)
    assert time.now == pytest.approx(105)
    time.now += 60
    for _ in range(10):
        pace.spend(500)
    assert time.now == pytest.approx(170)


def test_a_slow_pace_reads_in_small_blocks() -> None:
    assert Pace(None).block_bytes(4 << 20) == 4 << 20
    assert Pace(1 << 30).block_bytes(4 << 20) == 4 << 20
    assert Pace(1 << 20).block_bytes(4 << 20) == 1 << 20
    assert Pace(1).block_bytes(4 << 20) == 64 << 10


def test_without_a_limit_nothing_waits() -> None:
    time = Time()
    Pace(None, monotonic=time.monotonic, pause=time.pause).spend(1 << 60)
    assert time.now == 100.0


def test_what_lies_within_a_scope() -> None:
    assert within(b"a/b", Key(b"")) and within(b"a/b", Key(b"a")) and within(b"a", Key(b"a"))
    assert not within(b"a-b", Key(b"a")) and not within(b"ab", Key(b"a"))


def test_requests_of_a_kind_and_of_another() -> None:
    kinds = {
        Request().kind,
        Request(Key(b"a")).kind,
        Request(sample=0.5).kind,
        Request(older_than_s=5).kind,
    }
    assert len(kinds) == 4
    assert Request(Key(b"a"), 0.5, 5).kind == Request(Key(b"a"), 0.5, 5).kind


def test_chance_takes_its_share() -> None:
    keys = [Key(b"%d" % number) for number in range(10_000)]
    chosen = {run: {key for key in keys if Request(sample=0.05).chooses(key, run)} for run in (1, 2)}
    assert all(400 < len(some) < 600 for some in chosen.values())
    assert len(chosen[1] & chosen[2]) < 100
    assert all(Request().chooses(key, 1) for key in keys)


NAMES = [b"plain", b"a\\b", b"new\nline", b"cr\rx", b"end\r", b"-", b" lead", b"*star", b"\xff\xfe", b"\\"]


def test_gnu_sha256sum_reads_the_manifest(tmp_path: Path) -> None:
    lines = []
    for name in NAMES:
        content = name * 3
        (tmp_path / name.decode("utf-8", "surrogateescape")).write_bytes(content)
        lines.append(line(Key(name), hashlib.sha256(content).hexdigest()))
    command = ["sha256sum", "--check", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, input=b"".join(lines), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b": OK\n") == len(NAMES)
    wrong = line(Key(b"new\nline"), "0" * 64)
    done = subprocess.run(command, cwd=tmp_path, input=wrong, capture_output=True)
    assert done.returncode == 1


class Bytes:
    """A reader over bytes, which may fail."""

    def __init__(self, content: bytes, fail_at: int | None = None):
        self._content = content
        self._fail_at = fail_at

    def read(self, offset: int, size: int) -> bytes:
        if self._fail_at is not None and offset >= self._fail_at:
            raise Unavailable("gone")
        return self._content[offset : offset + size]

    def read_ready(self, offset: int, size: int) -> bytes | None:
        return None

    def close(self) -> None:
        pass


SIZES = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 5]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grown", [-1, 0, 1, BLOCK_BYTES])
def test_all_bytes_are_read_whatever_size_was_told(size: int, grown: int) -> None:
    content = bytes(range(256)) * ((max(0, size + grown) // 256) + 1)
    content = content[: max(0, size + grown)]
    told: list[int] = []
    digester = Digester(1, Pace(None), told.append)
    found = digester.digest(Bytes(content), size)
    digester.close()
    assert found == (len(content), hashlib.sha256(content).hexdigest())
    assert sum(told) == len(content)


def test_a_failure_ahead_is_told() -> None:
    digester = Digester(1, Pace(None), lambda size: None)
    with pytest.raises(Unavailable):
        digester.digest(Bytes(bytes(3 * BLOCK_BYTES), fail_at=BLOCK_BYTES), 3 * BLOCK_BYTES)
    digester.stop()
    with pytest.raises(Stopped):
        digester.digest(Bytes(b"x"), 1)
    digester.close()
