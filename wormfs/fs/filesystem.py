"""The file system itself, without FUSE: every operation as one method.

Lives on one event loop. Code between two ``await``s is atomic; what must hold longer is said where it
does: a name is reserved in the spool before the backend is asked, and ``entry.closing`` is held by
whoever changes an entry that is not a record yet. Errors are those of ``wormfs.errors``.
docs/semantics.md says what each operation promises.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from wormfs import threads
from wormfs.backends.base import Backend, KernelReadable, Reader, Remembering
from wormfs.backends.memory import Memory
from wormfs.clock import NS_PER_S, Clock
from wormfs.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NoSuchAttribute,
    NotADirectory,
    NotFound,
    Refused,
    Sealed,
    Unsupported,
    WormfsError,
)
from wormfs.fs import attributes, names, xattrs
from wormfs.fs.attributes import AttributeChange, Attributes, Caller
from wormfs.fs.closing import Closing
from wormfs.fs.damage import Damage
from wormfs.fs.handles import (
    DirectoryHandle,
    FileHandle,
    Handle,
    HandleTable,
    ReadHandle,
    SpoolReadHandle,
    WriteHandle,
)
from wormfs.fs.inodes import ROOT_INODE, InodeTable
from wormfs.fs.kernelreads import KernelReads, OtherFile
from wormfs.fs.listing import Item, Listing
from wormfs.fs.processes import same_process
from wormfs.fs.space import ShownSpace, SpaceView, shown
from wormfs.model import ROOT, DirectoryAttributes, Key, Kind, ObjectInfo, Record, child
from wormfs.records.records import Asker, Records
from wormfs.spool.entry import Entry, Writer
from wormfs.spool.spool import Spool
from wormfs.worm import rules
from wormfs.worm.lifecycle import EntryState

_T = TypeVar("_T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to open and create."""

    handle: int
    keep_cache: bool
    kernel_number: int | None = None
    """The kernel shall read the file of this number by itself (``KernelReads``)."""


@dataclass(frozen=True, slots=True)
class ListedName:
    """One entry of a directory, with the position after it."""

    name: bytes
    attributes: Attributes
    next_position: int


