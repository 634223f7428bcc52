"""What is remembered, and for how long."""

from __future__ import annotations

import pytest

from wormfs.backends.memory import Memory
from wormfs.model import Key

KEY = Key(b"folder")


class Watch:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_a_value_is_known_for_a_while_from_when_it_was_last_noted(watch: Watch) -> None:
    memory: Memory[str] = Memory(1.0, 10, watch)
    assert memory.get(KEY) is None
    memory.note(KEY, "old")
    watch.now_s += 0.9
    assert memory.get(KEY) == "old"
    memory.note(KEY, "new")
    watch.now_s += 0.9
    assert memory.get(KEY) == "new"
    watch.now_s += 0.2
    assert memory.get(KEY) is None
    assert memory.take(KEY) is None


def test_what_was_forgotten_or_taken_is_not_known(watch: Watch) -> None:
    memory: Memory[str] = Memory(1.0, 10, watch)
    memory.note(KEY, "value")
    memory.forget(KEY)
    memory.forget(KEY)
    assert memory.get(KEY) is None
    memory.note(KEY, "value")
    assert memory.take(KEY) == "value"
    assert memory.get(KEY) is None
    assert memory.take(KEY) is None


def test_no_while_keeps_nothing(watch: Watch) -> None:
    memory: Memory[str] = Memory(0.0, 10, watch)
    memory.note(KEY, "value")
    assert memory.get(KEY) is None


def test_the_values_that_were_noted_first_make_room(watch: Watch) -> None:
    memory: Memory[int] = Memory(1.0, 3, watch)
    keys = [Key(b"%d" % number) for number in range(4)]
    for number, key in enumerate(keys[:3]):
        memory.note(key, number)
    memory.note(keys[0], 0)
    memory.note(keys[3], 3)
    assert [memory.get(key) for key in keys] == [0, None, 2, 3]
