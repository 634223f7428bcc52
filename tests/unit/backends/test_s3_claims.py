"""How old a claim is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from wormfs.backends.s3.claims import NS, Claim, Claims


@pytest.mark.parametrize(("made_ns", "age_ns"), [(4 * NS, NS), (5 * NS, 0), (5 * NS + 300_000_000, 0)])
def test_a_claim_is_never_younger_than_nothing(made_ns: int, age_ns: int) -> None:
    """The store's clock has whole seconds; Ceph gives an object's time in milliseconds."""
    store, names = cast("Any", SimpleNamespace(time_ns=lambda: 5 * NS)), cast("Any", None)
    claims = Claims(store, names)
    assert claims._age_ns(Claim("claim", 1, "entry", "upload", made_ns)) == age_ns
