"""Inode numbers: which number stands for which name, for as long as the kernel remembers it.

A number is derived from the backend, the directory's number and the name, so that it is the same after a
restart (tar and rsync compare them). It stays below 2^63, which is as far as PHP counts. Where the
number is in use by something else, the next free one is taken: two hashes that meet, or a file that was
unlinked while open and whose name was made again.

Memory matters here: the kernel may remember 100,000 names after one ``ls -l``.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from wormfs.errors import NotFound
from wormfs.model import ROOT, Key

ROOT_INODE = 1
_FIRST_INODE = 2
_MASK = (1 << 63) - 1


@dataclass(slots=True)
class Node:
    """A name that the kernel knows."""

    parent: int
    name: bytes
    lookups: int = 0
    detached: Any = None
    """What an unlinked file, still open, answers from; its name no longer leads here."""
    content: Any = None
    """Identity of the bytes that the kernel may have cached."""


class InodeTable:
    """Numbers to names and back. Not thread-safe; lives on the event loop."""

    def __init__(self, salt: str):
        """``salt``: the backend's name, so that no two mounts use the same numbers."""
        self._salt = salt.encode()
        self._nodes: dict[int, Node] = {ROOT_INODE: Node(0, b"", 1)}
        self._numbers: dict[tuple[int, bytes], int] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def node(self, inode: int) -> Node:
        """Raises NotFound for a number that is not known (any more)."""
        try:
            return self._nodes[inode]
        except KeyError:
            raise NotFound("the kernel asked for an inode that it had forgotten") from None

    def key(self, inode: int) -> Key:
        """The key that an inode stands for now."""
        if inode == ROOT_INODE:
            return ROOT
        node = self.node(inode)
        if node.parent == ROOT_INODE:
            return Key(node.name)
        parts = [node.name]
        while node.parent != ROOT_INODE:
            node = self.node(node.parent)
            parts.append(node.name)
        return Key(b"/".join(reversed(parts)))

    def find(self, parent: int, name: bytes) -> int | None:
        """The number of a name that the kernel knows."""
        return self._numbers.get((parent, name))

    def find_key(self, key: Key) -> int | None:
        """The number of a key that the kernel knows."""
        inode = ROOT_INODE
        for name in key.split(b"/") if key else ():
            found = self._numbers.get((inode, name))
            if found is None:
                return None
            inode = found
        return inode

    def number(self, parent: int, name: bytes) -> int:
        """The number that stands for a name, without counting a lookup."""
        known = self._numbers.get((parent, name))
        return known if known is not None else self._free_number(parent, name)

    def remember(self, parent: int, name: bytes) -> int:
        """Count one lookup by the kernel and return the number."""
        inode = self._numbers.get((parent, name))
        if inode is None:
            inode = self._free_number(parent, name)
            self._numbers[parent, name] = inode
            self._nodes[inode] = Node(parent, name)
        self._nodes[inode].lookups += 1
        return inode

    def remember_again(self, inode: int) -> None:
        """Count one more lookup of a number that is known."""
        self.node(inode).lookups += 1

    def forget(self, inode: int, lookups: int) -> None:
        """The kernel drops that many of its references."""
        node = self._nodes.get(inode)
        if node is None or inode == ROOT_INODE:
            return
        node.lookups -= lookups
        if node.lookups <= 0:
            del self._nodes[inode]
            if self._numbers.get((node.parent, node.name)) == inode:
                del self._numbers[node.parent, node.name]

    def detach(self, parent: int, name: bytes, substitute: object = None) -> None:
        """The name is gone; whoever has the inode open goes on with ``substitute``."""
        inode = self._numbers.pop((parent, name), None)
        if inode is not None:
            self._nodes[inode].detached = substitute if substitute is not None else True

    def move(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        """The inode keeps its number under another name."""
        inode = self._numbers.pop((parent, name), None)
        if inode is not None:
            node = self._nodes[inode]
            node.parent, node.name = new_parent, new_name
            self._numbers[new_parent, new_name] = inode

    def _free_number(self, parent: int, name: bytes) -> int:
        hashed = blake2b(name, digest_size=8, key=self._salt[:64], salt=parent.to_bytes(8, "big"))
        number = int.from_bytes(hashed.digest(), "big") & _MASK
        while number < _FIRST_INODE or number in self._nodes:
            number = (number + 1) & _MASK
        return number
