"""Retention only grows; holds come and go by case number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormfs.errors import InvalidArgument, Retained
from wormfs.model import Retention, RetentionChange
from wormfs.worm.retention import MAX_HOLDS, changed, earlier

dates = st.none() | st.integers(0, 1 << 60)
cases = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=3).map(tuple)


@given(now=dates, wanted=dates, held=cases, add=cases, remove=cases)
def test_the_date_never_comes_earlier(
    now: int | None,
    wanted: int | None,
    held: tuple[str, ...],
    add: tuple[str, ...],
    remove: tuple[str, ...],
) -> None:
    before = Retention(now, tuple(sorted(set(held))))
    change = RetentionChange(True, wanted, add, remove)
    try:
        after = changed(before, change)
    except Retained:
        assert earlier(wanted, now)
        return
    assert after.retain_until_ns == wanted
    assert not earlier(after.retain_until_ns, now)
    assert set(after.holds) == (set(held) | set(add)) - set(remove)
    assert list(after.holds) == sorted(set(after.holds))


def test_without_extend_the_date_stays() -> None:
    assert changed(Retention(None), RetentionChange(add_holds=("7",))) == Retention(None, ("7",))
    assert changed(Retention(5), RetentionChange()) == Retention(5)


@pytest.mark.parametrize("case", ["", " x", "a,b", "line\nbreak", "x" * 65])
def test_what_is_no_case_number_is_refused(case: str) -> None:
    with pytest.raises(InvalidArgument):
        changed(Retention(5), RetentionChange(add_holds=(case,)))


def test_holds_are_bounded_but_those_that_are_there_can_go() -> None:
    many = tuple(str(number) for number in range(MAX_HOLDS))
    full = changed(Retention(5), RetentionChange(add_holds=many))
    with pytest.raises(InvalidArgument):
        changed(full, RetentionChange(add_holds=("one more",)))
    assert len(changed(full, RetentionChange(remove_holds=("1",))).holds) == MAX_HOLDS - 1
