"""Proof that a store honours create-if-absent, in the real bucket and its real versioning mode.

Several stores ignore ``If-None-Match`` and answer 200. At every start an object that is there is put again,
which must be refused; and if that was not done lately, several writers race for a new name, which exactly
one must win.
"""

from __future__ import annotations

import json
import secrets
from concurrent.futures import Future

from wormfs.backends.s3.failures import PreconditionFailed
from wormfs.backends.s3.names import Names
from wormfs.backends.s3.store import Store
from wormfs.errors import NotFound, SettingsError
from wormfs.threads import Beside

NS = 1_000_000_000
RIVALS = 6
CONTENT = b"This object belongs to wormfs, which proves with it that nothing can replace it.\n"
_VALID_NS = 7 * 86400 * NS


def prove(store: Store, names: Names, *, again: bool = False) -> None:
    """Raises SettingsError when the store does not keep the promise. ``again``: race, whatever was proved."""
    overwrite_is_refused(store, names)
    if not again and _proved_lately(store, names):
        return
    one_wins(store, names)
    store.put(names.proof, _text(store), new=False)


def overwrite_is_refused(store: Store, names: Names) -> None:
    """Put the test object twice. Raises SettingsError when the second put is not refused."""
    for _ in range(2):
        try:
            store.put(names.check_object, CONTENT)
        except PreconditionFailed:
            return
    raise _refusal(store, "overwrites an object although it was told to create it only if it is absent")


def one_wins(store: Store, names: Names) -> None:
    """Let several threads create the same name at once. Raises SettingsError unless exactly one does."""
    name = names.probe(secrets.token_hex(8))
    pool = Beside(RIVALS)
    try:
        rivals: list[Future[bool]] = [pool.start(_creates, store, name, number) for number in range(RIVALS)]
        winners = sum(rival.result() for rival in rivals)
    finally:
        pool.close()
        store.purge(name)
    if winners != 1:
        raise _refusal(store, f"let {winners} of {RIVALS} writers create the same name at once")


def _creates(store: Store, name: str, number: int) -> bool:
    content = b"rival %d\n" % number
    try:
        store.put(name, content)
    except PreconditionFailed:
        # A put whose answer was lost is refused when it is tried again: it has won.
        return store.read_small(name) == content
    return True


def _refusal(store: Store, what: str) -> SettingsError:
    return SettingsError(
        f"the store {what} (conditional writes, If-None-Match): two hosts could overwrite each other's "
        "files. Use a store or bucket that honours it; if this host alone ever writes there, set "
        "`exclusive_writer: true`",
        backend=store.backend,
    )


def _proved_lately(store: Store, names: Names) -> bool:
    try:
        proof = json.loads(store.read_small(names.proof))
        age_ns = store.wall.now_ns() - int(proof["at_ns"])
        return bool(proof["versioned"] == store.versioned) and 0 <= age_ns < _VALID_NS
    except NotFound:
        return False
    except (ValueError, KeyError, TypeError):
        return False


def _text(store: Store) -> bytes:
    return json.dumps({"at_ns": store.wall.now_ns(), "versioned": store.versioned, "rivals": RIVALS}).encode()
