"""What a start refuses, what ``check`` tells, and what no message holds."""

from __future__ import annotations

import hashlib
import logging
import traceback
from pathlib import Path

import pymysql
import pytest

from tests.moodle.conftest import Site
from tests.support.databases import PASSWORD
from wormfs.backends.moodle.backend import MoodleBackend
from wormfs.backends.moodle.database import Database
from wormfs.backends.moodle.options import Tls, parse
from wormfs.config.secret import parse_secret
from wormfs.errors import AccessDenied, BackendFault, SettingsError, Unavailable, WormfsError
from wormfs.model import CheckResult, Key

CONFIG_PHP = """<?php
unset($CFG);
$CFG = new stdClass();
$CFG->dbtype    = 'pgsql';
// $CFG->alternative_file_system_class = '\\\\tool_objectfs\\\\commented_out';
/*
$CFG->alternative_file_system_class = 'in_a_comment';
*/
"""


def failing(backend: MoodleBackend) -> list[CheckResult]:
    return [result for result in backend.check() if not result.passed]


def test_a_moodle_that_keeps_content_elsewhere_is_refused(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "config.php"
    config.write_text(CONFIG_PHP)
    site.backend(config_php=str(config))
    config.write_text(CONFIG_PHP + " $CFG->alternative_file_system_class = '\\tool_objectfs\\s3';\n")
    with pytest.raises(SettingsError, match="Moodle keeps its content elsewhere"):
        site.backend(config_php=str(config))
    (result,) = failing(site.backend(config_php=str(config), started=False))
    assert result.name == "connect"
    with pytest.raises(SettingsError, match="cannot read"):
        site.backend(config_php=str(tmp_path / "missing"))


def test_the_table_of_settings_is_asked_as_well(site: Site) -> None:
    prefix = site.moodle.prefix
    site.moodle.execute(f"CREATE TABLE {prefix}config (id BIGINT, name VARCHAR(255), value TEXT)")
    try:
        site.backend()
        site.moodle.execute(
            f"INSERT INTO {prefix}config VALUES (1, 'alternative_file_system_class', 'tool_objectfs')"
        )
        with pytest.raises(SettingsError, match="tool_objectfs"):
            site.backend()
    finally:
        site.moodle.execute(f"DROP TABLE {prefix}config")


def test_a_table_without_its_unique_index_is_refused(site: Site) -> None:
    prefix = site.moodle.prefix
    on = f" ON {prefix}files" if site.moodle.kind == "mariadb" else ""
    site.moodle.execute(f"DROP INDEX {prefix}files_2_uix{on}")
    with pytest.raises(SettingsError, match="no unique index on pathnamehash"):
        site.backend()


def test_another_prefix_or_course_is_refused(site: Site) -> None:
    with pytest.raises(SettingsError, match="there is no table other_files"):
        site.backend(prefix="other_")
    with pytest.raises(SettingsError, match="Moodle has no course whose id is 99"):
        site.backend(course=99)


def test_a_pool_of_another_moodle_is_found_out(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    site.moodle.add_file("exam.zip", b"content")
    assert failing(site.backend()) == []
    (result,) = failing(site.backend(filedir=str(other)))
    assert result.name == "authenticate"
    assert "none is in" in result.detail
    with pytest.raises(Unavailable, match="does not exist"):
        site.backend(filedir=str(tmp_path / "missing"))


def test_check_warns_of_areas_with_consequences_and_of_lost_content(site: Site) -> None:
    site.moodle.add_file("exam.zip", b"content")
    site.moodle.add_file("lost.zip", b"lost")
    site.moodle.pool_path(hashlib.sha1(b"lost").hexdigest()).unlink()
    backend = site.backend(component="course", filearea="legacy")
    warnings = [result.detail for result in backend.check() if result.warning]
    # The tests' servers do not sync.
    assert any("power loss" in warning for warning in warnings)
    assert any("teachers" in warning and "1 of its last" in warning for warning in warnings)


def test_the_areas_of_the_records_are_refused() -> None:
    for area in ("record", "check"):
        with pytest.raises(SettingsError, match="choose another"):
            parse("law", {"dataroot": "/x", "database": "mariadb", "filearea": area})


def test_tls_is_verified_to_other_machines() -> None:
    options = {"dataroot": "/x", "database": "postgresql"}
    assert parse("law", options).tls is Tls.OFF
    assert parse("law", {**options, "database_host": "db.example.org"}).tls is Tls.VERIFY
    assert parse("law", {**options, "database_host": "db", "database_tls": "off"}).tls is Tls.OFF


def text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


def test_no_message_holds_the_password(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    wrong = "n0t-the-passw0rd"
    with caplog.at_level(logging.DEBUG), pytest.raises((AccessDenied, Unavailable)) as caught:
        site.backend(database_password=parse_secret(wrong))
    texts = [text_of(caught.value), caplog.text]
    assert "wormfs.errors" in texts[0] and site.moodle.kind
    backend = site.backend()
    texts += [repr(backend), repr(backend.options), repr(vars(backend)), repr(backend.database)]
    # A statement that the database refuses, with parameters in it.
    site.moodle.execute(f"ALTER TABLE {site.moodle.prefix}files RENAME TO {site.moodle.prefix}gone")
    try:
        with pytest.raises(BackendFault) as refused:
            backend.stat(Key(b"exam.zip"))
    finally:
        site.moodle.execute(f"ALTER TABLE {site.moodle.prefix}gone RENAME TO {site.moodle.prefix}files")
    texts.append(text_of(refused.value))
    for text in texts:
        assert wrong not in text
        assert PASSWORD not in text
    # SQLAlchemy's own error, which quotes the statement, goes no further.
    assert refused.value.__cause__ is None and refused.value.__suppress_context__


def make_reader(site: Site) -> None:
    """A user that may only read."""
    user = f"reader{site.moodle.prefix}"
    if site.moodle.kind == "postgresql":
        site.moodle.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'")
        site.moodle.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")
        return
    # The tests' own user may not make others.
    socket = str(site.moodle.server.socket)
    with pymysql.connect(unix_socket=socket, user="root", autocommit=True) as root, root.cursor() as cursor:
        cursor.execute(f"CREATE USER {user} IDENTIFIED BY '{PASSWORD}'")
        cursor.execute(f"GRANT SELECT ON moodle.* TO {user}")


def test_a_database_user_without_rights_is_access_denied(site: Site) -> None:
    make_reader(site)
    try:
        backend = site.backend(database_user=f"reader{site.moodle.prefix}")
        with pytest.raises(AccessDenied) as caught:
            site.store(backend, b"exam.zip", b"content")
        assert isinstance(caught.value, WormfsError) and caught.value.key == b"exam.zip"
        backend.close()
    finally:
        if site.moodle.kind == "postgresql":
            site.moodle.execute(f"DROP OWNED BY reader{site.moodle.prefix}")
            site.moodle.execute(f"DROP ROLE reader{site.moodle.prefix}")


def test_nothing_goes_without_a_start(site: Site) -> None:
    backend = site.backend(started=False)
    with pytest.raises(Unavailable):
        backend.stat(Key(b"exam.zip"))
    with pytest.raises(Unavailable):
        backend.space()
    with pytest.raises(Unavailable):
        Database("law", backend.options).read(lambda connection: connection.closed)
