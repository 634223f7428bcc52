"""``wormfs status``: what the running daemon does."""

from __future__ import annotations

import json
from typing import Any

import click

from wormfs.cli.options import config_option, json_option, load_settings

_ANSWER_S = 5.0
_READY = "ready"


@click.command()
@config_option
@json_option
def status(config_path: str, as_json: bool) -> int:
    """Show how each backend is: mounted or not and why, room, files on their way.

    Exits 0 if every backend is mounted, 3 if some are not, 1 if no daemon runs.

    \b
    Example:
      wormfs status --config /etc/wormfs/config.yaml
    """
    from wormfs.daemon.control import ControlClient

    settings = load_settings(config_path)
    found = ControlClient(settings.state_directory).request({"request": "status"}, timeout_s=_ANSWER_S)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print_table(found)
    return 0 if all(backend["state"] == _READY for backend in found["backends"].values()) else 3


def _print_table(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(Text(f"{found['mountpoint']}, daemon {found['pid']}"))
    table = Table("Backend", "State", "Worker", "Free", "Total", "Spool", "Reason")
    for name, backend in found["backends"].items():
        space = backend["space"] or {}
        table.add_row(
            Text(name),
            Text(backend["state"], "green" if backend["state"] == _READY else "bold red"),
            Text(str(backend["pid"] or "-")),
            Text(_size(space.get("free_bytes"))),
            Text(_size(space.get("total_bytes"))),
            Text(_spool(backend["spool"])),
            Text(backend["reason"]),
        )
    console.print(table)


def _spool(spool: dict[str, Any] | None) -> str:
    """Entries by state; what else the spool says is for ``--json``."""
    if spool is None:
        return "unknown"
    counts = spool.get("entries", {})
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "empty"


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return "unknown"
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or unit == "PiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
