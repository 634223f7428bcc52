"""One file on its way into the bucket.

Small: one conditional PutObject, record and lock in the same request. Large: a multipart upload, completed
behind a claim. While the application still writes, the record is not known yet; the upload then names a
second object that holds it and that is written before the upload is completed. With Object Lock the upload
begins when the record is known, so that date and hold are set with the object and not after it.

A reply that was lost is recognised: what stands at the name carries our entry's id.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from wormfs import clock
from wormfs.backends.s3 import metadata
from wormfs.backends.s3.claims import Claim, Claims
from wormfs.backends.s3.failures import NoSuchUpload, PreconditionFailed
from wormfs.backends.s3.multipart import Upload, Uploads, abort
from wormfs.backends.s3.names import Names
from wormfs.backends.s3.options import ObjectLock
from wormfs.backends.s3.recent import Recent
from wormfs.backends.s3.records import Records
from wormfs.backends.s3.retaining import Retaining
from wormfs.backends.s3.store import Put, Store, version_of
from wormfs.backends.s3.tree import Found, Tree, recorded_info
from wormfs.errors import (
    AccessDenied,
    AlreadyExists,
    BackendFault,
    NotFound,
    Unavailable,
    Unsupported,
    WormfsError,
)
from wormfs.model import Key, ObjectInfo, Record
from wormfs.threads import Beside

PARTS_AHEAD = 6
_CLAIM_LOOKS = 25
_CLAIM_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Target:
    """What a transfer needs of its backend."""

    store: Store
    names: Names
    tree: Tree
    records: Records
    recent: Recent
    claims: Claims
    uploads: Uploads
    retaining: Retaining
    pool: Beside
    stored: Callable[[int], None]
    """Told the size of each file that came into being."""
    alone: bool
    """No other host writes: no claims are needed."""
    atomic_completion: bool
    """The store itself completes an upload only if the name is free, and one of several."""


class S3Transfer:
    """A ``Transfer`` to one key of a bucket."""

    def __init__(self, target: Target, key: Key) -> None:
        self._target = target
        self._store = target.store
        self._key = key
        self._name = target.names.of(key)
        self._more = secrets.token_hex(16)
        self._whole_kept = False
        self._upload: Upload | None = None
        self._lock = threading.Lock()
        # With Object Lock nothing is sent before the date is known.
        self._streams = self._store.options.object_lock is ObjectLock.NONE

    def advance(self, spooled: BinaryIO, ready_bytes: int) -> None:
        """Send whole parts, a few at once; what does not fit is left for the next call."""
        if not self._streams or ready_bytes <= self._store.options.part_bytes:
            return
        with self._lock:
            if self._upload is None:
                self._upload = self._begin(spooled, {metadata.MORE: self._more})
            self._upload.send(ready_bytes, at_most=PARTS_AHEAD)

    def prepare(self, spooled: BinaryIO, record: Record) -> None:
        """The record goes with the object itself."""

    def publish(self, spooled: BinaryIO | None, record: Record) -> ObjectInfo:
        """See ``Transfer.publish``."""
        with self._lock:
            found = self._found()
            if found is not None:
                return self._recognised(found, record, can_send_again=spooled is not None)
            if spooled is None:
                raise NotFound("nothing has arrived of it", backend=self._store.backend, key=self._key)
            try:
                if self._upload is None and record.size_bytes <= self._store.options.part_bytes:
                    info = self._put(spooled, record)
                else:
                    info = self._complete(spooled, record)
            finally:
                self._target.recent.forget(self._key)
            self._target.stored(record.size_bytes)
            return info

    def abort(self) -> None:
        """See ``Transfer.abort``. Raises Unavailable when the store does not answer; parts that are left then
        are removed by the next start."""
        with self._lock:
            upload, self._upload = self._upload, None
            if upload is not None:
                upload.abort()
            self._target.uploads.end_unknown(self._key, self._name)
            if self._whole_kept:
                self._whole_kept = False
                if not self._ours_is_there():
                    self._target.records.drop_whole(self._key, self._more)

    # What is there

    def _found(self) -> Found | None:
        """What stands at the name. Raises AlreadyExists for a directory."""
        # A file that came in this moment is found by the conditional put. A directory that another host makes
        # is not: no store could tell us, asked now or a moment ago.
        if self._target.recent.absent(self._key):
            return None
        found = self._target.tree.file(self._key)
        if found is None and self._target.tree.directory(self._key) is not None:
            raise self._taken("a directory")
        return found

    def _settled(self, found: Found, record: Record) -> ObjectInfo:
        """The name is taken: by this very record, or the publish failed."""
        if not _is(found, record):
            raise self._taken("another file")
        self._end_upload()
        self._target.retaining.secure(self._key, found.head, record)
        return found.info

    def _recognised(self, found: Found, record: Record, *, can_send_again: bool) -> ObjectInfo:
        """What stands at the name came without an answer that we saw: if it is ours, is it whole?

        A store that was killed in the middle of a put can keep the name and our metadata without the bytes
        (SeaweedFS does).
        """
        if not _is(found, record) or self._is_whole(found, record):
            return self._settled(found, record)
        what = f"the store kept our file's name, but not its {record.size_bytes} bytes"
        backend, key = self._store.backend, self._key
        self._end_upload()
        if not can_send_again:
            raise BackendFault(f"{what}, and the spool has them no more", backend=backend, key=key)
        try:
            self._store.delete(self._name, key, found.head.version_id)
        except AccessDenied as error:
            raise BackendFault(
                f"{what}, and does not let go of it: remove it there; the spool keeps the file until then",
                backend=backend,
                key=key,
            ) from error
        raise Unavailable(f"{what}; it is sent again", backend=backend, key=key)

    def _is_whole(self, found: Found, record: Record) -> bool:
        """Small files are read back: this is rare. Uploads in parts are whole or not there."""
        if found.head.size_bytes != record.size_bytes:
            return False
        if record.size_bytes > self._store.options.part_bytes:
            return True
        version = version_of(found.head.version_id, found.head.etag)
        content = self._store.read(self._name, self._key, 0, record.size_bytes, version)
        return hashlib.sha256(content).hexdigest() == record.sha256

    def _ours_is_there(self) -> bool:
        found = self._target.tree.file(self._key)
        if found is None:
            return False
        with contextlib.suppress(BackendFault):
            return metadata.decode(found.head.metadata).more == self._more
        return True

    def _taken(self, by: str) -> AlreadyExists:
        return AlreadyExists(f"the name is taken by {by}", backend=self._store.backend, key=self._key)

    # Small files

    def _put(self, spooled: BinaryIO, record: Record) -> ObjectInfo:
        content = os.pread(spooled.fileno(), record.size_bytes + 1, 0)
        if len(content) != record.size_bytes:
            raise BackendFault(
                "the spool file is not what was sealed", backend=self._store.backend, key=self._key
            )
        try:
            put = self._store.put(
                self._name, content, self._key, metadata=self._metadata(record), sha256=record.sha256,
                lock=record,
                storage_class=self._store.options.storage_class,
            )  # fmt: skip
        except PreconditionFailed:
            return self._recognised(self._must_be_there(), record, can_send_again=True)
        return self._confirmed(put, record)

    def _metadata(self, record: Record) -> dict[str, str]:
        """The object's metadata; a record that does not fit is stored first."""
        fields, needs_more = metadata.encode(record, self._more)
        if needs_more:
            self._target.records.keep_whole(self._key, self._more, record)
            self._whole_kept = True
        return fields

    def _confirmed(self, put: Put, record: Record) -> ObjectInfo:
        """After a conditional put that won: nobody may have come between who need not ask for the name."""
        rivals = not (self._target.alone or self._target.atomic_completion)
        if rivals and self._target.claims.any_for(self._key):
            self._outlast_claims()
            return self._settled(self._must_be_there(), record)
        if self._store.versioned:
            # A delete marker on top of an older file lets a conditional put succeed.
            return self._settled_or_withdrawn(put, record)
        return recorded_info(self._key, record, version_of(put.version_id, put.etag))

    def _settled_or_withdrawn(self, put: Put, record: Record) -> ObjectInfo:
        found = self._must_be_there()
        if found.head.version_id != put.version_id and not _is(found, record):
            with contextlib.suppress(AccessDenied):
                self._store.delete(self._name, self._key, put.version_id)
        return self._settled(found, record)

    def _outlast_claims(self) -> None:
        """Another host is completing an upload of this name. The name is decided by our put: end its upload,
        and wait until it has seen that."""
        for _ in range(_CLAIM_LOOKS):
            claim = self._target.claims.newest(self._key)
            if claim is None:
                return
            abort(self._store, self._name, claim.upload_id, self._key)
            clock.pause(_CLAIM_PAUSE_S)

    def _must_be_there(self) -> Found:
        found = self._target.tree.file(self._key)
        if found is None:
            if self._target.tree.directory(self._key) is not None:
                raise self._taken("a directory")
            raise BackendFault(
                "the store says that the name is taken and that nothing is there",
                backend=self._store.backend,
                key=self._key,
            )
        return found

    # Large files

    def _begin(self, spooled: BinaryIO, fields: dict[str, str], record: Record | None = None) -> Upload:
        parameters: dict[str, object] = {"Metadata": fields}
        if self._store.options.storage_class is not None:
            parameters["StorageClass"] = self._store.options.storage_class
        if record is not None:
            parameters |= self._store.lock_parameters(record)
        return Upload(
            self._store,
            self._target.uploads,
            self._target.pool,
            self._key,
            self._name,
            spooled.fileno(),
            parameters,
        )

    def _complete(self, spooled: BinaryIO, record: Record) -> ObjectInfo:
        if self._upload is None:
            self._upload = self._begin(spooled, self._metadata(record), record)
        elif not self._whole_kept:
            self._target.records.keep_whole(self._key, self._more, record)
            self._whole_kept = True
        parts = self._upload.finish(record.size_bytes)
        claim = (
            None
            if self._target.alone
            else self._target.claims.take(self._key, record.entry_id, self._upload.id)
        )
        found = self._target.tree.file(self._key)
        if found is None:
            self._complete_once(self._upload.id, parts)
            found = self._must_be_there()
        if _is(found, record):
            return self._completed(claim, found, record)
        # Somebody with a single put was faster.
        if claim is not None:
            self._target.claims.drop_one(claim, self._key)
        raise self._taken("another file")

    def _complete_once(self, upload_id: str, parts: list[dict[str, object]]) -> None:
        parameters = {"Key": self._name, "UploadId": upload_id, "MultipartUpload": {"Parts": parts}}
        doing = "complete the upload"
        # NoSuchUpload: an earlier try has arrived, or somebody has ended it. The name tells.
        with contextlib.suppress(PreconditionFailed, NoSuchUpload):
            try:
                self._store.call("complete_multipart_upload", self._key, doing, IfNoneMatch="*", **parameters)
            except Unsupported:
                self._store.call("complete_multipart_upload", self._key, doing, **parameters)

    def _completed(self, claim: Claim | None, found: Found, record: Record) -> ObjectInfo:
        if found.info.size_bytes != record.size_bytes:
            raise BackendFault(
                f"the store holds {found.info.size_bytes} bytes of {record.size_bytes}",
                backend=self._store.backend,
                key=self._key,
            )
        info = self._settled(found, record)
        if claim is not None:
            self._target.claims.drop_one(claim, self._key)
        return info

    def _end_upload(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            # Harmless if it is completed; if another attempt's was, this one's parts go.
            with contextlib.suppress(WormfsError):
                upload.abort()


def _is(found: Found, record: Record) -> bool:
    """Whether what stands at the name was published from this very record (its retention may have grown)."""
    theirs = found.record
    return theirs is not None and (theirs.entry_id, theirs.sha256, theirs.size_bytes) == (
        record.entry_id,
        record.sha256,
        record.size_bytes,
    )
