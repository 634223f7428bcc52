"""Reboots: what waited in the spool is committed, and who needs the mount finds it there."""

from __future__ import annotations

from tests.support.box import DISK, REPOSITORY
from tests.systemd.service import DATA, FTP_PORT, MOUNT, UNIT, Service, commands_under, finish, writer

_WEB = f"""
[Service]
Type=oneshot
User=www-data
ExecStart=/bin/sh -c 'ls {MOUNT}/exams > /tmp/web.found'
[Install]
WantedBy=multi-user.target
"""


def test_what_waits_in_the_spool_survives_a_reboot_and_is_committed(service: Service) -> None:
    box = service.box
    ftp = {"type": "ftp", "host": "127.0.0.1", "port": FTP_PORT, "user": "archivist", "tls": "none"}
    ftp |= {
        "insecure": True,
        "password": {"credential": "wormfs_ftp"},
        "commit_timeout": "1s",
        "timeout": "2s",
    }
    box.write("/etc/wormfs/credentials/ftp", "open sesame", 0o600)
    box.write("/etc/systemd/system/apache2.service", _WEB)
    box.run(f"set -e; cd {REPOSITORY}; {commands_under('Programs that use the mount')}")
    service.configure({"exams": service.local("exams"), "far": ftp})
    service.serve_ftp(f"{DISK}/ftp", "open sesame")
    box.run(f"systemctl daemon-reload; systemctl enable -q --now {UNIT}; systemctl enable -q apache2")
    service.wait_ready("far")
    service.put(f"{MOUNT}/far/first", "at once")
    service.put(f"{MOUNT}/exams/file", "here")
    assert box.path(f"{DISK}/ftp/first").read_text() == "at once"

    # It goes away while a file is written.
    with writer(box, f"{MOUNT}/far/second") as writing:
        box.run("systemctl kill -s KILL ftpserver")
        box.wait_for(lambda: box.show("ftpserver", "ActiveState") != "active", "the server is away")
        finish(writing)
    box.wait_for(lambda: service.backend("far")["spool"]["waiting"] == 1, "it waits in the spool")

    box.reboot()
    # The boot did not wait for what is down, and the web server found what is up.
    assert box.run("cat /tmp/web.found").stdout == "file\n"
    assert box.show(UNIT, "ActiveState") == "active"
    assert service.backend("far")["state"] == "waiting"
    assert not box.path(f"{DISK}/ftp/second").exists()
    service.serve_ftp(f"{DISK}/ftp", "open sesame")
    try:
        box.wait_for(lambda: box.path(f"{DISK}/ftp/second").exists(), "it is committed", 60)
        service.wait_ready("far")
        box.wait_for(lambda: box.run(f"cat {MOUNT}/far/second").stdout == "first second", "it is read back")
        assert service.backend("far")["spool"]["waiting"] == 0
    finally:
        box.run(f"systemctl stop {UNIT}; systemctl stop ftpserver; systemctl disable -q apache2")


def test_fstab_mounts_at_boot_and_by_hand(service: Service) -> None:
    box = service.box
    service.configure({"exams": service.local("exams"), "other": service.local("other")})
    mounts = [MOUNT, f"{MOUNT}/exams", f"{MOUNT}/other"]
    try:
        box.run(f"set -e\n{commands_under('fstab instead')}")
        box.wait_for(lambda: service.status() == {}, "the daemon ends")
        for _ in range(2):
            box.run("mount -a")
            assert service.mounted() == mounts
        # It came back when every backend was mounted, so this needs no waiting.
        service.put(f"{MOUNT}/exams/file", "by hand")
        assert box.run(f"findmnt -no SOURCE,FSTYPE {MOUNT}").stdout.split() == [
            "/etc/wormfs/config.yaml",
            "fuse.wormfs",
        ]
        assert "in use by another wormfs daemon" in box.run(f"mount {MOUNT}", check=False).stderr
        box.run(f"umount -R {MOUNT}")
        box.wait_for(lambda: service.status() == {}, "the daemon ends")
        assert service.mounted() == []

        wrong = box.run(f"mount -t fuse.wormfs -o allow_othre /etc/wormfs/config.yaml {MOUNT}", check=False)
        assert "mean nothing to wormfs: allow_othre" in wrong.stderr
        other = box.run("mount -t fuse.wormfs /etc/wormfs/config.yaml /mnt", check=False)
        assert (other.returncode, "names the mountpoint /mnt/worm" in other.stderr) == (32, True)

        box.reboot()
        # nofail: the boot does not wait for it.
        box.wait_for(lambda: box.show("mnt-worm.mount", "ActiveState") == "active", "it is mounted")
        assert box.show(UNIT, "ActiveState") == "inactive"
        assert service.mounted() == mounts
        assert box.run(f"cat {MOUNT}/exams/file", user="nobody").stdout == "by hand"
        box.run(f"umount -R {MOUNT}")
    finally:
        box.write("/etc/fstab", "")
        box.run("systemctl daemon-reload")
    box.wait_for(lambda: service.status() == {}, "the daemon ends")


def test_an_automount_mounts_for_its_first_visitor(service: Service) -> None:
    box = service.box
    service.configure({"exams": service.local("exams"), "down": {"type": "local", "path": f"{DATA}/nothing"}})
    options = "_netdev,nofail,allow_other,x-systemd.automount"
    box.write("/etc/fstab", f"/etc/wormfs/config.yaml {MOUNT} fuse.wormfs {options} 0 0\n")
    box.write(f"{DATA}/exams/file", "found", owner="www-data")
    try:
        box.run("systemctl daemon-reload; systemctl start mnt-worm.automount")
        for _ in range(2):
            assert service.mounted() == []
            assert box.run(f"cat {MOUNT}/exams/file", user="nobody", timeout_s=25).stdout == "found"
            assert service.mounted() == [MOUNT, f"{MOUNT}/exams"]
            box.run("systemctl stop mnt-worm.mount")
            box.wait_for(lambda: service.status() == {}, "the daemon ends")
    finally:
        box.write("/etc/fstab", "")
        box.run("systemctl stop mnt-worm.automount; systemctl daemon-reload")
