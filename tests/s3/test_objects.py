"""Versions, locks, uploads, erasing, odd keys, capacity: what only a bucket has."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance import storages_s3
from tests.conformance.drivers import ATTRIBUTES, S, make_record, spooled, store
from tests.conformance.storages_s3 import S3Storage
from tests.s3.rclone import rclone
from tests.support import s3servers
from tests.support.httpfaults import HttpFaults
from tests.support.verifying import Verifier
from wormfs.backends.s3 import span
from wormfs.backends.s3.backend import S3Backend
from wormfs.backends.s3.erasing import Eraser
from wormfs.backends.s3.multipart import part_span
from wormfs.backends.s3.names import numbered
from wormfs.backends.s3.options import ObjectLock
from wormfs.errors import (
    AlreadyExists,
    InvalidName,
    NotFound,
    OutOfSpace,
    Retained,
    SettingsError,
    Unavailable,
)
from wormfs.model import ROOT, DirectoryAttributes, FindingKind, Key, Kind, Retention, RetentionChange
from wormfs.verify.summary import summarize

KEY = Key(b"exam.zip")
SMALL = b"an archive\n" * 100
LARGE = random.Random(5).randbytes(17_000_001)


def soon(seconds: int = 3600) -> int:
    return (time.time_ns() // S + seconds) * S


def findings(backend: S3Backend) -> set[tuple[FindingKind, bytes]]:
    return {(finding.kind, finding.name) for finding in backend.findings()}


# What others see


def test_boto3_reads_bytes_and_metadata(plain: S3Storage, backend: S3Backend) -> None:
    record = make_record(SMALL)
    store(plain, backend, KEY, SMALL, record)
    head = plain.client.head_object(Bucket=plain.bucket, Key=plain.name_of(KEY))
    kept = json.loads(head["Metadata"]["wormfs-record"])
    assert kept["sha256"] == hashlib.sha256(SMALL).hexdigest()
    assert kept["entry"] == record.entry_id
    assert kept["mtime_ns"] == ATTRIBUTES.mtime_ns
    assert plain.plain(KEY) == SMALL


def test_a_record_that_metadata_cannot_hold_lies_beside_it(plain: S3Storage, backend: S3Backend) -> None:
    xattrs = {b"user.large": bytes(range(256)) * 7}
    record = make_record(
        SMALL,
        attributes=dataclasses.replace(ATTRIBUTES, xattrs=xattrs),
        retention=Retention(soon(), tuple(f"Aktenzeichen {number:02d} ß" for number in range(32))),
    )
    store(plain, backend, KEY, SMALL, record)
    assert backend.record(KEY) == record
    head = plain.client.head_object(Bucket=plain.bucket, Key=plain.name_of(KEY))
    assert sum(len(name) + len(value) for name, value in head["Metadata"].items()) <= 2048
    assert json.loads(head["Metadata"]["wormfs-record"])["sha256"] == record.sha256
    assert findings(backend) == set()
    backend.erase(KEY)
    assert [key for key in plain.all_keys() if "record/" in key] == []


# Large files


def test_parts_are_sent_while_the_file_is_written(plain: S3Storage, backend: S3Backend) -> None:
    record = make_record(LARGE)
    with spooled(plain, LARGE) as file:
        transfer = backend.begin(KEY)
        transfer.advance(file, 4_000_000)
        assert plain.uploads() == [], "a small file is one PUT"
        transfer.advance(file, 11_000_000)
        assert len(plain.uploads()) == 1
        transfer.advance(file, len(LARGE))
        info = transfer.publish(file, record)
    assert plain.plain(KEY) == LARGE
    assert (info.size_bytes, info.mode, info.mtime_ns) == (len(LARGE), 0o440, ATTRIBUTES.mtime_ns)
    assert backend.stat(KEY) == dataclasses.replace(info, storage_class=backend.stat(KEY).storage_class)
    assert backend.record(KEY) == record
    assert plain.uploads() == []
    hidden = {key.split("/")[1] for key in plain.all_keys() if key.startswith(".wormfs/")}
    assert hidden <= {"check", "proof", "directory", "record"}, "no claim and no note is left"


def test_an_aborted_upload_leaves_no_parts(plain: S3Storage, backend: S3Backend) -> None:
    before = set(plain.all_keys())
    with spooled(plain, LARGE) as file:
        transfer = backend.begin(KEY)
        transfer.advance(file, len(LARGE))
        assert len(plain.uploads()) == 1
        transfer.abort()
        transfer.abort()
    assert plain.uploads() == []
    assert set(plain.all_keys()) == before


def test_uploads_of_a_crashed_run_are_removed_and_those_of_others_stay(plain: S3Storage) -> None:
    crashed, other = plain.backend(), plain.backend()
    for backend, instance in ((crashed, "0" * 16), (other, "1" * 16)):
        backend.start()
        backend.spool_directory(instance)
    with spooled(plain, LARGE) as file:
        crashed.begin(KEY).advance(file, len(LARGE))
        running = other.begin(Key(b"other.zip"))
        running.advance(file, len(LARGE))
        crashed.close()
        assert len(plain.uploads()) == 2
        again = plain.backend()
        again.start()
        again.spool_directory("0" * 16)
        again.close()  # waits for what it began
        assert [upload["Key"] for upload in plain.uploads()] == [plain.prefix + "other.zip"]
        assert running.publish(file, make_record(LARGE)).size_bytes == len(LARGE)
    other.close()


def test_parts_grow_so_that_five_tebibytes_fit() -> None:
    part_bytes = 16 << 20
    end = 0
    for number in range(1, 10_001):
        start, size = part_span(number, part_bytes)
        assert start == end
        assert size <= 5 << 30 or start >= 5 << 40
        end = start + size
    assert end > 5 << 40


@pytest.mark.parametrize("sizes", ["large", "mixed"])
def test_of_hosts_that_store_large_files_one_wins(sizes: str, plain: S3Storage, soak_factor: int) -> None:
    hosts = [plain.backend() for _ in range(4)]
    for host in hosts:
        host.start()
    start = threading.Barrier(len(hosts))
    contents = [
        bytes([number]) * (6_000_000 if sizes == "large" or number % 2 else 6000)
        for number in range(len(hosts))
    ]

    def race(number: int, key: Key) -> str:
        with spooled(plain, contents[number]) as file:
            transfer = hosts[number].begin(key)
            transfer.advance(file, len(contents[number]))
            start.wait()
            for _ in range(50):
                try:
                    transfer.publish(file, make_record(contents[number]))
                except AlreadyExists:
                    transfer.abort()
                    return "lost"
                except Unavailable:  # another host is at work on the name
                    time.sleep(0.2)
                    continue
                return "won"
        raise AssertionError("it comes to no end")

    with ThreadPoolExecutor(len(hosts)) as pool:
        for turn in range(2 * soak_factor):
            key = Key(b"raced-%d" % turn)
            results = list(pool.map(race, range(len(hosts)), [key] * len(hosts)))
            assert results.count("won") == 1, results
            assert plain.plain(key) == contents[results.index("won")]
    assert plain.uploads() == []
    for host in hosts:
        host.close()


def test_no_upload_is_completed_without_its_claim(plain: S3Storage) -> None:
    """A race finds a missing claim only now and then: the store's own check catches most rivals."""
    host, port = plain.endpoint.removeprefix("http://").split(":")
    with HttpFaults((host, int(port))) as faults:
        backend = plain.backend(endpoint=faults.endpoint)
        backend.start()
        store(plain, backend, KEY, LARGE)
        backend.close()
        seen = faults.seen
        claimed = next(at for at, line in enumerate(seen) if line.startswith("PUT ") and "/claim/" in line)
        completed = next(
            at for at, line in enumerate(seen) if line.startswith("POST ") and "uploadId" in line
        )
        looked = next(
            at for at in range(claimed, completed) if seen[at].startswith("HEAD ") and "exam.zip" in seen[at]
        )
        assert claimed < looked < completed


