"""A loop of refused changes does not fill the disk with its audit trail."""

from __future__ import annotations

from wormfs.records.limit import A_MINUTE, RefusalLimit


def test_so_many_a_minute_and_the_rest_counted() -> None:
    limit = RefusalLimit()
    assert [limit.admit(33, at / 1000) for at in range(A_MINUTE + 100)] == [0] * A_MINUTE + [None] * 100
    assert limit.admit(33, 59.9) is None
    assert limit.admit(33, 60.0) == 101
    assert limit.admit(33, 60.1) == 0


def test_one_user_does_not_silence_another() -> None:
    limit = RefusalLimit()
    for _ in range(A_MINUTE + 1):
        limit.admit(33, 0.0)
    assert limit.admit(33, 0.0) is None
    assert limit.admit(0, 0.0) == 0


def test_memory_has_a_limit() -> None:
    limit = RefusalLimit()
    assert all(limit.admit(uid, 0.0) == 0 for uid in range(100_000))
    assert len(limit._users) <= 1000
