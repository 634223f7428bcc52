"""The write-once rules as tables."""

from __future__ import annotations

import os

import pytest

from wormfs.errors import Busy, InvalidArgument, Sealed, WormfsError
from wormfs.worm import rules
from wormfs.worm.lifecycle import EntryState, allowed

READ = os.O_RDONLY
WRITE = os.O_WRONLY


def outcome(function: object, *arguments: object, **options: object) -> type[WormfsError] | None:
    try:
        function(*arguments, **options)  # type: ignore[operator]
    except WormfsError as error:
        return type(error)
    return None


@pytest.mark.parametrize(
    ("flags", "writes"),
    [
        (READ, False),
        (READ | os.O_APPEND, False),
        (READ | os.O_CREAT, False),
        (READ | os.O_TRUNC, True),
        (WRITE, True),
        (os.O_RDWR, True),
        (WRITE | os.O_TRUNC | os.O_CREAT, True),
        (WRITE | os.O_APPEND, True),
    ],
)
def test_what_may_change_a_file(flags: int, writes: bool) -> None:
    assert rules.wants_to_write(flags) is writes
    assert outcome(rules.may_open_record, flags) is (Sealed if writes else None)


@pytest.mark.parametrize(
    ("state", "flags", "same", "reopenable", "expected"),
    [
        (EntryState.WRITING, WRITE, False, True, Busy),
        (EntryState.WRITING, WRITE, True, True, Busy),
        (EntryState.WRITING, READ | os.O_TRUNC, True, True, Busy),
        (EntryState.WRITING, READ, False, True, Busy),
        (EntryState.WRITING, READ, True, True, None),
        (EntryState.SETTLING, WRITE, False, True, None),
        (EntryState.SETTLING, WRITE, True, False, Sealed),
        (EntryState.SETTLING, READ, False, False, None),
        (EntryState.SEALED, WRITE, True, True, Sealed),
        (EntryState.SEALED, READ, False, True, None),
    ],
)
def test_opening_what_is_not_a_record_yet(
    state: EntryState, flags: int, same: bool, reopenable: bool, expected: type[WormfsError] | None
) -> None:
    found = outcome(rules.may_open_entry, state, flags, same_process=same, reopenable=reopenable)
    assert found is expected


@pytest.mark.parametrize("state", list(EntryState))
@pytest.mark.parametrize("same", [True, False])
def test_truncating_by_name(state: EntryState, same: bool) -> None:
    expected = Busy if state is EntryState.WRITING and not same else None
    assert outcome(rules.may_truncate_entry, state, same_process=same) is expected


@pytest.mark.parametrize(
    ("flags", "expected"), [(0, None), (1, None), (2, InvalidArgument), (4, InvalidArgument)]
)
def test_kinds_of_rename(flags: int, expected: type[WormfsError] | None) -> None:
    assert outcome(rules.may_rename, flags) is expected


NOTHING = {
    "mode": (0o444, None),
    "uid": (1, None),
    "gid": (1, None),
    "size": None,
    "times": ((5, None), (6, None)),
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"mode": (0o444, 0o444)}, None),
        ({"mode": (0o644, 0o444)}, None),
        ({"mode": (0o444, 0o644)}, Sealed),
        ({"mode": (0o444, 0o400)}, Sealed),
        ({"mode": (0o444, 0o555)}, Sealed),
        ({"mode": (0o444, 0)}, Sealed),
        ({"uid": (1, 1), "gid": (1, 1)}, None),
        ({"uid": (1, 2)}, Sealed),
        ({"gid": (1, 0)}, Sealed),
        ({"times": ((5, 5), (6, 6))}, None),
        ({"times": ((5, 7), (6, None))}, Sealed),
        ({"times": ((5, None), (6, 0))}, Sealed),
        ({"size": 0}, Sealed),
        ({"size": 10}, Sealed),
    ],
)
def test_attributes_of_a_record(change: dict[str, object], expected: type[WormfsError] | None) -> None:
    assert outcome(rules.may_change_attributes, **{**NOTHING, **change}) is expected


def test_life_cycle() -> None:
    states = EntryState
    steps = {
        (before, after)
        for before in states
        for after in states
        if before is not after and allowed(before, after)
    }
    # No way leads from a record to anything, and none from nowhere back.
    assert not [step for step in steps if step[0] in (states.COMMITTED, states.DISCARDED)]
    # Only what was sealed becomes a record, and what is sealed is never thrown away unseen.
    assert {before for before, after in steps if after is states.COMMITTED} == {states.SEALED}
    assert (states.SEALED, states.DISCARDED) not in steps
    assert (states.SEALED, states.WRITING) not in steps
    assert all(allowed(state, state) for state in states)
    assert {state for state in states if state.changeable} == {states.WRITING, states.SETTLING}
    assert not [state for state in states if state.changeable and state.ended]
