"""The table and the lines around it, fitted to the width of the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from wormfs.cli.output import age_text, count_text, plain
from wormfs.cli.status.cells import STYLES, Cells
from wormfs.clock import NS_PER_S

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from wormfs.cli.status.gather import Facts
    from wormfs.cli.status.report import Report

Line = Callable[[Cells], "Text"]

WIDE_COLUMNS: Final = 118
MEDIUM_COLUMNS: Final = 78

_WIDE: Final[tuple[tuple[str, tuple[Line, ...]], ...]] = (
    ("Backend", (Cells.name, Cells.type)),
    ("State", (Cells.state,)),
    ("Room", (Cells.bar, Cells.room)),
    ("Spool", (Cells.spool, Cells.oldest, Cells.quarantine)),
    ("Throughput", (Cells.read, Cells.written)),
    ("Health", (Cells.check, Cells.verified)),
    ("Promise", (Cells.guarantee, Cells.retention)),
)
_MEDIUM: Final[tuple[tuple[str, tuple[Line, ...]], ...]] = (
    ("Backend", (Cells.name, Cells.type, Cells.state)),
    ("Room, throughput", (Cells.bar, Cells.room, Cells.read, Cells.written)),
    ("Spool", (Cells.spool, Cells.oldest, Cells.quarantine)),
    ("Health, promise", (Cells.check, Cells.verified, Cells.guarantee, Cells.retention)),
)
_NARROW: Final[tuple[tuple[str, tuple[Line, ...]], ...]] = (
    ("", (Cells.name,)),
    ("state", (Cells.state, Cells.type)),
    ("room", (Cells.bar, Cells.room)),
    ("spool", (Cells.spool, Cells.oldest, Cells.quarantine)),
    ("moved", (Cells.read, Cells.written)),
    ("health", (Cells.check, Cells.verified)),
    ("promise", (Cells.guarantee, Cells.retention)),
)


def show(report: Report, screen: Console) -> None:
    """Print it: the table, then a line for each thing to know, so that scripts find lines to grep."""
    screen.print(headline(report), soft_wrap=True)
    if report.gathered.backends:
        screen.print(table(report, screen))
    for line in (*problems(report), *notes(report)):
        screen.print(line, soft_wrap=True)


def live(report: Report, screen: Console) -> RenderableType:
    """The same for a screen that may be too low for it: what is wrong comes first."""
    from rich.console import Group

    parts: list[Any] = [headline(report), *problems(report)]
    if report.gathered.backends:
        parts += ["", table(report, screen), "", *notes(report)]
    return Group(*parts)


def headline(report: Report) -> Text:
    """How it is, and what is spoken of."""
    from rich.text import Text

    gathered = report.gathered
    daemon = f", daemon {gathered.pid}" if gathered.pid is not None else ""
    return Text.assemble(
        (report.level.word.upper(), STYLES[report.level]), f" {plain(gathered.mountpoint)}{daemon}"
    )


def problems(report: Report) -> Iterator[Text]:
    """What is wrong, the worst first."""
    from rich.text import Text

    for problem in report.problems:
        where = "wormfs" if problem.backend is None else problem.backend
        yield Text.assemble(
            f"{where}: ", (f"{problem.level.word}: ", STYLES[problem.level]), plain(problem.text)
        )


def notes(report: Report) -> Iterator[Text]:
    """What is worth knowing and no problem now."""
    from rich.text import Text

    for name, facts in report.gathered.backends.items():
        said = " ".join(problem.text for problem in report.of(name))
        for note in _notes(facts, said, report.gathered.now_ns):
            yield Text(f"{name}: {plain(note)}", "dim")


def table(report: Report, screen: Console) -> Table:
    """All backends, in columns where there is room for them, else one below the other."""
    from rich.table import Table
    from rich.text import Text

    blocks = screen.encoding.lower().replace("-", "") == "utf8"
    gathered = report.gathered
    rows = [
        Cells(name, facts, report.of(name), gathered.now_ns, blocks=blocks)
        for name, facts in gathered.backends.items()
    ]
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    if screen.width < MEDIUM_COLUMNS:
        made.show_header = False
        made.add_column(style="dim")
        made.add_column(overflow="fold")
        for cells in rows:
            for label, lines in _NARROW:
                made.add_row(label, _cell(cells, lines, ", "))
        return made
    columns = _WIDE if screen.width >= WIDE_COLUMNS else _MEDIUM
    for header, _ in columns:
        made.add_column(Text(header), overflow="fold")
    for cells in rows:
        made.add_row(*(_cell(cells, lines, "\n") for _, lines in columns), end_section=True)
    return made


def _cell(cells: Cells, lines: tuple[Line, ...], between: str) -> Text:
    from rich.text import Text

    return Text(between).join(text for line in lines if (text := line(cells)))


def _notes(facts: Facts, said: str, now_ns: int) -> Iterator[str]:
    """``said``: by the problems of this backend already."""
    if facts.get("description"):
        yield str(facts["description"])
    if (facts.get("retention") or {}).get("mode") == "scratch":
        yield "a scratch directory ('erase: always'): new files have no retention"
    if (last := facts.get("last_error")) and last["text"] not in said:
        yield f"last error: {last['text']} ({age_text((now_ns - last['at_ns']) / NS_PER_S)} ago)"
    for warning in (facts.get("check") or {}).get("warnings", []):
        yield f"check '{warning['name']}': {warning['detail']}"
    yield _verified(facts.get("verification"), now_ns)


def _verified(verification: Facts | None, now_ns: int) -> str:
    """The last verification in a line."""
    if verification is None:
        return "never verified"
    if "error" in verification:
        return "when it was verified is not known"
    parts = []
    if verification["ended_at_ns"] is None:
        parts.append("never verified to the end")
    else:
        parts.append(_last(verification, now_ns))
    if verification["unfinished"]:
        parts.append("a verification is under way or was interrupted")
    return "; ".join(parts)


def _last(verification: Facts, now_ns: int) -> str:
    part = "" if verification["whole_backend"] else " (a part)"
    found = [f"{count} {kind}" for kind, count in verification["findings"].items()]
    text = (
        f"verified {age_text((now_ns - verification['ended_at_ns']) / NS_PER_S)} ago{part}, "
        f"{count_text(verification['files'], 'file', 'files')}: {', '.join(found) or 'all well'}"
    )
    if verification["oldest_at_ns"] is not None:
        age = age_text((now_ns - verification["oldest_at_ns"]) / NS_PER_S)
        text += f"; longest ago that a file was found whole: {age}"
    return text
