"""What is said again and again is said once, with how often."""

from __future__ import annotations

import logging
import re

from wormfs.daemon.repeats import ALIKE, ALTOGETHER, SAME, VOLUME, WINDOW_S, Repeats


def record(message: str, *arguments: object, level: int = logging.INFO, line: int = 1) -> logging.LogRecord:
    return logging.LogRecord("name", level, "/a/file.py", line, message, arguments, None)


def through(repeats: Repeats, one: logging.LogRecord, now: float) -> list[str]:
    return [written.getMessage() for written in repeats.through(one, now)]


def test_the_same_line_is_left_out_after_some_and_counted_when_the_minute_is_over() -> None:
    repeats = Repeats()
    written = [through(repeats, record("it is %s", "so"), now=float(at)) for at in range(SAME + 7)]
    assert written == [["it is so"]] * SAME + [[]] * 7
    assert list(repeats.due(WINDOW_S - 1)) == []
    assert [one.getMessage() for one in repeats.due(WINDOW_S)] == ["it is so (repeated 7 times within 60 s)"]
    assert list(repeats.due(WINDOW_S * 2)) == []
    # A new minute begins with the next line.
    assert through(repeats, record("it is %s", "so"), WINDOW_S + 1) == ["it is so"]


def test_the_next_line_brings_what_is_due() -> None:
    repeats = Repeats()
    for _ in range(SAME + 1):
        through(repeats, record("again"), 0.0)
    assert through(repeats, record("other", line=2), WINDOW_S) == [
        "again (repeated 1 times within 60 s)",
        "other",
    ]


def test_lines_that_differ_only_in_names_have_a_limit_of_their_own() -> None:
    repeats = Repeats()
    written = [through(repeats, record("no %d", at), 0.0) for at in range(ALIKE + 5)]
    assert written == [[f"no {at}"] for at in range(ALIKE)] + [[]] * 5
    # Another place in the program is not affected.
    assert through(repeats, record("no %d", 1, line=2), 0.0) == ["no 1"]
    [summary] = repeats.due(WINDOW_S)
    assert summary.getMessage() == f"no {ALIKE + 4} (and 5 more lines like this one within 60 s)"
    assert (summary.levelno, summary.pathname, summary.lineno) == (logging.INFO, "/a/file.py", 1)


def test_one_volume_does_not_silence_another_but_all_together_have_a_limit() -> None:
    repeats = Repeats()

    def write(volume: int, at: int) -> bool:
        one = record("uid %d: %d", volume, at)
        setattr(one, VOLUME, volume)
        return bool(through(repeats, one, 0.0))

    assert sum(write(33, at) for at in range(2 * ALIKE)) == ALIKE
    assert write(1000, 0)
    written = sum(write(volume, 0) for volume in range(2000, 2000 + ALTOGETHER))
    assert written == ALTOGETHER - ALIKE - 1


def test_a_loop_over_many_files_is_told_in_few_lines() -> None:
    repeats = Repeats()
    written = [
        line for at in range(50_000) for line in through(repeats, record("no %d", at // 20), at / 25_000)
    ]
    written += [one.getMessage() for one in repeats.rest(10.0)]
    assert len(written) <= ALIKE + 10
    told = [int(number) for line in written for number in re.findall(r"(?:repeated|and) (\d+) ", line)]
    assert sum(told) == 50_000 - ALIKE


def test_no_error_is_left_out_because_others_are_like_it() -> None:
    repeats = Repeats()
    written = [through(repeats, record("no %d", at, level=logging.ERROR), 0.0) for at in range(5 * ALIKE)]
    assert all(written)


def test_memory_has_a_limit_and_what_it_pushes_out_is_told() -> None:
    repeats = Repeats()
    for _ in range(SAME + 3):
        through(repeats, record("first", level=logging.ERROR), 0.0)
    written: list[str] = []
    for at in range(5000):
        written += through(repeats, record("no %d", at, level=logging.ERROR), 1.0)
    assert len(written) == 5001
    assert "first (repeated 3 times within 1 s)" in written


def test_nothing_is_lost_at_the_end() -> None:
    repeats = Repeats()
    for _ in range(SAME + 2):
        through(repeats, record("again"), 5.0)
    assert [one.getMessage() for one in repeats.rest(8.0)] == ["again (repeated 2 times within 3 s)"]
    assert list(repeats.rest(8.0)) == []


def test_what_is_left_out_keeps_no_traceback_alive() -> None:
    repeats = Repeats()
    one = record("again")
    one.exc_info = (ValueError, ValueError("x"), None)
    for _ in range(SAME + 1):
        through(repeats, one, 0.0)
    [summary] = repeats.rest(1.0)
    assert summary.exc_info is None
