"""``kernel_reads``: the kernel reads committed files by itself, and nothing else about them changes."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.test_php import moodle, sources
from tests.mount.test_verify import change_in_place, verify
from tests.support.daemon import Daemon
from tests.support.tools import Place, bytes_read, drop_cached, eventually, refused, sha256, unchanged, works

__all__ = ["sources"]

SIZE = 2 << 20
SETTING = {"kernel_reads": True}
NOT_POSSIBLE = "kernel_reads: not possible here, files are read through the daemon"


@pytest.fixture(scope="module")
def daemon(module_daemon: Callable[..., Daemon]) -> Iterator[Daemon]:
    daemon = module_daemon(
        exams={**SETTING, "empty_grace": "0s", "erase": "always"},
        slow={**SETTING, "settle": "1s"},
        plain={},
    )
    daemon.start()
    yield daemon
    text = daemon.log_text()
    assert NOT_POSSIBLE not in text, text
    assert "Traceback" not in text and "unforeseen" not in text, text


@pytest.fixture
def place(daemon: Daemon, request: pytest.FixtureRequest) -> Place:
    return Place(daemon, "exams", f"job-{abs(hash(request.node.nodeid))}").make()


@pytest.fixture
def record(place: Place) -> Path:
    return stored_in(place, os.urandom(SIZE))


def stored_in(place: Place, content: bytes, name: str = "f") -> Path:
    path = place / name
    path.write_bytes(content)
    wait_released(place)
    return path


def wait_released(place: Place) -> None:
    """close(2) returns before the kernel tells the worker; until then a file is not read directly."""
    eventually(lambda: not spool_descriptors(place), "the writer's handle is gone")


def spool_descriptors(place: Place) -> list[str]:
    return [name for name in descriptors(place) if "/spool/" in name and ".data" in name]


def descriptors(place: Place) -> list[str]:
    folder = Path(f"/proc/{place.daemon.worker_pid(place.backend)}/fd")
    found = []
    for fd in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(folder / fd))
    return found


def asked(place: Place, action: Callable[[], object]) -> int:
    """Bytes that the worker read while ``action`` ran."""
    worker = place.daemon.worker_pid(place.backend)
    before = bytes_read(worker)
    action()
    return bytes_read(worker) - before


def is_direct(place: Place, path: Path) -> bool:
    content = bytearray()
    return asked(place, lambda: content.extend(path.read_bytes())) < len(content) // 64


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 100_003, SIZE], ids=str)
def test_every_byte_is_the_same(place: Place, size: int) -> None:
    content = os.urandom(size)
    path = stored_in(place, content)
    for _ in range(2):
        assert path.read_bytes() == content
    with path.open("rb", buffering=0) as file:
        for at in (0, size // 2, max(size - 10, 0), size, size + 5):
            assert os.pread(file.fileno(), 4097, at) == content[at : at + 4097]
        assert os.fstat(file.fileno()).st_size == size
    assert place.stored(path).read_bytes() == content


def test_neither_the_first_nor_the_second_read_reaches_the_worker(place: Place, record: Path) -> None:
    expected = place.stored(record).read_bytes()
    for _ in range(3):
        assert (
            asked(place, lambda: record.read_bytes() == expected or pytest.fail("other bytes")) < SIZE // 64
        )


def test_holes_are_zeros(place: Place) -> None:
    path = place / "f"
    with path.open("wb") as file:
        file.write(b"head")
        file.seek(SIZE)
        file.write(b"tail")
    wait_released(place)
    assert path.read_bytes() == b"head" + bytes(SIZE - 4) + b"tail"
    assert is_direct(place, path)


@pytest.fixture(scope="module")
def own_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where nobody else takes or frees space, and every read sets the time of access."""
    path = tmp_path_factory.mktemp("disk")
    works("mount", "-t", "tmpfs", "-o", "strictatime", "tmpfs", path)
    path.chmod(0o755)
    yield path
    works("umount", "-l", path)


@pytest.fixture(scope="module")
def own_daemon(own_disk: Path, module_daemon: Callable[..., Daemon]) -> Iterator[Daemon]:
    """A daemon of its own whose backend is that disk."""
    daemon = module_daemon(exams={})
    data = daemon.data("exams")
    works("mount", "--bind", own_disk, data)
    daemon.write_config({"exams": {"type": "local", "path": str(data), "erase": "always", **SETTING}})
    daemon.start()
    yield daemon
    daemon.clean_up()
    works("umount", "-l", data)


