"""Where the log goes, and how the journal gets it."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wormfs.daemon import logs
from wormfs.daemon.journal import FIELDS, JournalHandler, encode
from wormfs.daemon.logs import JournalFormatter, Output
from wormfs.errors import Sealed

Fields = dict[str, str]


def decode(datagram: bytes) -> Fields:
    """As journald reads it: a name, a line break, the length in 64 bits, the value, a line break."""
    fields: Fields = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        size = int.from_bytes(rest[:8], "little")
        fields[name.decode("ascii")] = rest[8 : 8 + size].decode("utf-8")
        assert rest[8 + size : 9 + size] == b"\n"
        datagram = rest[9 + size :]
    return fields


class Kept(logging.Handler):
    """Remembers what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def logger_to(handler: logging.Handler) -> Iterator[logging.Logger]:
    made = logging.getLogger("wormfs.tests.logs")
    made.propagate = False
    made.setLevel(logging.DEBUG)
    made.handlers[:] = [handler]
    yield made
    made.handlers.clear()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(str(tmp_path / "journal"))
        yield listening


@pytest.fixture
def otherwise() -> Kept:
    return Kept()


@pytest.fixture
def handler(tmp_path: Path, otherwise: Kept) -> Iterator[JournalHandler]:
    made = JournalHandler("exams", JournalFormatter("exams"), otherwise, str(tmp_path / "journal"))
    yield made
    made.close()


@pytest.fixture
def logger(handler: JournalHandler) -> Iterator[logging.Logger]:
    yield from logger_to(handler)


def received(journal: socket.socket) -> Fields:
    return decode(journal.recv(1 << 20))


# -- the journal


def test_a_line_reaches_the_journal_with_its_level_place_and_backend(
    journal: socket.socket, logger: logging.Logger
) -> None:
    logger.warning("exams: %s went", "a\nPRIORITY=0")
    fields = received(journal)
    assert fields["MESSAGE"] == r"exams: a\nPRIORITY=0 went"
    assert (fields["PRIORITY"], fields["WORMFS_BACKEND"], fields["SYSLOG_IDENTIFIER"]) == (
        "4",
        "exams",
        "wormfs",
    )
    assert fields["CODE_FILE"] == __file__ and fields["CODE_FUNC"].startswith("test_a_line")


@pytest.mark.parametrize(
    ("level", "message", "priority"),
    [
        (logging.ERROR, "ALERT: somebody must decide", "1"),
        (logging.ERROR, "a bug", "3"),
        (logging.WARNING, "ALERT: not that much", "4"),
        (logging.INFO, "happened", "6"),
        (logging.DEBUG, "detail", "7"),
    ],
)
def test_levels_become_those_of_syslog(
    journal: socket.socket, logger: logging.Logger, level: int, message: str, priority: str
) -> None:
    logger.log(level, message)
    assert received(journal)["PRIORITY"] == priority


def test_facts_become_fields(journal: socket.socket, logger: logging.Logger) -> None:
    error = Sealed("it is a record", backend="exams", key=b"a\nb.zip")
    logger.info("%s refused: %s", "open", error, extra={FIELDS: {"uid": 33, "program": "cp"}})
    fields = received(journal)
    assert (fields["WORMFS_UID"], fields["WORMFS_PROGRAM"]) == ("33", "cp")
    assert (fields["WORMFS_FILE"], fields["WORMFS_ERROR"]) == (r"a\nb.zip", "Sealed")


def test_a_traceback_belongs_to_its_line(journal: socket.socket, logger: logging.Logger) -> None:
    try:
        raise ValueError("bug")
    except ValueError:
        logger.exception("unforeseen")
    message = received(journal)["MESSAGE"]
    assert message.startswith("exams: unforeseen\nTraceback (most recent call last):")
    assert message.endswith("ValueError: bug")


def test_no_value_can_be_taken_for_a_field() -> None:
    value = "x\nPRIORITY=0\nMESSAGE\n\x05\0\0\0\0\0\0\0forge"
    assert decode(encode({"WORMFS_FILE": value})) == {"WORMFS_FILE": value}


def test_what_is_too_long_is_cut(journal: socket.socket, logger: logging.Logger) -> None:
    logger.info("%s", "ü" * (1 << 20), extra={FIELDS: {"file": "f" * (1 << 20)}})
    fields = received(journal)
    assert fields["MESSAGE"].startswith("exams: üüü") and fields["MESSAGE"].endswith("ü … (cut)")
    assert len(fields["MESSAGE"]) < 8300 and len(fields["WORMFS_FILE"]) < 8300


