"""What the driver does at the server, as single steps on one session: each says how it ended.

Nothing here repeats itself: whoever calls knows what may be repeated without harm.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import itertools
import tempfile
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from typing import IO

from wormfs import threads
from wormfs.backends.ftp import listing
from wormfs.backends.ftp.listing import Seen, Type
from wormfs.backends.ftp.replies import Reply, failure
from wormfs.backends.ftp.session import DataStream, Session
from wormfs.clock import Clock
from wormfs.errors import BackendFault, Unavailable, WormfsError

_BLOCK_BYTES = 1 << 18
_LARGE_BLOCK_BYTES = 1 << 20
_HASH_BESIDE_FROM_BYTES = 8 << 20
_ASKED_AT_ONCE = 16
"""Several commands at once, but no more than any buffer on the way holds."""
_LISTING_MEMORY_BYTES = 64 << 10
_MAX_SMALL_BYTES = 1 << 20
_COPY_BYTES = 64 << 10


class Stored(enum.Enum):
    """What is known of an upload beyond the server's word."""

    COUNTED = "size"
    HASHED = "the server's own hash"
    READ_BACK = "read back"


class Server:
    """The server through one session. Not for two threads at once."""

    def __init__(self, session: Session, backend: str, clock: Clock) -> None:
        self.session = session
        self._backend = backend
        self._clock = clock

    def can(self, feature: str) -> bool:
        """Whether FEAT names it."""
        return feature in self.session.features

    def fail(self, reply: Reply, key: bytes | None, doing: str, *, storing: bool = False) -> WormfsError:
        """The error for a refusal."""
        return failure(reply, self._backend, key, doing, storing=storing)

    # Names

    def look(self, path: bytes) -> Seen | None:
        """What is at ``path``; ``None`` when there is nothing (or nothing that this user may see)."""
        return self.look_at(path)[0]

    def look_at(self, *paths: bytes) -> list[Seen | None]:
        """``look`` at several paths in one exchange, where the server takes several commands at once."""
        if not self.can("MLST"):
            return self._look_the_old_way(paths)
        replies = self.session.commands(*(b"MLST " + path for path in paths))
        return [self._facts(reply, path) for reply, path in zip(replies, paths, strict=True)]

    def look_before_a_file(self, path: bytes, folder: bytes, meta: bytes) -> tuple[bool, bool, bool]:
        """In one exchange, for it is asked before each new file: whether ``path`` is taken, ``folder`` a
        directory, and ``meta`` a file."""
        if self.can("MLST"):
            there, inside, claimed = self.look_at(path, folder, meta)
            is_folder = inside is not None and inside.type is Type.DIRECTORY
            return there is not None, is_folder, claimed is not None
        lines = (b"SIZE " + path, b"CWD " + path, b"CWD " + folder, b"SIZE " + meta)
        sized, entered, inside_it, claim = self.session.commands(*lines)
        return self._size(sized) is not None or entered.good, inside_it.good, self._size(claim) is not None

    def _facts(self, reply: Reply, path: bytes) -> Seen | None:
        if reply.code == 250:
            return self._mlst(reply, path)
        if reply.code in (550, 553, 450):
            return None
        if reply.code in (500, 501, 502, 504):
            return self._look_the_old_way((path,))[0]
        raise self.fail(reply, None, "look at a name")

    def _look_the_old_way(self, paths: Sequence[bytes]) -> list[Seen | None]:
        verbs = (b"SIZE ", b"MDTM ", b"CWD ")
        replies = iter(self.session.commands(*(verb + path for path in paths for verb in verbs)))
        found: list[Seen | None] = []
        for sized, dated, entered in zip(replies, replies, replies, strict=True):
            size = self._size(sized)
            if size is not None:
                found.append(Seen(Type.FILE, size, _time_of(dated) or 0))
            else:
                found.append(Seen(Type.DIRECTORY) if entered.good else None)
        return found

    def _mlst(self, reply: Reply, path: bytes) -> Seen:
        lines = reply.text.encode("latin-1").split(b"\n")[1:-1]
        for line in lines:
            seen = listing.facts(line.lstrip(b" ").removesuffix(b"\r"))
            if seen is not None:
                itself = seen.type is Type.OTHER and listing._is_itself(line.lstrip(b" "))  # noqa: SLF001
                return Seen(Type.DIRECTORY, unique=seen.unique, mtime_ns=seen.mtime_ns) if itself else seen
        raise BackendFault(f"the answer to MLST has no facts: {reply.shown}", backend=self._backend)

    def size(self, path: bytes) -> int | None:
        """Bytes of a file; ``None`` when there is no file (a directory has none either)."""
        return self._size(self.session.command(b"SIZE " + path))

    def sizes(self, paths: Iterable[bytes]) -> list[int | None]:
        """``size`` of several paths, in few exchanges."""
        return [self._size(reply) for reply in self._asked(b"SIZE ", paths)]

    def are_directories(self, paths: Iterable[bytes]) -> list[bool]:
        """Which of several paths are directories, in few exchanges."""
        return [reply.good for reply in self._asked(b"CWD ", paths)]

    def _asked(self, verb: bytes, paths: Iterable[bytes]) -> list[Reply]:
        lines = [verb + path for path in paths]
        replies: list[Reply] = []
        for start in range(0, len(lines), _ASKED_AT_ONCE):
            replies += self.session.commands(*lines[start : start + _ASKED_AT_ONCE])
        return replies

    def _size(self, reply: Reply) -> int | None:
        if reply.code == 213:
            word = reply.text[3:].strip()
            if word.isdecimal():
                return int(word)
            raise BackendFault(f"the answer to SIZE is no number: {reply.shown}", backend=self._backend)
        if reply.code == 550:
            return None
        raise self.fail(reply, None, "ask for the size of a file")

    def mtime_ns(self, path: bytes) -> int | None:
        """When a file was changed last, by the server's clock; ``None`` where it does not say."""
        return _time_of(self.session.command(b"MDTM " + path))

    def _mtime_line(self, path: bytes, at_ns: int) -> bytes | None:
        text = listing.time_text(at_ns)
        if text is None:
            return None
        return (b"MFMT " if self.can("MFMT") else b"MDTM ") + text.encode() + b" " + path

    def make_directory(self, path: bytes) -> Reply:
        return self.session.command(b"MKD " + path)

    def remove_directory(self, path: bytes) -> Reply:
        return self.session.command(b"RMD " + path)

    def delete(self, path: bytes) -> Reply:
        return self.session.command(b"DELE " + path)

    def rename(self, source: bytes, target: bytes) -> Reply:
        """The reply that ended it: 250, or the refusal."""
        # A RNTO after a RNFR that was refused is refused, too (RFC 959: 503).
        begun, ended = self.session.commands(b"RNFR " + source, b"RNTO " + target)
        return ended if begun.code == 350 else begun

    def rename_and_size(self, source: bytes, target: bytes, other: bytes) -> tuple[Reply, int | None]:
        """``rename``, and then the size of another file."""
        lines = (b"RNFR " + source, b"RNTO " + target, b"SIZE " + other)
        begun, ended, sized = self.session.commands(*lines)
        return (ended if begun.code == 350 else begun), self._size(sized)

    def move_file(self, source: bytes, target: bytes) -> tuple[Reply, int | None]:
        """``rename``, and the size that the target has then."""
        return self.rename_and_size(source, target, target)

    def examine(
        self, path: bytes, at_ns: int, size: int, key: bytes | None
    ) -> tuple[int | None, str, Stored]:
        """What the server holds: size and SHA-256, by its own word if it can compute one, else read back.

        On the way the file's time is set where the server can: MFMT, else MDTM with two arguments (vsftpd).
        With another size than ``size`` there is no hash.
        """
        line = self._mtime_line(path, at_ns)
        before = [b"SIZE " + path, *([line] if line else [])]
        if self.can("XSHA256"):
            found = self._size(self.session.commands(*before)[0])
            return (found, *self.sha256(path, size, key)) if found == size else (found, "", Stored.COUNTED)
        replies, stream = self.session.transfer_after(before, b"RETR " + path)
        found = self._size(replies[0])
        if found != size and not isinstance(stream, Reply):
            stream.cut()
        if found != size:
            return found, "", Stored.COUNTED
        return found, self._read_back(stream, size, key), Stored.READ_BACK

    def size_and_set_mtime(self, path: bytes, at_ns: int) -> int | None:
        """``size``, and the time is set as in ``examine``."""
        line = self._mtime_line(path, at_ns)
        return self._size(self.session.commands(b"SIZE " + path, *([line] if line else []))[0])

    # Content

    def read_small(self, path: bytes) -> bytes | None:
        """All of a small file; ``None`` when there is none."""
        stream = self.session.transfer(b"RETR " + path)
        if isinstance(stream, Reply):
            if stream.code == 550:
                return None
            raise self.fail(stream, None, "read a small file of wormfs's own")
        content = bytearray()
        buffer = memoryview(bytearray(_COPY_BYTES))
        while count := stream.receive(buffer):
            content += buffer[:count]
            if len(content) > _MAX_SMALL_BYTES:
                stream.cut()
                raise BackendFault("a file of wormfs's own is far too large", backend=self._backend)
        reply = stream.finish()
        if not reply.good:
            raise self.fail(reply, None, "read a small file of wormfs's own")
        return bytes(content)

    def store_small(self, path: bytes, content: bytes, key: bytes | None) -> None:
        """Store a few bytes, and prove by size that all of them arrived."""
        stream = self.session.transfer(b"STOR " + path)
        if isinstance(stream, Reply):
            raise self.fail(stream, key, "store a file of wormfs's own", storing=True)
        reply = stream.send_bytes(content) or stream.finish()
        if not reply.good:
            raise self.fail(reply, key, "store a file of wormfs's own", storing=True)
        found = self.size(path)
        if found != len(content):
            message = f"the server kept {found} of {len(content)} bytes of a file of wormfs's own"
            raise Unavailable(message, backend=self._backend, key=key)

    def store_once(self, path: bytes, content: bytes, key: bytes | None) -> Reply:
        """``store_small`` where what is there is never replaced: the refusal is a Reply.

        Never in part, see ``Session.store_few``.
        """
        reply = self.session.store_few(b"STOR " + path, content)
        if reply.good and self.size(path) != len(content):
            message = "the server kept another number of bytes of a file of wormfs's own than were sent"
            raise BackendFault(message, backend=self._backend, key=key)
        return reply

    def sha256(self, path: bytes, size: int, key: bytes | None) -> tuple[str, Stored]:
        """The SHA-256 of what the server holds: its own word if it can compute one, else read back."""
        if self.can("XSHA256"):
            reply = self.session.command(b'XSHA256 "' + path + b'"')
            words = [word for word in reply.text.lower().split() if len(word) == 64]
            if reply.good and words:
                return words[0], Stored.HASHED
        return self._read_back(self.session.transfer(b"RETR " + path), size, key), Stored.READ_BACK

    def _read_back(self, stream: DataStream | Reply, size: int, key: bytes | None) -> str:
        if isinstance(stream, Reply):
            raise self.fail(stream, key, "read back what was stored")
        digest = hashlib.sha256()
        (_hash_beside if size > _HASH_BESIDE_FROM_BYTES else _hash)(stream, digest)
        reply = stream.finish()
        if not reply.good:
            raise self.fail(reply, key, "read back what was stored")
        return digest.hexdigest()

    # Directories

    def list(self, path: bytes, key: bytes) -> Generator[Seen, None, None]:
        """The entries of a directory, from a copy in a temporary file, which the generator frees.

        So the connection is free again when this returns, memory stays small, and a listing that was
        cut off is an error.
        """
        copy: IO[bytes] = tempfile.SpooledTemporaryFile(_LISTING_MEMORY_BYTES)  # noqa: SIM115 (see above)
        mlsd = self.can("MLST")
        try:
            self._fetch(path, key, mlsd, copy)
        except BaseException:
            copy.close()
            raise
        return _from_copy(copy, mlsd=mlsd, now_ns=self._clock.now_ns())

    def _fetch(self, path: bytes, key: bytes, mlsd: bool, copy: IO[bytes]) -> None:
        if mlsd:
            line = b"MLSD " + path
        else:
            # As an argument, a name could be taken for an option or a pattern.
            reply = self.session.command(b"CWD " + path)
            if not reply.good:
                raise self.fail(reply, key, "list the directory")
            line = b"LIST -a"
        stream = self.session.transfer(line)
        if isinstance(stream, Reply):
            if stream.code in (226, 450) and not mlsd:
                return  # some servers call an empty directory an error
            raise self.fail(stream, key, "list the directory")
        buffer = memoryview(bytearray(_COPY_BYTES))
        while count := stream.receive(buffer):
            copy.write(buffer[:count])
        reply = stream.finish()
        if not reply.good:
            raise self.fail(reply, key, "list the directory")

    def remove_tree(self, path: bytes) -> None:
        """A hidden directory with all that is in it. Raises what stands in the way."""
        for seen in list(self.list(path, path)):
            below = path + b"/" + seen.name
            if seen.type is Type.DIRECTORY:
                self.remove_tree(below)
            else:
                self._gone(self.delete(below), below)
        self._gone(self.remove_directory(path), path)

    def _gone(self, reply: Reply, path: bytes) -> None:
        if not reply.good and self.look(path) is not None:
            raise self.fail(reply, path, "remove a file of wormfs's own")


def _hash(stream: DataStream, digest: hashlib._Hash) -> None:
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    while count := stream.fill(buffer):
        digest.update(buffer[:count])


def _hash_beside(stream: DataStream, digest: hashlib._Hash) -> None:
    """The same for many bytes: one block is hashed while the next one comes."""
    beside = threads.Beside(1)
    pending: Future[None] | None = None
    turns = itertools.cycle(memoryview(bytearray(_LARGE_BLOCK_BYTES)) for _ in range(2))
    try:
        # The block that is filled is never the one that is hashed: only one is under way.
        for buffer in turns:
            count = stream.fill(buffer)
            if pending is not None:
                pending.result()
            if not count:
                return
            pending = beside.start(digest.update, buffer[:count])
    finally:
        beside.close()


def _time_of(reply: Reply) -> int | None:
    return listing.time_ns(reply.text[3:].strip()) if reply.code == 213 else None


def _from_copy(copy: IO[bytes], *, mlsd: bool, now_ns: int) -> Generator[Seen, None, None]:
    with contextlib.closing(copy):
        copy.seek(0)
        yield from listing.entries(iter(copy.readline, b""), mlsd=mlsd, now_ns=now_ns)
