"""What a person means by a backend and a path, or by one path."""

from __future__ import annotations

from pathlib import Path

import pytest

from wormfs.config import Settings, parse
from wormfs.daemon.verifying import place_of
from wormfs.errors import InvalidArgument, SettingsError


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The current directory is exams/2026 in the mount."""
    here = tmp_path / "worm" / "exams" / "2026"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    return parse(
        f"mountpoint: {tmp_path}/worm\nstate_directory: {tmp_path}/state\nbackends:\n"
        f"  exams: {{type: local, path: {tmp_path}/exams}}\n"
        f"  other: {{type: local, path: {tmp_path}/other}}\n"
    )


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("exams",), b""),
        (("exams", "2026/a"), b"2026/a"),
        (("exams", "a"), b"a"),
        (("exams", "./a"), b"2026/a"),
        (("exams", "."), b"2026"),
        (("exams", "../2025/b"), b"2025/b"),
        (("exams", ".."), b""),
        (("./a",), b"2026/a"),
        ((".",), b"2026"),
        (("..",), b""),
        (("../2025",), b"2025"),
        (("exams", ".hidden"), b".hidden"),
    ],
)
def test_from_the_backend_or_from_the_current_directory(
    mounted: Settings, words: tuple[str, ...], key: bytes
) -> None:
    assert place_of(mounted, *words) == ("exams", key)


def test_in_full_and_through_a_link(mounted: Settings, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "worm")
    for top in (tmp_path / "worm", tmp_path / "link"):
        assert place_of(mounted, f"{top}/exams/2026/a") == ("exams", b"2026/a")
        assert place_of(mounted, "exams", f"{top}/exams/2026/a") == ("exams", b"2026/a")
        assert place_of(mounted, f"{top}/other/") == ("other", b"")


@pytest.mark.parametrize(
    "words",
    [
        ("exams", "../../other"),
        ("exams", "2026/../../x"),
        ("../..",),
        ("/etc",),
        ("./a", "b"),
        ("other", "./a"),
    ],
)
def test_what_leads_elsewhere_is_told(mounted: Settings, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument, match=r"is not below|is a path already"):
        place_of(mounted, *words)


def test_a_name_is_no_path(mounted: Settings) -> None:
    with pytest.raises(SettingsError):
        place_of(mounted, "2026")


def test_where_the_current_directory_is_gone(mounted: Settings) -> None:
    Path.cwd().rmdir()
    with pytest.raises(InvalidArgument, match=r"the current directory cannot be told .* from / on"):
        place_of(mounted, "./a")