def test_a_claim_of_a_host_that_is_gone_is_taken_over(plain: S3Storage) -> None:
    gone, here = plain.backend(), plain.backend(claim_age_s=0.0)
    gone.start()
    here.start()
    with spooled(plain, LARGE) as file:
        lost = gone.begin(KEY)
        lost.advance(file, len(LARGE))
        assert lost._upload is not None
        gone._started().target.claims.take(KEY, "entry-of-the-other", lost._upload.id)
        gone.close()
        record = make_record(LARGE)
        assert here.resume(KEY).publish(file, record).size_bytes == len(LARGE)
    assert here.record(KEY) == record
    assert plain.uploads() == []
    here.close()


def test_a_claim_without_its_bytes_blocks_a_name_only_until_it_is_old(plain: S3Storage) -> None:
    """As a store that was killed in the middle of a put leaves it."""
    host = plain.backend()
    host.start()
    name = host.names.claims(KEY) + numbered(1)
    plain.client.put_object(Bucket=plain.bucket, Key=name, Body=b"")
    with spooled(plain, LARGE) as file:
        record = make_record(LARGE)
        transfer = host.begin(KEY)
        with pytest.raises(Unavailable, match="another host"):
            transfer.publish(file, record)
        transfer.abort()
        host.close()
        later = plain.backend(claim_age_s=0.0)
        later.start()
        assert later.resume(KEY).publish(file, record).size_bytes == len(LARGE)
    later.close()
    assert plain.plain(KEY) == LARGE
    assert plain.uploads() == []


