"""docs/recovery.md: the commands that read an archive of an FTP server without wormfs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import storages_ftp
from tests.conformance.storages_ftp import FtpStorage
from tests.crash.real import wait_until
from tests.ftp.test_mount import settings_of
from tests.support import ftpservers, overservers
from tests.support.daemon import daemons
from tests.support.ftpservers import Kind, Security

__all__ = ["daemons"]

CONTENT = b"what the examinee wrote\n" * 100


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[FtpStorage]:
    made = storages_ftp.made(storages_ftp.server(Kind.VSFTPD, Security.EXPLICIT), tmp_path)
    yield made
    made.remove()


def commands(repository: Path) -> str:
    text = (repository / "docs" / "recovery.md").read_text()
    [block] = re.findall(r"tests/ftp/test_recovery[.]py -->\n```sh\n(.*?)```", text, re.DOTALL)
    return str(block)


def test_a_file_and_its_record_are_read_with_lftp(
    secured: FtpStorage, repository: Path, tmp_path: Path
) -> None:
    with overservers.detached() as mount:
        path = mount(settings_of(secured)).mountpoint / "archive" / "job-17" / "quiz.zip"
        path.parent.mkdir()
        path.write_bytes(CONTENT)
        wait_until(lambda: os.getxattr(path, "user.wormfs.state") == b"committed")
    example = commands(repository)
    script = example.replace("-u archive", f"-u {ftpservers.USER},'{ftpservers.PASSWORD}'")
    script = script.replace("ftp.example.edu", f"127.0.0.1:{secured.port}")
    script = script.replace("exams/", f"{secured.folder}/")
    script = script.replace("set ftp:ssl-force", f"set ssl:ca-file {secured.ca_file}; set ftp:ssl-force")
    assert script.count("127.0.0.1") == 1
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "quiz.zip").read_bytes() == CONTENT
    told, record, summed = done.stdout.splitlines()
    assert json.loads(told)["path"] == "job-17/quiz.zip"
    assert json.loads(record)["sha256"] == summed.split()[0]