def test_names_that_are_no_text_are_sent(journal: socket.socket, logger: logging.Logger) -> None:
    logger.info("%s", "lone \udcff surrogate")
    assert received(journal)["MESSAGE"] == r"exams: lone \udcff surrogate"


def test_a_journal_that_takes_nothing_is_not_waited_for_and_what_is_lost_is_told(
    journal: socket.socket, logger: logging.Logger, otherwise: Kept
) -> None:
    for _ in range(10_000):
        logger.info("a line")
    taken = 0
    with pytest.raises(BlockingIOError):
        while True:
            received(journal)
            taken += 1
    assert 0 < taken < 10_000
    logger.info("a later line")
    lost = f"({10_000 - taken} lines before this one were lost: the journal did not take them)"
    assert received(journal)["MESSAGE"] == f"exams: a later line {lost}"
    logger.info("another")
    assert received(journal)["MESSAGE"] == "exams: another"
    assert otherwise.messages == []


def test_without_a_journal_the_lines_go_to_standard_error(logger: logging.Logger, otherwise: Kept) -> None:
    logger.info("nobody listens")
    assert otherwise.messages == ["nobody listens"]


# -- which of both


_PROGRAM = """
import logging, sys
from wormfs.daemon import journal, logs
output = logs.set_up("exams", "info")
print(type(output._writer).__name__, flush=True)
"""


def writer(stderr: int, journal_stream: str | None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    if journal_stream is not None:
        environment["JOURNAL_STREAM"] = journal_stream
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment,
        check=True,
        text=True,
    ).stdout.strip()


def test_the_journal_is_taken_only_where_standard_error_is_the_journal() -> None:
    reading, writing = os.pipe()
    other_reading, other = os.pipe()
    try:
        status = os.fstat(writing)
        stream = f"{status.st_dev}:{status.st_ino}"
        assert writer(writing, stream) == "JournalHandler"
        # As a child whose output was redirected would find it.
        assert writer(other, stream) == "StreamHandler"
        assert writer(writing, None) == "StreamHandler"
        assert writer(writing, "nonsense") == "StreamHandler"
    finally:
        for fd in (reading, writing, other_reading, other):
            os.close(fd)


# -- all lines


@pytest.fixture
def output(otherwise: Kept) -> Iterator[Output]:
    made = Output(otherwise)
    yield made
    made.close()


@pytest.fixture
def said(output: Output) -> Iterator[logging.Logger]:
    yield from logger_to(output)


def test_lines_are_counted_though_they_are_left_out(
    said: logging.Logger, output: Output, otherwise: Kept
) -> None:
    for _ in range(100):
        said.warning("again")
    said.error("once")
    assert output.lines() == {"warning": 100, "error": 1}
    assert otherwise.messages == ["again"] * 10 + ["once"]
    output.close()
    assert otherwise.messages[-1].startswith("again (repeated 90 times")


def test_a_line_that_cannot_be_written_stops_nothing(
    output: Output, otherwise: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    for message, arguments in (("%d files", ("many",)), ("the next one", ())):
        output.handle(logging.LogRecord("x", logging.INFO, __file__, 1, message, arguments, None))
    assert otherwise.messages == ["the next one"]
    assert "Logging error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("level", "more", "fewer"),
    [
        ("error", "warning", "error"),
        ("warning", "info", "error"),
        ("info", "debug", "warning"),
        ("debug", "debug", "info"),
    ],
)
def test_levels_beside_each_other(level: str, more: str, fewer: str) -> None:
    assert logs.next_level(level, more=True) == more
    assert logs.next_level(level, more=False) == fewer


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The loggers of this process are afterwards what they were."""
    loggers = [logging.getLogger(name) for name in (None, "wormfs", "__main__")]
    levels = [logger.level for logger in loggers]
    monkeypatch.setattr(loggers[0], "handlers", [])
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("unchanged")
def test_the_output_of_this_process_can_be_found() -> None:
    assert logs.set_up("exams", "warning") is logs.output()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("level", logs.LEVELS)
def test_a_level_is_that_of_wormfs_and_libraries_say_no_more_than_warnings(level: str) -> None:
    """What they write at debug holds secrets: tests/secrets finds it."""
    logs.set_up("exams", level)
    wanted = logging.getLevelNamesMapping()[level.upper()]
    for name in ("wormfs.backends.s3", "wormfs.refused", "__main__"):
        assert logging.getLogger(name).getEffectiveLevel() == wanted
    for name in ("botocore.auth", "urllib3", "py.warnings"):
        assert logging.getLogger(name).getEffectiveLevel() == max(wanted, logging.WARNING)