@pytest.mark.parametrize("note", [b"", b"id-without-key", b"id-without-key\n", b"\nexam.zip"])
def test_a_cut_note_of_an_upload_deletes_nothing(note: bytes, plain: S3Storage, backend: S3Backend) -> None:
    store(plain, backend, KEY, SMALL)
    uploads = backend._started().uploads
    uploads.belong_to("f" * 16)
    name = backend.names.uploads("f" * 16) + "0" * 16
    plain.client.put_object(Bucket=plain.bucket, Key=name, Body=note)
    assert uploads.remove_stale() == 1
    assert plain.plain(KEY) == SMALL
    assert uploads.remove_stale() == 0


def test_erasing_takes_nothing_of_a_file_that_comes_next(
    plain: S3Storage, backend: S3Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(plain, backend, KEY, LARGE)
    other = plain.backend()
    other.start()
    purge = Eraser._purge
    record = make_record(LARGE)

    def purge_late(eraser: Eraser, key: Key, names: list[str]) -> None:
        store(plain, other, KEY, LARGE, record)
        purge(eraser, key, names)

    monkeypatch.setattr(Eraser, "_purge", purge_late)
    backend.erase(KEY)
    assert other.record(KEY) == record
    fresh = plain.backend()
    fresh.start()
    assert fresh.record(KEY) == record
    fresh.close()
    other.close()


# Versions and locks


def test_date_and_hold_are_set_with_the_object(locked: S3Storage, locking: S3Backend) -> None:
    for key, content in ((KEY, SMALL), (Key(b"large.zip"), LARGE)):
        record = make_record(content, retention=Retention(soon(), ("Az. 7",)))
        store(locked, locking, key, content, record)
        head = locked.client.head_object(Bucket=locked.bucket, Key=locked.name_of(key))
        assert head["ObjectLockMode"] == "GOVERNANCE"
        assert head["ObjectLockRetainUntilDate"].timestamp() * S == record.retention.retain_until_ns
        assert head["ObjectLockLegalHoldStatus"] == "ON"
        assert locking.record(key) == record


def test_extending_and_holds_reach_the_store(locked: S3Storage, locking: S3Backend) -> None:
    store(locked, locking, KEY, SMALL, make_record(SMALL, retention=Retention(soon())))
    later = soon(7200)
    locking.change_retention(
        KEY, RetentionChange(extend=True, extend_to_ns=later, add_holds=("Az. 7", "Az. 8"))
    )
    place = {"Bucket": locked.bucket, "Key": locked.name_of(KEY)}
    head = locked.client.head_object(**place)
    assert head["ObjectLockRetainUntilDate"].timestamp() * S == later
    assert head["ObjectLockLegalHoldStatus"] == "ON"
    locking.change_retention(KEY, RetentionChange(remove_holds=("Az. 7",)))
    assert locked.client.head_object(**place)["ObjectLockLegalHoldStatus"] == "ON"
    locking.change_retention(KEY, RetentionChange(remove_holds=("Az. 8",)))
    assert locked.client.head_object(**place)["ObjectLockLegalHoldStatus"] == "OFF"


def test_the_store_keeps_it_until_its_date_and_a_court_may_erase_earlier(
    locked: S3Storage, locking: S3Backend
) -> None:
    store(locked, locking, KEY, SMALL, make_record(SMALL, retention=Retention(soon())))
    with pytest.raises(Retained, match="keeps it until"):
        locking.erase(KEY)
    assert locked.plain(KEY) == SMALL
    locking.erase(KEY, early=True)
    assert [each for each in locked.versions() if each["Key"] == locked.name_of(KEY)] == []


def test_what_others_put_on_top_is_reported_and_never_shown(locked: S3Storage, locking: S3Backend) -> None:
    info = store(locked, locking, KEY, SMALL)
    reader = locking.open(info)
    locked.place_foreign(KEY, b"forged")
    assert locked.plain(KEY) == b"forged", "the lock does not protect the name"
    assert (FindingKind.ALTERED, KEY) in findings(locking)
    for _ in range(2):
        seen = locking.stat(KEY)
        assert (seen.size_bytes, seen.version) == (len(SMALL), info.version)
        assert locking.open(seen).read(0, 5000) == SMALL
        assert [(each.key, each.size_bytes) for each in locking.list(ROOT)] == [(KEY, len(SMALL))]
        locked.client.delete_object(Bucket=locked.bucket, Key=locked.name_of(KEY))
    assert reader.read(0, 5000) == SMALL
    with pytest.raises(AlreadyExists):
        locking.begin(KEY)
    # A conditional put would succeed now: it is seen, and taken away again.
    with spooled(locked, b"late") as file, pytest.raises(AlreadyExists):
        locking.resume(KEY).publish(file, make_record(b"late"))
    assert locking.open(locking.stat(KEY)).read(0, 5000) == SMALL
    locking.erase(KEY, early=True)
    assert [each for each in locked.versions() if each["Key"] == locked.name_of(KEY)] == []


def test_status_tells_of_what_others_put_on_top(
    locked: S3Storage, locking: S3Backend, tmp_path: Path
) -> None:
    store(locked, locking, KEY, SMALL)
    locked.place_foreign(KEY, b"forged")
    verifier = Verifier(tmp_path, locking)
    verifier.verify()
    told = summarize(tmp_path, locking.name)
    assert told is not None and told.last is not None
    assert told.last.findings == {FindingKind.ALTERED: 1}
    assert told.damaged == 0, "what was committed can still be read"


def test_in_compliance_mode_nobody_erases_before_the_date(locked: S3Storage) -> None:
    backend = locked.backend(object_lock=ObjectLock.COMPLIANCE)
    backend.start()
    assert backend.traits.compliance
    until_ns = soon(4)
    store(locked, backend, KEY, SMALL, make_record(SMALL, retention=Retention(until_ns)))
    head = locked.client.head_object(Bucket=locked.bucket, Key=locked.name_of(KEY))
    assert head["ObjectLockMode"] == "COMPLIANCE"
    for early in (False, True):
        with pytest.raises(Retained, match="compliance" if early else "keeps it until"):
            backend.erase(KEY, early=early)
    assert locked.plain(KEY) == SMALL
    while time.time_ns() <= until_ns:
        time.sleep(0.1)
    backend.erase(KEY)
    assert [each for each in locked.versions() if each["Key"] == locked.name_of(KEY)] == []
    backend.close()


def test_a_large_directory_is_listed_whole(plain: S3Storage, soak_factor: int) -> None:
    count = 600 if soak_factor == 1 else 100_000
    backend = plain.backend(page_keys=100 if soak_factor == 1 else 1000)
    backend.start()

    def put(number: int) -> None:
        plain.client.put_object(Bucket=plain.bucket, Key=f"{plain.prefix}many/{number:06}", Body=b"")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(count)))
    listed = [each.key for each in backend.list(Key(b"many"))]
    assert listed == [b"many/%06d" % number for number in range(count)]
    backend.close()