class FileSystem:
    """One backend as a tree. See the module's text."""

    def __init__(
        self,
        backend: Backend,
        spool: Spool,
        clock: Clock,
        records: Records,
        *,
        directory_cache_s: float = 1.0,
        space_cache_s: float = 30.0,
    ):
        self._backend = backend
        self._spool = spool
        self._clock = clock
        self._records = records
        self._directory_cache_s = directory_cache_s
        self._directories: Memory[ObjectInfo] = Memory(
            0.0 if backend.traits.keeps_directory_attributes else directory_cache_s,
            _DIRECTORIES_KEPT,
            clock.monotonic,
        )
        """The kernel forgets a directory's attributes at each file that is made in it, and asks again:
        where nothing about a directory can change, that needs no trip to the server."""
        self.space = SpaceView(backend, clock, space_cache_s)
        self._inodes = InodeTable(backend.name)
        self._handles = HandleTable()
        self._closing = Closing(spool)
        self.damage = Damage(backend.name, self._inodes, self._handles)
        self.forget_damage: Callable[[Key], None] = lambda key: None
        """Durably takes a key off the list of damaged files; blocks."""
        self.kernel_reads: KernelReads | None = None
        """Where the settings want the kernel to read files by itself."""
        if isinstance(backend, KernelReadable) and backend.kernel_reads:
            self.kernel_reads = KernelReads(backend, backend.name)
        self._inline = backend.traits.inline
        self._remembering = backend if isinstance(backend, Remembering) else None
        self._threads = threads.limiter(backend.traits.connections)
        self.invalidate: Callable[[int, bytes], None] | None = None
        """Makes the kernel forget a name in a directory; for names that go without its asking."""

    @property
    def name_cache_s(self) -> float:
        """How long the kernel may keep a name without asking again."""
        return self._directory_cache_s

    @property
    def open_writers(self) -> int:
        """Files that are open for writing now."""
        return sum(isinstance(handle, WriteHandle) for handle in self._handles)

    # Names

    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """Find a name; the kernel then holds one reference to the answer's inode."""
        if name in (b".", b".."):
            found = await self._lookup_dot(parent, name)
            self._inodes.remember_again(found.inode)
            return found
        if len(name) > names.MAX_NAME_BYTES:
            names.new_key(self._backend, ROOT, name)
        if names.hidden(name):
            raise NotFound("no such name", backend=self._backend.name, key=name)
        key = child(self._inodes.key(parent), name)
        entry = self._spool.get(key)
        if entry is not None:
            return attributes.of_entry(self._inodes.remember(parent, name), entry)
        info = await self._stat(key)
        return attributes.of_object(self._inodes.remember(parent, name), info, self._directory_cache_s)

    async def _lookup_dot(self, inode: int, name: bytes) -> Attributes:
        if name == b".." and inode != ROOT_INODE:
            inode = self._inodes.node(inode).parent
        return await self.getattr(inode)

    def forget(self, inode: int, lookups: int) -> None:
        """The kernel drops references."""
        self._inodes.forget(inode, lookups)

    async def getattr(self, inode: int) -> Attributes:
        """What stat shows."""
        node = self._inodes.node(inode)
        if node.detached is not None:
            return self._of_detached(inode, node.detached)
        key = self._inodes.key(inode)
        entry = self._spool.get(key)
        if entry is not None:
            return attributes.of_entry(inode, entry)
        info = self._directories.get(key)
        if info is None:
            info = await self._stat(key)
            if info.kind is Kind.DIRECTORY:
                self._directories.note(key, info)
        return attributes.of_object(inode, info, self._directory_cache_s)

    def _of_detached(self, inode: int, substitute: object) -> Attributes:
        if isinstance(substitute, Entry):
            return attributes.of_entry(inode, substitute)
        if isinstance(substitute, ObjectInfo):
            return attributes.of_object(inode, substitute, 0.0)
        raise NotFound("the file has been removed", backend=self._backend.name)

    async def setattr(
        self,
        inode: int,
        change: AttributeChange,
        path_caller: Caller | None = None,
        caller: Caller | None = None,
    ) -> Attributes:
        """chmod, chown, utimens, truncate.

        Args:
            path_caller: who asks by name, not through a handle of its own.
            caller: who asks in any case.
        """
        node = self._inodes.node(inode)
        if isinstance(node.detached, Entry):
            return attributes.of_entry(inode, node.detached)
        if node.detached is not None:
            raise NotFound("the file has been erased", backend=self._backend.name)
        key = self._inodes.key(inode)
        entry = self._spool.get(key)
        if entry is not None:
            if path_caller is not None and change.size_bytes is not None:
                rules.may_truncate_entry(
                    entry.state, same_process=same_process(path_caller.pid, entry.writer.pid)
                )
            await self._change_entry(entry, change)
            return attributes.of_entry(inode, entry)
        info = await self._stat(key)
        if info.kind is Kind.DIRECTORY:
            await self._change_directory(info, change)
            info = await self._stat(key)
        else:
            if change.mode is not None:
                change = _without_same_mode(change, await self._ask(self._backend.record, key))
            if self._extends(change, info):
                until_ns = (change.atime_ns or 0) // NS_PER_S * NS_PER_S
                asker = Asker(caller.uid if caller is not None else -1)
                await self._run(self._records.extend, key, until_ns, asker)
            else:
                with self._about(key):
                    self._refuse_change(attributes.of_object(inode, info, 0.0), change)
        return attributes.of_object(inode, info, self._directory_cache_s)

    async def _change_entry(self, entry: Entry, change: AttributeChange) -> None:
        async with entry.closing:
            if not entry.state.changeable:
                change = _without_same_mode(change, entry.record)
                with self._about(entry.key):
                    self._refuse_change(attributes.of_entry(0, entry), change)
                return
            if change.size_bytes is not None:
                if entry.state is not EntryState.WRITING:
                    raise Sealed("open the file to change its length", key=entry.key)
                self._spool.truncate(entry, change.size_bytes)
            if change.mode is not None:
                entry.mode = stat.S_IMODE(change.mode)
            if change.uid is not None or change.gid is not None:
                entry.mode &= ~0o6000  # promised to the kernel in the FUSE handshake
            entry.uid = entry.uid if change.uid is None else change.uid
            entry.gid = entry.gid if change.gid is None else change.gid
            entry.atime_ns = entry.atime_ns if change.atime_ns is None else change.atime_ns
            entry.mtime_ns = entry.mtime_ns if change.mtime_ns is None else change.mtime_ns
            await self._spool.changed(entry)

    async def _change_directory(self, info: ObjectInfo, change: AttributeChange) -> None:
        if change.size_bytes is not None:
            raise IsADirectory("a directory has no length to set")
        wanted = DirectoryAttributes(
            mode=None if change.mode is None else stat.S_IMODE(change.mode),
            uid=change.uid,
            gid=change.gid,
            atime_ns=change.atime_ns,
            mtime_ns=change.mtime_ns,
        )
        await self._run(self._backend.set_directory_attributes, info.key, wanted)

    def _extends(self, change: AttributeChange, now: ObjectInfo) -> bool:
        """Whether a change of a record says, in the way of SnapLock, until when it shall stay."""
        wanted = dataclasses.replace(change, atime_ns=None)
        asked = change.atime_ns is not None and change.atime_ns != now.atime_ns
        return self._records.options.atime_retention and asked and wanted == AttributeChange()

    def _refuse_change(self, now: Attributes, change: AttributeChange) -> None:
        rules.may_change_attributes(
            mode=(stat.S_IMODE(now.mode), None if change.mode is None else stat.S_IMODE(change.mode)),
            uid=(now.uid, change.uid),
            gid=(now.gid, change.gid),
            size=change.size_bytes,
            times=((now.atime_ns, change.atime_ns), (now.mtime_ns, change.mtime_ns)),
        )

    # Files

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Opened, Attributes]:
        """Make a file that does not exist, open for writing; the kernel holds one reference."""
        directory = self._inodes.key(parent)
        key = names.new_key(self._backend, directory, name)
        gid = await self._group_for(directory, caller)
        writer = self._writer(caller, flags, exclusive=bool(flags & os.O_EXCL))
        try:
            entry = await self._spool.create(
                key, mode=stat.S_IMODE(mode) & ~caller.umask, uid=caller.uid, gid=gid, writer=writer
            )
        except AlreadyExists as error:
            if flags & os.O_EXCL:
                raise
            # Somebody else was faster; the caller asked for whatever file is there, to write it.
            raise Sealed("the file is a record; it can be read, not changed", key=key) from error
        if key in self.damage:
            # What was damaged has gone, or nobody could make the name anew.
            self.damage.remove(key)
            await threads.run(self.forget_damage, key)
        self._part_from_direct(parent, name)
        inode = self._inodes.remember(parent, name)
        self._inodes.node(inode).content = None
        opened = self._give_out(inode, WriteHandle(entry, inode, writer), keep_cache=True)
        return opened, attributes.of_new(inode, entry)

    def _writer(self, caller: Caller, flags: int, *, exclusive: bool) -> Writer:
        return Writer(
            uid=caller.uid,
            pid=caller.pid,
            opened_boot_s=self._clock.boot_s(),
            exclusive=exclusive,
            mappable=flags & os.O_ACCMODE == os.O_RDWR,
        )

    async def _group_for(self, directory: Key, caller: Caller) -> int:
        """A directory with the setgid bit hands its group down (inode(7))."""
        if not self._backend.traits.keeps_directory_attributes:
            return caller.gid  # it has no such bit
        info = await self._stat(directory)
        return info.gid if info.mode & stat.S_ISGID else caller.gid

    async def open(self, inode: int, flags: int, caller: Caller) -> Opened:
        """Open a name that exists."""
        node = self._inodes.node(inode)
        key = self._inodes.key(inode)
        entry = node.detached if isinstance(node.detached, Entry) else self._spool.get(key)
        if entry is not None and entry.state is EntryState.WRITING and entry.closing.locked():
            # close(2) has returned before RELEASE was handled; who comes next must not find it busy.
            with trio.move_on_after(_CLOSING_PATIENCE_S):
                async with entry.closing:
                    pass
        if entry is not None and not entry.state.ended:
            opened = await self._open_entry(inode, entry, flags, caller)
            if opened is not None:
                return opened
        if node.detached is not None:
            raise NotFound("the file has been removed; its name may be that of another one now", key=key)
        # Looked for before it is refused: another host may have freed the name for a new file.
        info = await self._stat(key)
        with self._about(key):
            rules.may_open_record(flags)
        self.damage.check(key)
        reader = await self._ask(self._backend.open, info)
        if key in self.damage:
            # Found while it was being opened: among the open files that were told, this one was not yet.
            reader.close()
            self.damage.check(key)
        kernel_number = self._choose(inode, flags, reader, info)
        if kernel_number is not None:
            # Past the cache that ``content`` is about.
            return self._give_out(inode, ReadHandle(key, reader), keep_cache=False, number=kernel_number)
        # The same name with other bytes can only be a file erased and made again elsewhere.
        content = (info.size_bytes, info.mtime_ns, info.version)
        keep_cache = node.content in (None, content)
        node.content = content
        return self._give_out(inode, ReadHandle(key, reader), keep_cache)

    def _give_out(
        self, inode: int, handle: FileHandle, keep_cache: bool, number: int | None = None
    ) -> Opened:
        opened = Opened(self._handles.add(handle), keep_cache, number)
        if self.kernel_reads is not None:
            self.kernel_reads.opened(opened.handle, inode, number)
        return opened

    def _choose(self, inode: int, flags: int, reader: Reader, info: ObjectInfo) -> int | None:
        """Whether the kernel reads it by itself. Nothing may be awaited from here until it is given out."""
        if self.kernel_reads is None:
            return None
        try:
            return self.kernel_reads.choose(inode, flags, reader, info)
        except OtherFile:
            # Erased and made again elsewhere, while the kernel still reads the old one by this number.
            node = self._inodes.node(inode)
            self._part_from_direct(node.parent, node.name)
            reader.close()
            raise NotFound(
                "the name stands for another file now", backend=self._backend.name, key=info.key
            ) from None
        except BaseException:
            reader.close()
            raise

    def _part_from_direct(self, parent: int, name: bytes) -> None:
        """A name whose inode the kernel reads directly from a file that is gone gets another inode."""
        if self.kernel_reads is not None:
            old = self.kernel_reads.direct(self._inodes.find(parent, name))
            if old is not None:
                self._inodes.detach(parent, name, old)

    async def _open_entry(self, inode: int, entry: Entry, flags: int, caller: Caller) -> Opened | None:
        """``None``: it is at the backend since a moment ago."""
        reopenable = entry.size_bytes > 0 or not entry.reopened
        with self._about(entry.key):
            rules.may_open_entry(
                entry.state,
                flags,
                same_process=same_process(caller.pid, entry.writer.pid),
                reopenable=reopenable,
            )
        if not rules.wants_to_write(flags):
            fd = entry.duplicate_data()
            if fd is None:
                return None
            return self._give_out(inode, SpoolReadHandle(fd), keep_cache=not entry.state.changeable)
        writer = self._writer(caller, flags, exclusive=False)
        await self._spool.reopen(entry, writer)
        if flags & os.O_TRUNC:
            try:
                self._spool.truncate(entry, 0)
            except WormfsError as error:
                # No handle is given out, so no close would ever end it.
                async with entry.closing:
                    await self._spool.quarantine(entry, f"it could not be emptied: {error}")
                raise
        return self._give_out(inode, WriteHandle(entry, inode, writer), keep_cache=False)

    async def read(self, number: int, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end of the file."""
        handle = self._handles.get(number)
        if isinstance(handle, ReadHandle):
            ready = handle.reader.read_ready(offset, size)
            if ready is not None:
                return ready
            return await threads.run(handle.reader.read, offset, size, limiter=self._threads)
        if isinstance(handle, SpoolReadHandle):
            return os.pread(handle.fd, size, offset)
        if isinstance(handle, WriteHandle):
            return await self._read_back(handle, offset, size)
        raise InvalidArgument("a directory is not read like that")

    async def _read_back(self, handle: WriteHandle, offset: int, size: int) -> bytes:
        """The creator reads what it has written, before or after the commit."""
        entry = handle.entry
        data = entry.read_data(offset, size)
        if data is not None:
            return data
        if entry.state in (EntryState.DISCARDED, EntryState.QUARANTINED):
            # Its name may be that of another file by now.
            raise entry.outcome or NotFound("the file has been removed", key=entry.key)
        if handle.read_back is None:
            info = await self._stat(entry.key)
            handle.read_back = await self._ask(self._backend.open, info)
        return await threads.run(handle.read_back.read, offset, size, limiter=self._threads)

    async def write(self, number: int, offset: int, data: bytes) -> int:
        """Put bytes into a file that is being written."""
        handle = self._handles.get(number)
        if not isinstance(handle, WriteHandle):
            raise Sealed("the file is not open for writing")
        return self._spool.write(handle.entry, offset, data)

    async def fsync(self, number: int) -> None:
        """What has been written is durable here; nothing is sealed."""
        handle = self._handles.get(number)
        if isinstance(handle, WriteHandle):
            await self._spool.sync(handle.entry)

    async def flush(self, number: int) -> None:
        """One descriptor has been closed; if it was the last, the file is sealed and committed."""
        handle = self._handles.get(number)
        if isinstance(handle, WriteHandle):
            await self._closing.flush(handle)

    async def release(self, number: int) -> None:
        """No descriptor is left; close(2) has returned already."""
        handle = self._handles.drop(number)
        if self.kernel_reads is not None:
            self.kernel_reads.released(number)
        match handle:
            case WriteHandle():
                await self._closing.release(handle)
                if handle.read_back is not None:
                    await self._run(handle.read_back.close)
            case ReadHandle(reader=reader):
                await self._ask_plainly(reader.close)
            case SpoolReadHandle():
                handle.close()
            case _:
                pass

    def undelivered(self, number: int) -> None:
        """The kernel never learned of this handle of a committed file, so it will not release it."""
        handle = self._handles.drop(number)
        if self.kernel_reads is not None:
            self.kernel_reads.released(number)
        if isinstance(handle, ReadHandle):
            handle.reader.close()

    def read_directly(self, keys: Iterable[Key]) -> list[Key]:
        """Which of these are open now and read by the kernel itself, so that a read cannot be refused."""
        kernel_reads = self.kernel_reads
        if kernel_reads is None:
            return []
        return [key for key in keys if kernel_reads.direct(self._inodes.find_key(key)) is not None]

    async def release_all(self) -> None:
        """The mount is gone and nothing of it is open any more: make up for each RELEASE that did not come.

        The kernel throws requests away that wait when a mount ends, RELEASE among them. A file whose
        last close could not be recognised at its FLUSH would be left half-way, though close(2) returned 0.
        Not for a connection that was aborted while files are open: these were never finished.
        """
        for number in self._handles.numbers():
            try:
                await self.release(number)
            except Exception:  # one file that cannot be finished must not cost the others theirs
                log.exception("%s: a file could not be finished after the unmount", self._backend.name)

    # Directories

    async def opendir(self, inode: int) -> int:
        """Start a pass over a directory."""
        key = self._inodes.key(inode)
        info = await self._stat(key)
        if info.kind is not Kind.DIRECTORY:
            raise NotADirectory("not a directory", backend=self._backend.name, key=key)
        listing = Listing(lambda: self._spool.below(key), lambda: self._backend.list(key))
        return self._handles.add(DirectoryHandle(inode, listing))

    async def readdir(self, number: int, position: int) -> list[ListedName]:
        """Some entries from ``position`` on; empty at the end. Lookups are counted by ``listed``."""
        handle = self._handles.directory(number)
        if position < _DOTS:
            return await self._dots(handle.inode, position)
        while items := await self._fetch(handle.listing, position - _DOTS):
            listed = list(self._listed(handle.inode, items, position))
            if listed:
                return listed
            # All of these are gone meanwhile; an empty answer would end the directory here.
            position += len(items)
        return []

    async def _fetch(self, listing: Listing, after: int) -> list[Item]:
        if self._inline or listing.ready(after):
            return listing.fetch(after)
        return await threads.run(listing.fetch, after, limiter=self._threads)

    async def _dots(self, inode: int, position: int) -> list[ListedName]:
        dots = []
        for at, name in enumerate((b".", b".."), start=1):
            if at > position:
                with contextlib.suppress(WormfsError):
                    dots.append(ListedName(name, await self._lookup_dot(inode, name), at))
        return dots

    def _listed(self, parent: int, items: Iterable[Item], position: int) -> Iterator[ListedName]:
        for at, item in enumerate(items, start=position + 1):
            name = item.key.rpartition(b"/")[2]
            inode = self._inodes.number(parent, name)
            if isinstance(item, Entry):
                if item.state.ended and item.state is not EntryState.COMMITTED:
                    continue
                found = attributes.of_entry(inode, item)
            else:
                found = attributes.of_object(inode, item, self._directory_cache_s)
            yield ListedName(name, found, at)

    def listed(self, number: int, name: bytes) -> None:
        """The kernel has taken a listed name: it holds one reference now."""
        if name not in (b".", b".."):
            self._inodes.remember(self._handles.directory(number).inode, name)

    async def releasedir(self, number: int) -> None:
        """End of a pass."""
        handle = self._handles.drop(number)
        if isinstance(handle, DirectoryHandle):
            await self._ask_plainly(handle.listing.close)

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attributes:
        """Make a directory, durably, at the backend; the kernel holds one reference."""
        directory = self._inodes.key(parent)
        key = names.new_key(self._backend, directory, name)
        if self._spool.get(key) is not None:
            raise AlreadyExists("the name is taken", backend=self._backend.name, key=key)
        above = await self._stat(directory)
        setgid = above.mode & stat.S_ISGID
        wanted = DirectoryAttributes(
            mode=(stat.S_IMODE(mode) & ~caller.umask) | setgid,
            uid=caller.uid,
            gid=above.gid if setgid else caller.gid,
        )
        info = await self._run(self._backend.make_directory, key, wanted)
        return attributes.of_object(self._inodes.remember(parent, name), info, self._directory_cache_s)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory, durably, at the backend."""
        key = child(self._inodes.key(parent), name)
        if self._spool.get(key) is not None:
            raise NotADirectory("not a directory", backend=self._backend.name, key=key)
        if self._spool.below(key):
            raise DirectoryNotEmpty("files are on their way into it", backend=self._backend.name, key=key)
        await self._run(self._backend.remove_directory, key)
        self._directories.forget(key)
        self._inodes.detach(parent, name)

    async def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        """Discard what is not a record yet; erase a record whose time is over; refuse the rest.

        Whoever has it open reads on where the backend lets them, and else gets an error.
        """
        key = child(self._inodes.key(parent), name)
        entry = self._spool.get(key)
        if entry is not None:
            await self._spool.discard(entry)
            self._inodes.detach(parent, name, entry)
            return
        info = await self._stat(key)
        if info.kind is Kind.DIRECTORY:
            raise IsADirectory("a directory", backend=self._backend.name, key=key)
        erased = await self._run(self._records.erase, key, Asker(caller.uid))
        self._inodes.detach(parent, name, erased)

    def erased(self, info: ObjectInfo) -> None:
        """A file went without the kernel's asking (a command): its name must not be shown from memory."""
        parent = ROOT_INODE
        *folders, name = info.key.split(b"/")
        for folder in folders:
            found = self._inodes.find(parent, folder)
            if found is None:
                return
            parent = found
        if self._inodes.find(parent, name) is not None:
            self._inodes.detach(parent, name, info)
            if self.invalidate is not None:
                self.invalidate(parent, name)

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Only for what is not a record yet, and for empty directories; never onto a name that exists."""
        rules.may_rename(flags)
        key = child(self._inodes.key(parent), name)
        new_directory = self._inodes.key(new_parent)
        await self._must_be_free(child(new_directory, new_name))
        new_key = names.new_key(self._backend, new_directory, new_name)
        entry = self._spool.get(key)
        if entry is not None:
            await self._spool.rename(entry, new_key)
        else:
            info = await self._stat(key)
            if info.kind is not Kind.DIRECTORY:
                raise Sealed("the file is a record; its name is fixed", backend=self._backend.name, key=key)
            await self._move_directory(info, new_key)
        self._inodes.move(parent, name, new_parent, new_name)

    async def _must_be_free(self, key: Key) -> None:
        if self._spool.get(key) is None:
            try:
                await self._stat(key)
            except NotFound:
                return
        raise AlreadyExists("the new name is taken", backend=self._backend.name, key=key)

    async def _move_directory(self, info: ObjectInfo, new_key: Key) -> None:
        """An empty directory has nothing in it that could lose its name: make the new, remove the old."""
        in_use = bool(self._spool.below(info.key)) or await self._run(self._has_entries, info.key)
        if in_use:
            raise Sealed("a directory with files keeps its name", backend=self._backend.name, key=info.key)
        wanted = DirectoryAttributes(info.mode, info.uid, info.gid, info.atime_ns, info.mtime_ns)
        await self._run(self._backend.make_directory, new_key, wanted)
        try:
            await self._run(self._backend.remove_directory, info.key)
            self._directories.forget(info.key)
        except DirectoryNotEmpty as error:
            await self._run(self._backend.remove_directory, new_key)
            raise Sealed("a directory with files keeps its name", key=info.key) from error

    def _has_entries(self, key: Key) -> bool:
        listed = self._backend.list(key)
        try:
            return next(listed, None) is not None
        finally:
            close = getattr(listed, "close", None)
            if close is not None:
                close()

    # Extended attributes

    async def getxattr(self, inode: int, name: bytes) -> bytes:
        """One attribute. Raises NoSuchAttribute."""
        xattrs.must_be_user(name)
        value = (await self._xattrs(inode)).get(name)
        if value is None:
            raise NoSuchAttribute("no such attribute")
        return value

    async def listxattr(self, inode: int) -> list[bytes]:
        """The names of all attributes."""
        return list(await self._xattrs(inode))

    async def setxattr(self, inode: int, name: bytes, value: bytes, caller: Caller | None = None) -> None:
        """Keep an attribute with a file that is not a record yet; of a record: extend its retention, or
        put it under a legal hold."""
        asker = Asker(caller.uid if caller is not None else -1)
        extends: Callable[[Key], object] | None = None
        if name == xattrs.RETAIN_UNTIL:
            until_ns = xattrs.date_in(value, self._records.options.policy.zone)
            extends = partial(self._records.extend, until_ns=until_ns, asker=asker)
        elif name == xattrs.HOLD:
            extends = partial(self._records.hold, cases=xattrs.cases_in(value), asker=asker)
        await self._change_xattrs(inode, name, lambda now: xattrs.set_on_entry(now, name, value), extends)

    async def removexattr(self, inode: int, name: bytes, caller: Caller | None = None) -> None:
        """Remove an attribute of a file that is not a record yet; of a record: take its legal holds off."""
        releases: Callable[[Key], object] | None = None
        if name == xattrs.HOLD:
            asker = Asker(caller.uid if caller is not None else -1)
            releases = partial(self._records.release, cases=None, asker=asker)
        await self._change_xattrs(inode, name, lambda now: xattrs.remove_from_entry(now, name), releases)

    async def _change_xattrs(
        self,
        inode: int,
        name: bytes,
        change: Callable[[dict[bytes, bytes]], dict[bytes, bytes]],
        change_record: Callable[[Key], object] | None,
    ) -> None:
        xattrs.must_be_user(name)
        key = self._inodes.key(inode)
        if self._inodes.node(inode).detached is not None:
            raise NotFound("the file has been removed; its name may be that of another one now", key=key)
        entry = self._spool.get(key)
        if entry is None:
            info = await self._stat(key)
            if info.kind is Kind.DIRECTORY:
                raise Unsupported("directories keep no attributes", backend=self._backend.name, key=key)
            if change_record is None:
                raise Sealed("the file is a record", backend=self._backend.name, key=key)
            await self._run(change_record, key)
            return
        async with entry.closing:
            with self._about(key):
                changed = change(entry.xattrs)
            await self._spool.set_xattrs(entry, changed)

    async def _xattrs(self, inode: int) -> dict[bytes, bytes]:
        node = self._inodes.node(inode)
        if node.detached is not None and not isinstance(node.detached, Entry):
            raise NotFound("the file has been erased", backend=self._backend.name)
        key = self._inodes.key(inode)
        entry = node.detached if isinstance(node.detached, Entry) else self._spool.get(key)
        if entry is not None:
            return xattrs.of_entry(entry, self._backend.name)
        info = await self._stat(key)
        if info.kind is Kind.DIRECTORY:
            return {b"user.wormfs.backend": self._backend.name.encode()}
        return xattrs.of_record(await self._ask(self._backend.record, key), self._backend.name)

    # Space

    async def statfs(self) -> ShownSpace:
        """The backend's own numbers."""
        return shown(await self.space.space())

    # Small helpers

    def refused(self, operation: str, uid: int, error: Refused) -> None:
        """Note that somebody wanted to change what is fixed. Microseconds."""
        if error.backend is None:
            error.backend = self._backend.name
        self._records.refused(operation, uid, error)

    @contextlib.contextmanager
    def _about(self, key: Key) -> Iterator[None]:
        """The pure rules know no names; whoever reads the log wants them."""
        try:
            yield
        except WormfsError as error:
            error.backend, error.key = self._backend.name, key
            raise

    async def _stat(self, key: Key) -> ObjectInfo:
        known = None if self._remembering is None else self._remembering.stat_ready(key)
        return await self._ask(self._backend.stat, key) if known is None else known

    async def _ask(self, question: Callable[..., _T], *arguments: object) -> _T:
        """A question that some drivers answer from the kernel's caches, without a thread."""
        if self._inline:
            return question(*arguments)
        return await threads.run(question, *arguments, limiter=self._threads)

    async def _ask_plainly(self, action: Callable[[], None]) -> None:
        await self._ask(action)

    async def _run(self, action: Callable[..., _T], *arguments: object) -> _T:
        """Work that waits for a disk or a server."""
        return await threads.run(action, *arguments, limiter=self._threads)


def _without_same_mode(change: AttributeChange, record: Record | None) -> AttributeChange:
    """Asking for the mode that the writer gave, as ``shutil.copy`` does after close, changes nothing: the
    record has it, though a record is shown without write bits."""
    if record is None or change.mode is None or record.attributes.mode != stat.S_IMODE(change.mode):
        return change
    return dataclasses.replace(change, mode=None)


_CLOSING_PATIENCE_S = 1.0
"""How long an open waits for a close that is under way; sealing takes milliseconds."""

_DIRECTORIES_KEPT = 1024

_DOTS = 2
"""Positions taken by ``.`` and ``..``."""

__all__ = ["FileSystem", "Handle", "ListedName", "Opened", "Reader"]
