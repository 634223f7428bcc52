"""``wormfs reload`` without a daemon. With one: tests/systemd."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from wormfs.cli.main import cli


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["reload", *arguments], prog_name="wormfs", env={"STATE_DIRECTORY": ""})


def test_without_a_daemon_it_says_so(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    text = f"mountpoint: {tmp_path}/mnt\nstate_directory: {tmp_path}/state\n"
    config.write_text(text + f"backends: {{a: {{type: local, path: {tmp_path}/a}}}}\n")
    config.chmod(0o600)
    for more in ([], ["--state-directory", f"{tmp_path}/state"], ["--state-directory", f"{tmp_path}/other"]):
        result = run("--config", str(config), *more)
        assert result.exit_code == 1
        assert f"no wormfs daemon is running with state directory {tmp_path}/state" in result.output


def test_wrong_settings_are_told_also_without_a_daemon(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("mountpoint: here\n")
    config.chmod(0o600)
    result = run("--config", str(config), "--state-directory", f"{tmp_path}/state")
    assert result.exit_code == 2
    assert f"{config}:1: mountpoint:" in result.output
