"""What aio and blocking share: a served UDP socket with its listener and sessions, the addresses of
a name, the arguments that both take, and what is logged.

The socket is used here, the clock is asked by who calls. Nothing waits but poll() and resolve().
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import math
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from ._check import integer
from .address import SocketAddress, client_data
from .arrival import Arrival
from .errors import GnuTLSError, TimedOutError
from .gate import CookieGate, GateCounters
from .keys import KeyRing
from .listener import CookieListener, ListenerCounters, send_each
from .server import CloseReason, Event, Server, ServerCounters
from .session import TICK

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "LARGEST_DATAGRAM",
    "LOG",
    "NOT_HERE",
    "Attempts",
    "BoundedLog",
    "Counters",
    "Endpoint",
    "bound",
    "gate_for",
    "host_and_port",
    "send_or_lose",
    "server_name_for",
    "total",
]

LOG = logging.getLogger("gnutls_cookie")

LARGEST_DATAGRAM = 65535  # bytes; more than any UDP datagram (RFC 768)

_ARRIVALS = 256  # taken from a socket before others have their turn
_MAX_PEERS = 0xFFFFFFFF  # no limit: the server has its own, which may be set anew
_RECEIVE_BUFFER = 4 << 20  # bytes
_TRIES = 20  # to find a port that is free for each of several addresses
_LOG_LINES, _LOG_SECONDS = 5, 1.0  # so many lines within so many seconds, then one that counts

# An address that this machine does not have, and a family that its kernel does not have.
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


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
        self._log = BoundedLog()
        self._names: dict[SocketAddress, bytes] = {}  # of peers, as the kernel writes them
        self._listener = CookieListener(sock, gate, max_peers=_MAX_PEERS)
        self._counted = self._listener.counters

    def poll(self, timeout: float | None) -> list[Arrival]:
        """CookieListener.poll(), for so many arrivals that others have their turn."""
        return self._listener.poll(timeout, _ARRIVALS)

    def receive(self, arrivals: Iterable[Arrival], now: float) -> None:
        """Hand what poll() gave to the sessions; settle() afterwards.

        What one of them raises (a session that cannot be made for want of memory, say) is logged,
        and ends nothing else.
        """
        for arrival in arrivals:
            try:
                self._receive(arrival, now)
            except Exception as error:
                self.trouble("a datagram was lost", arrival.address, error, now)

    def _receive(self, arrival: Arrival, now: float) -> None:
        self.server.receive(arrival, now)
        if arrival.prestate is None:
            return  # admitted long ago, or to nobody
        self._forget()
        if arrival.address in self.server:
            self._listener.admit(arrival.address)

    def trouble(self, what: str, address: SocketAddress, error: BaseException, now: float) -> None:
        """Log a fault of this side that a peer met, with its traceback; at a bounded rate."""
        self._log.write(now, logging.ERROR, address, what, error)

    def timeout(self, now: float) -> float | None:
        """Seconds until handle_timeout() wants to be called; None where no timer runs."""
        timers = [self.server.timeout(now), self._log.timeout(now)]
        return min((one for one in timers if one is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Let the sessions and the log do what is due; settle() afterwards."""
        self._log.handle_timeout(now)
        self.server.handle_timeout(now)

    def settle(self, now: float) -> list[Event]:
        """Send what the sessions have to send, log what failed; returns what happened."""
        self.flush()
        for failure in self.server.failures():
            error = failure.error
            if error is None or (isinstance(error, GnuTLSError) and error.__traceback__ is None):
                known = error is not None and failure.reason is CloseReason.FAILED
                what = f"handshake failed: {error if known else failure.reason.value}"
                self._log.write(now, logging.INFO, failure.address, what)
            else:  # a PSK lookup raised it, or there is no memory
                self.trouble("handshake failed", failure.address, error, now)
        return self.server.events()

    def flush(self) -> None:
        """Send what the sessions have to send."""
        outgoing = self.server.datagrams_to_send()
        if len(outgoing) == 1:
            self._send_errors += not send_or_lose(self.sock, *outgoing[0])
        elif outgoing:
            names = [self._names.get(address) or self._name(address) for _, address in outgoing]
            self._send_errors += send_each(self.sock, [one for one, _ in outgoing], names)
        self._forget()

    @property
    def counters(self) -> Counters:
        """What happened so far; the last of it, once closed."""
        if not self._listener.closed:
            self._counted = self._listener.counters
        gate = self._listener.gate.counters
        return Counters(gate, self._counted, self.server.counters, self._send_errors)

    def close(self) -> None:
        """Close listener and socket. Goodbyes have been said: Server.close_all(), settle()."""
        self._log.handle_timeout(math.inf)
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


# --- addresses ------------------------------------------------------------------------------------


def host_and_port(host: object, port: object, least_port: int = 0, prefix: str = "") -> None:
    """Judge the arguments `prefix`host and `prefix`port: getaddrinfo() takes a port of 65537 for 1.

    Raises:
        TypeError, ValueError: one is of no use; the text names it.
    """
    if not isinstance(host, str):
        raise TypeError(f"{prefix}host must be a str, not {type(host).__name__}")
    if not host or "\0" in host:
        raise ValueError(f"{prefix}host must be a name or an address, not {host!r}")
    try:
        host.encode("idna")  # as getaddrinfo() does
    except UnicodeError:
        raise ValueError(f"{prefix}host must be a name of RFC 1035, not {host!r}") from None
    integer(f"{prefix}port", port, least_port, 65535)


