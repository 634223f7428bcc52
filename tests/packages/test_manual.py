"""The manual pages say what the program says, and groff and mandoc have nothing to say against them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from scripts.manual import texts
from wormfs.cli.main import COMMANDS, cli
from wormfs.config import Settings
from wormfs.config.base import Model
from wormfs.config.registry import MODELS
from wormfs.config.retention import RetentionSettings, RuleSettings

# For tests and for libraries only, or said elsewhere.
UNTOLD_VARIABLES = {"WORMFS_CRASH_AT", "WORMFS_BACKEND"}
"""For tests; a field of the journal, which only looks like one."""


@pytest.fixture(scope="module")
def pages(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("manual")
    subprocess.run([sys.executable, "-B", "-m", "scripts.manual", directory], cwd=repository, check=True)
    return directory


def shown(page: Path) -> str:
    """As a reader sees it, in lines that are never broken."""
    command = ["man", "--warnings", "-E", "UTF-8", "-l", page]
    variables = {
        "MANWIDTH": "1000",
        "MAN_KEEP_FORMATTING": "",
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PAGER": "cat",
    }
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert done.stderr == "", page
    text = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)
    return re.sub(r"[ \n]+", " ", text.replace("\u2010\n", "-").replace("‐", "-"))


def test_groff_and_mandoc_find_nothing(pages: Path) -> None:
    found = sorted(pages.iterdir())
    expected = {
        "wormfs.1",
        "wormfs.yaml.5",
        "mount.fuse.wormfs.8",
        *(f"wormfs-{name}.1" for name in COMMANDS),
    }
    assert {page.name for page in found} == expected
    for page in found:
        assert shown(page)
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", *found], capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def commands(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield (*path, name), below
            yield from commands(below, (*path, name))


def test_every_command_option_and_example_is_there(pages: Path) -> None:
    found = list(commands(cli, ()))
    assert len(found) > 20
    for path, command in found:
        text = shown(pages / f"wormfs-{path[0]}.1")
        assert " ".join(("wormfs", *path)) in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert [name for name in parameter.opts if name not in text] == []
                assert " ".join((parameter.help or "").split()) in text
        for line in re.findall(r"^ *(wormfs .*)$", command.help or "", re.MULTILINE):
            assert line in text


def test_every_setting_is_there_with_type_default_and_meaning(pages: Path) -> None:
    text = shown(pages / "wormfs.yaml.5")
    models: list[type[Model]] = [Settings, *MODELS.values(), RetentionSettings]
    for model in models:
        for key in model.yaml_keys():
            assert re.search(rf" {key}: Takes: [^.]+.*?(Required|Default: )", text), (model, key)
    for key in RuleSettings.yaml_keys():
        assert key in text
    for told in (
        # One of each kind, word for word.
        "stop_timeout: Takes: a duration such as 30s, 1h30m, 10y or a number of seconds. Default: 30s.",
        "object_lock: Takes: one of none, governance, compliance. Default: none.",
        "capacity: Takes: a size such as 10TiB, 500GB or a number of bytes; or null. Default: null.",
        "immutable: Takes: true or false. Default: false.",
        "PEM file of the authority that signed the server's certificate.",
    ):
        assert told in text


def sources(repository: Path) -> Iterator[ast.Module]:
    for path in (repository / "wormfs").rglob("*.py"):
        yield ast.parse(path.read_text())


def test_every_signal_that_is_handled_is_there(repository: Path) -> None:
    handled = {
        node.attr
        for tree in sources(repository)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.fullmatch(r"SIG[A-Z0-9]+", node.attr)
    }
    told = {name for names, _ in texts.SIGNALS for name in names.split(", ")}
    assert handled - {"SIG"} - told == set()


def test_every_environment_variable_that_is_read_is_there(repository: Path) -> None:
    """What looks like one in the code: a text of capitals with WORMFS_, or that systemd and sudo set."""
    pattern = re.compile(
        r"WORMFS_[A-Z_]+|NOTIFY_SOCKET|WATCHDOG_[A-Z]+|[A-Z]+_DIRECTORY|SUDO_[A-Z]+|NO_COLOR"
    )
    read = {
        node.value
        for tree in sources(repository)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.fullmatch(node.value)
    }
    assert len(read) > 3
    told = {name for names, _ in texts.ENVIRONMENT for name in names.split(", ")}
    assert read - told - UNTOLD_VARIABLES == set()
    assert told - read == set()
