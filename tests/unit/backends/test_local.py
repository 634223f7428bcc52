"""What only the local driver promises: see tests/conformance for what every driver does."""

from __future__ import annotations

import dataclasses
import errno
import logging
import multiprocessing
import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.drivers import ATTRIBUTES, NOW_NS, LocalStorage, make_record, spooled, store
from wormfs import durability, ownership
from wormfs.backends import registry
from wormfs.backends.base import Scrubbable
from wormfs.backends.local import immutable
from wormfs.errors import (
    AccessDenied,
    AlreadyExists,
    BackendFault,
    InvalidArgument,
    NotADirectory,
    NotFound,
    OutOfSpace,
    SettingsError,
    Unavailable,
    Unsupported,
)
from wormfs.model import (
    ROOT,
    DirectoryAttributes,
    FileAttributes,
    FindingKind,
    Key,
    Record,
    Retention,
    RetentionChange,
)

NOBODY = 65534
KEY = Key(b"exam.zip")
CONTENT = b"an archive\n" * 100


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[LocalStorage]:
    storage = LocalStorage(tmp_path)
    yield storage
    storage.remove()


@pytest.fixture
def immutable_storage(tmp_path: Path) -> Iterator[LocalStorage]:
    storage = LocalStorage(tmp_path, immutable=True)
    yield storage
    storage.remove()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system of some type on a directory, until the end of the test."""
    places: list[Path] = []

    def mount(kind: str, *options: str) -> Path:
        place = tmp_path / f"{kind}-{len(places)}"
        place.mkdir()
        subprocess.run(["mount", "-t", kind, *options, kind, place], check=True)
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", place], check=True)


def has_immutable_flag(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return immutable.is_immutable(fd)
    finally:
        os.close(fd)


# Start


def test_a_missing_root_is_unavailable_and_not_made(storage: LocalStorage) -> None:
    backend = registry.create("archive", "local", {"path": str(storage.root)})
    for _ in range(2):
        with pytest.raises(Unavailable, match="does not exist"):
            backend.start()
    assert not storage.root.exists()
    storage.root.mkdir()
    backend.start()
    backend.close()


def test_before_the_start_everything_is_unavailable(storage: LocalStorage) -> None:
    with pytest.raises(Unavailable):
        storage.backend().stat(ROOT)


def test_a_root_that_is_a_file_is_refused(storage: LocalStorage) -> None:
    storage.root.write_bytes(b"")
    with pytest.raises(SettingsError, match="is not a directory"):
        registry.create("archive", "local", {"path": str(storage.root)}).start()


def test_the_start_leaves_only_its_hidden_directory(storage: LocalStorage) -> None:
    backend = storage.backend()
    backend.start()
    backend.close()
    assert os.listdir(storage.root) == [".wormfs"]
    assert stat.S_IMODE((storage.root / ".wormfs").stat().st_mode) == 0o700
    assert os.listdir(storage.root / ".wormfs") == []


def test_a_file_system_without_user_xattrs_is_refused(mounted: Callable[..., Path]) -> None:
    place = mounted("ramfs")
    with pytest.raises(SettingsError, match=r"cannot keep a record .*: use ext4"):
        registry.create("archive", "local", {"path": str(place)}).start()
    assert os.listdir(place / ".wormfs") == []


@pytest.mark.parametrize("call", ["publish_link", "sync_directory"])
def test_a_file_system_without_links_or_sync_is_refused(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    backend = storage.backend()
    backend.start()
    backend.close()
    # Which syncs, too, but before the proof.
    monkeypatch.setattr(durability, "make_directory_durably", lambda *arguments: False)

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(durability, call, refuse)
    with pytest.raises(SettingsError, match=r"has no hard links|cannot sync"):
        backend.start()
    assert os.listdir(storage.root / ".wormfs") == []


def test_a_file_system_whose_links_replace_is_refused(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = storage.backend()

    def replace(fd: int, name: bytes, directory_fd: int) -> None:
        if name in os.listdir(os.fsencode(f"/proc/self/fd/{directory_fd}")):
            os.unlink(name, dir_fd=directory_fd)
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory_fd, follow_symlinks=True)

    monkeypatch.setattr(durability, "publish_link", replace)
    with pytest.raises(SettingsError, match="replace a name that is taken"):
        backend.start()


def test_wormfs_itself_is_no_place_for_files(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend = storage.backend()
    device = storage.root.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 {os.major(device)}:{os.minor(device)} / /mnt rw - fuse.wormfs wormfs rw\n")
    monkeypatch.setattr("wormfs.backends.local.probe._MOUNTS_PATH", str(mounts))
    with pytest.raises(SettingsError, match="is a wormfs mount itself"):
        backend.start()


def test_a_hidden_directory_of_somebody_else_is_refused(storage: LocalStorage) -> None:
    backend = storage.backend()
    hidden = storage.root / ".wormfs"
    hidden.symlink_to("/tmp")
    with pytest.raises(SettingsError, match="is not a directory"):
        backend.start()
    hidden.unlink()
    hidden.mkdir()
    os.chown(hidden, NOBODY, NOBODY)
    with pytest.raises(SettingsError, match="belongs to uid 65534"):
        backend.start()


def test_the_hidden_directory_of_the_services_user_is_taken_by_root(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wormfs verify` by root, beside a service that runs as its own user."""
    monkeypatch.setattr(ownership, "SERVICE_USER", pwd.getpwuid(NOBODY).pw_name)
    backend = storage.backend()
    hidden = storage.root / ".wormfs"
    hidden.mkdir(0o700)
    os.chown(hidden, NOBODY, NOBODY)
    backend.start()
    assert hidden.stat().st_uid == NOBODY


