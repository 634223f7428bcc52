"""The tables of Moodle that this driver uses, with the columns it uses (Moodle's lib/db/install.xml)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import BigInteger, Column, MetaData, String, Table, Text

EMPTY_CONTENT: Final = "da39a3ee5e6b4b0d3255bfef95601890afd80709"
"""SHA-1 of nothing: the ``contenthash`` of directories and of wormfs's records."""

LIKE_ESCAPE: Final = "!"

CONTEXT_SYSTEM: Final = 10
CONTEXT_COURSE: Final = 50


@dataclass(frozen=True, slots=True)
class Tables:
    """``files``, ``context`` and ``course`` with this Moodle's prefix."""

    files: Table
    context: Table
    course: Table
    config: Table


def make_tables(prefix: str) -> Tables:
    """Describe the tables; nothing is made or looked at."""
    metadata = MetaData()
    files = Table(
        f"{prefix}files",
        metadata,
        Column("id", BigInteger, primary_key=True),
        Column("contenthash", String(40)),
        Column("pathnamehash", String(40)),
        Column("contextid", BigInteger),
        Column("component", String(100)),
        Column("filearea", String(50)),
        Column("itemid", BigInteger),
        Column("filepath", String(255)),
        Column("filename", String(255)),
        Column("userid", BigInteger),
        Column("filesize", BigInteger),
        Column("mimetype", String(100)),
        Column("status", BigInteger),
        Column("source", Text),
        Column("author", String(255)),
        Column("license", String(255)),
        Column("timecreated", BigInteger),
        Column("timemodified", BigInteger),
        Column("sortorder", BigInteger),
        Column("referencefileid", BigInteger),
    )
    context = Table(
        f"{prefix}context",
        metadata,
        Column("id", BigInteger, primary_key=True),
        Column("contextlevel", BigInteger),
        Column("instanceid", BigInteger),
    )
    course = Table(
        f"{prefix}course",
        metadata,
        Column("id", BigInteger, primary_key=True),
        Column("shortname", String(255)),
    )
    config = Table(
        f"{prefix}config",
        metadata,
        Column("id", BigInteger),
        Column("name", String(255)),
        Column("value", Text),
    )
    return Tables(files, context, course, config)


def like_escaped(text: str) -> str:
    """For the pattern of a LIKE whose escape is ``LIKE_ESCAPE``."""
    for special in (LIKE_ESCAPE, "%", "_"):
        text = text.replace(special, LIKE_ESCAPE + special)
    return text
