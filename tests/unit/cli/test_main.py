"""The command line: help, failures, lazy commands, settings, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import wormfs
from wormfs.cli import main as main_module
from wormfs.cli.group import LazyCommand, LazyGroup
from wormfs.cli.main import COMMANDS, cli, main
from wormfs.errors import SettingsError, Unavailable

GOOD = "mountpoint: /mnt/worm\nbackends:\n  exams: {type: local, path: /srv/worm/exams}\n"
STABLE = [
    *("mount", "umount", "reload", "check", "status", "spool", "stat", "retain", "hold", "expire", "erase"),
    *("clock", "verify", "manifest", "export", "config", "mounter", "completion"),
]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="wormfs")


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    path.chmod(0o640)
    return path


def group_with(command: click.Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``cli`` a group with one more command."""
    monkeypatch.setitem(cli.commands, "extra", command)


def existing_commands() -> list[tuple[str, ...]]:
    """Every command whose module is there, subcommands included."""
    found: list[tuple[str, ...]] = []
    for name, entry in COMMANDS.items():
        if not (Path(wormfs.__file__).parent / "cli" / f"{entry.module.split('.')[-1]}.py").exists():
            continue
        command = cli.get_command(click.Context(cli), name)
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, inner) for inner in command.commands]
    return found


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"wormfs, version {wormfs.__version__}\n")


def test_help_lists_the_stable_commands_without_importing_them() -> None:
    result = run("--help")
    assert result.exit_code == 0
    listed = [
        line.split()[0] for line in result.output.partition("Commands:\n")[2].splitlines()[: len(STABLE)]
    ]
    assert listed == STABLE == list(COMMANDS)
    assert all(entry.summary in result.output for entry in COMMANDS.values())


@pytest.mark.parametrize("command", existing_commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(command: Sequence[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"  wormfs {' '.join(command)}" in result.output


def test_the_start_imports_neither_settings_nor_fuse() -> None:
    heavy = "{'pydantic', 'pyfuse3', 'trio', 'yaml', 'rich'}"
    code = f"import sys, wormfs.cli.main; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_python_m_wormfs() -> None:
    done = subprocess.run([sys.executable, "-m", "wormfs", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    result = run("staus")
    assert result.exit_code == 2
    assert "Did you mean 'status'?" in result.stderr


def test_a_command_without_its_module_fails_clearly() -> None:
    group = LazyGroup("g", lazy={"gone": LazyCommand("wormfs.cli.no_such_module", "gone", "Gone.")})
    result = CliRunner().invoke(group, ["gone"])
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: the command 'gone' is not part of this installation\n",
    )
    assert CliRunner().invoke(group, ["--help"]).exit_code == 0


def test_config_check(config_file: Path) -> None:
    result = run("config", "check", "--config", str(config_file))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{config_file}: good; /mnt/worm shows exams (local)\n"


def test_config_check_prints_every_problem_to_stderr_and_exits_2(config_file: Path) -> None:
    config_file.write_text(GOOD.replace("path:", "pth:") + "log_level: loud\n")
    result = run("config", "check", "-c", str(config_file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.split(": ")[:2] for line in result.stderr.splitlines()] == [
        [f"{config_file}:3", "backends.exams.pth"],
        [f"{config_file}:3", "backends.exams.path"],
        [f"{config_file}:4", "log_level"],
    ]


def test_a_missing_settings_file(tmp_path: Path) -> None:
    result = run("config", "check", "-c", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert "No such file" in result.stderr


def test_config_show_can_be_read_again(config_file: Path, tmp_path: Path) -> None:
    result = run("config", "show", "-c", str(config_file))
    assert result.exit_code == 0
    again = tmp_path / "again.yaml"
    again.write_text(result.stdout)
    again.chmod(0o600)
    assert run("config", "show", "-c", str(again)).stdout == result.stdout


def test_the_environment_can_name_the_settings_file(config_file: Path) -> None:
    result = CliRunner(env={"WORMFS_CONFIG": str(config_file)}).invoke(cli, ["config", "check"])
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (Unavailable("no answer", backend="ftp", key=b"a/b"), 1, "wormfs: ftp/a/b: no answer\n"),
        (SettingsError("wrong"), 2, "wrong\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "Permission denied"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "ZeroDivisionError: division by zero (set WORMFS_TRACEBACK=1",
        ),
        (KeyboardInterrupt(), 130, "wormfs: interrupted\n"),
        (click.Abort(), 130, "wormfs: interrupted\n"),
        (click.UsageError("wrong call"), 2, "wrong call"),
    ],
)
def test_failures_are_one_clear_line(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def extra() -> None:
        raise error

    monkeypatch.delenv(main_module.TRACEBACK_VARIABLE, raising=False)
    group_with(extra, monkeypatch)
    assert main(["extra"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert text in captured.err
    assert "Traceback" not in captured.err


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def extra() -> None:
        raise ZeroDivisionError

    group_with(extra, monkeypatch)
    monkeypatch.setenv(main_module.TRACEBACK_VARIABLE, "1")
    with pytest.raises(ZeroDivisionError):
        main(["extra"])


def test_the_exit_code_of_a_command_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @click.pass_context
    def extra(ctx: click.Context) -> None:
        ctx.exit(7)

    group_with(extra, monkeypatch)
    assert main(["extra"]) == 7


def test_a_reader_that_goes_away_is_no_traceback(config_file: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "wormfs", "config", "show", "-c", str(config_file)],
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_WORMFS_COMPLETE={shell}_complete" in result.output


def test_bash_completes_with_the_printed_script(tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(run("completion", "bash").output)
    program = tmp_path / "wormfs"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom wormfs.cli.main import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    test = f"""
        PATH={tmp_path}:$PATH
        . {script}
        COMP_WORDS=(wormfs c) COMP_CWORD=1
        _wormfs_completion wormfs
        echo "${{COMPREPLY[@]}}"
    """
    package = str(Path(wormfs.__file__).parent.parent)
    done = subprocess.run(
        ["bash", "-c", test],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": package},
    )
    assert done.stdout.split() == ["check", "clock", "config", "completion"]
    assert done.stderr == ""
