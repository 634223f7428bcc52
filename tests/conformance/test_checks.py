"""``check``, ``space`` and the start of a driver."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

from tests.conformance.drivers import Storage, store
from wormfs.backends.base import Backend, Guarantee
from wormfs.model import CheckResult, Key

EXPECTED = ["connect", "authenticate", "write", "overwrite refused", "read", "free space"]


def failed(results: list[CheckResult]) -> list[CheckResult]:
    return [result for result in results if not result.passed]


def test_every_check_passes_again_and_again(storage: Storage, backend: Backend) -> None:
    store(storage, backend, Key(b"exam.zip"), b"x")
    before = storage.visible()
    for _ in range(3):
        results = list(backend.check())
        assert failed(results) == []
        # A driver may try more.
        assert [result.name for result in results if result.name in EXPECTED] == EXPECTED
    assert storage.visible() == before
    assert [info.key for info in backend.list(Key(b""))] == [b"exam.zip"]


def test_the_light_check_passes_and_finds_what_is_there(storage: Storage, backend: Backend) -> None:
    thorough = [result.name for result in backend.check()]
    results = list(backend.check(light=True))
    assert failed(results) == []
    assert [result.name for result in results if result.name in EXPECTED] == EXPECTED
    assert {result.name for result in results} <= set(thorough)
    assert storage.visible() == set()


def test_a_check_works_before_the_start(storage: Storage) -> None:
    backend = storage.backend()
    assert failed(list(backend.check())) == []
    backend.close()
    assert storage.visible() == set()


def test_a_check_that_is_not_read_to_its_end_leaves_nothing(storage: Storage, backend: Backend) -> None:
    for length in range(1, len(EXPECTED)):
        for number, _ in enumerate(backend.check(), 1):
            if number == length:
                break
    assert storage.visible() == set()
    assert failed(list(backend.check())) == []


def check_often(storage: Storage) -> list[CheckResult]:
    backend = storage.backend()
    try:
        return [result for _ in range(storage.rounds(5)) for result in backend.check()]
    finally:
        backend.close()


def test_hosts_that_check_at_once_do_not_disturb_each_other(storage: Storage, backend: Backend) -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(4, context) as pool:
        for results in pool.map(check_often, [storage] * 4):
            assert failed(results) == []
    assert storage.visible() == set()


def test_space_is_plausible_or_unknown(backend: Backend) -> None:
    space = backend.space()
    if space.total_bytes is not None and space.free_bytes is not None:
        assert 0 < space.free_bytes <= space.total_bytes


def test_traits_are_plausible(backend: Backend) -> None:
    traits = backend.traits
    assert isinstance(traits.guarantee, Guarantee)
    assert traits.connections >= 1
    assert 1 <= traits.max_name_bytes <= 255
    assert traits.max_name_bytes <= traits.max_key_bytes <= 4095


def test_starting_again_goes_on(storage: Storage, backend: Backend) -> None:
    store(storage, backend, Key(b"exam.zip"), b"x")
    backend.start()
    assert backend.stat(Key(b"exam.zip")).size_bytes == 1
    backend.close()
    backend.close()
    backend.start()
    assert backend.stat(Key(b"exam.zip")).size_bytes == 1
