"""Blocks that were read are kept, up to a number of bytes."""

from __future__ import annotations

from wormfs.backends.blockcache import BlockCache


def test_those_used_longest_ago_go_first() -> None:
    cache = BlockCache(30)
    for index in range(3):
        cache.put("file", index, b"%d" % index * 10)
    assert cache.get("file", 0) == b"0" * 10
    cache.put("file", 3, b"3" * 10)
    assert [cache.get("file", index) for index in range(4)] == [b"0" * 10, None, b"2" * 10, b"3" * 10]
    assert cache.held_bytes == 30


def test_the_same_block_again_counts_once_and_one_too_large_is_not_kept() -> None:
    cache = BlockCache(30)
    cache.put("file", 0, b"x" * 20)
    cache.put("file", 0, b"y" * 25)
    assert (cache.get("file", 0), cache.held_bytes) == (b"y" * 25, 25)
    cache.put("file", 1, b"z" * 31)
    assert (cache.get("file", 1), cache.get("file", 0), cache.held_bytes) == (None, b"y" * 25, 25)


def test_a_file_that_goes_takes_its_blocks_along() -> None:
    cache = BlockCache(100)
    cache.put("a", 0, b"1")
    cache.put("b", 0, b"2")
    cache.drop("a")
    assert (cache.get("a", 0), cache.get("b", 0), cache.held_bytes) == (None, b"2", 1)
