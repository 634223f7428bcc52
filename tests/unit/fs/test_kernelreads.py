"""Which opens the kernel reads by itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wormfs.backends.base import Reader
from wormfs.backends.local.backend import LocalBackend
from wormfs.backends.local.options import LocalOptions
from wormfs.fs.kernelreads import KernelReads, OtherFile
from wormfs.model import Key, ObjectInfo

INODE = 7


class Kernel:
    """Keeps the numbers that are given out."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self.refusal: int | None = None
        self._next = 1

    def register(self, fd: int) -> int:
        if self.refusal is not None:
            raise OSError(self.refusal, os.strerror(self.refusal))
        with pytest.raises(OSError, match="Read-only"):
            os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        self.numbers.add(self._next)
        self._next += 1
        return self._next - 1

    def unregister(self, number: int) -> None:
        self.numbers.remove(number)


class Opening:
    """A backend with one file, and what is decided about it."""

    def __init__(self, root: Path) -> None:
        self.path = root / "f"
        self.path.write_bytes(b"content")
        self.backend = LocalBackend("exams", LocalOptions(str(root), kernel_reads=True))
        self.backend.start()
        self.kernel = Kernel()
        self.reads = KernelReads(self.backend, "exams")
        self.reads.kernel = self.kernel
        self._readers: list[Reader] = []

    def choose(self, flags: int = os.O_RDONLY) -> int | None:
        info = self.info()
        reader = self.backend.open(info)
        self._readers.append(reader)
        return self.reads.choose(INODE, flags, reader, info)

    def info(self) -> ObjectInfo:
        return self.backend.stat(Key(b"f"))

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self.backend.close()


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Opening]:
    opening = Opening(tmp_path)
    yield opening
    opening.close()


def test_all_that_are_open_share_a_number_that_goes_with_the_last(opening: Opening) -> None:
    for handle in (1, 2):
        assert opening.choose() == 1
        opening.reads.opened(handle, INODE, 1)
    assert opening.reads.direct(INODE) is not None
    opening.reads.released(1)
    assert opening.kernel.numbers == {1}
    opening.reads.released(2)
    assert opening.kernel.numbers == set()
    assert opening.reads.direct(INODE) is None
    assert opening.choose() == 2


def test_never_beside_a_handle_of_the_other_kind(opening: Opening) -> None:
    opening.reads.opened(1, INODE)
    opening.reads.opened(2, INODE)
    assert opening.choose() is None
    opening.reads.released(1)
    assert opening.choose() is None
    opening.reads.released(2)
    opening.reads.released(2)
    assert opening.choose() == 1


@pytest.mark.parametrize("flag", [os.O_WRONLY, os.O_RDWR, os.O_TRUNC, os.O_APPEND, os.O_DIRECT])
def test_only_plain_opens_for_reading(opening: Opening, flag: int) -> None:
    assert opening.choose(flag) is None
    assert opening.kernel.numbers == set()


def test_an_inode_that_is_open_for_another_file_is_of_no_use(opening: Opening) -> None:
    number = opening.choose()
    opening.reads.opened(1, INODE, number)
    opening.path.rename(opening.path.with_name("old"))
    opening.path.write_bytes(b"another")
    with pytest.raises(OtherFile):
        opening.choose()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EPERM, "the daemon has no CAP_SYS_ADMIN"),
        (errno.ELOOP, "stands on another one"),
        (errno.EOPNOTSUPP, "Operation not supported"),
    ],
)
def test_what_the_kernel_refuses_is_said_once_and_not_tried_again(
    opening: Opening, number: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    opening.kernel.refusal = number
    assert opening.choose() is None
    opening.kernel.refusal = None
    assert opening.choose() is None
    [line] = [record.getMessage() for record in caplog.records]
    assert "exams: kernel_reads: not possible here" in line and said in line
