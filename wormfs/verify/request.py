"""What one verification is asked to look at: pure rules."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from wormfs.clock import NS_PER_S
from wormfs.model import ROOT, Key

_WHOLE = 1 << 64


@dataclass(frozen=True, slots=True)
class Request:
    """Which files of a backend are read. Everything below ``scope`` is listed in any case."""

    scope: Key = ROOT
    """A directory or a file; ``ROOT`` is the whole backend."""
    sample: float = 1.0
    """The share of files that is read, chosen by chance anew in each run; above 0, at most 1."""
    older_than_s: float | None = None
    """Only files that were not found whole within this time."""

    @property
    def kind(self) -> str:
        """Requests of the same kind go on with each other's unfinished runs."""
        older = "" if self.older_than_s is None else f" older than {self.older_than_s:g} s"
        return f"{self.scope.hex()} {self.sample:g}{older}"

    def chooses(self, key: Key, run: int) -> bool:
        """Whether chance takes ``key`` in run number ``run``: always the same for the same two."""
        if self.sample >= 1:
            return True
        drawn = blake2b(key, digest_size=8, salt=run.to_bytes(8, "big")).digest()
        return int.from_bytes(drawn, "big") < self.sample * _WHOLE

    def before_ns(self, started_ns: int) -> int | None:
        """Files found whole at or after this time are left out; ``None``: none are."""
        return None if self.older_than_s is None else started_ns - round(self.older_than_s * NS_PER_S)


def within(key: bytes, scope: Key) -> bool:
    """Whether ``key`` is ``scope`` or lies below it."""
    return not scope or key == scope or key.startswith(scope + b"/")
