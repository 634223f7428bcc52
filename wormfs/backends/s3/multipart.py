"""One multipart upload: parts sent by a few threads, the size of parts growing with their number.

10,000 parts at most, 5 MiB to 5 GiB each, 5 TiB in all:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from concurrent.futures import Future

from wormfs.backends.s3.failures import NoSuchUpload
from wormfs.backends.s3.names import Names
from wormfs.backends.s3.options import Checksum
from wormfs.backends.s3.span import body
from wormfs.backends.s3.store import Store
from wormfs.errors import NotFound, Unavailable, WormfsError
from wormfs.model import Key
from wormfs.threads import Beside

_GROWS_EVERY = 1000
MAX_OBJECT_BYTES = 5 << 40


def part_span(number: int, part_bytes: int) -> tuple[int, int]:
    """Where part ``number`` (from 1) begins, and its size: doubled every 1,000 parts."""
    index = number - 1
    doublings, rest = divmod(index, _GROWS_EVERY)
    start = _GROWS_EVERY * part_bytes * ((1 << doublings) - 1) + rest * (part_bytes << doublings)
    return start, part_bytes << doublings


class Uploads:
    """The multipart uploads of one daemon: noted in the bucket, so that the next start can remove what
    a crash left. Safe from any thread."""

    def __init__(self, store: Store, names: Names) -> None:
        self._store = store
        self._names = names
        self._instance = f"unknown-{secrets.token_hex(8)}"
        self._own: set[str] = set()
        self._doubtful: set[Key] = set()

    def belong_to(self, instance: str) -> None:
        """Notes are written under this name from now on."""
        self._instance = instance

    def note(self, key: Key, upload_id: str) -> str:
        """Remember an upload until ``settle``. Returns the note's name."""
        name = self._names.uploads(self._instance) + secrets.token_hex(8)
        self._own.add(name)
        self._store.put(name, upload_id.encode() + b"\n" + key, key, new=False)
        return name

    def settle(self, note: str) -> None:
        """The upload is completed or aborted."""
        self._store.purge(note)
        self._own.discard(note)

    def create(self, key: Key, name: str, parameters: Mapping[str, object]) -> str:
        """Begin an upload; its id. An answer that is lost leaves an upload that nobody knows of."""

        def once() -> str:
            try:
                answer = self._store.once(
                    "create_multipart_upload", key, "begin the upload", Key=name, **parameters
                )
            except Unavailable:
                self._doubtful.add(key)
                raise
            upload_id: str = answer["UploadId"]
            return upload_id

        return self._store.patiently(once)

    def end_unknown(self, key: Key, name: str) -> None:
        """After a lost answer: abort the uploads of this name that no host has noted. Raises Unavailable."""
        if key not in self._doubtful:
            return
        noted = set()
        for note in self._store.names(f"{self._names.hidden}upload/"):
            with contextlib.suppress(NotFound):  # settled meanwhile
                noted.add(self._store.read_small(note.name).partition(b"\n")[0].decode())
        answer = self._store.call("list_multipart_uploads", key, "list uploads", Prefix=name)
        for upload in answer.get("Uploads", ()):
            if upload["Key"] == name and upload["UploadId"] not in noted:
                abort(self._store, name, upload["UploadId"], key)
        self._doubtful.discard(key)

    def remove_stale(self) -> int:
        """Abort what an earlier run of this daemon left; how many there were."""
        removed = 0
        for listed in self._store.names(self._names.uploads(self._instance)):
            if listed.name in self._own:
                continue
            upload_id, _, key = self._store.read_small(listed.name).partition(b"\n")
            if key:
                abort(self._store, self._names.of(Key(key)), upload_id.decode(), Key(key))
            self._store.purge(listed.name)
            removed += 1
        return removed


def abort(store: Store, name: str, upload_id: str, key: Key) -> None:
    """End an upload and free its parts; one that has ended already is a success."""
    if not upload_id:
        # Without an id the request would be DeleteObject.
        return
    with contextlib.suppress(NoSuchUpload, NotFound):
        store.call("abort_multipart_upload", key, "abort the upload", Key=name, UploadId=upload_id)


class Upload:
    """A multipart upload of one file from its spool file. One thread at a time calls it."""

    def __init__(
        self,
        store: Store,
        uploads: Uploads,
        pool: Beside,
        key: Key,
        name: str,
        spool_fd: int,
        parameters: Mapping[str, object],
    ) -> None:
        """``spool_fd`` is duplicated. ``parameters``: of CreateMultipartUpload."""
        self._store = store
        self._uploads = uploads
        self._pool = pool
        self._key = key
        self._name = name
        self._parts: dict[int, Future[dict[str, object]]] = {}
        self._sums = store.options.checksum is Checksum.SHA256
        algorithm = {"ChecksumAlgorithm": "SHA256"} if self._sums else {}
        self.id = uploads.create(key, name, algorithm | dict(parameters))
        self._fd = os.dup(spool_fd)
        try:
            self._note = uploads.note(key, self.id)
            uploads.end_unknown(key, name)
        except WormfsError:
            self._close()
            with contextlib.suppress(WormfsError):
                abort(store, name, self.id, key)
            raise

    def send(self, ready_bytes: int, *, at_most: int | None = None) -> None:
        """Begin to send every part that lies below ``ready_bytes`` whole; ``at_most`` at once."""
        while at_most is None or self._under_way() < at_most:
            number = len(self._parts) + 1
            start, size = part_span(number, self._store.options.part_bytes)
            if start + size > ready_bytes:
                return
            self._begin(number, start, size)

    def finish(self, size_bytes: int) -> list[dict[str, object]]:
        """Send the rest and wait for all. What failed is sent once more. Raises what a part raises."""
        self.send(size_bytes)
        number = len(self._parts) + 1
        start, _ = part_span(number, self._store.options.part_bytes)
        if start < size_bytes:
            self._begin(number, start, size_bytes - start)
        done = []
        for number, part in self._parts.items():
            error = part.exception()
            if error is not None:
                start, size = part_span(number, self._store.options.part_bytes)
                done.append(self._send(number, start, min(size, size_bytes - start)))
            else:
                done.append(part.result())
        return done

    def settle(self) -> None:
        """The upload is completed."""
        self._close()
        self._uploads.settle(self._note)

    def abort(self) -> None:
        """End it and leave no part. Raises Unavailable; can be called again."""
        for part in self._parts.values():
            # A part that arrives after the abort would stay.
            part.cancel()
            if not part.cancelled():
                part.exception()
        self._close()
        abort(self._store, self._name, self.id, self._key)
        self._uploads.settle(self._note)

    def _under_way(self) -> int:
        return sum(not part.done() for part in self._parts.values())

    def _begin(self, number: int, start: int, size: int) -> None:
        self._parts[number] = self._pool.start(self._send, number, start, size)

    def _send(self, number: int, start: int, size: int) -> dict[str, object]:
        content = body(self._fd, start, size)
        sums = self._store.checksums(content)
        answer = self._store.call(
            "upload_part", self._key, "send a part", Key=self._name, UploadId=self.id, PartNumber=number,
            Body=content, **sums,
        )  # fmt: skip
        part: dict[str, object] = {"PartNumber": number, "ETag": answer["ETag"]}
        if self._sums:
            part |= sums
        return part

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
