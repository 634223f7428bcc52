"""``wormfs status``: gather what is known, judge it, show it. docs/status.md describes all three."""
