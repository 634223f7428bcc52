"""Directories that must not lie inside each other: the checks across settings.

A backend under the mount point would feed on itself, one tree in two backends would be
written by two owners, and a state directory inside a backend would show up in the mount.
"""

from __future__ import annotations

import enum
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wormfs.config.problems import Place, show_place

HIDDEN_PREFIX = ".wormfs"
"""Names that begin with this are not shown in the mount (see the driver contract)."""


class Role(enum.Enum):
    """What a directory is for."""

    MOUNTPOINT = "the mountpoint"
    STATE = "the state directory"
    DATA = "the files of a backend"
    SPOOL = "the spool of a backend"
    METRICS = "the text file of the metrics"


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory that the settings name."""

    place: Place
    role: Role
    path: Path
    backend: str | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two directories that cannot be as they are; the problem is told at ``place``."""

    place: Place
    message: str


def find_conflicts(directories: Sequence[Directory]) -> list[Conflict]:
    """Every pair that must not be. Follows symbolic links of backends only where names alone show
    nothing, and never enters the mountpoint, which may hang."""
    conflicts = [
        Conflict(one.place, f"{str(one.path)!r} cannot be the mountpoint; make a directory such as /mnt/worm")
        for one in directories
        if one.role is Role.MOUNTPOINT and one.path == Path("/")
    ]
    if conflicts:
        return conflicts
    by_name = list(_pairs(directories, lambda directory: directory.path))
    return by_name or list(_pairs(directories, _resolve))


def _resolve(directory: Directory) -> Path:
    path = directory.path
    if directory.role is Role.MOUNTPOINT:
        return Path(os.path.realpath(path.parent)) / path.name
    return Path(os.path.realpath(path))


def _pairs(directories: Sequence[Directory], locate: Callable[[Directory], Path]) -> Iterator[Conflict]:
    paths = {directory.place: locate(directory) for directory in directories}
    for one, other in itertools.combinations(directories, 2):
        # The later one in the file's order is told: it can see what it collides with.
        for inner, outer in ((other, one), (one, other)):
            if paths[inner.place].is_relative_to(paths[outer.place]):
                reason = _reason(inner, paths[inner.place], outer, paths[outer.place])
                if reason:
                    yield Conflict(other.place, _message(one, other, inner, paths, reason))
                break


def _message(
    one: Directory, other: Directory, inner: Directory, paths: dict[Place, Path], reason: str
) -> str:
    here, there = paths[other.place], paths[one.place]
    relation = "is the same as" if here == there else "lies inside" if inner is other else "contains"
    return f"{str(here)!r} {relation} {show_place(one.place)} ({str(there)!r}): {reason}"


def _reason(inner: Directory, inner_path: Path, outer: Directory, outer_path: Path) -> str | None:
    """Why ``inner`` must not lie inside ``outer`` (or be it); ``None`` if it may."""
    roles = {inner.role, outer.role}
    if Role.MOUNTPOINT in roles:
        return "choose a directory apart from the mount"
    if outer.role is Role.METRICS:
        return "one name cannot be a file and a directory"
    if roles == {Role.DATA}:
        return "give each backend a directory of its own"
    if roles == {Role.SPOOL}:
        return "give each spool a directory of its own"
    if outer.role is Role.DATA:
        if inner.role is Role.SPOOL and inner.backend == outer.backend and _hidden(inner_path, outer_path):
            return None
        return "it would be visible in the mount; choose a directory outside"
    if inner.role is Role.DATA:
        spool = outer_path / "spool" if outer.role is Role.STATE else outer_path
        return "spools are kept there; choose another" if inner_path.is_relative_to(spool) else None
    if inner.role is Role.METRICS and outer.role is Role.SPOOL:
        return "only files on their way belong there"
    # Left: the state directory, and a spool or the metrics in it.
    return "choose a directory below or apart from it" if inner_path == outer_path else None


def _hidden(inner: Path, outer: Path) -> bool:
    below = inner.relative_to(outer).parts
    return bool(below) and below[0].startswith(HIDDEN_PREFIX)
