"""Where the daemon meets the layers below: the one place that builds them and fits their calls."""

from __future__ import annotations

import datetime
import os
import zoneinfo
from pathlib import Path

from wormfs.backends import registry
from wormfs.backends.base import Backend
from wormfs.clock import Clock
from wormfs.config import BackendSettings
from wormfs.errors import SettingsError, Unavailable
from wormfs.fs.stack import Stack, StackOptions, StatePlace
from wormfs.records.records import RecordOptions
from wormfs.spool.spool import SpoolOptions
from wormfs.worm.dates import Rounding
from wormfs.worm.erasing import EraseMode
from wormfs.worm.patterns import Pattern
from wormfs.worm.policy import RetentionPolicy, RetentionRule


def create_backend(settings: BackendSettings) -> Backend:
    """The driver of a configured backend, not started. Raises SettingsError."""
    common = BackendSettings.model_fields.keys() - {"connections"}
    values = {name: getattr(settings, name) for name in type(settings).model_fields if name not in common}
    options = {name: _plain(value) for name, value in values.items() if value is not None}
    return registry.create(settings.name, settings.type, options)


def _plain(value: object) -> object:
    """Drivers know nothing of the settings' own types."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def open_stack(
    backend: Backend,
    settings: BackendSettings,
    spool_directory: str,
    instance_id: str,
    clock: Clock,
    state: StatePlace | None = None,
) -> Stack:
    """What is mounted for a started backend, not started.

    Args:
        spool_directory: for drivers that leave the choice; made when it is missing.
        state: without it there is no audit trail, and nothing can be erased.

    Blocks for the disk where ``state`` lies. Raises Unavailable.
    """
    directory = locate_spool(backend, settings, spool_directory, instance_id)
    return Stack(backend, stack_options(settings), directory, clock, state)


def locate_spool(backend: Backend, settings: BackendSettings, otherwise: str, instance_id: str) -> str:
    """Where the spool of a backend lies; the backend need not be started. Contacts nobody.

    Args:
        otherwise: for drivers that leave the choice.
    """
    if settings.spool is not None:
        return os.fspath(settings.spool)
    return backend.spool_directory(instance_id) or otherwise


def stack_options(settings: BackendSettings) -> StackOptions:
    """The settings that every backend has, as the layers below want them."""
    return StackOptions(
        spool=SpoolOptions(
            settle_s=settings.settle_s,
            empty_grace_s=settings.empty_grace_s,
            commit_timeout_s=settings.commit_timeout_s,
        ),
        reserve=settings.spool_reserve.of,
        directory_cache_s=settings.directory_cache_s,
        space_cache_s=settings.space_cache_s,
        quarantine_keep_s=settings.quarantine_keep_s,
        quarantine_max_bytes=settings.quarantine_max_size_bytes,
        records=record_options(settings),
    )


def record_options(settings: BackendSettings) -> RecordOptions:
    """Retention and erasing as the rules want them. Reads the time zone's file. Raises SettingsError."""
    retention = settings.retention
    policy = RetentionPolicy(
        otherwise=RetentionRule(retention.period, Rounding(retention.round)),
        rules=tuple(
            RetentionRule(rule.period, Rounding(rule.round or retention.round), Pattern(rule.match))
            for rule in retention.rules
        ),
        minimum=retention.min,
        maximum=retention.max,
        zone=_zone(settings),
        scratch=settings.erase == EraseMode.ALWAYS.value,
    )
    return RecordOptions(
        policy=policy,
        mode=EraseMode(settings.erase),
        atime_retention=settings.atime_retention,
        compliance=retention.compliance,
    )


def _zone(settings: BackendSettings) -> datetime.tzinfo:
    name = settings.retention.time_zone
    try:
        return datetime.UTC if name == "UTC" else zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, OSError) as error:
        raise SettingsError(f"time_zone {name!r} is not known here", backend=settings.name) from error


def read_boot_id() -> str:
    """What names this boot of the machine. Raises Unavailable."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError as error:
        raise Unavailable(f"the kernel does not tell its boot id: {error.strerror}") from error
