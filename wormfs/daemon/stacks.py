"""Where the daemon meets the layers below: the one place that builds them and fits their calls."""

from __future__ import annotations

import os

from wormfs.backends import registry
from wormfs.backends.base import Backend
from wormfs.clock import Clock
from wormfs.config import BackendSettings
from wormfs.fs.stack import Stack, StackOptions
from wormfs.spool.spool import SpoolOptions


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
) -> Stack:
    """What is mounted for a started backend, not started.

    Args:
        spool_directory: for drivers that leave the choice; made when it is missing.
    """
    directory = locate_spool(backend, settings, spool_directory, instance_id)
    return Stack(backend, stack_options(settings), directory, clock)


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
    )
