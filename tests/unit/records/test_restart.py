"""A power loss may bring spool files back; what was erased must not come back with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.crash.archive import local_backend
from tests.support.faulty import FaultyBackend
from tests.support.inprocess import Host, options
from wormfs.errors import Unavailable, WormfsError
from wormfs.fs.stack import StatePlace
from wormfs.records.records import RecordOptions
from wormfs.worm.erasing import EraseMode
from wormfs.worm.policy import RetentionPolicy

CONTENT = b"record"


def host_on(base: Path, backend: FaultyBackend) -> Host:
    scratch = RecordOptions(policy=RetentionPolicy(scratch=True), mode=EraseMode.ALWAYS)
    settings = options(records=scratch, commit_timeout_s=1.0)
    return Host(backend, settings=settings, state=StatePlace(base / "state", "boot")).start()


def test_what_was_erased_is_not_published_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    backend = FaultyBackend(local_backend(root))
    host = host_on(tmp_path, backend)
    backend.faults.fail("publish", Unavailable("down"))
    for path in (b"f", b"g"):
        closing = host.background(host.store, path, CONTENT)
        host.wait_for(lambda path=path: path_is_sealed(host, path), "it is sealed")
        host.advance(2)
        with pytest.raises(WormfsError):
            closing.result(10)
    host.crash()
    # The spool as a power loss may show it again, however the files ended.
    spool = host.spool_directory
    shutil.copytree(spool, tmp_path / "kept")
    backend = FaultyBackend(local_backend(root))
    host = host_on(tmp_path, backend)
    host.advance(10)
    assert host.load(b"f") == host.load(b"g") == CONTENT
    host.unlink(b"f")
    host.stop()
    shutil.rmtree(spool)
    shutil.copytree(tmp_path / "kept", spool)
    host = host_on(tmp_path, FaultyBackend(local_backend(root)))
    host.advance(10)
    assert host.load(b"g") == CONTENT
    assert not host.exists(b"f")
    assert list(host.stack.spool) == []
    host.stop()


def path_is_sealed(host: Host, path: bytes) -> bool:
    return any(entry.key == path and entry.state.value == "sealed" for entry in host.stack.spool)
