"""The log in a real journal, its level by a signal to the unit, and the metrics past the unit's sandbox."""

from __future__ import annotations

import json
from typing import Any

from tests.systemd.service import DATA, MOUNT, UNIT, Service

PORT = 9477


def entries(service: Service, *matches: str) -> list[dict[str, Any]]:
    """What the journal has of this boot's service."""
    lines = service.box.run(f"journalctl -b -u {UNIT} -o json --no-pager {' '.join(matches)}").stdout
    return [json.loads(line) for line in lines.splitlines()]


def test_lines_have_levels_and_fields(service: Service) -> None:
    box = service.box
    service.configure({"exams": service.local("exams")}, metrics=f"127.0.0.1:{PORT}")
    box.run(f"systemctl start {UNIT}")
    service.put(f"{MOUNT}/exams/a.zip", "an exam")
    refused = box.run(f"echo $$; exec cp /etc/hostname {MOUNT}/exams/a.zip", check=False)
    assert refused.returncode == 1
    box.wait_for(lambda: entries(service, "WORMFS_OPERATION=open"), "the refusal is in the journal")
    entry = entries(service, "WORMFS_OPERATION=open")[-1]
    pid = refused.stdout.strip()
    assert entry["MESSAGE"] == (
        "exams: open refused: exams/a.zip: the file is a record; it can be read, not changed; "
        f"asked by uid 0, pid {pid}, program 'cp'"
    )
    wanted = {
        "PRIORITY": "6", "SYSLOG_IDENTIFIER": "wormfs", "_TRANSPORT": "journal", "WORMFS_BACKEND": "exams",
        "WORMFS_FILE": "a.zip", "WORMFS_UID": "0", "WORMFS_PID": pid, "WORMFS_PROGRAM": "cp",
        "WORMFS_ERROR": "Sealed",
    }  # fmt: skip
    assert {name: entry[name] for name in wanted} == wanted

    found = box.run(f"curl -sf http://127.0.0.1:{PORT}/metrics", user="nobody").stdout
    assert 'wormfs_backend_up{backend="exams"} 1.0' in found
    assert (
        'wormfs_refusals_total{backend="exams",errno="EPERM",operation="open",reason="sealed"} 1.0' in found
    )


def test_the_level_changes_by_a_signal_to_the_unit(service: Service) -> None:
    box = service.box
    service.configure({"exams": service.local("exams")})
    box.run(f"systemctl start {UNIT}")
    worker = service.backend("exams")["pid"]

    def said(level: str) -> set[str]:
        found = entries(service)
        return {
            one.get("WORMFS_BACKEND", "") for one in found if f"log level is now {level}" in one["MESSAGE"]
        }

    box.run(f"systemctl kill --kill-whom=main -s USR1 {UNIT}")
    box.wait_for(lambda: said("debug") == {"wormfs", "exams"}, "all say so")
    # To every process of the unit: the workers do not die of it.
    box.run(f"systemctl kill -s USR2 {UNIT}")
    box.wait_for(lambda: said("info") == {"wormfs", "exams"}, "all say so")
    assert service.backend("exams")["pid"] == worker
    assert box.run(f"ls {DATA}").stdout == "exams\n"


def test_what_somebody_must_decide_is_an_alert(service: Service) -> None:
    box = service.box
    service.configure({"scratch": service.local("scratch", erase="always")})
    box.run(f"systemctl start {UNIT}")
    box.wait_for(lambda: entries(service, "PRIORITY=4"), "the warning is there")
    assert "ALERT: 'erase: always'" in entries(service, "PRIORITY=4")[-1]["MESSAGE"]
    assert entries(service, "PRIORITY=1") == []
