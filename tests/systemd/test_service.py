"""The shipped unit on a real systemd: start, use, stop, crash, hang, secrets."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.systemd.service import BIN, DATA, MOUNT, UNIT, Service, finish, processes, runtime_drop_in, writer

DAEMON_MAY = "chown,dac_override,fowner,fsetid,linux_immutable,sys_ptrace"
MOUNTER_MAY = "sys_admin"


def test_it_serves_everybody_as_its_own_user(service: Service) -> None:
    box = service.box
    service.configure({"exams": service.local("exams"), "other": service.local("other")})
    box.run(f"systemctl start {UNIT}")
    # Ready means that every mount answers: nobody has to wait.
    assert service.mounted() == [MOUNT, f"{MOUNT}/exams", f"{MOUNT}/other"]
    assert box.show(UNIT, "StatusText") == f"2 of 2 backends mounted at {MOUNT}"

    box.run(f"mkdir -m 2770 {MOUNT}/exams/job-1", user="www-data")
    service.put(f"{MOUNT}/exams/job-1/backup.mbz", "an exam")
    found = box.run(f"stat -c '%U:%G %a' {MOUNT}/exams/job-1/backup.mbz {DATA}/exams/job-1/backup.mbz").stdout
    assert found == "www-data:www-data 444\n" * 2
    assert box.run(f"stat -c '%U:%G %a' {DATA}/exams/job-1").stdout == "www-data:www-data 2770\n"
    refused = box.run(f"echo other > {MOUNT}/exams/job-1/backup.mbz", user="www-data", check=False)
    assert "Permission denied" in refused.stderr
    private = f"umask 077; echo private > {MOUNT}/exams/private"
    box.run(private, user="www-data")
    assert box.run(f"cat {MOUNT}/exams/private", user="www-data").stdout == "private\n"
    assert box.run(f"cat {MOUNT}/exams/private", user="nobody", check=False).returncode == 1

    for pid in processes(service):
        status = Path(f"/proc/{pid}/status").read_text()
        uid = box.run("id -u wormfs").stdout.strip()
        assert re.search(r"^Uid:\t(\d+)\t\1\t\1\t\1$", status, re.MULTILINE)[1] == uid  # type: ignore[index]
        assert capabilities(pid) == {capability_mask(DAEMON_MAY)}
        assert re.search(r"^Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text(), re.MULTILINE)


def test_the_mount_is_seen_by_all_and_by_units_with_namespaces_of_their_own(service: Service) -> None:
    box = service.box
    service.configure({"exams": service.local("exams")})
    box.run(
        "systemd-run -q --unit=before -p PrivateTmp=yes -p ProtectSystem=strict -p User=www-data sleep 1000"
    )
    try:
        box.run(f"systemctl start {UNIT}")
        service.put(f"{MOUNT}/exams/file", "seen")
        # Because who mounts does so where everybody is, and can do nothing but that.
        mounter = box.main_pid("wormfs-mounter.service")
        assert os.readlink(f"/proc/{mounter}/ns/mnt") == os.readlink(f"/proc/{box.leader}/ns/mnt")
        assert capabilities(mounter) == {capability_mask(MOUNTER_MAY)}
        assert box.run(f"cat {MOUNT}/exams/file", user="nobody").stdout == "seen"
        seen = box.run(
            "systemd-run -q --pipe --wait -p PrivateTmp=yes -p ProtectSystem=strict -p ProtectHome=yes"
            f" -p PrivateDevices=yes -p User=www-data cat {MOUNT}/exams/file"
        )
        assert seen.stdout == "seen"
        # One that was started before, such as a web server, sees it, too, and can write.
        inside = "nsenter -t $(systemctl show --value -p MainPID before) -m"
        box.run(f"{inside} runuser -u www-data -- sh -c 'echo written > {MOUNT}/exams/late'")
        assert box.run(f"cat {MOUNT}/exams/late").stdout == "written\n"
    finally:
        box.run("systemctl stop before")
    # Without ours nobody could write into the directory below.
    box.run(f"systemctl stop {UNIT}")
    refused = box.run(f"echo lost > {MOUNT}/file", user="www-data", check=False)
    assert refused.returncode != 0
    assert box.run(f"stat -c '%U %a' {MOUNT}").stdout == "root 555\n"


def test_a_stop_lets_open_files_finish(service: Service) -> None:
    box = service.box
    service.configure({"exams": service.local("exams")}, stop_timeout="20s")
    box.run(f"systemctl start {UNIT}")
    with writer(box, f"{MOUNT}/exams/file") as writing:
        stopping = box.start(f"systemctl stop {UNIT}")
        box.wait_for(lambda: service.mounted() == [], "nothing new can be opened")
        assert box.show(UNIT, "ActiveState") == "deactivating"
        finish(writing)
        stopping.communicate(timeout=30)
    assert (Path(box.path(f"{DATA}/exams/file"))).read_text() == "first second"
    assert [box.show(UNIT, name) for name in ("ActiveState", "Result")] == ["inactive", "success"]


@pytest.mark.parametrize("whom", ["main", "all"])
def test_after_kill_9_it_comes_back_without_its_stale_mounts(service: Service, whom: str) -> None:
    box = service.box
    service.configure({"exams": service.local("exams")})
    box.run(f"systemctl start {UNIT}")
    service.put(f"{MOUNT}/exams/file", "kept")
    before = box.main_pid(UNIT)
    with writer(box, f"{MOUNT}/exams/half") as writing:
        if whom == "all":
            for pid in processes(service):
                os.kill(pid, signal.SIGKILL)
        else:
            os.kill(before, signal.SIGKILL)
            # The workers let whoever has a file open finish it.
            finish(writing)
        box.wait_for(lambda: box.main_pid(UNIT) not in (0, before), "it is started again")
        service.wait_ready("exams")
        writing.kill()
    assert len(service.mounted()) == 2
    assert box.run(f"cat {MOUNT}/exams/file").stdout == "kept"
    half = box.run(f"cat {MOUNT}/exams/half", check=False).stdout
    assert half == ("first second" if whom == "main" else "")
    service.put(f"{MOUNT}/exams/after", "works")


def test_after_kill_9_and_no_restart_nothing_stale_is_left(service: Service) -> None:
    box = service.box
    service.configure({"exams": service.local("exams")})
    box.run(f"systemctl start {UNIT}")
    runtime_drop_in(box, "Restart=no")
    try:
        box.run(f"systemctl kill -s KILL {UNIT}")
        box.wait_for(lambda: box.show(UNIT, "ActiveState") == "failed", "it is given up")
        assert service.mounted() == []
        assert "cleared a mount that a dead daemon left" in box.journal(UNIT)
    finally:
        runtime_drop_in(box, None)


def test_a_worker_that_hangs_is_replaced_and_nobody_else_notices(service: Service) -> None:
    box = service.box
    service.configure({"hangs": service.local("hangs"), "works": service.local("works")}, hang_timeout="2s")
    box.run(f"systemctl start {UNIT}")
    service.put(f"{MOUNT}/hangs/file", "kept")
    supervisor, status = box.main_pid(UNIT), service.status()["backends"]
    hung = box.host_pid(status["hangs"]["pid"])
    with writer(box, f"{MOUNT}/works/file") as writing:
        os.kill(hung, signal.SIGSTOP)
        box.wait_for(lambda: not os.path.exists(f"/proc/{hung}"), "the hung worker is killed")
        service.wait_ready("hangs")
        assert box.run(f"cat {MOUNT}/hangs/file").stdout == "kept"
        finish(writing)
    assert box.path(f"{DATA}/works/file").read_text() == "first second"
    assert box.main_pid(UNIT) == supervisor
    assert service.backend("works")["pid"] == status["works"]["pid"]
    assert "wormfs: hangs: the worker did not answer for 2 s; killed" in box.journal(UNIT)


def test_the_mounter_may_die_and_the_mount_lives_on(service: Service) -> None:
    box = service.box
    service.configure({"exams": service.local("exams")})
    box.run(f"systemctl start {UNIT}")
    supervisor, mounter = box.main_pid(UNIT), box.main_pid("wormfs-mounter")
    os.kill(mounter, signal.SIGKILL)
    service.put(f"{MOUNT}/exams/file", "without it")
    box.wait_for(lambda: box.main_pid("wormfs-mounter") not in (0, mounter), "it is started again")
    worker = box.host_pid(service.backend("exams")["pid"])
    os.kill(worker, signal.SIGKILL)
    box.wait_for(lambda: not os.path.exists(f"/proc/{worker}"), "it is dead")
    service.wait_ready("exams")
    assert box.run(f"cat {MOUNT}/exams/file").stdout == "without it"
    assert box.main_pid(UNIT) == supervisor


def test_a_supervisor_that_hangs_is_restarted_by_the_watchdog(service: Service) -> None:
    box = service.box
    service.configure({"exams": service.local("exams")})
    runtime_drop_in(box, "WatchdogSec=2")
    try:
        box.run(f"systemctl start {UNIT}")
        service.put(f"{MOUNT}/exams/file", "kept")
        hung = box.main_pid(UNIT)
        # It is fed: nothing happens in more than its time.
        box.run("sleep 2.5")
        assert box.main_pid(UNIT) == hung
        os.kill(hung, signal.SIGSTOP)
        box.wait_for(lambda: box.main_pid(UNIT) not in (0, hung), "it is started again")
        assert "Watchdog timeout" in box.journal(UNIT)
        service.wait_ready("exams")
        assert box.run(f"cat {MOUNT}/exams/file").stdout == "kept"
    finally:
        runtime_drop_in(box, None)


def test_secrets_come_from_systemd_and_one_that_is_missing_stops_only_its_backend(service: Service) -> None:
    box = service.box
    ftp = {"type": "ftp", "host": "127.0.0.1", "user": "u", "tls": "none", "insecure": True, "timeout": "2s"}
    service.configure(
        {
            "local": service.local("local"),
            "given": {**ftp, "port": 9, "password": {"credential": "wormfs_given"}},
            "missing": {**ftp, "port": 9, "password": {"credential": "wormfs_missing"}},
        }
    )
    box.write("/etc/wormfs/credentials/given", "planted secret", 0o600)
    box.run(f"systemctl start {UNIT}")
    assert service.backend("local")["state"] == "ready"
    # It has its password, and nobody listens there.
    assert "wormfs_given" not in service.backend("given")["reason"]
    assert service.backend("given")["state"] == "waiting"
    assert service.backend("missing")["state"] == "failed"
    assert "credentials/wormfs.service/wormfs_missing' cannot be read" in service.backend("missing")["reason"]
    assert "planted" not in box.journal() + box.show(UNIT, "StatusText") + str(service.status())
    assert box.run("cat /etc/wormfs/credentials/given", user="wormfs", check=False).returncode == 1

    box.run(f"systemctl stop {UNIT}; mv /etc/wormfs/credentials /etc/wormfs/away")
    try:
        assert box.run(f"systemctl start {UNIT}", check=False).returncode != 0
        # Said by a process that ends at once: journald may no longer find out of which unit it was.
        box.wait_for(lambda: "Failed to set up credentials" in box.journal(), "systemd says why")
    finally:
        box.run(f"systemctl stop {UNIT}; mv /etc/wormfs/away /etc/wormfs/credentials")


def test_wrong_settings_are_not_tried_again_and_again(service: Service) -> None:
    box = service.box
    service.configure({"exams": service.local("exams", setle="1s")})
    assert box.run(f"systemctl start {UNIT}", check=False).returncode != 0
    box.wait_for(lambda: box.show(UNIT, "ActiveState") == "failed", "it is given up")
    assert "is not a setting; did you mean 'settle'?" in box.journal(UNIT)
    assert box.show(UNIT, "ExecMainStatus") == "2"


def test_another_mountpoint_and_a_place_that_the_service_does_not_see(service: Service) -> None:
    box = service.box
    box.run("install -d -m 0555 /mnt/other; install -d /home/exams")
    home = {"type": "local", "path": "/home/exams"}
    service.configure({"exams": service.local("exams"), "home": home}, mountpoint="/mnt/other")
    box.run(f"systemctl restart {UNIT}")
    assert service.mounted() == ["/mnt/other", "/mnt/other/exams"]
    service.put("/mnt/other/exams/file", "elsewhere")
    assert service.backend("home")["reason"]
    box.run(f"systemctl stop {UNIT}; rmdir /mnt/other /home/exams")


def test_the_timers_do_their_work(service: Service) -> None:
    box = service.box
    service.configure(
        {"exams": service.local("exams", erase="expired", retention={"period": "1s"}, empty_grace="0s")}
    )
    box.run(f"systemctl start {UNIT}")
    service.put(f"{MOUNT}/exams/short", "soon over")
    assert service.box.run(f"{BIN}/wormfs stat {MOUNT}/exams/short").stdout
    box.run("systemctl start wormfs-verify.service")
    verified = json.loads(box.run(f"{BIN}/wormfs status --json").stdout)["backends"]["exams"]["verification"]
    assert (verified["files"], verified["findings"]) == (1, {})
    box.wait_for(
        lambda: (
            box.run("systemctl start wormfs-expire.service").returncode == 0
            and box.run(f"ls {MOUNT}/exams").stdout == ""
        ),
        "the file is erased",
    )
    box.run("systemctl enable -q --now wormfs-verify.timer wormfs-expire.timer")
    listed = box.run("systemctl list-timers --no-pager").stdout
    assert "wormfs-verify.timer" in listed and "wormfs-expire.timer" in listed
    box.run("systemctl disable -q --now wormfs-verify.timer wormfs-expire.timer")
    # Nobody starts a stopped daemon for this.
    box.run(f"systemctl stop {UNIT}")
    assert box.run("systemctl start wormfs-expire.service", check=False).returncode != 0
    assert box.show(UNIT, "ActiveState") == "inactive"


# -- help


def capabilities(pid: int) -> set[str]:
    """What a process has and could ever get."""
    status = Path(f"/proc/{pid}/status").read_text()
    return set(re.findall(r"^Cap(?:Prm|Bnd):\t(\w+)$", status, re.MULTILINE))


def capability_mask(names: str) -> str:
    numbers = {
        "chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4,
        "linux_immutable": 9, "sys_ptrace": 19, "sys_admin": 21,
    }  # fmt: skip
    return f"{sum(1 << numbers[name] for name in names.split(',')):016x}"