def test_a_part_that_is_not_read_at_once_is_sent_whole(
    plain: S3Storage, backend: S3Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span, "IN_MEMORY_BYTES", 1000)
    store(plain, backend, KEY, LARGE)
    assert plain.plain(KEY) == LARGE


# Names


def test_keys_that_no_path_can_show_are_left_alone_and_reported(plain: S3Storage, backend: S3Backend) -> None:
    store(plain, backend, Key(b"fine"), SMALL)
    odd = ["d/.wormfs-x", "d/../x", "d/" + "x" * 300]
    for name in odd:
        try:
            plain.client.put_object(Bucket=plain.bucket, Key=plain.prefix + name, Body=b"odd")
        except plain.client.exceptions.ClientError:
            odd.remove(name)  # the store does not take it either
    assert {each.key for each in backend.list(ROOT)} >= {b"fine"}
    assert list(backend.list(Key(b"d"))) == []
    shown = {name.decode() for kind, name in findings(backend) if kind is FindingKind.UNEXPECTED}
    assert "d/.wormfs-x" in shown
    with pytest.raises(InvalidName):
        backend.stat(Key(b"d/../x"))


def test_a_file_below_a_file_is_reported(tmp_path: Path) -> None:
    # SeaweedFS refuses it.
    storage = storages_s3.moto(tmp_path)
    backend = storage.backend()
    backend.start()
    for name in (b"a", b"a-b", b"a.b", b"a/b"):
        storage.place_foreign(Key(name), name)
    listed = [(each.key, each.kind) for each in backend.list(ROOT)]
    assert listed == [(Key(name), Kind.FILE) for name in (b"a", b"a-b", b"a.b")]
    assert findings(backend) == {(FindingKind.UNEXPECTED, b"a/b")}
    backend.close()
    storage.remove()


