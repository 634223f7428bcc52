"""Which drivers there are. A driver's module is loaded when its first backend is created, so
that a host needs only the libraries of the drivers it uses."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, cast

from wormfs.backends.base import Backend
from wormfs.errors import SettingsError

Factory = Callable[[str, Mapping[str, object]], Backend]
"""``create(name, options)`` of a driver's module. Raises SettingsError; touches nothing yet."""

DRIVERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ftp": "wormfs.backends.ftp.backend",
        "local": "wormfs.backends.local.backend",
        "moodle": "wormfs.backends.moodle.backend",
        "s3": "wormfs.backends.s3.backend",
    }
)
"""Type as written in the settings → module that has a ``create``."""


def create(name: str, driver: str, options: Mapping[str, object]) -> Backend:
    """The backend ``name`` with a driver's options, not started yet. Touches no storage.

    Args:
        name: as configured; the directory under the mount point.
        driver: the settings' ``type``, a key of ``DRIVERS``.
        options: what the settings say beside ``type``, already of the right types.

    Raises:
        SettingsError: unknown type, unknown, missing or impossible option.
    """
    module = DRIVERS.get(driver)
    if module is None:
        near = difflib.get_close_matches(driver, DRIVERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(sorted(DRIVERS))
        raise SettingsError(f"there is no driver {driver!r} (known: {known}){hint}", backend=name)
    try:
        factory = cast("Factory", importlib.import_module(module).create)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("wormfs"):
            raise
        raise SettingsError(
            f"the {driver} driver needs {error.name}, which is not installed: "
            f"{sys.prefix}/bin/pip install 'wormfs[{driver}]'",
            backend=name,
        ) from error
    return factory(name, options)
