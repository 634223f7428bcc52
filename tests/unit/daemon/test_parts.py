"""The small parts of the daemon, without a mount."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support.orders import ORDERS
from wormfs.config.secret import Secret, SecretSource
from wormfs.daemon import commands, mounts, orders
from wormfs.daemon.backoff import Backoff
from wormfs.daemon.channel import Channel, NoAnswer, RequestFailed
from wormfs.daemon.logs import LineFormatter
from wormfs.daemon.messages import LineReader, Message, ProtocolError, decode, encode
from wormfs.daemon.notify import Notifier
from wormfs.daemon.refusal import CannotStart
from wormfs.daemon.state import StateDirectory
from wormfs.daemon.workers import space_from_message, space_to_message
from wormfs.model import Space


def test_backoff_grows_to_its_limit_and_begins_anew() -> None:
    backoff = Backoff(0.2, 30)
    assert [backoff.next_s() for _ in range(10)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    backoff.reset()
    assert backoff.next_s() == 0.2


# -- the log


def record(message: str, *arguments: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("name", level, __file__, 1, message, arguments, None)


def test_a_line_of_the_log_names_level_and_backend() -> None:
    assert LineFormatter("exams").format(record("%d files", 3)) == "warning exams: 3 files"


def test_a_file_name_cannot_forge_a_line_of_the_log() -> None:
    forged = LineFormatter("exams").format(record("%s refused", "a\nerror exams: all is lost\r"))
    assert forged == r"warning exams: a\nerror exams: all is lost\r refused"


# -- sd_notify


@contextlib.contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(5)
        yield listening


def test_notify_to_a_path_and_to_an_abstract_name(tmp_path: Path) -> None:
    abstract = f"wormfs-unit-{os.getpid()}"
    for address, variable in (
        (str(tmp_path / "notify"), str(tmp_path / "notify")),
        ("\0" + abstract, "@" + abstract),
    ):
        with manager(address) as listening:
            notifier = Notifier(variable)
            notifier.ready("two\nlines")
            notifier.status("fine")
            notifier.alive()
            notifier.reloading("again")
            notifier.stopping("enough")
            said = [listening.recv(1000).decode() for _ in range(5)]
        assert said[:3] == ["READY=1\nSTATUS=two lines", "STATUS=fine", "WATCHDOG=1"]
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+\nSTATUS=again", said[3])
        assert said[4] == "STOPPING=1\nSTATUS=enough"


def test_notify_without_a_manager_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier.from_environment().ready("nobody listens")


def test_notify_is_not_inherited_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    Notifier.from_environment()
    assert "NOTIFY_SOCKET" not in os.environ


@pytest.mark.parametrize(
    ("usec", "pid", "beat_s"),
    [
        ("60000000", None, 15),
        ("60000000", "me", 15),
        ("60000000", "1", None),
        (None, None, None),
        ("0", None, None),
    ],
)
def test_the_watchdog_is_fed_four_times_in_its_time_if_it_is_ours(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, beat_s: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "me" else pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert Notifier.from_environment().beat_s == beat_s
    assert "WATCHDOG_USEC" not in os.environ


def test_a_manager_that_is_gone_does_not_stop_the_daemon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier(str(tmp_path / "gone")).ready("on")
    assert "the service manager cannot be told" in caplog.text


# -- messages and the channel


def test_messages_survive_any_splitting() -> None:
    sent = [{"n": 1}, {"text": "ä\n\0"}, {}]

    async def main() -> list[Message | None]:
        ours, theirs = trio.testing.memory_stream_pair()
        for byte in b"".join(encode(message) for message in sent):
            await ours.send_all(bytes([byte]))
        await ours.aclose()
        reader = LineReader(theirs)
        return [await reader.receive() for _ in range(4)]

    assert trio.run(main) == [*sent, None]


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[1]", b'"text"', b"\xff"])
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(line)


@pytest.mark.parametrize("seconds", [math.nan, -1, "1", True, None])
def test_what_is_no_time_is_refused(seconds: object) -> None:
    with pytest.raises(ProtocolError):
        commands._seconds({"timeout_s": seconds}, 1)
    assert commands._seconds({"timeout_s": math.inf}, 1) == math.inf


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wormfs.daemon.messages.MAX_LINE_BYTES", 100)

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(b"x" * 1000)
        with pytest.raises(ProtocolError):
            await LineReader(theirs).receive()

    trio.run(main)


async def echo(channel: Channel) -> None:
    """The other side: repeats requests, refuses "bad", never answers "silence"."""
    async for message in channel.messages():
        match message["request"]["op"]:
            case "silence":
                continue
            case "bad":
                channel.send({"id": message["id"], "error": "no"})
            case _:
                channel.send({"id": message["id"], "reply": message["request"]})


def test_requests_and_their_answers() -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        here, there = Channel(ours), Channel(theirs)
        async with trio.open_nursery() as nursery:
            for channel in (here, there):
                nursery.start_soon(channel.run)
            nursery.start_soon(echo, there)
            events: list[Message] = []

            async def collect() -> None:
                events.extend([message async for message in here.messages()])

            nursery.start_soon(collect)
            there.send({"event": "ready"})
            answers: list[Message] = []

            async def ask(number: int) -> None:
                answers.append(await here.request({"op": "echo", "n": number}, timeout_s=5))

            async with trio.open_nursery() as asking:
                asking.start_soon(silence, here)
                for number in range(20):
                    asking.start_soon(ask, number)
            assert sorted(answer["n"] for answer in answers) == list(range(20))
            with pytest.raises(RequestFailed, match="no"):
                await here.request({"op": "bad"}, timeout_s=5)
            await there.aclose()
            with pytest.raises(NoAnswer):
                await here.request({"op": "echo"}, timeout_s=5)
            await trio.testing.wait_all_tasks_blocked()
            assert events == [{"event": "ready"}]
            nursery.cancel_scope.cancel()

    async def silence(here: Channel) -> None:
        with pytest.raises(NoAnswer, match="no answer within"):
            await here.request({"op": "silence"}, timeout_s=0.05)

    trio.run(main)


def test_a_side_that_does_not_read_is_noticed_and_blocks_nobody() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            channel = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.run)
                with pytest.raises(NoAnswer, match="does not read"):
                    for _ in range(10_000):
                        channel.send({"event": "x" * 10_000})
                nursery.cancel_scope.cancel()
            await channel.aclose()

    trio.run(main)


def test_room_travels_with_its_gaps() -> None:
    space = Space(10, None, 5, None)
    assert space_from_message(decode(encode(space_to_message(space)))) == space
    assert space_from_message({"total_bytes": "many"}) == Space(None, None)


# -- orders


def test_orders_arrive_whole_and_not_a_byte_more_is_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(orders.encode(ORDERS) + b"next")
        assert orders.receive(theirs) == ORDERS
        assert theirs.recv(10) == b"next"
        ours.close()
        assert orders.receive(theirs) is None


def test_a_running_worker_takes_over_what_it_can() -> None:
    new = replace(ORDERS, log_level="debug", stop_timeout_s=5.0)
    assert orders.changed(ORDERS, decode(encode(orders.changeable(new)))) == new


def test_secrets_can_travel_in_orders() -> None:
    secret = Secret(SecretSource.INLINE, "hidden")
    assert pickle.loads(pickle.dumps(secret)).reveal() == "hidden"


# -- the state directory


def test_one_daemon_per_state_directory(tmp_path: Path) -> None:
    first = StateDirectory.lock(tmp_path / "state")
    with pytest.raises(CannotStart, match=rf"in use by another wormfs daemon \(pid {os.getpid()}\)"):
        StateDirectory.lock(tmp_path / "state")
    first.close()
    StateDirectory.lock(tmp_path / "state").close()
    assert (tmp_path / "state").stat().st_mode & 0o7777 == 0o700


def test_the_instance_id_is_made_once(tmp_path: Path) -> None:
    state = StateDirectory.lock(tmp_path)
    made = state.instance_id()
    assert len(made) == 16
    assert state.instance_id() == made
    (tmp_path / "instance-id").write_text("../../etc\n")
    with pytest.raises(CannotStart, match="does not hold 16 hex digits"):
        state.instance_id()
    state.close()


def test_a_state_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match=r"Not a directory|File exists"):
        StateDirectory.lock(tmp_path / "file")


# -- mounts


def test_below_is_a_matter_of_components() -> None:
    assert mounts.is_below("/mnt/worm/a", "/mnt/worm")
    assert not mounts.is_below("/mnt/worm2/a", "/mnt/worm")
    assert not mounts.is_below("/mnt/worm", "/mnt/worm")
    assert mounts.is_below("/mnt", "/")


def test_users_are_found_by_directory_file_and_mapping(tmp_path: Path) -> None:
    place = os.path.realpath(tmp_path)
    assert mounts.users_of(place) == []
    (tmp_path / "file").write_bytes(b"x" * 4096)
    with (tmp_path / "file").open("rb"):
        [user] = mounts.users_of(place)
        assert (user.pid, user.path) == (os.getpid(), f"{place}/file")
        assert user.command in (
            Path(sys.executable).name,
            Path(f"/proc/{os.getpid()}/comm").read_text().strip(),
        )
    assert mounts.users_of(place) == []


def test_an_ordinary_file_system_answers(tmp_path: Path) -> None:
    assert mounts.probe(str(tmp_path)) is mounts.Liveness.ALIVE
    assert mounts.top_mount(str(tmp_path)) is None
    assert not mounts.detach(str(tmp_path), mounts.ROOT_SOURCE)
    assert mounts.clear_stale(str(tmp_path)) == []
