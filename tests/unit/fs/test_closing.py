"""Who may seal: the thread that looked in time, and nobody else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from wormfs.fs import holders
from wormfs.fs.closing import _Question
from wormfs.fs.handles import WriteHandle
from wormfs.fs.holders import LastClose, OpenFile, Unclear, Verdict
from wormfs.model import Key
from wormfs.spool.entry import Writer


def question(monkeypatch: pytest.MonkeyPatch, *, failed: str | None = None) -> _Question:
    writer = Writer(uid=0, pid=1, opened_boot_s=0.0, failed=failed)
    handle: Any = SimpleNamespace(entry=SimpleNamespace(key=Key(b"f")), inode=7, writer=writer)

    def inspect(file: OpenFile) -> Verdict:
        assert (file.inode, file.name) == (7, b"f")
        return LastClose()

    monkeypatch.setattr(holders, "inspect", inspect)
    return _Question(cast("WriteHandle", handle))


def test_who_looked_in_time_may_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = question(monkeypatch)
    assert asked.is_last()
    assert asked.verdict == LastClose()
    assert not asked.claim.take(), "it is taken: nobody else decides any more"


def test_who_comes_too_late_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = question(monkeypatch)
    assert asked.claim.take()  # by the event loop, which has lost patience
    assert not asked.is_last()
    assert asked.verdict == Unclear()


def test_nor_for_a_writer_that_has_failed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = question(monkeypatch, failed="killed")
    assert not asked.is_last()
    assert asked.verdict == LastClose()
