"""One UDP socket that is served: the listener at it and the sessions behind. For aio and blocking.

The socket is used here, the clock is asked by who calls. Nothing waits but poll().
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from .address import SocketAddress, client_data
from .gate import CookieGate, GateCounters
from .keys import KeyRing
from .listener import Arrival, CookieListener, ListenerCounters, send_each
from .server import Event, Server, ServerCounters

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "LARGEST_DATAGRAM",
    "Counters",
    "Endpoint",
    "bound",
    "gate_for",
    "send_or_lose",
    "total",
]

LARGEST_DATAGRAM = 65535  # bytes; more than any UDP datagram (RFC 768)

_ARRIVALS = 256  # taken from a socket before others have their turn
_MAX_PEERS = 0xFFFFFFFF  # no limit: the server has its own, which may be set anew
_RECEIVE_BUFFER = 4 << 20  # bytes
_TRIES = 20  # to find a port that is free for each of several addresses


@dataclass(frozen=True, slots=True)
class Counters:
    """What happened at a server so far.

    Attributes:
        gate: what became of the datagrams of unknown clients.
        listener: what passed through the socket.
        server: what the sessions did.
        send_errors: datagrams of sessions that the kernel did not take: lost, as on the network.
    """

    gate: GateCounters
    listener: ListenerCounters
    server: ServerCounters
    send_errors: int

    def as_dict(self) -> dict[str, Any]:
        """The same as dicts, strings and numbers, for JSON."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        return plain


class Endpoint:
    """A socket, the listener at it and the server behind. Its caller keeps threads apart: poll()
    may run beside everything else, the rest one at a time.

    Args:
        sock: a bound UDP socket; closed by close().
        gate: judges unknown clients; may be shared.
        server: the sessions of this socket alone.
    """

    def __init__(self, sock: socket.socket, gate: CookieGate, server: Server) -> None:
        self.sock = sock
        self.server = server
        self._send_errors = 0
        self._names: dict[SocketAddress, bytes] = {}  # of peers, as the kernel writes them
        self._listener = CookieListener(sock, gate, max_peers=_MAX_PEERS)
        self._counted = self._listener.counters

    def poll(self, timeout: float | None) -> list[Arrival]:
        """CookieListener.poll(), for so many arrivals that others have their turn."""
        return self._listener.poll(timeout, _ARRIVALS)

    def receive(self, arrivals: Iterable[Arrival], now: float) -> None:
        """Hand what poll() gave to the sessions; settle() afterwards."""
        for arrival in arrivals:
            if arrival.prestate is None:
                self.server.receive(arrival, now)  # admitted long ago, or to nobody
                continue
            self.server.receive(arrival, now)
            self._forget()
            if arrival.address in self.server:
                self._listener.admit(arrival.address)

    def settle(self) -> list[Event]:
        """Send what the sessions have to send; returns what happened."""
        outgoing = self.server.datagrams_to_send()
        if len(outgoing) == 1:
            self._send_errors += not send_or_lose(self.sock, *outgoing[0])
        elif outgoing:
            names = [self._names.get(address) or self._name(address) for _, address in outgoing]
            self._send_errors += send_each(self.sock, [one for one, _ in outgoing], names)
        self._forget()
        return self.server.events()

    @property
    def counters(self) -> Counters:
        """What happened so far; the last of it, once closed."""
        if not self._listener.closed:
            self._counted = self._listener.counters
        gate = self._listener.gate.counters
        return Counters(gate, self._counted, self.server.counters, self._send_errors)

    def close(self) -> None:
        """Close listener and socket. Goodbyes have been said: Server.close_all(), settle()."""
        self._counted = self.counters.listener
        self._listener.close()
        self.sock.close()

    def _forget(self) -> None:
        for address in self.server.forgotten():
            self._listener.forget(address)
            self._names.pop(address, None)

    def _name(self, address: SocketAddress) -> bytes:
        name = client_data.sockaddr(address, self.sock.family)
        if address in self.server:  # else this is its goodbye
            self._names[address] = name
        return name


def total(endpoints: Sequence[Endpoint]) -> Counters:
    """The sums over endpoints that share a gate."""
    first, *others = [endpoint.counters for endpoint in endpoints]
    for other in others:
        first = dataclasses.replace(
            first,
            listener=_sum(first.listener, other.listener),
            server=_sum(first.server, other.server),
            send_errors=first.send_errors + other.send_errors,
        )
    return first


def gate_for(keys: KeyRing | Buffer | None) -> CookieGate:
    """A gate with these keys; None: with a random one of its own."""
    return CookieGate(KeyRing.random() if keys is None else keys)


def send_or_lose(sock: socket.socket, datagram: bytes, address: SocketAddress | None) -> bool:
    """Send a datagram, to `address` or to whom the socket is connected.

    Returns:
        False where the kernel did not take it (ENOBUFS, EPERM, ECONNREFUSED, ...): it is lost, as
        the network may lose it, and sent again where that is due.
    """
    try:
        if address is None:
            sock.send(datagram)
        else:
            sock.sendto(datagram, address)
    except OSError:
        return False
    return True


def bound(found: Sequence[Any], reuse_port: bool = False) -> list[socket.socket]:
    """UDP sockets bound to what getaddrinfo found, non-blocking; all of them to one port.

    Raises:
        OSError: one cannot be bound.
    """
    found = list(dict.fromkeys(found))
    for _ in range(_TRIES if len(found) > 1 and found[0][4][1] == 0 else 0):
        try:
            return _bound(found, reuse_port)
        except OSError as error:  # what is free at the first address may be taken at the next
            if error.errno != errno.EADDRINUSE:
                raise
    return _bound(found, reuse_port)


def _bound(found: Sequence[Any], reuse_port: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6 and len(found) > 1:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has its own
            # Hellos, messages and goodbyes of many peers come at once. The kernel takes less memory
            # until it is needed, and on Linux never more than net.core.rmem_max.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            sock.setblocking(False)
            if address[1] == 0 and len(sockets) > 1:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sock.bind(address)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _sum(one: Any, other: Any) -> Any:
    """Two counters of a kind: numbers are added, in dicts too; of others the later one stays."""

    def add(a: Any, b: Any) -> Any:
        if isinstance(a, dict):
            return {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}}
        return a + b if isinstance(a, int) else b if b is not None else a

    return type(one)(
        **{
            field.name: add(getattr(one, field.name), getattr(other, field.name))
            for field in dataclasses.fields(one)
        }
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {
            key.name.lower() if isinstance(key, Enum) else str(key): _plain(each)
            for key, each in value.items()
        }
    return value if value is None or isinstance(value, int) else str(value)
