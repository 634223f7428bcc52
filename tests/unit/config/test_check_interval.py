"""``check_interval``: how often a backend is tried out."""

from __future__ import annotations

import pytest

from wormfs.config import BackendSettings
from wormfs.config.load import dump, parse
from wormfs.errors import SettingsError


def backend(written: str) -> BackendSettings:
    return parse(_text(f", check_interval: {written}" if written else ""), "f.yaml").backends["one"]


def _text(more: str) -> str:
    return f"mountpoint: /mnt/worm\nbackends:\n  one: {{type: local, path: /srv/one{more}}}\n"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("", 900), ("15m", 900), ("1h30m", 5400), ("1s", 1), ("1", 1), ("0", 0), ("0s", 0), ("off", 0)],
)
def test_an_interval_or_none(written: str, seconds: float) -> None:
    settings = backend(written)
    assert settings.check_interval_s == seconds
    assert parse(dump(parse(_text(""), "f.yaml")), "f.yaml").backends["one"].check_interval_s == 900


@pytest.mark.parametrize("written", ["999ms", "0.5", "-1s", "often", "true", "[1s]", "null"])
def test_what_is_no_interval_or_too_short_is_refused(written: str) -> None:
    with pytest.raises(SettingsError, match="check_interval"):
        backend(written)


def test_a_short_one_is_told_what_would_be_right() -> None:
    with pytest.raises(SettingsError, match="must be 1s or longer, or 0 for no checks, not '100ms'"):
        backend("100ms")
