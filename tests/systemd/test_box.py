"""The box that the other tests here stand on: a system of its own, and nothing of it stays."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.box import DISK, Box

MOUNTS = Path("/proc/self/mountinfo")


def test_a_box_boots_reboots_and_leaves_nothing(tmp_path: Path) -> None:
    with Box(tmp_path, prepare=lambda root: (root / "etc/planted").write_text("planted")) as box:
        assert box.run("cat /etc/planted; cat /proc/1/comm").stdout == "plantedsystemd\n"
        assert not Path("/etc/planted").exists()
        assert box.run("false", check=False).returncode == 1
        assert box.run("id -un", user="www-data").stdout == "www-data\n"
        assert "Reached target multi-user.target" in box.journal()
        box.write(f"{DISK}/kept", "on the disk", owner="www-data")
        box.write("/run/lost", "in memory")
        first = box.run("cat /proc/sys/kernel/random/boot_id").stdout
        box.reboot()
        assert box.run("cat /proc/sys/kernel/random/boot_id").stdout != first
        assert box.path(f"{DISK}/kept").read_text() == "on the disk"
        assert not box.path("/run/lost").exists()
        with box.start("exec sleep 600") as left:
            box.power_cycle()
            assert left.wait(10) != 0
        left = box.start("exec sleep 600")
        pids = box.pids()
        assert left.pid in pids
    left.communicate(timeout=10)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    assert str(tmp_path) not in MOUNTS.read_text()
    assert box.name not in "\n".join(directory for directory, _, _ in os.walk("/sys/fs/cgroup"))
    assert os.listdir(tmp_path) == ["console.log"]
