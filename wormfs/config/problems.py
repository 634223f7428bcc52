"""What is wrong with a settings file, with the place where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wormfs.errors import SettingsError

Place = tuple[str | int, ...]
"""The way to a value in the settings file: keys and list indexes from the top."""


def show_place(place: Place) -> str:
    """``backends.exams.path``; an empty text for the whole file."""
    return ".".join(str(part) for part in place)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what would be right."""

    file: str
    line: int | None
    where: str
    message: str

    def __str__(self) -> str:
        position = f"{self.file}:{self.line}" if self.line is not None else self.file
        return ": ".join(part for part in (position, self.where, self.message) if part)


class InvalidSettings(SettingsError):
    """A settings file that cannot be used; ``problems`` holds everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[InvalidSettings], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)
