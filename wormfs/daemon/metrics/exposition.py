"""A snapshot as text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, generate_latest

from wormfs.daemon.metrics.facts import Snapshot
from wormfs.daemon.metrics.families import SnapshotCollector


def plain_text(snapshot: Snapshot) -> bytes:
    """Prometheus' text format."""
    return generate_latest(_registry(snapshot))


def negotiated(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """The text and its content type, in the format that a scraper's ``Accept`` header asks for."""
    encode, content_type = choose_encoder(accept)
    return encode(_registry(snapshot)), content_type


def _registry(snapshot: Snapshot) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(snapshot))
    return registry
