"""What the supervisor tells a worker at its start.

Sent over the channel and not on the command line or in the environment: both can be read in /proc,
and settings may hold secrets. A pickle, because both ends are the same program and the channel is a
socket pair between parent and child that nobody else can write to.
"""

from __future__ import annotations

import pickle
import socket
import struct
from dataclasses import dataclass, replace

from wormfs.config import BackendSettings
from wormfs.daemon.messages import Message

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Orders:
    """All that one worker needs to know."""

    backend: str
    settings: BackendSettings
    mountpoint: str
    """Where this backend is mounted, links resolved."""
    source: str
    """What /proc/mounts shows as its device."""
    state_directory: str
    spool_directory: str
    """Where the spool goes if the driver has no place of its own for it."""
    instance_id: str
    log_level: str
    stop_timeout_s: float


CHANGE = "orders.change"
"""The request that brings a running worker ``changeable`` orders."""


def changeable(orders: Orders) -> Message:
    """What a running worker takes over, as a request to it."""
    return {"op": CHANGE, "log_level": orders.log_level, "stop_timeout_s": orders.stop_timeout_s}


def changed(orders: Orders, request: Message) -> Orders:
    """The orders of a worker after such a request."""
    return replace(
        orders, log_level=str(request["log_level"]), stop_timeout_s=float(request["stop_timeout_s"])
    )


def encode(orders: Orders) -> bytes:
    """The first bytes on the channel: a length and the orders."""
    body = pickle.dumps(orders)
    return _LENGTH.pack(len(body)) + body


def receive(channel: socket.socket) -> Orders | None:
    """Read the orders, and not a byte more. Blocks; ``None`` when the supervisor has gone."""
    head = _receive_exactly(channel, _LENGTH.size)
    body = _receive_exactly(channel, _LENGTH.unpack(head)[0]) if head else b""
    if not body:
        return None
    orders = pickle.loads(body)  # noqa: S301 (from our parent, see above)
    assert isinstance(orders, Orders)
    return orders


def _receive_exactly(channel: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = channel.recv(size - len(received))
        if not chunk:
            return b""
        received += chunk
    return received
