"""The root of the mount: one directory per backend, and nothing else, ever.

A backend's own mount covers its directory here. When that is gone, what is left is a placeholder
that answers EIO to everything, so that nothing can be written to the disk below. Only the daemon's own
processes may look at a placeholder, because they mount over it.

Names are answered with the same inode for ever and never refused while anything is mounted on them: the
kernel detaches what is mounted on a name that has become invalid. For the same reason names are valid
nearly for ever: the backends' mounts stay reachable even while the supervisor is dead.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Sequence
from typing import NoReturn

import pyfuse3
from pyfuse3 import FUSEError, InodeT

from wormfs.fuse.caches import KernelCaches
from wormfs.fuse.guard import guarded, guarded_unanswered
from wormfs.model import Space

STATE_DIRECTORY_XATTR = b"user.wormfs.state_directory"
"""On the root: where the control socket of the daemon behind this mount lies."""

_FOR_EVER_S = 10 * 365 * 86400.0
_DIRECTORY_MODE = pyfuse3.ModeT(stat.S_IFDIR | 0o555)
_BLOCK_BYTES = 4096
_MAX_BYTES = 1 << 62
"""PHP raises a TypeError for a free space of 2^63 bytes."""

_ROOT_HANDLE = pyfuse3.FileHandleT(0)


class RootOperations(pyfuse3.Operations):
    """Answers from memory only; no handler can block or fail in a way that is not meant."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self,
        names: Sequence[str],
        *,
        is_own_process: Callable[[int], bool],
        space: Callable[[], Space],
        state_directory: bytes,
        now_ns: int,
    ):
        """
        Args:
            names: the backends; the order is that of ``readdir``.
            is_own_process: whether a process (or thread) id is the daemon's own.
            space: the room in all backends together.
            state_directory: shown as an xattr, so that ``wormfs umount MOUNTPOINT`` finds the daemon.
            now_ns: all times of all directories.
        """
        super().__init__()
        self.caches = KernelCaches()
        self._names = [name.encode() for name in names]
        self._inodes: dict[bytes, InodeT] = {}
        for name in self._names:
            self._number(name)
        self._is_own_process = is_own_process
        self._space = space
        self._state_directory = state_directory
        self._now_ns = now_ns

    # -- other backends

    def add(self, name: str) -> None:
        """From now on the root shows ``name``, as the last one. For a thread; the session may be over."""
        if name.encode() not in self._names:
            self._number(name.encode())
            self._names = [*self._names, name.encode()]
            self.caches.forget_attributes(pyfuse3.ROOT_INODE)

    def remove(self, name: str) -> None:
        """The root shows ``name`` no more. Nothing is mounted on it. For a thread, as ``add``."""
        self._names = [other for other in self._names if other != name.encode()]
        self.caches.forget_name(pyfuse3.ROOT_INODE, name.encode())
        self.caches.forget_attributes(pyfuse3.ROOT_INODE)

    def _number(self, name: bytes) -> None:
        """One inode for a name, for ever: also when it goes and comes back."""
        self._inodes.setdefault(name, InodeT(pyfuse3.ROOT_INODE + 1 + len(self._inodes)))

    # -- what the root shows

    @guarded
    async def lookup(
        self, parent_inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self._require_root(parent_inode)
        inode = self._inodes.get(name)
        if inode is None or name not in self._names:
            raise FUSEError(errno.ENOENT)
        return self._attributes(inode)

    @guarded_unanswered
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Inodes are fixed: there is nothing to forget."""

    @guarded
    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if inode != pyfuse3.ROOT_INODE and not self._is_own_process(ctx.pid):
            raise FUSEError(errno.EIO)
        return self._attributes(inode)

    @guarded
    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        self._require_root(inode)
        return _ROOT_HANDLE

    @guarded
    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for at, name in enumerate(self._names[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self._attributes(self._inodes[name]), at):
                return

    @guarded
    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """Nothing was opened."""

    @guarded
    async def fsyncdir(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        """Nothing to make durable."""

    @guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        space = self._space()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = _BLOCK_BYTES
        data.f_blocks = min(space.total_bytes or 0, _MAX_BYTES) // _BLOCK_BYTES
        data.f_bfree = data.f_bavail = min(space.free_bytes or 0, _MAX_BYTES) // _BLOCK_BYTES
        data.f_files = min(space.total_files or 0, _MAX_BYTES)
        data.f_ffree = data.f_favail = min(space.free_files or 0, _MAX_BYTES)
        data.f_namemax = 255
        return data

    @guarded
    async def getxattr(self, inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        self._require_root(inode)
        if name == STATE_DIRECTORY_XATTR:
            return self._state_directory
        raise FUSEError(pyfuse3.ENOATTR)

    @guarded
    async def listxattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        self._require_root(inode)
        return [STATE_DIRECTORY_XATTR]

    # -- what nobody may do

    @guarded
    async def setattr(
        self,
        inode: InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        self._refuse(inode)

    @guarded
    async def mknod(
        self,
        parent_inode: InodeT,
        name: bytes,
        mode: int,
        rdev: int,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        self._refuse(parent_inode)

    @guarded
    async def mkdir(
        self, parent_inode: InodeT, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self._refuse(parent_inode)

    @guarded
    async def unlink(self, parent_inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._refuse(parent_inode)

    @guarded
    async def rmdir(self, parent_inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._refuse(parent_inode)

    @guarded
    async def symlink(
        self, parent_inode: InodeT, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self._refuse(parent_inode)

    @guarded
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: bytes,
        parent_inode_new: InodeT,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        self._refuse(parent_inode_old)

    @guarded
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        self._refuse(new_parent_inode)

    @guarded
    async def create(
        self, parent_inode: InodeT, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        self._refuse(parent_inode)

    @guarded
    async def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._require_root(inode)
        # cp -a exits 1 on EPERM for these, and accepts that they are not supported.
        known = not name.startswith((b"security.", b"system."))
        raise FUSEError(errno.EPERM if known else errno.EOPNOTSUPP)

    @guarded
    async def removexattr(self, inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._refuse(inode)

    # --

    def _attributes(self, inode: InodeT) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = _DIRECTORY_MODE
        is_root = inode == pyfuse3.ROOT_INODE
        entry.st_nlink = 2 + len(self._names) if is_root else 2
        entry.st_uid = entry.st_gid = 0
        entry.st_size = 0
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._now_ns
        entry.entry_timeout = _FOR_EVER_S
        # A placeholder's attributes are asked for each time: who asks decides about the answer.
        entry.attr_timeout = _FOR_EVER_S if is_root else 0
        return entry

    def _require_root(self, inode: InodeT) -> None:
        if inode != pyfuse3.ROOT_INODE:
            raise FUSEError(errno.EIO)

    def _refuse(self, inode: InodeT) -> NoReturn:
        self._require_root(inode)
        raise FUSEError(errno.EPERM)
