"""Bad networks and bad answers between wormfs and a real store: nothing lost, nothing half there, no hang."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conformance.drivers import make_record, spooled, store
from tests.conformance.storages_s3 import S3Storage
from tests.support.faultproxy import (
    BlackHole,
    Direction,
    FaultProxy,
    Latency,
    LimitData,
    Refuse,
    ResetPeer,
    Slicer,
    SlowClose,
)
from tests.support.faultproxy import Fault as NetworkFault
from tests.support.httpfaults import HttpFaults
from wormfs.backends.s3.backend import S3Backend
from wormfs.clock import SystemClock
from wormfs.errors import (
    AccessDenied,
    AlreadyExists,
    BackendError,
    BackendFault,
    NotFound,
    QuotaExceeded,
    Unavailable,
)
from wormfs.model import ROOT, Key

KEY = Key(b"exam.zip")
SMALL = b"an archive\n" * 100
LARGE = random.Random(5).randbytes(6_000_000)
QUICK: dict[str, Any] = {"timeout_s": 0.6, "patience_s": 1.0}
LIMIT_S = 12.0
"""No single call may take longer with these settings: a connect, a wait and a last attempt, several times."""


@pytest.fixture
def network(plain: S3Storage) -> Iterator[FaultProxy]:
    host, port = plain.endpoint.removeprefix("http://").split(":")
    with FaultProxy((host, int(port))) as proxy:
        yield proxy


@pytest.fixture
def answers(plain: S3Storage) -> Iterator[HttpFaults]:
    host, port = plain.endpoint.removeprefix("http://").split(":")
    with HttpFaults((host, int(port))) as proxy:
        yield proxy


def started(storage: S3Storage, address: tuple[str, int], **changes: Any) -> S3Backend:
    backend = storage.backend(endpoint=f"http://{address[0]}:{address[1]}", **(QUICK | changes))
    backend.start()
    return backend


@pytest.fixture
def shaky(plain: S3Storage, network: FaultProxy) -> Iterator[S3Backend]:
    """A backend behind ``network``."""
    backend = started(plain, network.address)
    yield backend
    network.clear()
    backend.close()


@pytest.fixture
def odd(plain: S3Storage, answers: HttpFaults) -> Iterator[S3Backend]:
    """A backend behind ``answers``."""
    backend = started(plain, answers.address)
    yield backend
    answers.clear()
    backend.close()


def within_limit(call: Callable[[], object]) -> BaseException | None:
    began = time.monotonic()
    try:
        call()
        error = None
    except BackendError as raised:
        error = raised
    assert time.monotonic() - began < LIMIT_S
    return error


FAULTS: dict[str, tuple[NetworkFault, Direction]] = {
    "latency": (Latency(0.15), Direction.BOTH),
    "black hole": (BlackHole(), Direction.BOTH),
    "half open": (BlackHole(), Direction.DOWN),
    "reset, nothing arrives": (ResetPeer(), Direction.UP),
    "reset, the answer is lost": (ResetPeer(), Direction.DOWN),
    "request cut": (LimitData(3000), Direction.UP),
    "answer cut": (LimitData(60), Direction.DOWN),
    "answer ends early": (LimitData(60, clean=True), Direction.DOWN),
    "slices": (Slicer(10_000, 0.001), Direction.DOWN),
    "slow close": (SlowClose(0.5), Direction.DOWN),
    "refused": (Refuse(), Direction.BOTH),
}


def _few(*names: str) -> list[str]:
    """Those that found something; soak takes all."""
    return list(FAULTS) if os.environ.get("WORMFS_SOAK") else list(names)


@pytest.mark.parametrize(
    ("size", "name"),
    [
        *(("small", name) for name in FAULTS),
        *(("large", name) for name in _few("half open", "reset, the answer is lost", "request cut")),
    ],
)
def test_a_file_survives_the_network(
    name: str, size: str, plain: S3Storage, shaky: S3Backend, network: FaultProxy
) -> None:
    content = SMALL if size == "small" else LARGE
    record = make_record(content)
    fault, direction = FAULTS[name]
    with spooled(plain, content) as file:
        transfer = shaky.begin(KEY)
        with network.fault(fault, direction):
            if name == "refused":
                network.cut()
            first = within_limit(lambda: transfer.publish(file, record))
        # Whatever was seen of it: not there, or whole.
        if first is not None:
            seen = [key for key in plain.all_keys() if not key.startswith(".wormfs")]
            assert seen in ([], ["exam.zip"])
            within_limit(transfer.abort)
            transfer = shaky.resume(KEY)
        assert transfer.publish(file, record).size_bytes == len(content)
        transfer.abort()
    assert plain.plain(KEY) == content
    assert shaky.record(KEY) == record
    assert plain.uploads() == []


@pytest.mark.parametrize("name", _few("half open", "answer cut", "answer ends early", "slices"))
def test_reading_never_gives_wrong_bytes(
    name: str, plain: S3Storage, shaky: S3Backend, network: FaultProxy
) -> None:
    info = store(plain, shaky, KEY, LARGE[:3_000_000])
    fault, direction = FAULTS[name]
    reader = shaky.open(info)
    with network.fault(fault, direction):
        for offset, count in ((0, 500_000), (2_000_000, 100), (500_000, 2_000_000)):
            # Not a dictionary of results: a lambda keeps what it was given.
            got: list[bytes] = []
            within_limit(lambda o=offset, c=count, g=got: g.append(reader.read(o, c)))  # type: ignore[misc]
            assert got in ([], [LARGE[offset : min(offset + count, 3_000_000)]])
    assert reader.read(0, 3_000_000) == LARGE[:3_000_000]
    reader.close()


def test_an_answer_that_drips_ends_in_time(plain: S3Storage, shaky: S3Backend, network: FaultProxy) -> None:
    info = store(plain, shaky, KEY, LARGE[:20_000])
    reader = shaky.open(info)
    with network.fault(Slicer(200, 0.1), Direction.DOWN):
        assert isinstance(within_limit(lambda: reader.read(0, 20_000)), Unavailable)
    assert reader.read(0, 20_000) == LARGE[:20_000]
    reader.close()


def test_unreachable_is_never_not_found(plain: S3Storage, shaky: S3Backend, network: FaultProxy) -> None:
    store(plain, shaky, KEY, SMALL)
    network.add(Refuse())
    network.cut()
    for call in (
        lambda: shaky.stat(KEY),
        lambda: shaky.stat(ROOT),
        lambda: list(shaky.list(ROOT)),
        lambda: shaky.record(KEY),
        lambda: shaky.begin(Key(b"new")),
        lambda: shaky.erase(KEY),
        lambda: shaky.time_ns(),
    ):
        assert isinstance(within_limit(call), Unavailable)


def test_a_start_without_a_server_can_be_tried_again(plain: S3Storage, network: FaultProxy) -> None:
    refusal = network.add(Refuse())
    backend = plain.backend(endpoint=f"http://127.0.0.1:{network.port}", **QUICK)
    with pytest.raises(Unavailable):
        backend.start()
    network.remove(refusal)
    backend.start()
    backend.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalError"),
        (503, "SlowDown"),
        (503, "ServiceUnavailable"),
        (409, "ConditionalRequestConflict"),
        (400, "RequestTimeout"),
    ],
)
def test_what_passes_is_waited_for(
    status: int, code: str, plain: S3Storage, odd: S3Backend, answers: HttpFaults
) -> None:
    record = make_record(SMALL)
    with spooled(plain, SMALL) as file:
        transfer = odd.begin(KEY)
        answers.answer("PUT", status, code, times=2, part="exam.zip")
        transfer.publish(file, record)
    assert answers.count("PUT", "exam.zip") == 3
    assert odd.record(KEY) == record


def test_a_lost_reply_is_known_as_our_own(plain: S3Storage, odd: S3Backend, answers: HttpFaults) -> None:
    record = make_record(SMALL)
    with spooled(plain, SMALL) as file:
        transfer = odd.begin(KEY)
        answers.lose_answer("PUT", 500, "InternalError", part="exam.zip")
        assert transfer.publish(file, record).size_bytes == len(SMALL)
    assert plain.plain(KEY) == SMALL


@pytest.mark.parametrize("kept", [b"", SMALL[:-1], bytes(len(SMALL))], ids=["nothing", "cut", "zeros"])
def test_what_a_killed_store_kept_half_of_our_put_is_sent_again(
    kept: bytes, plain: S3Storage, odd: S3Backend
) -> None:
    """SeaweedFS, killed in the middle of a put, keeps name and metadata without the bytes."""
    record = make_record(SMALL)
    store(plain, odd, KEY, SMALL, record)
    plain.alter(KEY, kept)
    with pytest.raises(BackendFault, match="spool has them no more"):
        odd.resume(KEY).publish(None, record)
    assert plain.plain(KEY) == kept, "the only copy, if it is a copy"
    with spooled(plain, SMALL) as file:
        with pytest.raises(Unavailable, match="sent again"):
            odd.resume(KEY).publish(file, record)
        assert odd.resume(KEY).publish(file, record).size_bytes == len(SMALL)
    assert plain.plain(KEY) == SMALL


def test_a_lost_reply_to_the_completion_of_an_upload(
    plain: S3Storage, odd: S3Backend, answers: HttpFaults
) -> None:
    record = make_record(LARGE)
    with spooled(plain, LARGE) as file:
        transfer = odd.begin(KEY)
        transfer.advance(file, len(LARGE))
        answers.lose_answer("POST", 500, "InternalError", part="uploadId")
        assert transfer.publish(file, record).size_bytes == len(LARGE)
    assert plain.plain(KEY) == LARGE
    assert plain.uploads() == []
    assert odd.record(KEY) == record


def test_a_lost_reply_is_not_taken_for_ours_when_it_is_not(
    plain: S3Storage, odd: S3Backend, answers: HttpFaults
) -> None:
    with spooled(plain, SMALL) as file:
        transfer = odd.begin(KEY)
        plain.place_foreign(KEY, b"theirs")
        answers.answer("PUT", 500, "InternalError", times=1, part="exam.zip")
        with pytest.raises(AlreadyExists):
            transfer.publish(file, make_record(SMALL))
    assert plain.plain(KEY) == b"theirs"


@pytest.mark.parametrize(
    ("status", "code", "error", "says"),
    [
        (403, "AccessDenied", AccessDenied, "does not allow"),
        (403, "InvalidAccessKeyId", AccessDenied, "access key"),
        (403, "SignatureDoesNotMatch", AccessDenied, "secret key is wrong"),
        (403, "RequestTimeTooSkewed", Unavailable, "clock"),
        (400, "ExpiredToken", Unavailable, "expired"),
        (404, "NoSuchBucket", Unavailable, "bucket does not exist"),
        (403, "QuotaExceeded", QuotaExceeded, "quota"),
    ],
)
def test_refusals_say_what_to_do_and_no_secret(
    status: int, code: str, error: type[Exception], says: str, plain: S3Storage, odd: S3Backend,
    answers: HttpFaults,
) -> None:  # fmt: skip
    with spooled(plain, SMALL) as file:
        transfer = odd.begin(KEY)
        answers.answer("PUT", status, code, part="exam.zip")
        with pytest.raises(error, match=says) as raised:
            transfer.publish(file, make_record(SMALL))
        assert "not-a-secret" not in repr(raised.value) + str(raised.value)
        answers.clear()
        transfer.publish(file, make_record(SMALL))


def test_a_bucket_that_goes_is_no_empty_tree(plain: S3Storage, odd: S3Backend, answers: HttpFaults) -> None:
    store(plain, odd, KEY, SMALL)
    answers.answer("*", 404, "NoSuchBucket")
    for call in (lambda: odd.stat(KEY), lambda: odd.stat(ROOT), lambda: list(odd.list(ROOT))):
        with pytest.raises(Unavailable, match="bucket does not exist"):
            call()
    answers.clear()
    assert odd.stat(KEY).size_bytes == len(SMALL)
    with pytest.raises(NotFound):
        odd.stat(Key(b"other"))


@pytest.mark.parametrize(("status", "code"), [(403, "RequestTimeTooSkewed"), (400, "ExpiredToken")])
def test_nothing_seems_absent_while_requests_are_refused(
    status: int, code: str, plain: S3Storage, odd: S3Backend, answers: HttpFaults
) -> None:
    """A wrong clock, a token that has expired: an error for everything, never an empty tree."""
    info = store(plain, odd, KEY, SMALL)
    answers.answer("*", status, code)
    calls: list[Callable[[], object]] = [
        lambda: odd.stat(KEY),
        lambda: odd.stat(Key(b"other")),
        lambda: list(odd.list(ROOT)),
        lambda: odd.record(KEY),
        lambda: odd.begin(Key(b"new")),
        lambda: odd.open(info).read(0, 10),
        lambda: odd.erase(KEY),
    ]
    for call in calls:
        # A HEAD has no body, so the code is not known there.
        with pytest.raises((BackendFault, Unavailable, AccessDenied)):
            call()
    answers.clear()
    assert odd.open(odd.stat(KEY)).read(0, 5000) == SMALL


def test_check_tells_of_a_wrong_clock(plain: S3Storage) -> None:
    class Behind(SystemClock):
        def now_ns(self) -> int:
            return super().now_ns() - 1000 * 1_000_000_000

    backend = S3Backend("archive", plain.options(), Behind())
    told = {result.name: result for result in backend.check()}
    assert not told["clock"].passed and "900 s" in told["clock"].detail
    backend.close()


def test_the_background_check_does_not_race_for_a_name(
    plain: S3Storage, answers: HttpFaults, odd: S3Backend
) -> None:
    """Regression: every check_interval six writers created one and the same object."""

    def requests(*, light: bool) -> list[str]:
        before = len(answers.seen)
        assert all(result.passed for result in odd.check(light=light))
        return answers.seen[before:]

    assert any("/.wormfs/probe/" in line for line in requests(light=False))
    light = requests(light=True)
    assert not any("/.wormfs/probe/" in line for line in light), light
    assert len(light) <= 8, light
    # What matters is asked all the same: an object that is there is put again.
    assert sum(line.startswith("PUT ") and "/.wormfs/check/" in line for line in light) >= 1
