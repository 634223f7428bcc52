"""What is remembered of directories, and for how long."""

from __future__ import annotations

from tests.support.inprocess import StillClock
from wormfs.backends.base import Guarantee, Traits
from wormfs.fs.directories import KnownDirectories
from wormfs.model import Key, Kind, ObjectInfo

FOLDER = ObjectInfo(Key(b"folder"), Kind.DIRECTORY)
PLAIN = Traits(guarantee=Guarantee.ATOMIC, connections=8)


def test_a_directory_is_known_for_a_while() -> None:
    clock = StillClock()
    known = KnownDirectories(PLAIN, clock, kept_s=1.0)
    assert known.get(FOLDER.key) is None
    known.put(FOLDER)
    clock.trio.jump(0.9)
    assert known.get(FOLDER.key) == FOLDER
    clock.trio.jump(0.2)
    assert known.get(FOLDER.key) is None


def test_what_was_removed_is_not_known() -> None:
    known = KnownDirectories(PLAIN, StillClock(), kept_s=1.0)
    known.put(FOLDER)
    known.drop(FOLDER.key)
    known.drop(FOLDER.key)
    assert known.get(FOLDER.key) is None


def test_files_are_never_kept_and_nothing_where_directories_can_change() -> None:
    clock = StillClock()
    file = ObjectInfo(Key(b"file"), Kind.FILE, 5)
    changing = Traits(guarantee=Guarantee.ATOMIC, connections=8, keeps_directory_attributes=True)
    inline = Traits(guarantee=Guarantee.ATOMIC, connections=8, inline=True)
    for traits, info in ((PLAIN, file), (changing, FOLDER), (inline, FOLDER)):
        known = KnownDirectories(traits, clock, kept_s=1.0)
        known.put(info)
        assert known.get(info.key) is None


def test_no_more_than_a_thousand_are_kept() -> None:
    known = KnownDirectories(PLAIN, StillClock(), kept_s=1.0)
    for number in range(3000):
        known.put(ObjectInfo(Key(b"%d" % number), Kind.DIRECTORY))
    assert known.get(Key(b"2999")) is not None
    assert known.get(Key(b"0")) is None
