"""Settings files, right and wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wormfs.config import InvalidSettings, LocalSettings, Reserve, Settings, dump, embedded, load, parse
from wormfs.config.fields import DEFAULT_RESERVE
from wormfs.errors import SettingsError

SHORT = "mountpoint: /mnt/worm\nbackends:\n  exams: {type: local, path: /srv/worm/exams}\n"
NO_DURATION = "must be a duration such as 30s, 1h30m, 10y or a number of seconds"
NO_NAME = "a backend's name has 1 to 64 letters, digits, '.', '_' or '-' and begins with a letter or digit"


def problems_of(text: str) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        parse(text, "f.yaml")
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def with_backend(lines: str) -> str:
    """A good file whose one backend, from line 5 on, has these lines, too."""
    indented = "".join(f"    {line}\n" for line in lines.splitlines())
    return "mountpoint: /mnt/worm\nbackends:\n  a:\n    type: local\n" + indented


def test_the_short_form_and_its_defaults() -> None:
    settings = parse(SHORT)
    assert settings.mountpoint == Path("/mnt/worm")
    assert settings.state_directory == Path("/var/lib/wormfs")
    assert (settings.stop_timeout_s, settings.log_level) == (30.0, "info")
    exams = settings.backend("exams")
    assert isinstance(exams, LocalSettings)
    assert (exams.name, exams.type, exams.path) == ("exams", "local", Path("/srv/worm/exams"))
    assert (exams.immutable, exams.description) == (False, None)
    assert (exams.directory_cache_s, exams.settle_s, exams.empty_grace_s) == (1.0, 0.0, 60.0)
    assert (exams.commit_timeout_s, exams.space_cache_s) == (60.0, 30.0)
    assert (exams.spool, exams.connections) == (None, None)
    assert (exams.quarantine_keep_s, exams.quarantine_max_size_bytes) == (None, None)
    assert exams.spool_reserve == DEFAULT_RESERVE == Reserve(size_bytes=1 << 30, percent=5.0)


def test_every_setting_can_be_given() -> None:
    settings = parse(
        with_backend(
            "path: /srv/a/\ndescription: for people\ndirectory_cache: 5s\nsettle: 10s\nempty_grace: 2m\n"
            "commit_timeout: 1h\nspool: /srv/a/.wormfs/elsewhere\nspool_reserve: 2%\nquarantine_keep: 10y\n"
            "quarantine_max_size: 10TiB\nconnections: 4\nspace_cache: 1m\nimmutable: true"
        )
        + "state_directory: /srv/state\nstop_timeout: 90\nlog_level: debug\n"
    )
    a = settings.backend("a")
    assert isinstance(a, LocalSettings)
    assert a.path == Path("/srv/a") and a.spool == Path("/srv/a/.wormfs/elsewhere")
    assert a.spool_reserve == Reserve(percent=2.0)
    assert (a.quarantine_keep_s, a.quarantine_max_size_bytes) == (315_576_000.0, 10 * 2**40)
    assert (a.connections, a.immutable, a.settle_s) == (4, True, 10.0)
    assert settings.stop_timeout_s == 90.0
    assert parse(dump(settings)) == settings


def test_all_problems_are_told_at_once_with_their_lines() -> None:
    assert problems_of(
        "mountpont: /mnt/worm\n"
        "log_level: inf\n"
        "backends:\n"
        "  exams:\n"
        "    type: local\n"
        "    pth: /srv/worm/exams\n"
        "    immutable: 1\n"
        "    settle: soon\n"
        "  s3: {type: locl}\n"
        "  -x: {path: /srv/x}\n"
        "  y: /srv/y\n"
    ) == [
        "f.yaml:1: mountpont: is not a setting; did you mean 'mountpoint'?",
        "f.yaml:1: mountpoint: is missing; add 'mountpoint: /mnt/worm'",
        "f.yaml:2: log_level: must be one of debug, info, warning, error, not 'inf'; did you mean 'info'?",
        "f.yaml:4: backends.exams.path: is missing; add 'path: /srv/worm/exams'",
        "f.yaml:6: backends.exams.pth: is not a setting; did you mean 'path'?",
        "f.yaml:7: backends.exams.immutable: must be true or false, not 1",
        f"f.yaml:8: backends.exams.settle: {NO_DURATION}, not 'soon'",
        "f.yaml:9: backends.s3.type: must be one of local, s3, not 'locl'; did you mean 'local'?",
        f"f.yaml:10: backends.-x: {NO_NAME}",
        "f.yaml:10: backends.-x.type: is missing; add one of: local, s3",
        "f.yaml:11: backends.y: must be a mapping such as {type: local, path: /srv/worm}, not '/srv/y'",
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("path: srv/a", "must be an absolute path, not 'srv/a'; write '/srv/a'?"),
        ("path: /srv/../a", "must not hold '..'"),
        ('path: "/srv/a\\nb"', "characters that do not print"),
        ("path: 5", "must be an absolute path such as /srv/worm, not 5"),
        ("path:", "not empty"),
        ("path: /" + "x" * 4096, "longer than 4095 bytes"),
        ("path: /srv/a\nconnections: 0", "must be a whole number from 1 to 256, not 0"),
        ("path: /srv/a\nconnections: 257", "must be a whole number from 1 to 256, not 257"),
        ("path: /srv/a\nconnections: 010", "must be a whole number from 1 to 256, not '010'"),
        ("path: /srv/a\ncommit_timeout: 0", "must be longer than 0s"),
        ("path: /srv/a\ncommit_timeout:", "must be a duration such as 30s"),
        ("path: /srv/a\nsettle: 1:30", "must be a duration"),
        ("path: /srv/a\nimmutable: 'yes'", "must be true or false, not 'yes'"),
        ("path: /srv/a\nspool_reserve: 200%", "percentage from 0% to 100%"),
        ("path: /srv/a\nspool_reserve: 1G", "write 1GiB"),
        ("path: /srv/a\nquarantine_max_size: much", "must be a size"),
        ("path: /srv/a\ndescription: 5", "in quotes if it looks like a number"),
        ("path: /srv/a\nname: b", "backends.a.name: is not a setting"),
        ("path: /srv/a\nsettle_s: 5", "is not a setting; did you mean 'settle'?"),
    ],
)
def test_wrong_values_of_a_backend(setting: str, message: str) -> None:
    [problem] = problems_of(with_backend(setting))
    assert message in problem
    line = 4 + len(setting.splitlines())
    assert problem.startswith(f"f.yaml:{line}: backends.a.")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("", "f.yaml:1: is empty"),
        ("# nothing\n", "f.yaml:1: is empty"),
        ("- a\n", "f.yaml:1: must be a mapping"),
        ("just words", "f.yaml:1: must be a mapping"),
        ("a: 1\n\tb: 2\n", "f.yaml:2: not valid YAML: "),
        ("a: 'open\n", "f.yaml:2: not valid YAML: "),
        ("a: b: c\n", "f.yaml:1: not valid YAML: "),
        ("a: *nowhere\n", "f.yaml:1: not valid YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: not valid YAML: expected a single document"),
        ("a: 1\nb: \x00\n", "f.yaml:2: a character that YAML does not allow"),
        ("a: " + "[" * 5000, "f.yaml: nested too deeply"),
        ("a: &x [*x]\n", "f.yaml:1: nested too deeply"),
        ("mountpoint: !!python/name:os.system /mnt\n", "f.yaml:1: mountpoint: tags such as "),
        ("? [a]\n: 1\n", "f.yaml:1: a key must be text"),
    ],
)
def test_text_that_is_no_settings(text: str, start: str) -> None:
    assert problems_of(text)[0].startswith(start)


def test_a_billion_laughs() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert any("more than 10000 values" in problem for problem in problems_of("\n".join(lines)))


def test_a_key_that_stands_twice() -> None:
    assert problems_of(SHORT + "mountpoint: /mnt/other\n") == [
        "f.yaml:4: mountpoint: stands twice, first in line 1; keep one"
    ]


def test_yaml_does_not_surprise_with_names() -> None:
    text = "mountpoint: /mnt/worm\nbackends:\n" + "".join(
        f"  {name}: {{type: local, path: /srv/{index}}}\n"
        for index, name in enumerate(["no", "2024-01-01", "010", "1e3", "null", "a.b_c-D"])
    )
    assert list(parse(text).backends) == ["no", "2024-01-01", "010", "1e3", "null", "a.b_c-D"]


@pytest.mark.parametrize(
    "name", [".a", "_a", "'a/b'", "'a b'", "''", "ä", "x" * 65, "'..'", ".wormfs", '"a\\n"']
)
def test_names_that_no_backend_can_have(name: str) -> None:
    text = f"mountpoint: /mnt/worm\nbackends:\n  {name}: {{type: local, path: /srv/a}}\n"
    [problem] = problems_of(text)
    assert "a backend's name has 1 to 64" in problem


def test_anchors_and_merges_share_settings() -> None:
    settings = parse(
        "mountpoint: /mnt/worm\nbackends:\n  a: &a {type: local, path: /srv/a, settle: 5s}\n"
        "  b:\n    <<: *a\n    path: /srv/b\n"
    )
    assert settings.backend("b").settle_s == 5.0
    assert settings.backend("a").settle_s == 5.0


@pytest.mark.parametrize(
    "backends", ["", "backends:\n", "backends: {}\n", "backends: []\n", "backends: local\n"]
)
def test_there_is_at_least_one_backend(backends: str) -> None:
    [problem] = problems_of("mountpoint: /mnt/worm\n" + backends)
    assert "backends: " in problem and "at least one backend" in problem


def test_settings_cannot_be_changed() -> None:
    settings = parse(SHORT)
    with pytest.raises(ValueError, match="frozen"):
        settings.log_level = "debug"  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.backend("exams").settle_s = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.backends["x"] = settings.backend("exams")  # type: ignore[index]


def test_settings_go_to_a_worker_and_come_back() -> None:
    settings = parse(SHORT)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert parse(dump(settings, mask=False)) == settings
    error = InvalidSettings(())
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


def test_an_unknown_backend_is_told_with_the_nearest() -> None:
    settings = parse(SHORT)
    with pytest.raises(SettingsError, match="no backend is named 'exam'; did you mean 'exams'"):
        settings.backend("exam")
    with pytest.raises(SettingsError, match="there is exams"):
        settings.backend("zzz")


def test_embedded_lies_under_one_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = embedded(tmp_path)
    assert settings.mountpoint == tmp_path / "mnt"
    assert settings.state_directory == tmp_path / "var" / "state"
    archive = settings.backend("archive")
    assert isinstance(archive, LocalSettings) and archive.path == tmp_path / "var" / "archive"
    assert list(tmp_path.iterdir()) == []
    assert parse(dump(settings)) == settings
    monkeypatch.chdir(tmp_path)
    assert embedded(".") == settings


def test_a_missing_or_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="No such file"):
        load(tmp_path / "none.yaml")
    path = tmp_path / "latin1.yaml"
    path.write_bytes(b"# ok\nmountpoint: /mnt/\xe4\n")
    path.chmod(0o600)
    with pytest.raises(InvalidSettings, match=r"latin1\.yaml:2: not UTF-8 text"):
        load(path)


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SHORT.encode())
    path.chmod(0o600)
    assert load(path) == parse(SHORT)


@given(st.integers(0, 2**63 - 1))
def test_the_default_reserve_is_the_smaller_of_both(total_bytes: int) -> None:
    assert DEFAULT_RESERVE.of(total_bytes) == min(1 << 30, int(total_bytes * 5 / 100))
    assert Reserve(size_bytes=7).of(total_bytes) == 7
    assert Reserve(percent=100).of(1000) == 1000


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["mountpoint", "backends", "type", "path", "settle", "a", "<<", ""]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_values)
def test_any_document_is_settings_or_has_problems(value: object) -> None:
    from wormfs.config.document import write_document

    try:
        assert isinstance(parse(write_document(value), "f.yaml"), Settings)
    except InvalidSettings as error:
        assert error.problems


@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@#,?<\n\t \x00\ufeff", max_size=40))
def test_any_text_is_settings_or_has_problems(text: str) -> None:
    with pytest.raises(InvalidSettings):
        parse(text, "f.yaml")
