"""Blocks of files that were read over the network, kept for the next reader; bounded in bytes per backend.

Committed files never change, so nothing here is ever out of date.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

BLOCK_BYTES = 1 << 20

Block = TypeVar("Block", bytes, bytearray)


class BlockCache(Generic[Block]):
    """The blocks used last, up to a number of bytes. Safe from any thread; never blocks for long."""

    def __init__(self, limit_bytes: int):
        """``limit_bytes``: what all blocks together may take."""
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._blocks: OrderedDict[tuple[Hashable, int], Block] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def limit_bytes(self) -> int:
        """What the blocks may take."""
        return self._limit_bytes

    @property
    def held_bytes(self) -> int:
        """What the blocks take now."""
        return self._held_bytes

    def get(self, file: Hashable, index: int) -> Block | None:
        """Block ``index`` of ``file``, if it is still here."""
        with self._lock:
            block = self._blocks.get((file, index))
            if block is not None:
                self._blocks.move_to_end((file, index))
            return block

    def put(self, file: Hashable, index: int, block: Block) -> None:
        """Keep a block, which nobody changes from now on; those used longest ago go. One larger than
        the limit is not kept."""
        with self._lock:
            self._forget((file, index))
            if len(block) > self._limit_bytes:
                return
            self._blocks[file, index] = block
            self._held_bytes += len(block)
            while self._held_bytes > self._limit_bytes:
                self._forget(next(iter(self._blocks)))

    def forget(self, file: Hashable, index: int) -> None:
        """Forget one block, which is not needed any more."""
        with self._lock:
            self._forget((file, index))

    def drop(self, file: Hashable) -> None:
        """Forget all blocks of one file, when it is erased."""
        with self._lock:
            for place in [place for place in self._blocks if place[0] == file]:
                self._forget(place)

    def _forget(self, place: tuple[Hashable, int]) -> None:
        block = self._blocks.pop(place, None)
        if block is not None:
            self._held_bytes -= len(block)
