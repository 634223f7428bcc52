"""A progress bar on a terminal: files, bytes, rate, time left. Nothing elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import click

from wormfs.cli.output import console, plain, size_text

_STEP_BYTES = 4 << 20
"""The bar is moved no more often than this: small files must not spend their time on it."""


class Bar:
    """Files and bytes, on standard error. Not for several threads at once."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        screen = console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[files]}", markup=False),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, files="", rate="")
        self._files = self._of_files = 0
        self._bytes = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Away with it. May be called again."""
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self._progress.disable:
            click.echo(text, err=True)
        else:
            self._progress.console.print(text)

    def wait(self, text: str) -> None:
        """Something whose length nobody knows."""
        self._progress.update(self._task, description=plain(text))

    def begin(self, text: str, files: int, size_bytes: int) -> None:
        """What is to be done from here on."""
        self._files, self._of_files = 0, files
        self._progress.reset(
            self._task, total=size_bytes, description=plain(text), files=self._count(), rate=""
        )

    def bytes_done(self, size_bytes: int) -> None:
        """That many more."""
        self._bytes += size_bytes
        if self._bytes >= _STEP_BYTES:
            self._move()

    def files_done(self, files: int) -> None:
        """That many more."""
        self._files += files
        self._move()

    def _move(self) -> None:
        done, self._bytes = self._bytes, 0
        self._progress.update(self._task, advance=done, files=self._count(), rate=self._rate())

    def _rate(self) -> str:
        speed = self._progress.tasks[0].speed
        return f"{size_text(int(speed))}/s" if speed else ""

    def _count(self) -> str:
        return f"{self._files:,}/{self._of_files:,} files"
