"""``wormfs check``: try every backend out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from wormfs.cli.options import config_option, json_option, load_settings
from wormfs.errors import WormfsError
from wormfs.model import CheckResult

if TYPE_CHECKING:
    from wormfs.config import BackendSettings


@click.command()
@config_option
@json_option
@click.argument("backends", nargs=-1, metavar="[BACKEND]...")
def check(config_path: str, as_json: bool, backends: tuple[str, ...]) -> int:
    """Try every backend: connect, authenticate, write, refuse an overwrite, read, free space.

    Leaves nothing visible behind; one hidden test object is used again and again. Can run beside the daemon.
    Exits 0 only if everything holds for every backend.

    \b
    Example:
      wormfs check --config /etc/wormfs/config.yaml exams
    """
    settings = load_settings(config_path)
    chosen = [settings.backend(name) for name in backends] or list(settings.backends.values())
    results = {backend.name: list(_try(backend)) for backend in chosen}
    if as_json:
        _print_json(results)
    else:
        _print_table(results)
    return 0 if all(result.passed for found in results.values() for result in found) else 1


def _try(settings: BackendSettings) -> Iterator[CheckResult]:
    """A backend that raises has failed; the others are tried all the same."""
    from wormfs.daemon.stacks import create_backend

    step = "start"
    try:
        backend = create_backend(settings)
        try:
            backend.start()
            step = "check"
            yield from backend.check()
        finally:
            backend.close()
    except WormfsError as error:
        yield CheckResult(step, passed=False, detail=str(error))
    except Exception as error:  # noqa: BLE001 (a broken driver must not hide what the others found)
        yield CheckResult(step, passed=False, detail=f"unforeseen: {type(error).__name__}: {error}")


def _print_json(results: dict[str, list[CheckResult]]) -> None:
    backends = {
        name: {
            "passed": all(result.passed for result in found),
            "checks": [
                {
                    "name": result.name,
                    "passed": result.passed,
                    "warning": result.warning,
                    "detail": result.detail,
                }
                for result in found
            ],
        }
        for name, found in results.items()
    }
    passed = all(backend["passed"] for backend in backends.values())
    click.echo(json.dumps({"passed": passed, "backends": backends}, indent=2))


def _print_table(results: dict[str, list[CheckResult]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("Backend", "Check", "Result", "Detail")
    for name, found in results.items():
        for result in found:
            verdict, style = _verdict(result)
            table.add_row(Text(name), Text(result.name), Text(verdict, style), Text(result.detail))
        table.add_section()
    Console().print(table)


def _verdict(result: CheckResult) -> tuple[str, str]:
    if not result.passed:
        return "FAILED", "bold red"
    return ("warning", "yellow") if result.warning else ("ok", "green")
