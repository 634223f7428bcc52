"""What a supervisor tells a worker, as tests need it that start none."""

from __future__ import annotations

from pathlib import Path

from wormfs.config import LocalSettings
from wormfs.daemon.orders import Orders

ORDERS = Orders(
    backend="exams",
    settings=LocalSettings(name="exams", path=Path("/srv/exams")),
    mountpoint="/mnt/worm/exams",
    source="wormfs#exams",
    state_directory="/var/lib/wormfs",
    spool_directory="/var/lib/wormfs/spool/exams",
    instance_id="0" * 16,
    log_level="info",
    stop_timeout_s=30.0,
)
