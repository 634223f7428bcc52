"""Trying again: how often, how long, and what is not tried again."""

from __future__ import annotations

import pytest

from wormfs.backends.retry import Patience, retrying
from wormfs.errors import AlreadyExists, Unavailable

PATIENCE = Patience()


class Server:
    """Fails a number of times; time passes only in pauses."""

    def __init__(self, failures: int, error: Exception | None = None):
        self.failures = failures
        self.error = error or Unavailable("down")
        self.calls = 0
        self.connected = 0
        self.now = 0.0
        self.pauses: list[float] = []

    def call(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "done"

    def reconnect(self) -> None:
        self.connected += 1

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def run(self, patience: Patience = PATIENCE) -> str:
        return retrying(
            self.call, patience, before_again=self.reconnect, monotonic=lambda: self.now, pause=self.pause
        )


def test_a_short_outage_is_not_noticed() -> None:
    server = Server(3)
    assert server.run() == "done"
    assert (server.calls, server.connected) == (4, 3)
    for pause, longest in zip(server.pauses, (0.1, 0.2, 0.4), strict=True):
        assert longest / 2 <= pause <= longest


def test_a_long_one_ends_within_the_patience() -> None:
    server = Server(10_000)
    with pytest.raises(Unavailable):
        server.run(Patience(total_s=20.0, first_delay_s=0.1, last_delay_s=3.0))
    assert 15.0 < server.now <= 20.0
    assert max(server.pauses) <= 3.0


def test_other_errors_are_answers() -> None:
    server = Server(1, AlreadyExists("taken"))
    with pytest.raises(AlreadyExists):
        server.run()
    assert (server.calls, server.pauses) == (1, [])