# What is shown


def test_other_kinds_of_files_are_not_shown_and_never_followed(storage: LocalStorage) -> None:
    backend = storage.backend()
    backend.start()
    secret = storage.top / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"secret")
    (storage.root / "link").symlink_to(secret)
    (storage.root / "file-link").symlink_to(secret / "key")
    os.mkfifo(storage.root / "fifo")
    assert list(backend.list(ROOT)) == []
    for name in (b"link", b"file-link", b"fifo"):
        for look in (backend.stat, backend.record, backend.erase):
            with pytest.raises(NotFound):
                look(Key(name))
        with pytest.raises(AlreadyExists):
            backend.begin(Key(name))
    below = Key(b"link/key")
    for act in (backend.record, backend.erase, backend.begin, backend.resume, backend.list):
        with pytest.raises(NotADirectory):
            act(below)
    with pytest.raises(NotADirectory):
        backend.make_directory(Key(b"link/new"), DirectoryAttributes())
    with pytest.raises(NotADirectory):
        backend.set_directory_attributes(Key(b"link"), DirectoryAttributes(mode=0o777))
    assert os.listdir(secret) == ["key"]
    backend.close()


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_publishing_onto_another_kind_of_file_is_refused(storage: LocalStorage, kind: str) -> None:
    backend = storage.backend()
    backend.start()
    record = make_record(CONTENT)
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        transfer.prepare(file, record)
        path = storage.path_of(KEY)
        path.symlink_to(file.name) if kind == "symlink" else os.mkfifo(path)
        with pytest.raises(AlreadyExists):
            transfer.publish(file, record)
    backend.close()


# Publishing