def server_name_for(host: str, server_name: str | None) -> str:
    """What the server's certificate must name: `server_name`, or else `host`."""
    return server_name or host.partition("%")[0]  # without the zone (RFC 4007 11)


class Attempts:
    """The addresses of a name, each tried until one answers, within one total time.

    The next one is tried where the former is refused or cannot be reached, and where nothing at all
    has come from it when its share of the time is over: the time left, divided by the addresses
    left. Who has answered once has all the time that is left. What a server then does wrong (its
    certificate, say) is final: another address of the name is no way around it.

    Args:
        found: what getaddrinfo() gave.
        seconds: of all attempts together.
        now: the time.

    Attributes:
        info: the one to be tried, as getaddrinfo() gave it.
    """

    def __init__(self, found: Sequence[Any], seconds: float, now: float) -> None:
        self._left = list(dict.fromkeys(found))
        self._deadline = now + seconds
        self._failed: list[tuple[Any, OSError]] = []
        self.info = self._left.pop(0)

    def seconds(self, now: float) -> float:
        """The time left for everything."""
        return max(self._deadline - now, TICK)

    def patience(self, now: float) -> float | None:
        """How long the present address may be silent; None: to the end."""
        return self.seconds(now) / (len(self._left) + 1) if self._left else None

    def failed(self, error: Exception, now: float) -> bool:
        """Tell that the present address failed, and how.

        Returns:
            Whether there is another one to try, `info` now.

        Raises:
            Exception: `error`, or one of its kind that says what each address gave.
        """
        final = isinstance(error, GnuTLSError) and not isinstance(error, TimedOutError)
        if final or not isinstance(error, OSError):
            for one in self._failed:
                error.add_note(f"before that, {_gave(*one)}")
            raise error
        self._failed.append((self.info[4], error))
        if self._left and now < self._deadline:
            self.info = self._left.pop(0)
            return True
        failed, self._failed = self._failed, []  # an error's traceback holds this object
        if len(failed) == 1:
            raise error
        raise _together(failed) from None


def _together(failed: list[tuple[Any, OSError]]) -> OSError:
    text = "; ".join(_gave(*one) for one in failed)
    for _, error in failed:
        if isinstance(error, TimedOutError):
            return TimedOutError(error.code, text)
    return OSError(failed[-1][1].errno, text)  # of the kind that belongs to the number


def _gave(address: Any, error: OSError) -> str:
    reason = "timed out" if isinstance(error, TimedOutError) else error.strerror or str(error)
    return f"{address[0]} port {address[1]}: {reason}"


def bound(found: Sequence[Any], reuse_port: bool = False) -> list[socket.socket]:
    """UDP sockets bound to what getaddrinfo found, non-blocking; all of them to one port.

    An address that this machine does not have (::1 of localhost in a container without IPv6) is
    left out where another one can be bound.

    Raises:
        OSError: one cannot be bound, or none is there.
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
    missing: OSError | None = None
    try:
        for info in found:
            port = sockets[0].getsockname()[1] if sockets else None
            try:
                sockets.append(_socket(info, port, len(found) > 1, reuse_port))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                missing = error
        if not sockets:
            raise OSError("no address to bind to") if missing is None else missing
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    finally:
        del missing  # its traceback holds this frame
    return sockets


def _socket(info: Any, port: int | None, several: bool, reuse_port: bool) -> socket.socket:
    """A socket bound to what getaddrinfo found, but to `port` where it is given."""
    family, kind, protocol, _, address = info
    if address[1] == 0 and port is not None:
        address = (address[0], port, *address[2:])
    sock = socket.socket(family, kind, protocol)
    try:
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6 and several:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has its own
        # Hellos, messages and goodbyes of many peers come at once. The kernel takes less memory
        # until it is needed, and on Linux never more than net.core.rmem_max.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.setblocking(False)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


# --- waiting --------------------------------------------------------------------------------------


# --- the log --------------------------------------------------------------------------------------


class BoundedLog:
    """Lines of the log that strangers can cause: 5 a second at most of each level, then one that
    counts the others. What nobody sees is worth little, and so is a disk that is full of it.
    """

    def __init__(self) -> None:
        self._budgets: dict[int, _Budget] = {}

    def write(
        self,
        now: float,
        level: int,
        address: SocketAddress,
        what: str,
        error: BaseException | None = None,
    ) -> None:
        """Log that something happened at a peer's address, with the traceback of an error."""
        self.handle_timeout(now)
        budget = self._budgets.setdefault(level, _Budget(now))
        budget.lines += 1
        if budget.lines <= _LOG_LINES:
            LOG.log(level, "%s port %d: %s", *address[:2], what, exc_info=error)

    def timeout(self, now: float) -> float | None:
        """Seconds until handle_timeout() has something to say; None where it has not."""
        due = [one.since + _LOG_SECONDS for one in self._budgets.values() if one.left_out]
        return max(0.0, min(due) - now) if due else None

    def handle_timeout(self, now: float) -> None:
        """Log how many lines were left out, where their time is over."""
        for level, budget in list(self._budgets.items()):
            if now >= budget.since + _LOG_SECONDS:
                del self._budgets[level]
                if budget.left_out:
                    LOG.log(level, "%d more like the last one, not logged", budget.left_out)


@dataclass(slots=True)
class _Budget:
    """The lines of one level since a time."""

    since: float
    lines: int = 0

    @property
    def left_out(self) -> int:
        return max(0, self.lines - _LOG_LINES)


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
