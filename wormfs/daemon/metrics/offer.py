"""Offers the metrics where the settings say. Whatever goes wrong here, the file system goes on."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from wormfs import durability, threads
from wormfs.config.metrics import Listen, MetricsSettings
from wormfs.daemon.metrics import exposition
from wormfs.daemon.metrics.facts import Snapshot
from wormfs.daemon.metrics.gather import Gatherer
from wormfs.daemon.metrics.http import PATH, Answer, MetricsServer

log = logging.getLogger(__name__)

_AGAIN_S: Final = 10.0
"""Between attempts to listen: the daemon before this one may be about to end."""
_MODE: Final = 0o644
"""node_exporter is another user."""


class Offering:
    """Offers the metrics while the daemon runs, elsewhere when its settings become others."""

    def __init__(self, settings: MetricsSettings, gatherer: Gatherer):
        self._settings = settings
        self._gatherer = gatherer
        self._changed = trio.Event()

    def change(self, settings: MetricsSettings) -> None:
        """From now on as these say."""
        if settings != self._settings:
            self._settings = settings
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._offer_safely)
                await self._changed.wait()
                nursery.cancel_scope.cancel()

    async def _offer_safely(self) -> None:
        try:
            await offer(self._settings, self._gatherer)
        except Exception:
            log.exception(
                "metrics are not offered any more, until the settings for them change: nobody foresaw this"
            )


async def offer(settings: MetricsSettings, gatherer: Gatherer) -> None:
    """Runs until cancelled, or returns at once when nothing is to be offered. Raises nothing foreseen."""
    async with trio.open_nursery() as nursery:
        if settings.listen is not None:
            nursery.start_soon(_over_http, settings.listen, gatherer)
        if settings.textfile is not None:
            nursery.start_soon(_in_a_file, settings.textfile, settings.every_s, gatherer)


async def _over_http(listen: Listen, gatherer: Gatherer) -> None:
    async with trio.open_nursery() as nursery:
        doorway = threads.Doorway(nursery)

        def answer(accept: str) -> tuple[bytes, str]:
            return exposition.negotiated(gatherer.from_thread(doorway), accept)

        server = await _listening(listen, answer)
        log.info("metrics at http://%s%s", listen, PATH)
        if not listen.loopback:
            log.warning("metrics: other hosts can read them at %s, because the settings say so", listen)
        try:
            await threads.run_abandonable(server.run)
        finally:
            server.stop()


async def _listening(listen: Listen, answer: Answer) -> MetricsServer:
    said = ""
    while True:
        try:
            return MetricsServer(listen, answer)
        except OSError as error:
            why = _why_not(listen, error)
            if why != said:
                said = why
                log.error(
                    "metrics are not offered: %s; the mount is not affected, tried again every %g s",
                    why,
                    _AGAIN_S,
                )
        await trio.sleep(_AGAIN_S)


def _why_not(listen: Listen, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"another program listens at {listen} ('ss -ltnp' shows which); end it or change 'metrics'"
        case errno.EADDRNOTAVAIL:
            return f"this host has no address {listen.address}; change 'metrics' in the settings"
        case errno.EACCES:
            return f"port {listen.port} is for root only; choose one above 1023"
        case _:
            return f"{listen}: {error.strerror or error}"


async def _in_a_file(path: Path, every_s: float, gatherer: Gatherer) -> None:
    said = ""
    try:
        while True:
            snapshot = await gatherer.now()
            try:
                await threads.run_abandonable(_write, path, snapshot)
                said = ""
            except OSError as error:
                if (why := error.strerror or str(error)) != said:
                    said = why
                    log.error(
                        "metrics cannot be written to %s: %s; tried again every %g s", path, why, every_s
                    )
            await trio.sleep(every_s)
    finally:
        # Else what was true last would be collected for ever.
        with trio.CancelScope(shield=True), trio.move_on_after(1), suppress(OSError):
            await threads.run_abandonable(_remove, path)


def _write(path: Path, snapshot: Snapshot) -> None:
    durability.replace_file(os.fspath(path), exposition.plain_text(snapshot), _MODE)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        durability.unlink(os.fspath(path))
