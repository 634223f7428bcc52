"""What differs between two settings, and what no running daemon can take over."""

from __future__ import annotations

import errno
from collections.abc import Collection
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from wormfs.config import BackendSettings, LocalSettings, Settings
from wormfs.config.ftp import FtpSettings
from wormfs.config.secret import Secret, SecretSource
from wormfs.daemon.messages import Message
from wormfs.daemon.notify import Notifier
from wormfs.daemon.reload import Change, Reloader, SecretPrints, compare
from wormfs.daemon.supervisor import Supervisor, end_worker
from wormfs.daemon.workers import BackendWorker
from wormfs.errors import SettingsError


def settings(*backends: BackendSettings, **more: object) -> Settings:
    given = {"mountpoint": Path("/mnt/worm"), "state_directory": Path("/var/lib/wormfs"), **more}
    return Settings.model_validate({**given, "backends": {one.name: one for one in backends}}, by_name=True)


def local(name: str, **more: object) -> LocalSettings:
    return LocalSettings.model_validate({"name": name, "path": f"/srv/{name}", **more}, by_name=True)


def test_only_what_differs_is_touched() -> None:
    old = settings(local("same"), local("gone"), local("other"))
    new = settings(local("new"), local("same"), local("other", settle_s="5s"), log_level="debug")
    assert compare(old, new, {}, {}) == Change(added=("new",), removed=("gone",), changed=("other",))
    assert compare(old, old, {}, {}) == Change((), (), ())


@pytest.mark.parametrize("name", ["mountpoint", "state_directory"])
def test_what_needs_a_restart_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}: .* by a reload: restart wormfs"):
        compare(settings(local("a")), settings(local("a"), **{name: Path("/elsewhere")}), {}, {})


def test_a_secret_with_another_value_is_a_change(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.touch(0o600)
    secret = Secret(SecretSource.FILE, str(file))
    ftp = FtpSettings(name="ftp", host="localhost", user="u", password=secret)
    prints = SecretPrints()
    seen = {}
    for value in ("", "one", "two", "one"):
        file.write_text(value)
        seen.setdefault(prints.of(ftp), []).append(value)
    assert list(seen.values()) == [[""], ["one", "one"], ["two"]]
    assert not any(b"one" in key for key in seen)
    # Another daemon's prints say nothing of this one's.
    assert SecretPrints().of(ftp) != prints.of(ftp)
    old = settings(ftp)
    assert compare(old, old, {"ftp": b"1"}, {"ftp": b"2"}).changed == ("ftp",)


class Employer:
    """What a reload asks of a supervisor; some of it fails."""

    def __init__(self, now: Settings):
        self.settings = now
        self.serving = trio.Event()
        self.serving.set()
        self.notifier = Notifier(None)
        self.remark = ""
        self.is_stopping = False
        self.did: list[str] = []
        self.fails: dict[str, Exception] = {}

    def _do(self, what: str) -> None:
        self.did.append(what)
        if (error := self.fails.get(what)) is not None:
            raise error

    def summary(self) -> str:
        return ""

    def missing(self) -> dict[str, str]:
        return {}

    async def retire(self, name: str) -> int:
        # It begins, and before it ends others do, too.
        await trio.lowlevel.checkpoint()
        self._do(f"retire {name}")
        return 0

    async def forget(self, name: str) -> None:
        self._do(f"forget {name}")

    def adopt(self, new: Settings) -> None:
        self.settings = new
        self._do("adopt")

    async def employ(self, name: str) -> None:
        self._do(f"employ {name}")

    async def until_settled(self, names: Collection[str]) -> None:
        self._do("settled")


def reloaded(employer: Employer, new: Settings) -> Message:
    reloader = Reloader(cast("Supervisor", employer), lambda: new)
    return trio.run(reloader.reload, "a test")


def test_a_backend_that_cannot_be_added_does_not_hurt_the_others() -> None:
    employer = Employer(settings(local("same")))
    employer.fails["employ bad"] = OSError(errno.ENODEV, "gone")
    new = settings(local("same"), local("bad"), local("good"))
    answer = reloaded(employer, new)
    assert employer.did == ["adopt", "employ bad", "employ good", "settled"]
    assert (answer["ok"], answer["added"]) == (True, ["bad", "good"])
    assert answer["missing"] == {"bad": "it cannot be added, restart wormfs: [Errno 19] gone"}


@pytest.mark.parametrize("what", ["retire gone", "forget gone", "adopt", "settled"])
def test_whatever_fails_in_a_reload_the_daemon_goes_on(what: str) -> None:
    employer = Employer(settings(local("gone")))
    employer.fails[what] = RuntimeError("nobody foresaw this")
    answer = reloaded(employer, settings(local("new")))
    assert not answer["ok"]
    assert "taken over in part only, restart wormfs: " in answer["error"]


def test_a_worker_that_cannot_be_ended_holds_up_neither_the_others_nor_the_next_reload() -> None:
    employer = Employer(settings(local("gone"), local("hung"), local("other")))
    employer.fails["retire gone"] = employer.fails["retire hung"] = trio.TooSlowError()
    new = settings(local("hung", settle_s="5s"), local("other", settle_s="5s"))
    answer = reloaded(employer, new)
    assert sorted(employer.did[:3]) == ["retire gone", "retire hung", "retire other"]
    assert employer.did[3:] == ["forget gone", "adopt", "employ other", "settled"]
    assert (answer["ok"], list(answer["missing"])) == (True, ["hung"])
    assert "cannot be killed" in answer["missing"]["hung"]


class Stubborn:
    """A worker that does not end the first time it is told to."""

    def __init__(self, pid: int | None):
        self.pid = pid
        self.told: list[float] = []

    async def stop(self, timeout_s: float) -> None:
        self.told.append(timeout_s)
        if len(self.told) == 1:
            await trio.sleep_forever()


@pytest.mark.parametrize(("pid", "ended", "told"), [(4711, False, [30]), (None, True, [30, 0])])
def test_a_worker_that_kill_does_not_end_is_not_waited_for_for_ever(
    pid: int | None, ended: bool, told: list[float]
) -> None:
    worker = Stubborn(pid)
    clock = trio.testing.MockClock(autojump_threshold=0)
    assert trio.run(end_worker, cast("BackendWorker", worker), 30, clock=clock) is ended
    assert worker.told == told