def test_directories_by_prefix_and_by_marker(plain: S3Storage, backend: S3Backend) -> None:
    plain.place_foreign(Key(b"by-prefix/below/file"), SMALL)
    backend.make_directory(Key(b"made"), DirectoryAttributes(mode=0o2750, uid=33, gid=34))
    assert "made/" in plain.all_keys()
    assert {each.key for each in backend.list(ROOT)} == {b"by-prefix", b"made"}
    assert backend.stat(Key(b"by-prefix/below")).kind is Kind.DIRECTORY
    assert (backend.stat(Key(b"made")).mode, backend.stat(Key(b"made")).gid) == (0o2750, 34)
    store(plain, backend, Key(b"made/file"), SMALL)
    backend.erase(Key(b"made/file"))
    assert backend.stat(Key(b"made")).kind is Kind.DIRECTORY, "an empty directory stays"


# Records without files, claims without files


def test_what_a_crash_leaves_is_reported(plain: S3Storage, backend: S3Backend) -> None:
    store(plain, backend, KEY, SMALL, make_record(SMALL, retention=Retention(soon())))
    backend.change_retention(KEY, RetentionChange(add_holds=("Az. 7",)))
    assert findings(backend) == set()
    plain.client.delete_object(Bucket=plain.bucket, Key=plain.name_of(KEY))
    assert findings(backend) == {(FindingKind.MISSING, KEY)}
    with pytest.raises(NotFound):
        backend.erase(KEY)
    assert findings(backend) == set(), "an erase that was cut off can be finished"


