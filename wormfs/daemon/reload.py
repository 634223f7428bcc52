"""Other settings for a running daemon, without touching the backends whose settings stay the same.

First the whole new settings file is read and judged; if it is wrong, nothing is done. Then backends that go
or change are stopped in order, each draining what it has; then the new ones are started. Everything else
goes on: its mounts, its open files.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from wormfs import threads
from wormfs.config import BackendSettings, Secret, Settings
from wormfs.daemon.messages import Message
from wormfs.errors import SettingsError

if TYPE_CHECKING:
    from wormfs.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)

COME_UP_S = 30.0
"""How long the answer waits for backends that are new or changed."""

_NEED_RESTART = ("mountpoint", "state_directory")


@dataclass(frozen=True, slots=True)
class Change:
    """What is different, by the names of the backends."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


class SecretPrints:
    """Tells whether the secrets of a backend are others than before, without keeping them."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def of(self, backend: BackendSettings) -> bytes:
        """Blocks: reads files. A secret that cannot be read counts as one that is not there."""
        digest = hashlib.blake2b(key=self._key)
        for field in sorted(type(backend).model_fields):
            value = getattr(backend, field)
            if isinstance(value, Secret):
                try:
                    revealed = value.reveal().encode()
                except SettingsError:
                    revealed = b""
                digest.update(f"{field}:{len(revealed)}:".encode() + revealed)
        return digest.digest()

    def of_all(self, settings: Settings) -> dict[str, bytes]:
        """Blocks."""
        return {name: self.of(backend) for name, backend in settings.backends.items()}


def compare(
    old: Settings, new: Settings, old_prints: Mapping[str, bytes], new_prints: Mapping[str, bytes]
) -> Change:
    """What has to be done. Raises SettingsError for what no running daemon can take over."""
    for name in _NEED_RESTART:
        was, will = getattr(old, name), getattr(new, name)
        if was != will:
            raise SettingsError(
                f"{name}: {str(was)!r} cannot become {str(will)!r} by a reload: restart wormfs"
            )
    both = [name for name in new.backends if name in old.backends]
    return Change(
        added=tuple(name for name in new.backends if name not in old.backends),
        removed=tuple(name for name in old.backends if name not in new.backends),
        changed=tuple(
            name
            for name in both
            if (old.backends[name], old_prints.get(name)) != (new.backends[name], new_prints.get(name))
        ),
    )


class Reloader:
    """Does it for one supervisor, one at a time."""

    def __init__(self, supervisor: Supervisor, load: Callable[[], Settings] | None):
        self._supervisor = supervisor
        self._load = load
        self._prints = SecretPrints()
        # What the workers are started with, as good as it can be known.
        self._known = self._prints.of_all(supervisor.settings)
        self._one_at_a_time = trio.Lock()

    @property
    def possible(self) -> bool:
        """There is a settings file to read again."""
        return self._load is not None

    async def reload(self, why: str) -> Message:
        """Take the settings over; the answer says what was done, or why nothing was. Raises nothing."""
        supervisor = self._supervisor
        await supervisor.serving.wait()
        async with self._one_at_a_time:
            if self._load is None or supervisor.is_stopping:
                problem = (
                    "it is stopping" if supervisor.is_stopping else "it was started without a settings file"
                )
                return {"ok": False, "error": f"the daemon cannot reload: {problem}"}
            log.info("reading the settings again: %s", why)
            supervisor.notifier.reloading(f"{supervisor.summary()}; reading the settings again")
            try:
                new = await threads.run(self._load)
                prints = await threads.run(self._prints.of_all, new)
                change = compare(supervisor.settings, new, self._known, prints)
            except Exception as error:
                if not isinstance(error, SettingsError):
                    log.exception("the settings cannot be read: nobody foresaw this")
                log.error("the settings are wrong, the daemon goes on with those it has: %s", error)
                first = str(error).partition("\n")[0]
                supervisor.remark = f"the settings file is wrong and was not taken over: {first}"
                answer: Message = {"ok": False, "error": str(error), "settings": True}
            else:
                supervisor.remark = ""
                try:
                    answer = await self._take_over(new, prints, change)
                except Exception as error:
                    log.exception("the settings were taken over in part only: nobody foresaw this")
                    why = f"taken over in part only, restart wormfs: {type(error).__name__}: {error}"
                    answer = {"ok": False, "error": why}
            if not supervisor.is_stopping:
                supervisor.notifier.ready(supervisor.summary())
            return answer

    async def _take_over(self, new: Settings, prints: dict[str, bytes], change: Change) -> Message:
        supervisor = self._supervisor
        unfinished: dict[str, int] = {}

        failed: dict[str, str] = {}

        async def retire(name: str) -> None:
            try:
                left = await supervisor.retire(name)
            except trio.TooSlowError:
                failed[name] = "its worker hangs and cannot be killed: it waits for a disk, perhaps"
                log.error("ALERT: %s: %s; it is left alone", name, failed[name])
            else:
                if left:
                    unfinished[name] = left

        async with trio.open_nursery() as nursery:
            for name in (*change.removed, *change.changed):
                log.info("%s: is removed or changed in the settings; it is stopped", name)
                nursery.start_soon(retire, name)
        if supervisor.is_stopping:
            return {"ok": False, "error": "the daemon was stopped meanwhile"}
        for name in change.removed:
            await supervisor.forget(name)
            if name in unfinished:
                log.warning(
                    "%s: was removed with %d files in its spool; they stay there until it is added again",
                    name, unfinished[name],
                )  # fmt: skip
        self._known = prints
        supervisor.adopt(new)
        fresh = (*change.changed, *change.added)
        # A second worker beside one that hangs would wait for its spool, and lose its mount when that ends.
        for name in [name for name in fresh if name not in failed]:
            try:
                await supervisor.employ(name)
            except Exception as error:
                log.exception("%s: cannot be added, the others are: nobody foresaw this", name)
                failed[name] = f"it cannot be added, restart wormfs: {error}"
        with trio.move_on_after(COME_UP_S):
            await supervisor.until_settled(fresh)
        missing = supervisor.missing() | failed
        log.info(
            "the settings were taken over: added %s; removed %s; changed %s",
            *(", ".join(names) or "none" for names in (change.added, change.removed, change.changed)),
        )
        return {
            "ok": True,
            "added": list(change.added),
            "removed": list(change.removed),
            "changed": list(change.changed),
            "unfinished": {name: unfinished[name] for name in change.removed if name in unfinished},
            "missing": {name: missing[name] for name in fresh if name in missing},
        }
