"""Secrets, and files that others must not read."""

from __future__ import annotations

import os
import pickle
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormfs.config import InvalidSettings, Secret, base, document, load
from wormfs.config.fields import OptionalSecret, SecretField
from wormfs.config.secret import MASK, SecretSource, parse_secret, read_private
from wormfs.errors import SettingsError

VALUE = "correct-horse"


class WithSecret(base.Model):
    """As a driver's settings would use it."""

    password: SecretField
    token: OptionalSecret = None


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(VALUE + "\n")
    path.chmod(0o600)
    return path


def test_an_inline_secret_is_shown_nowhere() -> None:
    model = WithSecret.model_validate({"password": VALUE})
    assert model.password.reveal() == VALUE
    shown = [repr(model), str(model), repr(model.password), str(model.password), model.password.describe()]
    shown.append(str(model.password.to_yaml(mask=True)))
    assert not any(VALUE in text for text in shown)
    assert model.password.to_yaml(mask=False) == VALUE
    assert pickle.loads(pickle.dumps(model)) == model


def test_sources(secret_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORMFS_TEST_KEY", VALUE)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for written in ({"file": str(secret_file)}, {"env": "WORMFS_TEST_KEY"}, {"credential": "key"}):
        secret = parse_secret(written)
        assert secret.reveal() == VALUE
        assert secret.to_yaml(mask=True) == written
        assert str(secret) == MASK


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "is an empty secret"),
        ({}, "exactly one of"),
        ({"file": "/a", "env": "B"}, "exactly one of"),
        ({"inline": VALUE}, "exactly one of"),
        ({"flie": VALUE}, "exactly one of"),
        (12345678, "exactly one of"),
        (None, "exactly one of"),
        ([VALUE], "exactly one of"),
        ({"file": VALUE}, "file: must be an absolute path"),
        ({"env": VALUE}, "env: must be the name"),
        ({"credential": "../" + VALUE}, "credential: must be the name"),
        ({"credential": 5}, "in quotes"),
    ],
)
def test_a_wrong_secret_is_refused_without_its_value(written: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        WithSecret.model_validate({"password": written})
    text = "".join(traceback.format_exception(caught.value))
    assert message in text
    assert VALUE not in text and "12345678" not in text


@given(st.text(min_size=1))
def test_any_text_can_be_a_secret(value: str) -> None:
    assert parse_secret(value).reveal() == value


def test_a_missing_secret_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WORMFS_TEST_KEY", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    cases = [
        (Secret(SecretSource.ENVIRONMENT, "WORMFS_TEST_KEY"), "env WORMFS_TEST_KEY is missing or empty"),
        (Secret(SecretSource.CREDENTIAL, "key"), "only systemd sets CREDENTIALS_DIRECTORY"),
        (Secret(SecretSource.FILE, str(tmp_path / "none")), "No such file"),
    ]
    for secret, message in cases:
        with pytest.raises(SettingsError, match=message):
            secret.reveal()


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_private_file_is_read(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    assert read_private(str(secret_file)) == VALUE.encode() + b"\n"


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o641, 0o740, 0o700, 0o604, 0o4600])
def test_a_file_that_others_can_use_is_refused(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    with pytest.raises(SettingsError) as caught:
        read_private(str(secret_file))
    assert f"has mode {mode:04o}, wider than 0640: run `chmod 640 -- {secret_file}`" in str(caught.value)


def test_a_file_of_somebody_else_is_refused(secret_file: Path) -> None:
    os.chown(secret_file, 12345, 0)
    with pytest.raises(SettingsError, match=r"belongs to uid 12345.*run `chown root -- "):
        read_private(str(secret_file))


def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(SettingsError, match="is not a regular file"):
            read_private(str(path))
    huge = tmp_path / "huge"
    huge.touch(0o600)
    os.truncate(huge, 1 << 30)
    with pytest.raises(SettingsError, match="is larger than"):
        read_private(str(huge))


def test_the_command_in_the_message_can_be_pasted(tmp_path: Path) -> None:
    path = tmp_path / "my key; rm x"
    path.touch(0o644)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="run `chmod 640 -- '/"):
        read_private(str(path))


def test_a_secret_file_is_not_utf8(secret_file: Path) -> None:
    secret_file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="UTF-8"):
        parse_secret({"file": str(secret_file)}).reveal()


def test_secrets_of_the_settings_are_checked_with_their_line(tmp_path: Path, secret_file: Path) -> None:
    """``load`` looks at secret files; tried with the checking function, as no driver has a secret yet."""
    from wormfs.config.load import _check_secret_files
    from wormfs.config.local import LocalSettings

    class Keyed(LocalSettings):
        key: SecretField

    secret_file.chmod(0o644)
    read = document.read_document(f"backends:\n  a:\n    key: {{file: {secret_file}}}\n", "f.yaml")
    backend = Keyed(name="a", path=tmp_path, key=Secret(SecretSource.FILE, str(secret_file)))
    _check_secret_files(read, ("backends", "a"), backend)
    assert [str(problem)[:31] for problem in read.problems] == [
        "f.yaml:3: backends.a.key: '" + str(secret_file)[:4]
    ]


def test_the_settings_file_itself_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("mountpoint: /mnt/worm\nbackends: {a: {type: local, path: /srv/a}}\n")
    path.chmod(0o644)
    with pytest.raises(InvalidSettings, match="wider than 0640"):
        load(path)
    path.chmod(0o640)
    assert load(path).backend("a").type == "local"
