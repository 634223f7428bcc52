"""The few words of roff that the manual pages need, for groff and mandoc alike."""

from __future__ import annotations

from collections.abc import Iterable

# What roff would take for its own, or show as another character than the one that was meant.
_ESCAPES = str.maketrans({
    "\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq",
})  # fmt: skip


def escape(text: str) -> str:
    """Text that looks as it is written; on one line."""
    escaped = _plain(" ".join(text.split()))
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def _plain(text: str) -> str:
    return text.translate(_ESCAPES)


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"


def italic(text: str) -> str:
    return f"\\fI{escape(text)}\\fR"


def literal(lines: Iterable[str]) -> list[str]:
    """A block that keeps its lines and spaces."""
    return [".PP", ".RS 4", ".nf", *map(_literal_line, lines), ".fi", ".RE"]


def _literal_line(line: str) -> str:
    return "\\&" + _plain(line.rstrip()).replace(" ", "\\ ")


def item(tag: str, *paragraphs: str) -> list[str]:
    """A tag, already formatted, and what is said of it."""
    first, *others = paragraphs or ("",)
    lines = [".TP", tag, escape(first) or "\\&"]
    for paragraph in others:
        lines += [".IP", escape(paragraph)]
    return lines


def paragraph(text: str) -> list[str]:
    return [".PP", escape(text)]


def section(title: str) -> str:
    return f".SH {escape(title.upper())}"


def subsection(title: str) -> str:
    return f".SS {escape(title)}"


def page(title: str, number: int, date: str, version: str, body: Iterable[str]) -> str:
    """The whole page, without a paragraph mark right after a heading, which mandoc does not like."""
    lines = [f'.TH {title.upper()} {number} {date} "wormfs {version}" "wormfs manual"']
    for line in body:
        if line == ".PP" and lines[-1].startswith((".SH", ".SS")):
            continue
        lines.append(line)
    return "\n".join(lines) + "\n"