@pytest.fixture
def own_place(own_daemon: Daemon, request: pytest.FixtureRequest) -> Place:
    return Place(own_daemon, "exams", request.node.name).make()


def test_reading_changes_no_time_and_no_record(own_place: Place) -> None:
    place = own_place
    record = stored_in(place, os.urandom(SIZE))
    stored = place.stored(record)
    os.utime(stored, ns=(10**18, 10**18 + 1))
    eventually(lambda: record.stat().st_mtime_ns == 10**18 + 1, "the new time is shown")
    with unchanged(place, record):
        record.read_bytes()
        with record.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert len(bytes(mapped)) == SIZE
        assert is_direct(place, record)
    assert stored.stat().st_atime_ns == 10**18
    stored.read_bytes()
    assert stored.stat().st_atime_ns != 10**18, "this disk keeps such times"


def test_it_can_be_mapped_sent_and_copied(place: Place, record: Path, tmp_path: Path) -> None:
    expected = place.stored(record).read_bytes()
    with record.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    # Outlives its descriptor, and an open of the other kind.
    wait_released(place)
    assert record.read_bytes() == expected
    assert bytes(mapped) == expected
    mapped.close()
    with record.open("rb") as file, (tmp_path / "sent").open("wb") as sent:
        at = 0
        while count := os.sendfile(sent.fileno(), file.fileno(), at, SIZE):
            at += count
    assert (tmp_path / "sent").read_bytes() == expected
    with record.open("rb") as file, (place / "ranged").open("wb") as ranged:
        while os.copy_file_range(file.fileno(), ranged.fileno(), SIZE):
            pass
    assert (place / "ranged").read_bytes() == expected
    works("cp", record, place / "copy")
    assert sha256(place / "copy") == sha256(record)


def test_a_program_can_be_run_from_the_mount(place: Place) -> None:
    path = place / "true"
    shutil.copyfile("/bin/true", path)
    (place / "script").write_text("#!/bin/sh\necho ran\n")
    with (place / "program").open("wb") as file:
        os.fchmod(file.fileno(), 0o755)
        file.write(Path("/bin/echo").read_bytes())
    wait_released(place)
    assert works(place / "program", "ran") == "ran\n"
    assert works(place / "program", "ran") == "ran\n"


def test_no_open_for_writing_gets_through(place: Place, record: Path) -> None:
    with record.open("rb") as reader, unchanged(place, record):
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
            with refused(errno.EPERM):
                os.open(record, flags)
        with refused(errno.EBADF):
            os.write(reader.fileno(), b"x")
        with refused(errno.EPERM):
            os.open(f"/proc/self/fd/{reader.fileno()}", os.O_RDWR)
        with pytest.raises(PermissionError):
            mmap.mmap(reader.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_WRITE)
        with refused(errno.EBADF):
            os.posix_fallocate(reader.fileno(), 0, SIZE)


def test_opened_while_its_writer_has_it_open(place: Place) -> None:
    """Such an open goes through the daemon, and so do those beside it; once all are closed, none does."""
    content = os.urandom(SIZE)
    path = place / "f"
    with path.open("w+b") as writer:
        writer.write(content)
        writer.flush()
        second = os.dup(writer.fileno())
        os.close(second)
    with path.open("rb") as early, path.open("rb") as later:
        assert early.read() == later.read() == content
        assert path.read_bytes() == content
    wait_released(place)
    eventually(lambda: is_direct(place, path), "it is read directly")


