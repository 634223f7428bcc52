"""What the kernel is told: nothing when no session runs, and no session ends under whoever is telling."""

from __future__ import annotations

import errno
import logging
import threading

import pyfuse3
import pytest

from wormfs.fuse.caches import KernelCaches
from wormfs.fuse.root import RootOperations
from wormfs.model import Space


def test_the_root_takes_names_without_a_session(caplog: pytest.LogCaptureFixture) -> None:
    """A reload may be at it in the moment in which a stop has ended the session."""
    root = RootOperations(
        ["a"],
        is_own_process=lambda pid: False,
        space=lambda: Space(None, None),
        state_directory=b"/",
        now_ns=0,
    )
    with pytest.raises(OSError, match="returned") as refused:
        pyfuse3.invalidate_inode(pyfuse3.ROOT_INODE, attr_only=True)
    assert refused.value.errno == errno.EINVAL, "this is how it would fail"
    root.add("b")
    root.remove("a")
    assert root.caches.end()
    root.add("c")
    assert root._names == [b"b", b"c"]
    assert caplog.records == []


def test_what_the_kernel_does_not_forget_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(pyfuse3, "invalidate_entry", refuse)
    with caplog.at_level(logging.ERROR):
        KernelCaches().forget_name(1, b"exams")
    assert "the kernel does not forget the name exams" in caplog.text


def test_a_session_waits_for_whoever_uses_it_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on = threading.Event(), threading.Event()
    told: list[int] = []

    def slow(inode: int, *, attr_only: bool) -> None:
        began.set()
        go_on.wait()
        told.append(inode)

    monkeypatch.setattr(pyfuse3, "invalidate_inode", slow)
    caches = KernelCaches()
    telling = threading.Thread(target=caches.forget_content, args=[[7, 8]])
    telling.start()
    assert began.wait(20)
    assert not caches.end()
    go_on.set()
    assert caches.end()
    telling.join()
    assert told == [7], "the next one is after the end"
