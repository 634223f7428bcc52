"""Who may complete a multipart upload.

A conditional CompleteMultipartUpload is not atomic everywhere, a conditional PutObject is. So whoever
completes an upload holds a claim first: an object with the name's digest, made only if it is free. Claims are
numbered, and the highest number counts. A claim whose host has gone is taken over by ending its upload and
making the next number; nobody ever deletes another's claim, so no two can take it over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from wormfs.backends.s3.failures import PreconditionFailed
from wormfs.backends.s3.multipart import abort
from wormfs.backends.s3.names import Names, number_of, numbered
from wormfs.backends.s3.sharedlook import SharedLook
from wormfs.backends.s3.store import Store
from wormfs.errors import NotFound, Unavailable
from wormfs.model import Key

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim in the bucket."""

    name: str
    number: int
    entry: str
    upload_id: str
    modified_ns: int = 0


class Claims:
    """The claims of one bucket. Safe from any thread."""

    def __init__(self, store: Store, names: Names) -> None:
        self._store = store
        self._names = names
        self._look = SharedLook(self._all)

    def _all(self) -> list[str] | None:
        """``None``: too many for one answer."""
        page = self._store.page(f"{self._names.hidden}claim/")
        return [each.name for each in page.objects] if page.after is None else None

    def take(self, key: Key, entry: str, upload_id: str) -> Claim:
        """Hold the claim for ``key``. Raises Unavailable while somebody else seems to be at work on it."""
        while True:
            newest = self.newest(key)
            number = 1 if newest is None else newest.number + 1
            if newest is not None:
                if newest.entry != entry and self._age_ns(newest) < self._store.options.claim_age_s * NS:
                    raise Unavailable(
                        "another host is storing a file of this name just now",
                        backend=self._store.backend,
                        key=key,
                    )
                # An earlier attempt of ours, or a host that has gone: it must not complete any more.
                abort(self._store, self._names.of(key), newest.upload_id, key)
            name = self._names.claims(key) + numbered(number)
            content = json.dumps({"key": key.decode(), "entry": entry, "upload": upload_id}).encode()
            try:
                self._store.put(name, content, key)
            except PreconditionFailed:
                if not self._is(name, key, content):
                    continue
            return Claim(name, number, entry, upload_id)

    def drop(self, key: Key) -> None:
        """The name is decided: claims are of no use any more. What a default retention keeps, stays."""
        for listed in list(self._store.names(self._names.claims(key))):
            self._store.purge(listed.name, key)

    def drop_one(self, claim: Claim, key: Key) -> None:
        """Ours is of no use any more."""
        self._store.purge(claim.name, key)

    def newest(self, key: Key) -> Claim | None:
        """The claim that counts, if there is one."""
        page = self._store.page(self._names.claims(key), at_most=1, key=key)
        if not page.objects:
            return None
        listed = page.objects[0]
        try:
            fields = json.loads(self._store.read_small(listed.name, key))
            return Claim(
                listed.name, number_of(listed.name), fields["entry"], fields["upload"], listed.modified_ns
            )
        except NotFound:
            return None
        except (ValueError, KeyError, TypeError):
            # A store that was killed in the middle of a put can keep the name without the bytes. It counts as
            # a claim of a host unknown until it is old: no name is blocked by it for ever.
            return Claim(listed.name, number_of(listed.name), "", "", listed.modified_ns)

    def any_for(self, key: Key) -> bool:
        """Whether somebody has begun to claim the name, seen by a look that begins now. Many who ask at once
        share one: hardly ever is there any claim at all."""
        claimed = self._look.fresh()
        if claimed is not None:
            return any(name.startswith(self._names.claims(key)) for name in claimed)
        try:
            self._store.head(self._names.claims(key) + numbered(1), key)
        except NotFound:
            return False
        return True

    def _is(self, name: str, key: Key, content: bytes) -> bool:
        try:
            return self._store.read_small(name, key) == content
        except NotFound:
            return False

    def _age_ns(self, claim: Claim) -> int:
        # The store's clock is told in whole seconds, the object's time in milliseconds by some (Ceph).
        return max(0, self._store.time_ns() - claim.modified_ns)
