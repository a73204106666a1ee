"""Arrival: what the gate lets through, as the listener returns it and a server takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .cookie import Prestate

if TYPE_CHECKING:
    from .address import SocketAddress

__all__ = ["Arrival"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A datagram that passed the gate.

    Attributes:
        address: where it came from, as Python's socket module gives it: (ip, port), or (ip, port,
            flowinfo, scope_id).
        datagram: all of its bytes.
        prestate: of a verified client: open a session with it, `Session(prestate=...)`, whose first
            datagram is this one. None: a datagram for the session of an admitted peer.
        local: the IP address that it was sent to, where the socket is bound to the wildcard
            address: answers must come from there. A link-local IPv6 address has its interface with
            it, "fe80::1%2". None: the socket has but one, or the system does not tell.
    """

    address: SocketAddress
    datagram: bytes
    prestate: Prestate | None
    local: str | None = None
