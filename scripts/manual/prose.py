"""Texts of the program (help, comments of the example), cut into pieces for a manual page."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scripts.manual import roff

_LITERAL = "\b"
"""click's mark of a paragraph whose lines are kept."""


@dataclass(frozen=True)
class Piece:
    """A paragraph, or a block whose lines are kept and whose first line may be a title."""

    lines: Sequence[str]
    kept: bool = False

    @property
    def title(self) -> str:
        return self.lines[0].removesuffix(":") if self.kept and self.lines[0].endswith(":") else ""

    @property
    def text(self) -> str:
        return " ".join(self.lines)

    def roff(self) -> list[str]:
        if not self.kept:
            return roff.paragraph(self.text)
        return roff.literal(self.below() if self.title else self.lines)

    def below(self) -> list[str]:
        """The lines under the title, without their common indentation."""
        return [line.removeprefix("  ") for line in self.lines[1:]]


def from_help(text: str) -> Iterator[Piece]:
    """The pieces of a command's help."""
    for block in inspect.cleandoc(text).split("\n\n"):
        lines = block.splitlines()
        if lines[0] == _LITERAL:
            yield Piece(lines[1:], kept=True)
        else:
            yield Piece([line.strip() for line in lines])


def from_comment(lines: Sequence[str]) -> Iterator[Piece]:
    """The pieces of a comment of which every line has lost its ``# ``: what is indented keeps its lines."""
    gathered: list[str] = []
    kept = False
    for line in [*lines, ""]:
        if gathered and (not line.strip() or line.startswith("  ") != kept):
            yield Piece(gathered, kept)
            gathered = []
        if line.strip():
            kept = line.startswith("  ")
            gathered.append(line.removeprefix("  ") if kept else line)