# Stores that do not keep the promise, space, time


def test_a_store_that_ignores_the_condition_is_refused(plain: S3Storage) -> None:
    with rclone(plain.top) as endpoint:
        storage = dataclasses.replace(plain, endpoint=endpoint, bucket="bucket")
        backend = storage.backend()
        with pytest.raises(SettingsError, match="exclusive_writer"):
            backend.start()
        for light in (False, True):
            results = list(backend.check(light=light))
            assert any(not result.passed and "exclusive_writer" in result.detail for result in results)
        backend.close()
        alone = storage.backend(exclusive_writer=True)
        alone.start()
        assert "exclusive" in alone.traits.guarantee.value
        store(storage, alone, KEY, SMALL)
        with spooled(storage, b"other") as file, pytest.raises(AlreadyExists):
            alone.resume(KEY).publish(file, make_record(b"other"))
        assert storage.plain(KEY) == SMALL
        alone.close()


def test_capacity_is_counted_and_kept_up_to_date(plain: S3Storage) -> None:
    plain.place_foreign(Key(b"before"), b"x" * 100_000)
    backend = plain.backend(capacity_bytes=300_000)
    backend.start()
    deadline = time.monotonic() + 10
    while (backend.space().free_bytes or 0) > 200_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    free = backend.space().free_bytes or 0
    assert 190_000 <= free <= 200_000
    store(plain, backend, KEY, b"y" * 50_000)
    assert backend.space().free_bytes == free - 50_000
    backend.erase(KEY)
    assert backend.space().free_bytes == free
    store(plain, backend, KEY, b"y" * 200_000)
    assert backend.space().free_bytes == 0
    with pytest.raises(OutOfSpace):
        backend.begin(Key(b"more"))
    backend.close()


def test_the_stores_clock(backend: S3Backend) -> None:
    now_ns = backend.time_ns()
    assert now_ns is not None and abs(now_ns - time.time_ns()) < 5 * S


def test_an_archived_object_says_so(plain: S3Storage) -> None:
    host, port = plain.endpoint.removeprefix("http://").split(":")
    with HttpFaults((host, int(port))) as faults:
        backend = plain.backend(endpoint=faults.endpoint)
        backend.start()
        info = store(plain, backend, KEY, SMALL)
        faults.answer("GET", 403, "InvalidObjectState", part="exam.zip")
        with pytest.raises(Exception, match="restore it"):
            backend.open(info).read(0, 10)
        backend.close()


def test_the_aws_command_line_reads_it(plain: S3Storage, backend: S3Backend, tmp_path: Path) -> None:
    for key, content in ((KEY, SMALL), (Key("Prüfung 1/ä + %.zip".encode()), LARGE)):
        if b"/" in key:
            backend.make_directory(Key(key.rpartition(b"/")[0]), DirectoryAttributes())
        store(plain, backend, key, content)
        target = tmp_path / "copy"
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "AWS_ACCESS_KEY_ID": s3servers.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": s3servers.SECRET_KEY,
            "AWS_DEFAULT_REGION": s3servers.REGION,
        }
        source = f"s3://{plain.bucket}/{plain.name_of(key)}"
        done = subprocess.run(
            ["aws", "--endpoint-url", plain.endpoint, "s3", "cp", source, str(target)],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert target.read_bytes() == content