def test_publish_syncs_the_directory_after_the_link_and_before_it_returns(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = storage.backend()
    backend.start()
    backend.make_directory(Key(b"job-1"), DirectoryAttributes())
    key = Key(b"job-1/exam.zip")
    seen: list[tuple[str, bool]] = []

    def note(fd: int) -> None:
        seen.append((os.readlink(f"/proc/self/fd/{fd}"), storage.path_of(key).exists()))

    monkeypatch.setattr(durability, "sync_directory", note)
    store(storage, backend, key, CONTENT)
    assert seen == [(str(storage.root / "job-1"), True)]
    backend.close()


def test_publish_again_syncs_the_directory_again(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = storage.backend()
    backend.start()
    record = make_record(CONTENT)
    real = durability.sync_directory

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        transfer.prepare(file, record)
        monkeypatch.setattr(durability, "sync_directory", fail)
        for _ in range(2):
            with pytest.raises(BackendFault):
                transfer.publish(file, record)
        monkeypatch.setattr(durability, "sync_directory", real)
        transfer.publish(file, record)
    backend.close()


def test_a_name_that_shows_another_file_after_publishing_is_noticed(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = storage.backend()
    backend.start()

    def swap(fd: int) -> None:
        storage.path_of(KEY).unlink()
        storage.path_of(KEY).write_bytes(CONTENT)

    monkeypatch.setattr(durability, "sync_directory", swap)
    with pytest.raises(BackendFault, match="does not hold the file"):
        store(storage, backend, KEY, CONTENT)
    backend.close()


def test_a_spool_file_without_a_name_left_is_no_new_publish(storage: LocalStorage) -> None:
    backend = storage.backend()
    backend.start()
    record = make_record(CONTENT)
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        transfer.prepare(file, record)
        Path(file.name).unlink()
        with pytest.raises(NotFound):
            transfer.publish(file, record)
    backend.close()


def test_xattrs_beyond_the_room_are_out_of_space(storage: LocalStorage) -> None:
    backend = storage.backend()
    backend.start()
    big = FileAttributes(0o644, 0, 0, NOW_NS, NOW_NS, {b"user.big": b"x" * 20_000})
    with spooled(storage, CONTENT) as file:
        with pytest.raises(OutOfSpace):
            backend.begin(KEY).prepare(file, make_record(CONTENT, attributes=big))
        for name in (b"user.wormfs.record", b"trusted.x"):
            bad = FileAttributes(0o644, 0, 0, NOW_NS, NOW_NS, {name: b"1"})
            with pytest.raises(InvalidArgument):
                backend.begin(KEY).prepare(file, make_record(CONTENT, attributes=bad))
    backend.close()


def test_a_file_with_other_hard_links_is_not_erased(storage: LocalStorage) -> None:
    backend = storage.backend()
    backend.start()
    store(storage, backend, KEY, CONTENT)
    os.link(storage.path_of(KEY), storage.top / "other")
    with pytest.raises(BackendFault, match="1 other hard links"):
        backend.erase(KEY)
    assert storage.plain(KEY) == CONTENT
    backend.close()


def test_a_file_without_a_record_has_no_retention_and_a_damaged_one_is_told(storage: LocalStorage) -> None:
    backend = storage.backend()
    backend.start()
    storage.place_foreign(KEY, CONTENT)
    with pytest.raises(Unsupported):
        backend.change_retention(KEY, RetentionChange(extend=True))
    os.setxattr(storage.path_of(KEY), "user.wormfs.record", b'{"v":99}')
    with pytest.raises(BackendFault, match=r"archive/exam\.zip: .*version 99"):
        backend.record(KEY)
    with pytest.raises(AlreadyExists):
        backend.resume(KEY).publish(None, make_record(CONTENT))
    backend.close()


# Crashes


def publish_and_crash(storage: LocalStorage, spool_name: str, entry: str, step: str) -> None:
    durability._CRASH_POINT = durability.CrashPoint(step)  # type: ignore[misc]
    backend = storage.backend()
    backend.start()
    record = crash_record(entry)
    with open(storage.spool() / spool_name, "r+b", buffering=0) as file:
        transfer = backend.resume(KEY)
        transfer.prepare(file, record)
        os.fsync(file.fileno())
        transfer.publish(file, record)


def crash_record(entry: str) -> Record:
    return dataclasses.replace(make_record(CONTENT), entry_id=entry)


@pytest.mark.parametrize("wants_immutable", [False, True])
@pytest.mark.parametrize("step", [name for name in durability.STEPS if name.startswith("local.")])
def test_after_kill_at_any_step_publishing_again_finishes(
    storage: LocalStorage, step: str, wants_immutable: bool
) -> None:
    storage = LocalStorage(storage.top, immutable=wants_immutable)
    backend = storage.backend()
    backend.start()
    path = storage.spool() / "entry"
    path.write_bytes(CONTENT)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=publish_and_crash, args=(storage, "entry", "e" * 32, step))
    process.start()
    process.join()
    reached = wants_immutable or step != "local.immutable-set"
    assert process.exitcode == (-signal.SIGKILL if reached else 0)

    record = crash_record("e" * 32)
    transfer = backend.resume(KEY)
    if path.exists():
        with path.open("r+b", buffering=0) as file:
            transfer.prepare(file, record)
            transfer.publish(file, record)
        path.unlink(missing_ok=True)
    else:
        transfer.publish(None, record)
    assert storage.plain(KEY) == CONTENT
    assert backend.record(KEY) == record
    assert storage.path_of(KEY).stat().st_nlink == 1
    assert has_immutable_flag(storage.path_of(KEY)) is wants_immutable
    assert not path.exists()
    backend.close()


# Immutable


def test_an_immutable_file_cannot_be_changed_even_by_root(immutable_storage: LocalStorage) -> None:
    storage = immutable_storage
    backend = storage.backend()
    backend.start()
    store(storage, backend, KEY, CONTENT, make_record(CONTENT, retention=Retention(1)))
    path = storage.path_of(KEY)
    for change in (
        lambda: path.write_bytes(b""),
        path.unlink,
        lambda: path.rename(path.with_name("x")),
        lambda: path.chmod(0o644),
    ):
        with pytest.raises(PermissionError):
            change()
    backend.change_retention(KEY, RetentionChange(extend=True, extend_to_ns=2))
    assert has_immutable_flag(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    assert [result.passed for result in backend.check() if result.name == "immutable"] == [True]
    backend.erase(KEY)
    assert not path.exists()
    backend.close()


def test_where_chattr_is_impossible_files_are_stored_and_the_check_says_so(
    immutable_storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(fd: int) -> bool:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    monkeypatch.setattr(immutable, "make_immutable", refuse)
    storage = immutable_storage
    backend = storage.backend()
    backend.start()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            store(storage, backend, Key(b"%d" % number), CONTENT)
    assert [record.getMessage()[:37] for record in caplog.records] == [
        "archive: files are read-only but not "
    ]
    results = {result.name: result for result in backend.check()}
    assert not results["immutable"].passed
    assert "CAP_LINUX_IMMUTABLE" in results["immutable"].detail
    assert all(result.passed for name, result in results.items() if name != "immutable")
    backend.close()


# Without privileges


def as_nobody(storage: LocalStorage) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    backend = storage.backend()
    backend.start()
    record = make_record(CONTENT)
    with spooled(storage, CONTENT) as file:
        transfer = backend.begin(KEY)
        # Again, as after a crash: the file is read-only by then.
        transfer.prepare(file, make_record(CONTENT))
        transfer.prepare(file, record)
        transfer.publish(file, record)
        transfer.publish(file, record)
    assert backend.record(KEY) == record
    info = backend.stat(KEY)
    assert (info.uid, info.mode) == (NOBODY, 0o440)
    backend.open(info).close()
    backend.change_retention(KEY, RetentionChange(extend=True))
    assert backend.stat(KEY).mode == 0o440
    with pytest.raises(AccessDenied):
        backend.begin(Key(b"roots/exam.zip"))
    backend.make_directory(Key(b"job-1"), DirectoryAttributes(mode=0o777, uid=33, gid=33))
    assert [result.name for result in backend.check() if not result.passed] == ["immutable"]
    backend.erase(KEY)
    backend.close()


def test_an_unprivileged_daemon_stores_under_its_own_name() -> None:
    # Not in tmp_path, which only root can reach.
    with tempfile.TemporaryDirectory(prefix="wormfs-test-") as folder:
        top = Path(folder)
        top.chmod(0o755)
        storage = LocalStorage(top, immutable=True)
        storage.root.mkdir()
        (storage.root / "roots").mkdir(mode=0o755)
        os.chown(storage.root, NOBODY, NOBODY)
        # Forked, because the source tree may be out of this user's reach.
        process = multiprocessing.get_context("fork").Process(target=as_nobody, args=(storage,))
        process.start()
        process.join()
        assert process.exitcode == 0


# Space


def test_a_full_file_system_is_out_of_space(mounted: Callable[..., Path]) -> None:
    place = mounted("tmpfs", "-o", "size=1m,nr_inodes=64")
    storage = LocalStorage(place)
    backend = storage.backend()
    backend.start()
    filler = storage.root / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 65536)
            file.flush()
    assert backend.space().free_bytes == 0
    failed = [result.name for result in backend.check() if not result.passed]
    assert failed == ["write", "free space"]
    with pytest.raises(OutOfSpace):
        for number in range(100):
            backend.make_directory(Key(b"%d" % number), DirectoryAttributes())
    backend.close()


def test_space_is_what_df_shows(storage: LocalStorage) -> None:
    backend = storage.backend()
    backend.start()
    status = os.statvfs(storage.root)
    space = backend.space()
    assert space.total_bytes == status.f_blocks * status.f_frsize
    assert space.total_files == status.f_files
    assert space.free_bytes is not None
    assert abs(space.free_bytes - status.f_bavail * status.f_frsize) < 1 << 30
    backend.close()


# Reading


def test_a_short_read_from_the_cache_is_not_the_end(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = storage.backend()
    backend.start()
    opened = backend.open(store(storage, backend, KEY, CONTENT))

    def half(fd: int, buffers: tuple[memoryview], offset: int, flags: int) -> int:
        assert flags == os.RWF_NOWAIT
        part = os.pread(fd, len(buffers[0]) // 2, offset)
        buffers[0][: len(part)] = part
        return len(part)

    monkeypatch.setattr(os, "preadv", half)
    assert opened.read_ready(0, len(CONTENT)) is None
    assert opened.read_ready(len(CONTENT) - 5, 10) == CONTENT[-5:]
    monkeypatch.undo()
    assert opened.read_ready(0, len(CONTENT) + 5) == CONTENT
    assert opened.read_ready(len(CONTENT), 5) == b""
    opened.close()
    backend.close()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP])
def test_what_cannot_be_read_at_once_needs_a_thread(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    backend = storage.backend()
    backend.start()
    opened = backend.open(store(storage, backend, KEY, CONTENT))

    def refuse(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", refuse)
    assert opened.read_ready(0, 10) is None
    assert opened.read(0, 10) == CONTENT[:10]
    monkeypatch.undo()
    # One EAGAIN says nothing of the next read; a file system that cannot, never can.
    assert opened.read_ready(0, 10) == (CONTENT[:10] if number == errno.EAGAIN else None)
    opened.close()
    backend.close()


def test_a_read_that_the_kernel_cuts_short_goes_on(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = storage.backend()
    backend.start()
    opened = backend.open(store(storage, backend, KEY, CONTENT))
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 7), offset))
    assert opened.read(3, 100) == CONTENT[3:103]
    assert opened.read(0, len(CONTENT) * 2) == CONTENT
    monkeypatch.undo()
    opened.close()
    backend.close()


def test_a_deep_root_leaves_room_for_long_keys(tmp_path: Path) -> None:
    top = tmp_path / ("r" * 200) / ("r" * 200)
    top.mkdir(parents=True)
    storage = LocalStorage(top)
    backend = storage.backend()
    backend.start()
    key = Key(b"d" * 255)
    while len(key) + 256 < 4096:
        backend.make_directory(key, DirectoryAttributes())
        key = Key(key + b"/" + b"d" * min(255, 4095 - len(key) - 1))
    assert len(key) == 4095
    store(storage, backend, key, CONTENT, make_record(CONTENT, attributes=ATTRIBUTES))
    assert backend.stat(key).size_bytes == len(CONTENT)
    backend.close()


def test_the_driver_needs_only_its_own_modules() -> None:
    code = (
        "import sys, wormfs.backends.local.backend\n"
        "print([name for name in ('trio', 'yaml', 'pyfuse3') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_findings_are_what_no_listing_shows(storage: LocalStorage) -> None:
    backend = storage.backend()
    backend.start()
    store(storage, backend, KEY, CONTENT)
    backend.make_directory(Key(b"folder"), DirectoryAttributes())
    assert list(backend.findings()) == []
    (storage.root / "folder" / "link").symlink_to("/etc/passwd")
    os.mkfifo(storage.root / "pipe")
    found = {(finding.kind, finding.name) for finding in backend.findings()}
    assert found == {(FindingKind.UNEXPECTED, b"folder/link"), (FindingKind.UNEXPECTED, b"pipe")}
    backend.close()


def test_scrubbing_goes_around_the_page_cache_and_leaves_nothing_there(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    backend = storage.backend()
    backend.start()
    info = store(storage, backend, Key(b"f"), os.urandom(4 << 20))
    backend.open(info).read(0, info.size_bytes)
    assert pages_in_memory(storage.path_of(info.key)) == 1024
    assert isinstance(backend, Scrubbable)
    reader = backend.open_to_scrub(info)
    assert pages_in_memory(storage.path_of(info.key)) == 0
    assert reader.read(0, info.size_bytes) == storage.plain(info.key)
    reader.close()
    assert pages_in_memory(storage.path_of(info.key)) == 0
    backend.close()


def pages_in_memory(path: Path) -> int:
    command = ["fincore", "--noheadings", "--raw", "--output", "PAGES", path]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout or 0)


def test_a_check_finds_a_root_that_was_replaced_after_the_start(storage: LocalStorage) -> None:
    backend = storage.backend()
    backend.start()
    try:
        assert all(result.passed for result in backend.check())
        root = Path(backend.path)
        away = root.with_name("away")
        root.rename(away)
        [gone] = backend.check()
        assert (gone.name, gone.passed) == ("connect", False) and "does not exist any more" in gone.detail
        root.mkdir()
        [replaced] = backend.check()
        assert (replaced.name, replaced.passed) == ("connect", False)
        assert "is not the directory any more" in replaced.detail
        assert list(root.iterdir()) == [], "nothing is written there"
        root.rmdir()
        away.rename(root)
        assert all(result.passed for result in backend.check())
    finally:
        backend.close()
