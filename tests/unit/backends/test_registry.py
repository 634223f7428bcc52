"""Which drivers there are, and what they refuse before they touch anything."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wormfs.backends import registry
from wormfs.errors import SettingsError


def test_a_backend_is_created_without_touching_storage() -> None:
    backend = registry.create("exams", "local", {"path": "/does/not/exist"})
    assert backend.name == "exams"
    assert backend.traits.connections == 8
    assert registry.create("exams", "local", {"path": "/x", "connections": 3}).traits.connections == 3


def test_an_unknown_driver_is_named_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"exams: there is no driver 'lokal' .*did you mean 'local'"):
        registry.create("exams", "lokal", {})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"path": 5},
        {"path": "relative"},
        {"path": "/a\0b"},
        {"path": "/x", "immutable": "yes"},
        {"path": "/x", "connections": 0},
        {"path": "/x", "connections": True},
        {"path": "/x", "colour": "red"},
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="exams: "):
        registry.create("exams", "local", options)


def test_a_driver_is_loaded_only_when_it_is_used() -> None:
    code = "import sys, wormfs.backends.registry as r; print([m for m in sys.modules if '.local' in m])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    for module in [name for name in sys.modules if name.startswith("wormfs.backends.s3")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(SettingsError, match=r"needs boto3.*/bin/pip install 'wormfs\[s3\]'"):
        registry.create("exams", "s3", {"bucket": "exams"})
