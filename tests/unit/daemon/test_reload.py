"""What differs between two settings, and what no running daemon can take over."""

from __future__ import annotations

from pathlib import Path

import pytest

from wormfs.config import BackendSettings, LocalSettings, Settings
from wormfs.config.ftp import FtpSettings
from wormfs.config.secret import Secret, SecretSource
from wormfs.daemon.reload import Change, SecretPrints, compare
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
