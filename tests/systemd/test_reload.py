"""``systemctl reload``: other backends come, go and change, and who uses the others does not notice."""

from __future__ import annotations

import os
import signal

from tests.systemd.service import CONFIG, DATA, MOUNT, UNIT, Service, finish, processes, writer


def test_backends_are_added_removed_and_changed_while_files_are_open(service: Service) -> None:
    box = service.box
    kept, gone, changed = service.local("kept"), service.local("gone"), service.local("changed")
    service.configure({"kept": kept, "gone": gone, "changed": changed}, stop_timeout="30s")
    box.run(f"systemctl start {UNIT}")
    for name in ("kept", "gone", "changed"):
        service.put(f"{MOUNT}/{name}/file", name)
    before = service.status()
    with writer(box, f"{MOUNT}/kept/open") as on_kept, writer(box, f"{MOUNT}/changed/open") as on_changed:
        settings = {"kept": kept, "changed": {**changed, "settle": "1h"}, "new": service.local("new")}
        service.configure(settings, stop_timeout="30s")
        reloading = box.start(f"systemctl reload {UNIT}")
        box.wait_for(lambda: f"{MOUNT}/changed" not in service.mounted(), "what changes takes no more files")
        assert box.show(UNIT, "ActiveState") == "reloading"
        # It drains: whoever has a file open there finishes it.
        finish(on_changed)
        assert reloading.communicate(timeout=60) == ("", "")
        assert reloading.returncode == 0
        assert service.mounted() == [MOUNT, *(f"{MOUNT}/{name}" for name in ("changed", "kept", "new"))]
        assert box.run(f"ls {MOUNT}").stdout.split() == ["changed", "kept", "new"]
        finish(on_kept)
    assert box.path(f"{DATA}/kept/open").read_text() == "first second"
    assert box.path(f"{DATA}/changed/open").read_text() == "first second"
    missing = box.run(f"ls {MOUNT}/gone", check=False)
    assert "No such file or directory" in missing.stderr
    assert box.path(f"{DATA}/gone/file").read_text() == "gone"
    after = service.status()
    assert after["pid"] == before["pid"]
    assert after["backends"]["kept"]["pid"] == before["backends"]["kept"]["pid"]
    assert after["backends"]["kept"]["restarts"] == 0
    # The changed one has its new settings: what is closed is not committed for an hour.
    service.put(f"{MOUNT}/changed/later", "settles")
    assert sum(service.backend("changed")["spool"]["entries"].values()) == 1
    assert box.show(UNIT, "StatusText") == f"3 of 3 backends mounted at {MOUNT}"

    # And back again.
    service.configure({"kept": kept, "gone": gone}, stop_timeout="30s")
    box.run(f"systemctl reload {UNIT}")
    assert box.run(f"cat {MOUNT}/gone/file").stdout == "gone"
    assert sorted(service.status()["backends"]) == ["gone", "kept"]


def test_wrong_settings_fail_the_reload_and_change_nothing(service: Service) -> None:
    box = service.box
    right = {"exams": service.local("exams")}
    service.configure(right)
    box.run(f"systemctl start {UNIT}")
    before = processes(service)
    service.configure({**right, "more": {"type": "local", "path": f"{DATA}/more", "setle": "1s"}})
    reloaded = box.run(f"systemctl reload {UNIT}", check=False)
    assert reloaded.returncode != 0
    journal = box.journal(UNIT)
    said = f"{CONFIG}:"
    assert said in journal and "backends.more.setle: is not a setting; did you mean 'settle'?" in journal
    assert "the settings file is wrong and was not taken over" in box.show(UNIT, "StatusText")
    assert box.show(UNIT, "ActiveState") == "active"
    assert processes(service) == before
    # So do settings that only a restart can take over, told by SIGHUP.
    service.configure(right, state_directory="/var/lib/elsewhere")
    os.kill(box.main_pid(UNIT), signal.SIGHUP)
    box.wait_for(
        lambda: "by a reload: restart wormfs" in box.show(UNIT, "StatusText"), "it refuses and says why"
    )
    service.configure(right)
    box.run(f"systemctl reload {UNIT}")
    assert box.show(UNIT, "StatusText") == f"1 of 1 backends mounted at {MOUNT}"


def test_a_reload_that_brings_a_backend_that_is_down_says_so(service: Service) -> None:
    box = service.box
    right = {"exams": service.local("exams")}
    service.configure(right)
    box.run(f"systemctl start {UNIT}")
    service.configure({**right, "away": {"type": "local", "path": f"{DATA}/away"}})
    reloaded = box.run(f"systemctl reload {UNIT}", check=False)
    assert reloaded.returncode != 0
    assert "wormfs: away is not mounted: " in box.journal(UNIT)
    # Taken over all the same, and mounted when it is there.
    service.local("away")
    service.wait_ready("away")
    service.put(f"{MOUNT}/away/file", "late")


def test_a_changed_secret_is_a_change(service: Service) -> None:
    box = service.box
    service.serve_ftp("/srv/ftp", "right")
    try:
        ftp = {"type": "ftp", "host": "127.0.0.1", "port": 2121, "user": "archivist", "tls": "none"}
        ftp |= {
            "insecure": True,
            "timeout": "2s",
            "commit_timeout": "1s",
            "password": {"file": "/etc/wormfs/ftp.password"},
        }
        box.write("/etc/wormfs/ftp.password", "wrong", 0o640, "root:wormfs")
        service.configure({"exams": service.local("exams"), "ftp": ftp}, stop_timeout="1s")
        box.run(f"systemctl start {UNIT}")
        exams = service.backend("exams")["pid"]
        assert service.backend("ftp")["state"] != "ready"
        box.write("/etc/wormfs/ftp.password", "right", 0o640, "root:wormfs")
        box.run(f"systemctl reload {UNIT}")
        assert service.backend("ftp")["state"] == "ready"
        assert service.backend("exams")["pid"] == exams

        # Removed while something waits in its spool: that stays, and everybody is told.
        with writer(box, f"{MOUNT}/ftp/file") as writing:
            box.run("systemctl kill -s KILL ftpserver")
            finish(writing)
        service.configure({"exams": service.local("exams")}, stop_timeout="1s")
        box.run(f"systemctl reload {UNIT}")
        assert "wormfs: ftp: 1 file waits in its spool until it is added again" in box.journal(UNIT)
        assert box.run("find /var/lib/wormfs/spool/ftp -name '*.data' -size +0").stdout
    finally:
        box.run(f"systemctl stop {UNIT}; systemctl stop ftpserver; rm -f /etc/wormfs/ftp.password")
