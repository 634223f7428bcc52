"""What is wrong in a bucket and no walk over listings would show. Reads names and wormfs's small objects."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from wormfs.backends.s3 import metadata
from wormfs.backends.s3.listings import Listed
from wormfs.backends.s3.names import HIDDEN, Names
from wormfs.backends.s3.records import key_in
from wormfs.backends.s3.store import Store
from wormfs.errors import BackendFault, NotFound, Unsupported
from wormfs.model import Finding, FindingKind, Key

NS = 1_000_000_000
_OLD_NS = 7 * 86400 * NS


def findings(store: Store, names: Names) -> Iterator[Finding]:
    """See ``Backend.findings``."""
    yield from _visible(store, names)
    for folder in ("record", "retention", "claim"):
        yield from _about_missing(store, names, folder)
    yield from _old_uploads(store, names)


def _visible(store: Store, names: Names) -> Iterator[Finding]:
    everything = (item for page in store.pages(names.root, versions=store.versioned) for item in page.objects)
    files: list[str] = []
    for name, items in itertools.groupby(everything, key=lambda item: item.name):
        if name.startswith(names.hidden) or name == names.root:
            continue
        yield from _of_name(names, name, list(items), files)


def _of_name(names: Names, name: str, items: list[Listed], files: list[str]) -> Iterator[Finding]:
    shown = name.encode()[len(names.root_bytes) :]
    if names.key_of(name) is None:
        yield Finding(
            FindingKind.UNEXPECTED, shown, f"no path can show an object of this name ({HIDDEN}…, //, ..)"
        )
        return
    while files and not name.startswith(files[-1]):
        files.pop()
    if any(name.startswith(file + "/") for file in files):
        yield Finding(
            FindingKind.UNEXPECTED, shown, "it lies below a file of the same name and cannot be shown"
        )
        return
    if name.endswith("/"):
        return
    files.append(name)
    versions = [item for item in items if not item.delete_marker]
    if len(versions) > 1:
        detail = (
            f"{len(versions) - 1} newer versions on top of what was committed, which is what wormfs shows"
        )
        yield Finding(FindingKind.ALTERED, shown, detail)
    if len(versions) < len(items):
        yield Finding(FindingKind.ALTERED, shown, "a delete marker hides it from other programs")


def _about_missing(store: Store, names: Names, folder: str) -> Iterator[Finding]:
    """Hidden objects about files that are not there; one finding for each file."""
    for _, group in itertools.groupby(store.names(f"{names.hidden}{folder}/"), key=_folder_of):
        listed = next(group)
        finding = _judge(store, names, folder, listed)
        if finding is not None:
            yield finding


def _folder_of(listed: Listed) -> str:
    parts = listed.name.split(f"{HIDDEN}/", 1)[1].split("/")
    return "/".join(parts[:2])


def _judge(store: Store, names: Names, folder: str, listed: Listed) -> Finding | None:
    key = _key_of(store, folder, listed)
    if key is None:
        return Finding(FindingKind.UNEXPECTED, listed.name.encode(), "it does not say which file it is about")
    there = _exists(store, names, key)
    if folder == "claim":
        if not there and store.time_ns() - listed.modified_ns < store.options.claim_age_s * NS:
            return None  # somebody is at work
        why = "a claim that a crashed host has left" + ("" if there else "; its file never came")
        return Finding(FindingKind.UNEXPECTED, key, why)
    if there:
        return None
    return Finding(FindingKind.MISSING, key, f"there is a {folder} object of it, but no file")


def _key_of(store: Store, folder: str, listed: Listed) -> Key | None:
    try:
        return _from_metadata(store, listed) if folder == "record" else _from_json(store, listed)
    except NotFound:
        return None


def _from_json(store: Store, listed: Listed) -> Key | None:
    key = key_in(store.read_small(listed.name))
    return None if key is None else Key(key.encode())


def _from_metadata(store: Store, listed: Listed) -> Key | None:
    fields = {name.lower(): value for name, value in store.head(listed.name).metadata.items()}
    try:
        return Key(metadata.unescape(fields[metadata.KEY]))
    except (KeyError, BackendFault):
        return None


def _exists(store: Store, names: Names, key: Key) -> bool:
    name = names.of(key)
    if store.versioned:
        return any(not each.delete_marker for each in store.versions(name, key))
    try:
        store.head(name, key)
    except NotFound:
        return False
    return True


def _old_uploads(store: Store, names: Names) -> Iterator[Finding]:
    try:
        answer = store.call("list_multipart_uploads", None, "list uploads", Prefix=names.root)
        now_ns = store.time_ns()
    except (Unsupported, NotFound):
        return
    for upload in answer.get("Uploads", ()):
        age_ns = now_ns - int(upload["Initiated"].timestamp()) * NS
        if age_ns > _OLD_NS:
            shown = upload["Key"].encode()[len(names.root_bytes) :]
            yield Finding(FindingKind.UNEXPECTED, shown, "parts of an upload that was never completed")
