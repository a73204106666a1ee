"""Endpoint: a served UDP socket, with the gate in front of it and the sessions behind.

All that the adapters know of sockets, listener and server. It uses the socket, and asks no clock:
`now` is an argument. Nothing waits but wait().
"""

from __future__ import annotations

import dataclasses
import logging
import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Unpack

from ._serving import Outbox, Serving
from .address import SocketAddress, client_data
from .errors import GnuTLSError
from .gate import CookieGate, GateCounters
from .keys import KeyRing
from .listener import CookieListener, ListenerCounters, send_each
from .locks import OwnedLock
from .log import BoundedLog, RefusalLog
from .options import ServerOptions
from .server import CloseReason, Connection, Event, Server, ServerCounters
from .session import Credentials
from .tickets import TicketKey

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Counters", "Endpoint", "Outbox", "gate_for", "refuse_one_secret", "total"]


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
    """A served UDP socket and its sessions. Not thread-safe, except that wait() may run beside the
    other methods.

    Where the socket is readable, turn(); where timeout() is over, handle_timeout(). Both send what
    is to be sent and return what happened. After send() and end() the adapter calls settle(), once
    for several of them, or flush().

    Args:
        sock: a bound UDP socket; closed by close().
        gate: judges unknown clients; may be shared.
        credentials: as for a Session.
        limits: as for a Server. They hold for this socket.

    Attributes:
        address: the socket's own.
        outbox: messages of send() that the next flush() encrypts and sends.
        send_at_once: Serving's.
        sock: the socket.

    Raises:
        ValueError, TypeError: an argument is out of range or of another type.
    """

    def __init__(
        self,
        sock: socket.socket,
        gate: CookieGate,
        credentials: Credentials | Sequence[Credentials],
        **limits: Unpack[ServerOptions],
    ) -> None:
        self.sock = sock
        refuse_one_secret(gate.keys, limits.get("tickets"))
        self._server = Server(credentials, **limits)
        self._send_errors = 0
        self._log = BoundedLog()
        self._refusals = RefusalLog()
        self._listener = CookieListener(sock, gate)
        self._serving = Serving(self._listener, self._server)
        self.address: SocketAddress = sock.getsockname()
        self.outbox = self._serving.outbox
        self.send_at_once = self._serving.send_at_once
        self._counted = self._listener.counters

    # --- turns ------------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> None:
        """Wait until there is something for turn(), at most so many seconds; None: forever.

        Strangers are answered meanwhile, in C and without the GIL.

        Raises:
            OSError: the socket is closed or shut down.
        """
        self._serving.wait(timeout)

    def turn(self, now: float) -> list[Event]:
        """Take what came, let the sessions work on it and on what their timers want, and send.

        So many datagrams at a time that others have their turn. What one of them raises (a session
        that cannot be made for want of memory, say) is logged, and ends nothing else.

        Returns:
            What happened, in order.

        Raises:
            OSError: the socket is closed or shut down.
            BaseException: what a PSK lookup raised beyond Exception; settle() has the events.
        """
        if now >= self._log.due:
            self._log.handle_timeout(now)
        out = self.sock.fileno()
        if self._serving.turn(out, now):
            return self.settle(now)
        if self.outbox.entries:  # flush(), as far as there is something
            self._serving.flush(out)
        return []

    def lead(self, lock: OwnedLock, token: int, wait_ms: int, now: float) -> list[Event] | None:
        """wait() and turn() by one call, as of Serving.lead(). None: nothing came."""
        has_news = self._serving.lead(lock, token, wait_ms, now)
        if has_news is None:
            return None
        if now >= self._log.due:
            self._log.handle_timeout(now)
        return self.settle(now) if has_news else []

    def timeout(self, now: float) -> float | None:
        """Seconds until handle_timeout() wants to be called; None where no timer runs."""
        if self._serving.has_more:
            return 0.0
        left, until_told = self._server.timeout(now), self._log.timeout(now)
        if left is None or until_told is None:
            return until_told if left is None else left
        return min(left, until_told)

    @property
    def due(self) -> float:
        """After a turn, the time at which handle_timeout() wants to be called, or before it;
        infinity where no timer runs."""
        due, told = self._serving.due, self._log.due
        return due if due < told else told  # min() takes longer

    def handle_timeout(self, now: float) -> list[Event]:
        """Let the sessions and the log do what is due, and send; returns what happened."""
        return self.turn(now)

    def settle(self, now: float) -> list[Event]:
        """Send what the sessions have to send, log what failed; returns what happened."""
        self.flush()
        if self._server.refused != self._refusals.told:
            self._refusals.write(now, self._server.counters.refused_by)
        for failure in self._server.failures():
            error = failure.error
            if error is None or (isinstance(error, GnuTLSError) and error.__traceback__ is None):
                what: object = failure.reason.value
                if error is not None and failure.reason is CloseReason.FAILED:
                    what = error
                elif error is not None and error.detail:
                    what = f"{what}: {error.detail}"
                self._log.write(now, logging.INFO, failure.address, f"handshake failed: {what}")
            else:  # a PSK lookup raised it, or there is no memory
                self.trouble("handshake failed", failure.address, error, now)
        return self._server.events()

    def flush(self) -> None:
        """Send what the sessions have to send."""
        if self.outbox.entries:
            self._serving.flush(self.sock.fileno())
        outgoing = self._server.outgoing()
        if outgoing:
            datagrams, addresses, sources = zip(*outgoing, strict=True)
            names = [client_data.sockaddr(address, self.sock.family) for address in addresses]
            self._send_errors += send_each(self.sock, datagrams, names, sources)

    # --- connections ------------------------------------------------------------------------------

    def send(self, connection: Connection, data: Buffer, now: float) -> int:
        """Send a message to a peer, by the next flush() or settle() at the latest.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is longer than the connection's `data_mtu`.
            GnuTLSError: the connection has ended.
        """
        return self._serving.send(connection, data, now)

    def end(self, connection: Connection) -> None:
        """Say goodbye to a peer, by the next flush() or settle() at the latest."""
        self._serving.flush(self.sock.fileno())
        self._server.close(connection)

    def end_all(self) -> None:
        """Say goodbye to every peer, by the next flush() or settle() at the latest."""
        self._serving.flush(self.sock.fileno())
        self._server.close_all()

    def __len__(self) -> int:
        """Connections at present, those in their handshake included."""
        return len(self._server)

    # --- what may be asked and changed ------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether the caller is a PSK lookup, or a signal handler within one."""
        return self._serving.is_busy

    @property
    def is_asking(self) -> bool:
        """Whether the next turn() may ask for a pre-shared key."""
        return self._serving.asks

    @property
    def has_more(self) -> bool:
        """Whether turn() would have something to do, after a wait()."""
        return self._serving.has_more

    @property
    def send_errors(self) -> int:
        """Datagrams of sessions that the kernel did not take."""
        return self._send_errors + self._serving.send_errors

    @property
    def counters(self) -> Counters:
        """What happened so far; the last of it, once closed."""
        if not self._listener.closed:
            self._counted = self._listener.counters
        gate = self._listener.gate.counters
        return Counters(gate, self._counted, self._server.counters, self.send_errors)

    @property
    def keys(self) -> KeyRing:
        """The KeyRing of the gate; another one may be set, for all that share the gate."""
        return self._listener.gate.keys

    @keys.setter
    def keys(self, keys: KeyRing) -> None:
        refuse_one_secret(keys, self._server.tickets)
        self._listener.gate.keys = keys

    @property
    def credentials(self) -> Credentials | Sequence[Credentials]:
        """What new sessions prove themselves with; may be changed.

        Raises:
            ValueError, TypeError, GnuTLSError: on setting, as of Session; then nothing is changed.
        """
        return self._server.credentials

    @credentials.setter
    def credentials(self, credentials: Credentials | Sequence[Credentials]) -> None:
        self._server.credentials = credentials

    def set_credentials(
        self,
        credentials: Credentials | Sequence[Credentials],
        tickets: bool | TicketKey | None = None,
    ) -> None:
        """As Server.set_credentials().

        Raises:
            ValueError: also where the key of the tickets is made of the cookies' secret.
        """
        refuse_one_secret(self.keys, tickets)
        self._server.set_credentials(credentials, tickets)

    def trouble(
        self, what: str, address: SocketAddress | None, error: BaseException, now: float
    ) -> None:
        """Log a fault of this side that a peer met, with its traceback; at a bounded rate."""
        self._log.write(now, logging.ERROR, address, what, error)

    def close(self) -> None:
        """Close the socket and free what stands at it. Goodbyes have been said: end_all()."""
        self._log.handle_timeout(math.inf)
        self._counted = self.counters.listener
        self._listener.close()
        self.sock.close()


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


def refuse_one_secret(keys: KeyRing, tickets: bool | TicketKey | None) -> None:
    """Who can make cookies must not be able to open sessions.

    Raises:
        ValueError: the keys of cookies and of tickets are made of one secret.
    """
    if isinstance(tickets, TicketKey) and tickets.is_of(keys.prints):
        raise ValueError("tickets must not be made of the secret of the cookie keys")


def gate_for(keys: CookieGate | KeyRing | Buffer | None) -> CookieGate:
    """A gate with these keys, or the given one; None: with a random key of its own."""
    if isinstance(keys, CookieGate):
        return keys
    return CookieGate(KeyRing.random() if keys is None else keys)


# --- helpers --------------------------------------------------------------------------------------


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
