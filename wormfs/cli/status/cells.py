"""The words of the table: what each thing that is known of a backend looks like, in a few characters."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from wormfs.cli.output import age_text, plain, size_text
from wormfs.cli.status.judge import LOW_SHARE, Code, Level, Problem
from wormfs.clock import NS_PER_S

if TYPE_CHECKING:
    from rich.text import Text

    from wormfs.cli.status.gather import Facts

UNKNOWN: Final = "unknown"
STYLES: Final[Mapping[Level, str]] = MappingProxyType(
    {Level.OK: "green", Level.WARNING: "yellow", Level.CRITICAL: "bold red"}
)
_BAR_WIDTH = 14
_GUARANTEES: Final[Mapping[str, str]] = MappingProxyType(
    {"atomic": "atomic create", "exclusive_writer": "exclusive writer"}
)


class Cells:
    """One backend. Every method is one line of a cell."""

    def __init__(self, name: str, facts: Facts, problems: list[Problem], now_ns: int, *, blocks: bool):
        """``blocks``: whether the terminal's character set has more than letters."""
        self._name = name
        self._facts = facts
        self._levels = {problem.code: problem.level for problem in reversed(problems)}
        self._now_ns = now_ns
        self._blocks = blocks

    def _text(self, text: str, *codes: Code, plainly: str = "") -> Text:
        """Coloured by the worst of the problems ``codes``; ``plainly``: its style while there is none."""
        from rich.text import Text

        level = max((self._levels.get(code, Level.OK) for code in codes), default=Level.OK)
        return Text(plain(text), STYLES[level] if level else plainly)

    def _ago(self, at_ns: int) -> str:
        return f"{age_text((self._now_ns - at_ns) / NS_PER_S)} ago"

    def name(self) -> Text:
        return self._text(self._name, plainly="bold")

    def type(self) -> Text:
        return self._text(self._facts.get("type") or UNKNOWN, plainly="dim")

    def state(self) -> Text:
        return self._text(self._facts["state"], Code.NOT_MOUNTED, Code.ON_THE_WAY, plainly="green")

    def bar(self) -> Text:
        """How much is taken, and how much is free in percent."""
        from rich.text import Text

        space = self._facts.get("space") or {}
        free, total = space.get("free_bytes"), space.get("total_bytes")
        if free is None or not total:
            return Text("")
        share = min(1.0, free / total)
        taken = round((1 - share) * _BAR_WIDTH)
        if share < LOW_SHARE:
            taken = min(max(taken, _BAR_WIDTH - 1), _BAR_WIDTH)
        full, empty = ("█", "░") if self._blocks else ("#", "-")
        level = max(self._levels.get(Code.FULL, Level.OK), self._levels.get(Code.SPACE_LOW, Level.OK))
        return Text.assemble(
            (full * taken, STYLES[level]), (empty * (_BAR_WIDTH - taken), "dim"), f" {share:.0%} free"
        )

    def room(self) -> Text:
        space = self._facts.get("space") or {}
        free, total = space.get("free_bytes"), space.get("total_bytes")
        if free is None and total is None:
            return self._text(UNKNOWN, plainly="dim")
        return self._text(f"{size_text(free)} of {size_text(total)}", Code.FULL, Code.SPACE_LOW)

    def spool(self) -> Text:
        """Entries by state."""
        spool = self._facts.get("spool")
        if spool is None:
            return self._text("not open", plainly="dim")
        counts = [f"{count} {state}" for state, count in sorted(spool["entries"].items()) if count]
        if not counts:
            return self._text("empty", plainly="dim")
        return self._text(", ".join([*counts, size_text(spool["bytes"])]), Code.SPOOL_WAITING)

    def oldest(self) -> Text:
        spool = self._facts.get("spool") or {}
        if spool.get("oldest_s") is None:
            return self._text("")
        failed = f", {spool['failed']} failed" if spool.get("failed") else ""
        return self._text(f"oldest waits {age_text(spool['oldest_s'])}{failed}", Code.SPOOL_WAITING)

    def quarantine(self) -> Text:
        spool = self._facts.get("spool")
        quarantine = (spool or {}).get("quarantine")
        if quarantine is None:
            return self._text("quarantine unknown" if spool else "", plainly="dim")
        if not quarantine["entries"]:
            return self._text("quarantine empty", plainly="dim")
        text = f"quarantine {quarantine['entries']}, {size_text(quarantine['bytes'])}"
        return self._text(text, Code.QUARANTINE)

    def read(self) -> Text:
        return self._rate("read", "read_bytes_per_s")

    def written(self) -> Text:
        return self._rate("written", "written_bytes_per_s")

    def _rate(self, word: str, key: str) -> Text:
        rate = (self._facts.get("throughput") or {}).get(key)
        if rate is None:
            return self._text(f"{word} {UNKNOWN}", plainly="dim")
        return self._text(f"{word} {size_text(rate)}/s", plainly="" if rate else "dim")

    def check(self) -> Text:
        check = self._facts.get("check")
        if check is None:
            off = self._facts.get("check_interval_s") == 0
            return self._text("check: off" if off else "not checked yet", plainly="dim")
        outcome = "checked" if check["ok"] else "check failed"
        return self._text(f"{outcome} {self._ago(check['at_ns'])}", Code.CHECK_FAILED, plainly="green")

    def verified(self) -> Text:
        verification = self._facts.get("verification")
        codes = (Code.DAMAGED, Code.LOST, Code.FINDINGS, Code.VERIFICATION_UNKNOWN)
        if verification is None:
            return self._text("never verified", plainly="dim")
        if "error" in verification:
            return self._text("verified: unknown", *codes)
        if verification["ended_at_ns"] is None:
            return self._text("never to the end", *codes, plainly="dim")
        return self._text(f"verified {self._ago(verification['ended_at_ns'])}", *codes, plainly="green")

    def guarantee(self) -> Text:
        held = self._facts.get("guarantee")
        if held is None:
            return self._text(f"guarantee {UNKNOWN}", plainly="dim")
        return self._text(_GUARANTEES.get(held, held), plainly="" if held == "atomic" else "yellow")

    def retention(self) -> Text:
        """For how long, and who could erase earlier."""
        retention = self._facts.get("retention")
        if not retention:
            return self._text(UNKNOWN, plainly="dim")
        if retention["mode"] == "scratch":
            return self._text("scratch: not kept", plainly="yellow")
        more = "+" if retention["rules"] else ""
        mode = "" if retention["mode"] == "standard" else f", {retention['mode']}"
        return self._text(f"kept {retention['period']}{more}{mode}")
