"""The Debian package on a booted system: installed, used, upgraded, removed, purged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.packages.conftest import MOUNTED, NEWER, SETTINGS, STORED, Host, Package
from wormfs import __version__

# Building and pip take long on a busy machine.
pytestmark = pytest.mark.timeout(900)

STATE = "/var/lib/wormfs"
SECRETS = "/etc/wormfs/credentials"


def test_a_first_installation_starts_nothing_and_says_what_to_do(
    host: Host, package: Package, newer: Path
) -> None:
    said = host.apt_install(package.file)
    assert f"edit {SETTINGS}" in said
    found = host.box.run(f"stat -c '%a %U:%G %n' /etc/wormfs {SETTINGS} {SECRETS} /mnt/worm").stdout
    assert found.splitlines() == [
        "750 root:wormfs /etc/wormfs",
        f"640 root:wormfs {SETTINGS}",
        f"700 root:root {SECRETS}",
        "555 root:root /mnt/worm",
    ]
    assert host.box.run("getent passwd wormfs").stdout.endswith(":/usr/sbin/nologin\n")
    assert host.box.run("wormfs --version", user="www-data").stdout == f"wormfs, version {__version__}\n"
    host.box.run("wormfs config check")
    units = host.box.run("dpkg -L wormfs | grep '/systemd/system/.*[.]'").stdout.split()
    assert host.box.run(f"systemd-analyze verify {' '.join(units)} 2>&1").stdout == ""
    assert host.state() == "inactive" and host.box.show("wormfs", "UnitFileState") == "disabled"
    # An upgrade starts only what ran, and lays no second example over the settings.
    host.box.path(SETTINGS).unlink()
    said = host.install(newer)
    assert host.version() == NEWER
    assert host.state() == "inactive" and host.box.show("wormfs", "UnitFileState") == "disabled"
    assert SETTINGS not in said and not host.box.path(SETTINGS).exists()


def test_what_is_beside_the_program_is_found(host: Host, package: Package) -> None:
    host.install(package.file)
    for page in ("wormfs", "wormfs-spool", "wormfs.yaml"):
        assert host.box.run(f"man -w {page}").stdout.startswith("/usr/share/man/")
    completed = host.box.run(
        "bash -c 'source /usr/share/bash-completion/bash_completion; _completion_loader wormfs;"
        " COMP_WORDS=(wormfs spo) COMP_CWORD=1; _wormfs_completion wormfs; echo ${COMPREPLY[@]}'"
    )
    assert completed.stdout == "spool\n"
    for shell, file in (
        ("zsh", "zsh/vendor-completions/_wormfs"),
        ("fish", "fish/vendor_completions.d/wormfs.fish"),
    ):
        host.box.run(f"wormfs completion {shell} | cmp - /usr/share/{file}")
    # Every driver's library, and what boto3 needs to log in, though most of botocore's data was left out.
    host.box.run(
        "/usr/lib/wormfs/bin/python3 -I -c 'import bagit, ftputil, psycopg, pymysql, sqlalchemy, boto3;"
        ' [boto3.client(name, region_name="eu-central-1") for name in ("s3", "sts", "sso", "sso-oidc")]\''
    )
    # A directory of somebody else's, and its variables, do not get into the program.
    host.box.write("/tmp/evil/wormfs/__init__.py", "raise SystemExit('not ours')")
    for surroundings in ("cd /tmp/evil", "export PYTHONPATH=/tmp/evil"):
        assert host.box.run(f"{surroundings} && wormfs --version").stdout.startswith("wormfs, version")


def test_it_is_used_and_removed_without_a_trace_of_its_own(host: Host, package: Package) -> None:
    host.install(package.file)
    host.configure()
    host.start()
    host.store("algebra.zip", "an archive")
    # Who writes is a shell of another machine, as it were: the commit may come a moment after its end.
    host.box.wait_for(host.box.path(f"{STORED}/algebra.zip").exists, "it is committed")
    assert host.read("algebra.zip") == "an archive"
    assert host.box.run(f"echo changed > {MOUNTED}/algebra.zip", check=False).returncode != 0
    host.box.run("wormfs status")
    # By root, beside a daemon that is not root.
    host.box.run("wormfs verify exams && wormfs check exams && wormfs expire exams")
    assert host.box.run(f"stat -c %U {STORED}/.wormfs").stdout == "wormfs\n"
    assert host.box.run("dpkg --verify wormfs").stdout == ""
    said = host.remove()
    assert host.state() == "inactive"
    assert host.mounts() == []
    # Nothing was written beside the program: no byte code, no log.
    host.box.run("test ! -e /usr/lib/wormfs -a ! -e /usr/share/wormfs -a ! -e /usr/bin/wormfs")
    for left in (STORED, STATE, "/etc/wormfs"):
        assert f"left as it is: {left}" in said
    assert host.box.path(f"{STORED}/algebra.zip").read_text() == "an archive"
    # What is not the package's own is named by purge, too, and stays.
    host.box.write("/etc/wormfs/s3.key", "secret", mode=0o640)
    said = host.purge()
    assert "left as it is: /etc/wormfs" in said and "left as it is: the user wormfs" in said
    assert host.box.path("/etc/wormfs/s3.key").read_text() == "secret"
    assert not host.box.path(SETTINGS).exists()


def test_an_upgrade_loses_neither_the_open_file_nor_those_that_wait(
    host: Host, package: Package, newer: Path
) -> None:
    host.install(package.file)
    host.configure(settle="1h")
    host.start()
    own = host.box.path(SETTINGS).read_text()
    host.store("waiting.zip", "closed, and in the spool")
    assert not host.box.path(f"{STORED}/waiting.zip").exists()
    first = host.box.main_pid("wormfs")
    writer = host.box.start(
        f"exec 3> {MOUNTED}/open.zip; echo first half >&3; echo open;"
        " read line; echo second half >&3; exec 3>&-",
        user="www-data",
    )
    assert writer.stdout is not None and writer.stdout.readline() == "open\n"
    upgrade = host.start_upgrade(newer)
    # The daemon stops: nothing new can be opened, what is open goes on.
    host.box.wait_for(lambda: host.state() == "deactivating", "the upgrade stops the service")
    _, problems = writer.communicate("go on\n", 60)
    assert (writer.returncode, problems) == (0, "")
    said, _ = upgrade.communicate(timeout=240)
    assert upgrade.returncode == 0, said
    assert host.state() == "active", said
    assert host.box.main_pid("wormfs") != first
    assert host.box.run("wormfs --version").stdout == f"wormfs, version {NEWER}\n"
    assert host.box.path(SETTINGS).read_text() == own
    assert host.read("waiting.zip") == "closed, and in the spool"
    assert host.read("open.zip") == "first half\nsecond half\n"
    quarantined = host.box.run("wormfs spool list --state quarantined exams --json").stdout
    assert json.loads(quarantined) == {"entries": [], "problems": []}


def test_an_upgrade_mounts_again_what_fstab_had_mounted(host: Host, package: Package, newer: Path) -> None:
    host.install(package.file)
    host.configure()
    host.box.write("/etc/fstab", f"{SETTINGS} /mnt/worm fuse.wormfs nofail,allow_other 0 0\n")
    host.box.run("systemctl daemon-reload && mount -a && mount -a")
    assert sorted(host.mounts()) == ["/mnt/worm", MOUNTED]
    host.store("algebra.zip", "an archive")
    host.install(newer)
    assert sorted(host.mounts()) == ["/mnt/worm", MOUNTED]
    assert host.read("algebra.zip") == "an archive"
    # With an automount, only the next visitor starts it.
    host.box.run("umount -R /mnt/worm")
    host.box.write(
        "/etc/fstab", f"{SETTINGS} /mnt/worm fuse.wormfs nofail,allow_other,x-systemd.automount 0 0\n"
    )
    host.box.run("systemctl daemon-reload && systemctl start mnt-worm.automount")
    assert host.read("algebra.zip") == "an archive"
    host.install(package.file)
    assert host.mounts() == [] and host.box.show("mnt-worm.automount", "ActiveState") == "active"
    assert host.read("algebra.zip") == "an archive"
    host.remove()
    assert host.mounts() == []


def test_an_upgrade_with_wrong_settings_is_installed_and_says_so(
    host: Host, package: Package, newer: Path
) -> None:
    host.install(package.file)
    host.configure()
    host.start()
    host.box.path(SETTINGS).write_text("mountpoint: nowhere\n")
    assert "wormfs.service did not start" in host.install(newer)
    assert host.version() == NEWER


def test_purge_keeps_every_file_and_a_new_installation_reads_them(host: Host, package: Package) -> None:
    host.install(package.file)
    host.configure(settle="1h")
    host.start()
    host.store("waiting.zip", "only in the spool")
    identity = host.box.path(f"{STATE}/instance-id").read_text()
    said = host.purge()
    for left in (STORED, STATE, "the user wormfs"):
        assert f"left as it is: {left}" in said
    assert not host.box.path("/etc/wormfs").exists()
    assert not host.box.path("/mnt/worm").exists()
    assert host.version() == ""
    assert host.box.path(f"{STATE}/instance-id").read_text() == identity
    assert not host.box.path(f"{STORED}/waiting.zip").exists()
    host.install(package.file)
    assert "    path: /srv/worm/exams\n" in host.box.path(SETTINGS).read_text()
    host.configure()
    host.start()
    assert host.read("waiting.zip") == "only in the spool"
    assert host.box.path(f"{STATE}/instance-id").read_text() == identity