def test_opened_while_it_was_in_the_spool(daemon: Daemon) -> None:
    place = Place(daemon, "slow", "spooled").make()
    content = os.urandom(SIZE)
    path = place / "f"
    path.write_bytes(content)
    with path.open("rb") as before, mmap.mmap(before.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        eventually(lambda: place.stored(path).exists(), "it is committed")
        assert path.read_bytes() == content
        assert before.read() == content
        assert bytes(mapped) == content
    eventually(lambda: is_direct(place, path), "it is read directly")


def test_direct_access_beside_others(place: Place, record: Path) -> None:
    expected = place.stored(record).read_bytes()
    plain = record.open("rb", buffering=0)
    # Asked for while the first is open, so it has to be direct, too.
    fd = os.open(record, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, SIZE)
    assert os.readv(fd, [buffer]) == SIZE
    assert bytes(buffer) == expected
    plain.close()
    os.close(fd)
    fd = os.open(record, os.O_RDONLY | os.O_DIRECT)
    assert os.pread(fd, 10, 3) == expected[3:13], "alone, at any offset"
    with record.open("rb") as beside:
        assert beside.read() == expected
    os.close(fd)


def test_many_at_once_open_and_close(place: Place, record: Path) -> None:
    expected = sha256(place.stored(record))
    script = (
        "for i in $(seq 10); do sha256sum < $0; dd if=$0 of=/dev/null bs=1M iflag=direct status=none; done"
    )
    running = [
        subprocess.Popen(["sh", "-c", script, str(record)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for one in running:
        out, _ = one.communicate(timeout=60)
        assert one.returncode == 0
        assert set(out.split()) == {expected, "-"}


def test_readers_that_are_killed_leave_nothing(place: Place, record: Path) -> None:
    before = len(descriptors(place))
    for _ in range(20):
        reader = subprocess.Popen(
            ["sh", "-c", "while :; do cat $0; done", str(record)], stdout=subprocess.DEVNULL
        )
        time.sleep(0.005)
        reader.kill()
        reader.wait()
    eventually(lambda: len(descriptors(place)) <= before, "no descriptor is left")
    assert is_direct(place, record)


def test_thousands_of_opens_leave_nothing(own_place: Place, own_disk: Path) -> None:
    """Neither in the worker nor in the kernel, which would keep the disk's space of an erased file."""
    place = own_place
    content = os.urandom(SIZE)
    path = stored_in(place, content)
    before, free = len(descriptors(place)), os.statvfs(own_disk).f_bfree
    for _ in range(1000):
        fd = os.open(path, os.O_RDONLY)
        assert os.pread(fd, 1, 7) == content[7:8]
        os.close(fd)
    assert is_direct(place, path)
    eventually(lambda: len(descriptors(place)) <= before, "no descriptor is left")
    blocks = SIZE // os.statvfs(own_disk).f_frsize
    with path.open("rb"):
        path.unlink()
        assert os.statvfs(own_disk).f_bfree < free + blocks // 2, "who has it open reads on"
    eventually(lambda: os.statvfs(own_disk).f_bfree >= free + blocks, "its space is free again")


def test_erased_while_it_is_open_and_made_again(place: Place, record: Path) -> None:
    expected = place.stored(record).read_bytes()
    with record.open("rb", buffering=0) as old:
        record.unlink()
        assert not record.exists()
        record.write_bytes(b"new")
        assert record.read_bytes() == b"new"
        assert old.read() == expected
    eventually(lambda: record.read_bytes() == b"new", "the new one")


def test_erased_and_made_again_by_another_host(place: Place, record: Path) -> None:
    """The kernel has the old file's number with the old inode: the new one must get another."""
    expected = place.stored(record).read_bytes()
    new = os.urandom(SIZE)
    with record.open("rb", buffering=0) as old:
        place.stored(record).unlink()
        place.stored(record).write_bytes(new)
        eventually(lambda: record.read_bytes() == new, "the new bytes are read")
        drop_cached(place.stored(record))
        assert record.read_bytes() == new
        assert os.pread(old.fileno(), SIZE, 0) == expected
        assert os.fstat(old.fileno()).st_size == SIZE
        with record.open("rb") as one, record.open("rb") as other:
            assert one.read() == other.read() == new
    assert record.read_bytes() == new


def test_erased_by_another_host_and_made_again_here(place: Place, record: Path) -> None:
    expected = place.stored(record).read_bytes()
    with record.open("rb", buffering=0) as old:
        place.stored(record).unlink()
        eventually(lambda: not record.exists(), "the name is free")
        record.write_bytes(b"new")
        assert record.read_bytes() == b"new"
        assert old.read() == expected
    assert place.stored(record).read_bytes() == b"new"


def test_two_daemons_on_one_tree(
    daemon: Daemon, place: Place, record: Path, fresh_daemon: Callable[..., Daemon]
) -> None:
    second = fresh_daemon()
    second.write_config(
        {"exams": {"type": "local", "path": str(daemon.data("exams")), "erase": "always", **SETTING}}
    )
    second.start()
    theirs = second.mountpoint / "exams" / place.path.name / "f"
    expected = sha256(place.stored(record))
    with record.open("rb", buffering=0) as old:
        assert sha256(theirs) == sha256(record) == expected
        theirs.unlink()
        theirs.write_bytes(b"theirs")
        eventually(lambda: record.read_bytes() == b"theirs", "the other's file is read")
        assert len(old.read()) == SIZE
    assert NOT_POSSIBLE not in second.log_text()


def test_a_damaged_file_is_refused_at_the_next_open(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon(exams=SETTING)
    daemon.start()
    place = Place(daemon, "exams", "job").make()
    path = stored_in(place, os.urandom(SIZE))
    with path.open("rb", buffering=0) as before:
        good = change_in_place(place.stored(path))
        assert verify(daemon, status=1) == {"job/f": "altered"}
        with refused(errno.EIO):
            path.open("rb")
        assert "ALERT: job/f is open and read by the kernel itself until it is closed" in daemon.log_text()
        # The price of the setting, as docs/limits.md has it.
        assert os.pread(before.fileno(), 1, 0) == bytes([good[0] ^ 1])
    with refused(errno.EIO):
        path.open("rb")
    assert path.stat().st_size == SIZE


def test_what_the_kernel_shall_forget_does_not_go_through_the_answers(daemon: Daemon, place: Place) -> None:
    """Names erased by a command are taken from the kernel's memory while files are opened all the time."""
    path = stored_in(place, b"x" * 100_000)
    script = "while :; do cat $0 > /dev/null || exit 1; done"
    reading = [subprocess.Popen(["sh", "-c", script, str(path)]) for _ in range(2)]
    try:
        gone = stored_in(place, b"y", "gone")
        assert gone.read_bytes() == b"y"
        done = daemon.run("erase", "--reason", "test", str(gone))
        assert done.returncode == 0, done
        assert not gone.exists()
        assert [one.poll() for one in reading] == [None] * 2
    finally:
        for one in reading:
            one.kill()
            one.wait()


def test_what_moodle_does(place: Place, sources: Path) -> None:
    source = sources / "archive.zip"
    source.write_bytes(os.urandom(SIZE))
    expected = sha256(source)
    steps = moodle(place, sources, source)
    assert steps["store"]["ok"] is True
    assert steps["retrieve"]["sha256"] == [expected, expected]
    assert steps["retrieve"]["size"] == SIZE
    for refused_step in ("store-again", "put-contents", "append", "rename-onto"):
        assert steps[refused_step]["ok"] is False, refused_step


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A file system that stands on another one: more than the kernel allows here."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    works("mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "merged")
    yield tmp_path / "merged"
    works("umount", "-l", tmp_path / "merged")


def test_where_it_is_not_possible_it_says_so_once_and_goes_on(
    overlay: Path, fresh_daemon: Callable[..., Daemon]
) -> None:
    daemon = fresh_daemon()
    (overlay / "data").mkdir()
    daemon.write_config({"exams": {"type": "local", "path": str(overlay / "data"), **SETTING}})
    daemon.start()
    place = Place(daemon, "exams", "job").make()
    content = os.urandom(SIZE)
    for name in ("a", "b"):
        stored_in(place, content, name)
        assert (place / name).read_bytes() == content
        assert (place / name).read_bytes() == content
    assert daemon.log_text().count(NOT_POSSIBLE) == 1
    assert f"exams: {NOT_POSSIBLE}: its file system stands on another one" in daemon.log_text()
    daemon.clean_up()


def test_a_mount_below_the_root_is_read_through_the_daemon(fresh_daemon: Callable[..., Daemon]) -> None:
    daemon = fresh_daemon(exams=SETTING)
    below = daemon.data("exams") / "below"
    below.mkdir()
    (below / "f").write_bytes(b"hidden by the mount")
    works("mount", "-t", "tmpfs", "tmpfs", below)
    try:
        (below / "f").write_bytes(b"on the mount below.")
        daemon.start()
        shown = daemon.mountpoint / "exams" / "below" / "f"
        assert shown.read_bytes() == b"on the mount below."
        assert NOT_POSSIBLE not in daemon.log_text()
    finally:
        daemon.clean_up()
        works("umount", "-l", below)


def test_without_the_setting_nothing_is_direct(daemon: Daemon) -> None:
    place = Place(daemon, "plain", "job").make()
    path = place / "f"
    path.write_bytes(os.urandom(SIZE))
    drop_cached(path)
    assert asked(place, path.read_bytes) >= SIZE
