"""Inode numbers: stable, unique among what the kernel knows, and gone when it forgets."""

from __future__ import annotations

import pytest

from wormfs.errors import NotFound
from wormfs.fs.inodes import ROOT_INODE, InodeTable
from wormfs.model import ROOT, Key


@pytest.fixture
def table() -> InodeTable:
    return InodeTable("archive")


def test_the_same_name_has_the_same_number_after_a_restart(table: InodeTable) -> None:
    directory = table.remember(ROOT_INODE, b"directory")
    file = table.remember(directory, b"file")
    other = InodeTable("archive")
    assert other.remember(ROOT_INODE, b"directory") == directory
    assert other.remember(directory, b"file") == file
    assert InodeTable("another").remember(ROOT_INODE, b"directory") != directory
    assert table.key(file) == Key(b"directory/file")
    assert table.key(ROOT_INODE) == ROOT
    assert 1 < file < 1 << 63


def test_numbers_go_when_all_references_are_dropped(table: InodeTable) -> None:
    inode = table.remember(ROOT_INODE, b"file")
    assert table.remember(ROOT_INODE, b"file") == inode
    table.remember_again(inode)
    table.forget(inode, 2)
    assert table.find(ROOT_INODE, b"file") == inode
    table.forget(inode, 1)
    assert table.find(ROOT_INODE, b"file") is None
    assert len(table) == 1
    with pytest.raises(NotFound):
        table.node(inode)
    table.forget(inode, 1)
    table.forget(ROOT_INODE, 99)
    assert table.key(ROOT_INODE) == ROOT


def test_asking_for_a_number_does_not_remember_it(table: InodeTable) -> None:
    number = table.number(ROOT_INODE, b"file")
    assert len(table) == 1
    assert table.remember(ROOT_INODE, b"file") == number


def test_numbers_that_meet_are_told_apart(table: InodeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    class Same:
        def __init__(self, *arguments: object, **options: object) -> None: ...

        def digest(self) -> bytes:
            return b"\xff" * 8

    monkeypatch.setattr("wormfs.fs.inodes.blake2b", Same)
    numbers = [table.remember(ROOT_INODE, b"%d" % at) for at in range(3)]
    assert len(set(numbers)) == 3
    assert all(1 < number < 1 << 63 for number in numbers)
    assert [table.key(number) for number in numbers] == [b"0", b"1", b"2"]


def test_a_detached_inode_lives_on_beside_a_new_file_of_its_name(table: InodeTable) -> None:
    old = table.remember(ROOT_INODE, b"file")
    substitute = object()
    table.detach(ROOT_INODE, b"file", substitute)
    new = table.remember(ROOT_INODE, b"file")
    assert new != old
    assert table.node(old).detached is substitute
    assert table.node(new).detached is None
    table.forget(old, 1)
    assert table.find(ROOT_INODE, b"file") == new
    table.detach(ROOT_INODE, b"unknown")


def test_a_moved_inode_keeps_its_number(table: InodeTable) -> None:
    directory = table.remember(ROOT_INODE, b"directory")
    inode = table.remember(ROOT_INODE, b"old")
    table.move(ROOT_INODE, b"old", directory, b"new")
    assert table.key(inode) == b"directory/new"
    assert table.find(directory, b"new") == inode
    again = table.remember(ROOT_INODE, b"old")
    assert again != inode
    table.forget(inode, 1)
    assert table.find(directory, b"new") is None
    table.move(ROOT_INODE, b"unknown", directory, b"x")


def test_moved_onto_a_name_that_the_kernel_still_knows(table: InodeTable) -> None:
    """Another host has erased the old file of that name; the kernel has not noticed yet."""
    gone = table.remember(ROOT_INODE, b"target")
    moved = table.remember(ROOT_INODE, b"source")
    table.move(ROOT_INODE, b"source", ROOT_INODE, b"target")
    assert table.find(ROOT_INODE, b"target") == moved
    table.forget(gone, 1)
    assert table.find(ROOT_INODE, b"target") == moved
    assert table.key(moved) == b"target"


def test_children_follow_a_moved_directory(table: InodeTable) -> None:
    directory = table.remember(ROOT_INODE, b"a")
    file = table.remember(directory, b"file")
    table.move(ROOT_INODE, b"a", ROOT_INODE, b"b")
    assert table.key(file) == b"b/file"
