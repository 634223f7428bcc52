"""The skin: pyfuse3's handlers for one backend. Translate, call the file system, translate back."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, InodeT, SetattrFields, StatvfsData

from wormfs.errors import NotFound, Refused
from wormfs.fs.attributes import AttributeChange, Attributes, Caller
from wormfs.fs.filesystem import FileSystem
from wormfs.fuse.guard import guarded, guarded_unanswered
from wormfs.fuse.passthrough import Passthrough

BLOCK_BYTES = 4096


class WormOperations(pyfuse3.Operations):
    """Every handler: one call, one reply, one error path (the guard)."""

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, filesystem: FileSystem):
        super().__init__()
        self._fs = filesystem
        # The hot handlers skip a layer of attribute look-ups.
        self._write = filesystem.write
        self._read = filesystem.read
        filesystem.invalidate = _invalidate
        self.passthrough = _passthrough_for(filesystem)
        """Set where the kernel shall read files by itself."""

    def refused(self, operation: str, uid: int, error: Refused) -> None:
        """For the guard: somebody wanted to change what is fixed."""
        self._fs.refused(operation, uid, error)

    def _reply(self, found: Attributes) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = InodeT(found.inode)
        entry.st_mode = pyfuse3.ModeT(found.mode)
        entry.st_nlink = 1
        entry.st_uid = found.uid
        entry.st_gid = found.gid
        entry.st_size = found.size_bytes
        entry.st_blksize = BLOCK_BYTES
        entry.st_blocks = (found.size_bytes + 511) // 512
        entry.st_atime_ns = found.atime_ns
        entry.st_mtime_ns = found.mtime_ns
        entry.st_ctime_ns = found.ctime_ns
        entry.attr_timeout = found.cache_s
        # What is not a record yet may go at any time, and its name must be free at once then.
        entry.entry_timeout = min(found.cache_s, self._fs.name_cache_s)
        return entry

    @guarded
    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return self._reply(await self._fs.lookup(parent_inode, name))

    @guarded_unanswered
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, lookups in inode_list:
            self._fs.forget(inode, lookups)

    @guarded
    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return self._reply(await self._fs.getattr(inode))

    @guarded
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> EntryAttributes:
        change = AttributeChange(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size_bytes=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        path_caller = _caller(ctx) if fh is None else None
        return self._reply(await self._fs.setattr(inode, change, path_caller, _caller(ctx)))

    @guarded
    async def create(
        self, parent_inode: InodeT, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        opened, found = await self._fs.create(parent_inode, name, mode, flags, _caller(ctx))
        entry = self._reply(found)
        entry.entry_timeout = 0.0
        return _file_info(opened.handle, opened.keep_cache), entry

    @guarded
    async def open(self, inode: InodeT, flags: int, ctx: pyfuse3.RequestContext) -> FileInfo:
        try:
            opened = await self._fs.open(inode, flags, _caller(ctx))
        except NotFound as error:
            # The name went since the kernel looked it up. At ESTALE it looks again, and creates the file
            # if that is what was asked for; at ENOENT open(2) with O_CREAT would fail with just that.
            raise pyfuse3.FUSEError(errno.ESTALE) from error
        info = _file_info(opened.handle, opened.keep_cache)
        if self.passthrough is not None and opened.kernel_number is not None:
            # The last thing here, see there.
            self.passthrough.divert(opened.handle, opened.kernel_number)
        return info

    @guarded
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return await self._read(fh, off, size)

    @guarded
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return await self._write(fh, off, buf)

    @guarded
    async def flush(self, fh: FileHandleT) -> None:
        await self._fs.flush(fh)

    @guarded
    async def release(self, fh: FileHandleT) -> None:
        await self._fs.release(fh)

    @guarded
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._fs.fsync(fh)

    @guarded
    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        return FileHandleT(await self._fs.opendir(inode))

    @guarded
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        position = start_id
        while True:
            listed = await self._fs.readdir(fh, position)
            if not listed:
                return
            for item in listed:
                reply = self._reply(item.attributes)
                if not pyfuse3.readdir_reply(token, item.name, reply, item.next_position):
                    return
                self._fs.listed(fh, item.name)
                position = item.next_position

    @guarded
    async def releasedir(self, fh: FileHandleT) -> None:
        await self._fs.releasedir(fh)

    @guarded
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Names are durable as soon as they exist."""

    @guarded
    async def mkdir(
        self, parent_inode: InodeT, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        return self._reply(await self._fs.mkdir(parent_inode, name, mode, _caller(ctx)))

    @guarded
    async def rmdir(self, parent_inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._fs.rmdir(parent_inode, name)

    @guarded
    async def unlink(self, parent_inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._fs.unlink(parent_inode, name, _caller(ctx))

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
        await self._fs.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    @guarded
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        # A second name would have no retention of its own.
        raise pyfuse3.FUSEError(errno.EPERM)

    @guarded
    async def symlink(
        self, parent_inode: InodeT, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        raise pyfuse3.FUSEError(errno.EPERM)

    @guarded
    async def mknod(
        self, parent_inode: InodeT, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        raise pyfuse3.FUSEError(errno.EPERM)

    @guarded
    async def readlink(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> bytes:
        raise pyfuse3.FUSEError(errno.EINVAL)

    @guarded
    async def getxattr(self, inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        return await self._fs.getxattr(inode, name)

    @guarded
    async def listxattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        return await self._fs.listxattr(inode)

    @guarded
    async def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._fs.setxattr(inode, name, value, _caller(ctx))

    @guarded
    async def removexattr(self, inode: InodeT, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._fs.removexattr(inode, name, _caller(ctx))

    @guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> StatvfsData:
        space = await self._fs.statfs()
        return statvfs(space.total_bytes, space.free_bytes, space.total_files, space.free_files)

    @guarded
    async def access(self, inode: InodeT, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        # default_permissions: the kernel decides by owner and mode and never asks.
        return True


def statvfs(total_bytes: int, free_bytes: int, total_files: int, free_files: int) -> StatvfsData:
    """statfs's answer in blocks; what is free is free for everybody."""
    data = StatvfsData()
    data.f_bsize = data.f_frsize = BLOCK_BYTES
    data.f_blocks = total_bytes // BLOCK_BYTES
    data.f_bfree = data.f_bavail = free_bytes // BLOCK_BYTES
    data.f_files = total_files
    data.f_ffree = data.f_favail = free_files
    data.f_namemax = 255
    return data


def _passthrough_for(filesystem: FileSystem) -> Passthrough | None:
    if filesystem.kernel_reads is None:
        return None
    passthrough = Passthrough(filesystem.kernel_reads.give_up, filesystem.undelivered)
    filesystem.kernel_reads.kernel = passthrough
    return passthrough


def _invalidate(parent: int, name: bytes) -> None:
    # In pyfuse3's own thread: the kernel may wait for an answer of ours meanwhile.
    pyfuse3.invalidate_entry_async(InodeT(parent), FileNameT(name), ignore_enoent=True)


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(uid=ctx.uid, gid=ctx.gid, pid=ctx.pid, umask=ctx.umask)


def _file_info(handle: int, keep_cache: bool) -> FileInfo:
    return FileInfo(fh=FileHandleT(handle), keep_cache=keep_cache)
