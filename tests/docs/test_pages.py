"""What the pages say of files, commands, options and settings is so."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from wormfs.cli.main import COMMANDS, cli
from wormfs.config import parse

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]*)\)")
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_HIDING = re.compile(
    r"Protect(System|Home|Kernel\w+|ControlGroups|Proc)|Private(Tmp|Devices|IPC)|ProcSubset|"
    r"\w+Paths|TemporaryFileSystem|LogNamespace|LoadCredential"
)
_SPAN = re.compile(r"`([^`\n]+)`")


def pages(repository: Path) -> list[Path]:
    found = [*repository.glob("*.md")]
    for directory in ("docs", "systemd", "benchmarks"):
        found += (repository / directory).glob("*.md")
    return sorted(found)


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub and others make them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    return broken


def test_links_lead_somewhere(repository: Path) -> None:
    found = pages(repository)
    assert len(found) > 8
    assert {str(page): broken_links(page) for page in found if broken_links(page)} == {}


def test_the_rule_on_links_finds_what_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One thing: `here`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#one-thing-here) [b](gone.md) [c](other.md#gone) [d](#gone)\n```\n[e](no)\n```\n"
    )
    assert broken_links(page) == ["gone.md", "other.md#gone", "#gone"]


def test_every_page_of_docs_can_be_found_from_the_readme(repository: Path) -> None:
    linked = set(_LINK.findall((repository / "README.md").read_text()))
    assert {f"docs/{page.name}" for page in (repository / "docs").glob("*.md")} - linked == set()


def test_every_command_is_in_the_readme(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    listed = subprocess.run(
        [sys.executable, "-m", "wormfs", "--help"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout
    names = re.findall(r"^  ([a-z]+)  ", listed.partition("Commands:")[2], re.MULTILINE)
    assert set(names) == set(COMMANDS)
    assert [name for name in names if f"`wormfs {name}`" not in text] == []


def commands_in(text: str) -> Iterator[list[str]]:
    """The calls of wormfs, in blocks and in single words."""
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    for call in [*lines, *_SPAN.findall(_FENCE.sub("", text))]:
        for part in re.split(r"&&|\|", call.partition(" #")[0]):
            words = part.split()
            if words[:1] == ["wormfs"]:
                yield words[1:]


def unknown_in(words: list[str]) -> list[str]:
    """Commands and options of a call that do not exist."""
    command: click.Command = cli
    unknown = []
    for word in words:
        known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        if word.startswith("-"):
            unknown += [word] if word not in known else []
        elif isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return [*unknown, word]
            command = found
    return unknown


def test_commands_and_options_exist(repository: Path) -> None:
    found = [(page.name, words) for page in pages(repository) for words in commands_in(page.read_text())]
    assert len(found) > 40
    assert [(page, words) for page, words in found if unknown_in(words)] == []


@pytest.mark.parametrize("call", ["mounted", "mount --daemonise", "spool throw", "spool list --jason"])
def test_the_rule_on_commands_finds_what_does_not_exist(call: str) -> None:
    assert unknown_in(call.split())


def test_the_make_targets_of_the_readme_exist_and_none_is_missing(repository: Path) -> None:
    made = set(re.findall(r"^\.PHONY: (\w+)$", (repository / "Makefile").read_text(), re.MULTILINE))
    told = set(re.findall(r"`make (\w+)`", (repository / "README.md").read_text()))
    assert told - made == set()
    assert made - told == {"help", "clean"}


def test_settings_that_the_pages_show_can_be_used(repository: Path) -> None:
    shown = [
        block
        for page in pages(repository)
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    ]
    assert shown
    for text in shown:
        # The files of secrets are not here.
        parse(re.sub(r"\{file: [^}]*\}", "secret", text))


def keys_of(unit: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))


def test_who_mounts_does_not_hide_the_mount(repository: Path) -> None:
    """tests/systemd proves it; this names the culprit."""
    keys = keys_of(repository / "systemd" / "wormfs-mounter.service")
    assert [key for key in keys if _HIDING.fullmatch(key)] == []
    assert keys["PrivateMounts"] == "no"
    assert [key for key in keys_of(repository / "systemd" / "wormfs.service") if _HIDING.fullmatch(key)]


def test_systemd_gives_a_stop_longer_than_wormfs_does(repository: Path) -> None:
    keys = keys_of(repository / "systemd" / "wormfs.service")
    stop_timeout_s = parse((repository / "config.example.yaml").read_text()).stop_timeout_s
    assert int(keys["TimeoutStopSec"]) > stop_timeout_s + 10


def test_the_ftp_servers_of_the_handbook_are_set_up_as_those_of_the_tests(repository: Path) -> None:
    """Paths are the reader's own; every other line is one that the tests' servers have."""
    page = (repository / "docs" / "ftp.md").read_text().partition("## Worked examples")[2]
    tested = (repository / "tests" / "support" / "ftpservers.py").read_text()
    shown = re.findall(r"^```(\w*)\n(.*?)^```", page.partition("### A NAS")[0], re.DOTALL | re.MULTILINE)
    lines = [line for language, block in shown if not language for line in block.splitlines()]
    assert len(lines) > 30
    unknown = []
    for line in lines:
        name, separator, value = line.partition("=" if "=" in line else " ")
        if "/" in value:
            forms = [f'"{name}": ', f"{name} "]
        elif separator == "=":
            forms = [f'"{name}": "{value}"', f'"{name}": {value}']
        else:
            forms = [f'"{line}"', f"'{line}'"]
        unknown += [line] if not any(form in tested for form in forms) else []
    assert unknown == []
