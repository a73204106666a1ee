"""A sans-IO DTLS server: sessions by address, with timers and limits.

Verified clients and datagrams of admitted peers go in as Arrivals, datagrams and events come out.
No socket, no clock: `now` is the time in seconds, of one clock that is never set back, such as
time.monotonic(); within 10**12, and else a ValueError or TypeError.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING

from ._check import integer, seconds
from ._owned import not_copied
from .arrival import Arrival
from .cookie import Prestate
from .errors import TimedOutError
from .session import LATEST, TICK, Credentials, Session

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .address import SocketAddress

__all__ = [
    "CloseReason",
    "Closed",
    "Connected",
    "Connection",
    "Event",
    "HandshakeFailure",
    "MessageReady",
    "Server",
    "ServerCounters",
]

# Where the random of a ClientHello stands in its datagram: behind the record header (13), the
# handshake header (12) and client_version (2). session_id and cookie follow, each with its length.
_RANDOM_AT, _SESSION_ID_AT = 27, 59

# A client repeats its hello until it has our flight, and goes on from there (RFC 6347 4.2.4). So a
# hello that comes when it has gone on is no repetition, but was late on the network; or the client
# has started again, with a random number generator that does so, too (4.2.8). What is late is so by
# less than this; and who waits for an answer has it when it says its hello again.
_REPETITION_SECONDS = 2.0

_DEAD_TIMERS = 64  # cancelled timers tolerated before the heap is rebuilt
_FAILURES_LIMIT = 256  # failed handshakes that wait for failures(); the oldest give way
_PACKAGE = __name__.partition(".")[0]

_Timer = tuple[float, int]  # when it is due, and its number


class CloseReason(Enum):
    """Why a connection ended."""

    LOCAL = "closed here"
    PEER = "the peer said goodbye"
    REPLACED = "the client came back from the same port with a new session"
    IDLE = "nothing came or went for idle_timeout"
    TIMED_OUT = "the handshake took longer than handshake_timeout"
    FAILED = "the session failed"


class Connection:
    """One session of a Server, with the messages that wait to be taken.

    Attributes:
        address: the peer's, as the socket module gives it.
        session: the Session; what was agreed on stands there. Do not feed it.
        local: our address that the peer asked, as Arrival.local had it.
    """

    __slots__ = (
        "__weakref__",
        "_hello",
        "_last_active",
        "_messages",
        "_messages_read",
        "_moved_on",
        "_open",
        "_queued_bytes",
        "_started",
        "_timer",
        "address",
        "local",
        "session",
    )
    __reduce__ = not_copied

    def __init__(
        self,
        address: SocketAddress,
        session: Session,
        hello: bytes,
        now: float,
        local: str | None = None,
    ) -> None:
        self.address = address
        self.session = session
        self.local = local
        self._hello = hello
        self._messages_read = 0  # of the handshake
        self._moved_on: float | None = None  # when the client last said more than its hello
        self._messages: deque[bytes] = deque()
        self._queued_bytes = 0
        self._started = now
        self._last_active = now
        self._open = True
        self._timer: _Timer | None = None  # its one live entry among the timers

    @property
    def is_open(self) -> bool:
        """Whether the server still serves it."""
        return self._open

    def receive(self) -> bytes | None:
        """Take the next message of the peer; None where none is waiting."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._queued_bytes -= len(message)
        return message

    def __repr__(self) -> str:
        return f"<Connection {self.address} {self.session!r}>"


@dataclass(frozen=True, slots=True)
class Connected:
    """A handshake is complete."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class MessageReady:
    """A connection has messages where it had none: take them by its receive()."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection ended. One whose handshake was never complete ends without an event.

    Attributes:
        reason: why.
        error: what its session or a PSK lookup raised, where that was the reason.
    """

    connection: Connection
    reason: CloseReason
    error: Exception | None = None


Event = Connected | MessageReady | Closed


@dataclass(frozen=True, slots=True)
class HandshakeFailure:
    """A handshake of a verified client that came to nothing. No connection, and so no event.

    Attributes:
        address: the client's.
        reason: FAILED or TIMED_OUT.
        error: what the session or a PSK lookup raised, with the traceback of the lookup; None where
            the client just did not answer.
    """

    address: SocketAddress
    reason: CloseReason
    error: Exception | None = None


@dataclass(slots=True)
class ServerCounters:
    """What happened so far, and (the first two) what is.

    One beyond a limit and one that the network lost are told apart by these alone: nothing is
    logged here.

    Attributes:
        sessions: connections whose handshake is complete, now.
        handshaking: connections whose handshake is under way, now.
        connected: handshakes completed.
        refused: verified clients turned away at the limit of sessions.
        session_errors: verified clients for whom no session could be made: no memory, say.
        duplicates: repeated hellos that went to the session they had opened.
        strays: datagrams of addresses without a session.
        records_refused: what sessions refused in their handshake (Session.records_refused).
        messages_received: messages of peers.
        messages_dropped: of these, how many a full queue did not take.
        messages_sent: messages to peers.
        closed: connections that ended, by reason.
        last_error: what the last failed session failed with, or could not be made for.
    """

    sessions: int = 0
    handshaking: int = 0
    connected: int = 0
    refused: int = 0
    session_errors: int = 0
    duplicates: int = 0
    strays: int = 0
    records_refused: int = 0
    messages_received: int = 0
    messages_dropped: int = 0
    messages_sent: int = 0
    closed: dict[CloseReason, int] = field(default_factory=lambda: dict.fromkeys(CloseReason, 0))
    last_error: Exception | None = None


@dataclass(slots=True)
class _Peer:
    """The connections of one address: the one that is served, and one that would replace it."""

    current: Connection | None = None
    pending: Connection | None = None

    def __iter__(self) -> Iterator[Connection]:
        if self.pending is not None:
            yield self.pending
        if self.current is not None:
            yield self.current


class Server:
    """Sessions by address, with timers and limits. Not for two threads at once.

    Goes behind a CookieListener (or a CookieGate): what comes in has been verified. Of each address
    it keeps one connection, and while a client comes back from the same port a second one, which
    takes the place of the first once its handshake is complete (RFC 6347 4.2.8).

    Args:
        credentials: as for a Session.
        priority: as for a Session.
        verify_peer: as for a Session.
        mtu: as for a Session.
        max_sessions: connections at once, those in their handshake included; a verified client
            beyond is refused in silence, and counted.
        handshake_timeout: seconds that a handshake may take.
        idle_timeout: seconds without any message after which a connection is closed; infinity:
            never.
        max_queue: messages that wait in a connection; a further one is dropped, and counted.
        max_queue_bytes: bytes of the messages that wait in a connection; what would be more is
            dropped, and counted. One message always has room.
        retransmit_timeout: seconds until a flight is sent again for the first time.

    Attributes:
        max_sessions: connections at once.
        counters: a ServerCounters, kept up to date.

    Raises:
        ValueError, TypeError: as of Session, and for a limit that is no positive number.

    Example:
        >>> from gnutls_cookie import PSKCredentials, Server
        >>> server = Server(PSKCredentials("sensor-1", b"0123456789abcdef"), max_sessions=100)
        >>> len(server), server.timeout(now=0.0), server.datagrams_to_send()
        (0, None, [])
    """

    __reduce__ = not_copied

    def __init__(
        self,
        credentials: Credentials | Sequence[Credentials],
        *,
        priority: str | None = None,
        verify_peer: bool = False,
        mtu: int | None = None,
        max_sessions: int = 10_000,
        handshake_timeout: float = 30.0,
        idle_timeout: float = 300.0,
        max_queue: int = 256,
        max_queue_bytes: int = 256 << 10,
        retransmit_timeout: float = 1.0,
    ) -> None:
        integer("max_sessions", max_sessions, 1)
        integer("max_queue", max_queue, 1)
        integer("max_queue_bytes", max_queue_bytes, 1)
        self._credentials = credentials
        self._priority = priority
        self._verify_peer = verify_peer
        self._mtu = mtu
        self._handshake_timeout = handshake_timeout
        self._retransmit_timeout = retransmit_timeout
        self.max_sessions = max_sessions
        self._idle_timeout = seconds("idle_timeout", idle_timeout, sys.float_info.min, math.inf)
        self._max_queue = max_queue
        self._max_queue_bytes = max_queue_bytes
        self._peers: dict[SocketAddress, _Peer] = {}
        self._outgoing: list[tuple[bytes, SocketAddress, str | None]] = []
        self._events: list[Event] = []
        self._failures: deque[HandshakeFailure] = deque(maxlen=_FAILURES_LIMIT)
        self._forgotten: set[SocketAddress] = set()
        # Whom a timer wakes stands apart: a dead timer, due in minutes, keeps no connection alive.
        self._timers: list[_Timer] = []
        self._waking: dict[int, Connection] = {}
        self._order = itertools.count()
        self.counters = ServerCounters()
        self._new_session(credentials)  # what is wrong with the arguments is said here

    @property
    def credentials(self) -> Credentials | Sequence[Credentials]:
        """What new sessions prove themselves with; may be set anew.

        Raises:
            ValueError, TypeError, GnuTLSError: on setting, as of Session; then nothing is changed.
        """
        return self._credentials

    @credentials.setter
    def credentials(self, credentials: Credentials | Sequence[Credentials]) -> None:
        self._new_session(credentials)  # what is wrong with them is said here, not at a client
        self._credentials = credentials

    # --- in and out -------------------------------------------------------------------------------

    def receive(self, arrival: Arrival, now: float) -> None:
        """Take what a listener brought: a verified client, or a datagram of an admitted peer.

        Raises nothing for what a client sent or the machine lacks: a session that fails ends alone,
        and one that cannot be made is counted. What a PSK lookup raises beyond Exception
        (KeyboardInterrupt) comes out, and its session has ended.
        """
        _check_now(now)
        peer = self._peers.get(arrival.address)
        if arrival.prestate is not None:
            self._receive_hello(arrival, peer, now)
        elif peer is None:
            self.counters.strays += 1
        elif peer.pending is None and peer.current is not None:
            self._advance(peer.current, now, arrival.datagram)
        else:
            # With two sessions each reads what its keys open, and libgnutls drops the rest.
            for connection in tuple(peer):
                if connection.is_open:  # else the one before has just replaced it
                    self._advance(connection, now, arrival.datagram)

    def datagrams_to_send(self) -> list[tuple[bytes, SocketAddress]]:
        """Take the datagrams that are to be sent, in order."""
        return [(datagram, address) for datagram, address, _ in self.outgoing()]

    def outgoing(self) -> list[tuple[bytes, SocketAddress, str | None]]:
        """The same as datagrams_to_send(), each with the address to send from: Arrival.local of
        the hello that opened its session."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def events(self) -> list[Event]:
        """Take what happened since the last time, in order."""
        events, self._events = self._events, []
        return events

    def failures(self) -> list[HandshakeFailure]:
        """Take the handshakes that failed since the last time, in order.

        At most the last 256; ServerCounters has the number of all.
        """
        failures = list(self._failures)
        self._failures.clear()
        return failures

    def forgotten(self) -> list[SocketAddress]:
        """Take the addresses that have no connection any more, for a listener's forget()."""
        forgotten = [address for address in self._forgotten if address not in self._peers]
        self._forgotten.clear()
        return forgotten

    def timeout(self, now: float) -> float | None:
        """Seconds until handle_timeout() wants to be called; None where no timer runs."""
        _check_now(now)
        while self._timers and self._timers[0][1] not in self._waking:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - now) if self._timers else None

    def handle_timeout(self, now: float) -> None:
        """Send flights again, end handshakes and idle connections whose time is over."""
        _check_now(now)
        while self._timers and self._timers[0][0] <= now:
            connection = self._waking.pop(heapq.heappop(self._timers)[1], None)
            if connection is None:
                continue
            connection._timer = None
            # The sums are those by which the timers were set: a difference could be rounded to less
            # than the timeout, and the same timer would be due for ever.
            if not connection.session.established:
                if now >= connection._started + self._handshake_timeout:
                    self._close(connection, CloseReason.TIMED_OUT)
                else:
                    self._advance(connection, now)
            elif now >= connection._last_active + self._idle_timeout:
                self._close(connection, CloseReason.IDLE)
            else:
                self._schedule(connection, connection._last_active + self._idle_timeout)

    # --- connections ------------------------------------------------------------------------------

    def send(self, connection: Connection, data: Buffer, now: float) -> int:
        """Send a message to a peer.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is longer than the session's `data_mtu`.
            GnuTLSError: the connection is closed, or its handshake is not complete.
        """
        _check_now(now)
        sent = connection.session.send(data)
        self.counters.messages_sent += 1
        connection._last_active = now
        self._collect(connection)
        return sent

    def close(self, connection: Connection) -> None:
        """Say goodbye to a peer, and forget it."""
        self._close(connection, CloseReason.LOCAL)

    def close_all(self) -> None:
        """Say goodbye to every peer, and forget them."""
        for peer in tuple(self._peers.values()):
            for connection in tuple(peer):
                self._close(connection, CloseReason.LOCAL)

    def __len__(self) -> int:
        """Connections at present, those in their handshake included."""
        return self.counters.sessions + self.counters.handshaking

    def __contains__(self, address: object) -> bool:
        """Whether an address has a connection."""
        return address in self._peers

    # --- helpers ----------------------------------------------------------------------------------

    def _receive_hello(self, arrival: Arrival, peer: _Peer | None, now: float) -> None:
        hello = _hello_of(arrival.datagram)
        for connection in tuple(peer) if peer is not None else ():
            moved_on = connection._moved_on
            is_late = moved_on is not None and now > moved_on + _REPETITION_SECONDS
            if connection._hello == hello and not is_late:
                self.counters.duplicates += 1
                self._advance(connection, now, arrival.datagram)
                return
        if peer is not None and peer.pending is not None:
            self._close(peer.pending, CloseReason.REPLACED)
        if len(self) >= self.max_sessions:
            self.counters.refused += 1
            return
        try:
            session = self._new_session(self._credentials, arrival.prestate)
        except Exception as error:  # this client has no luck; all others are served
            self.counters.session_errors += 1
            self._note_failure(arrival.address, CloseReason.FAILED, error)
            return
        connection = Connection(arrival.address, session, hello, now, arrival.local)
        self._peers.setdefault(arrival.address, _Peer()).pending = connection
        self.counters.handshaking += 1
        self._advance(connection, now, arrival.datagram)

    def _new_session(
        self, credentials: Credentials | Sequence[Credentials], prestate: Prestate | None = None
    ) -> Session:
        return Session(
            "server",
            credentials,
            priority=self._priority,
            verify_peer=self._verify_peer,
            mtu=self._mtu,
            prestate=prestate,
            retransmit_timeout=self._retransmit_timeout,
            handshake_timeout=self._handshake_timeout,
        )

    def _advance(self, connection: Connection, now: float, datagram: bytes | None = None) -> None:
        """Let a session work on a datagram, or its timer; a failure ends this connection alone."""
        session = connection.session
        try:
            if datagram is not None:
                session.receive_datagram(datagram)
            if not session.established:
                is_complete = session.handshake(now)
                if session._messages_read != connection._messages_read:
                    if connection._messages_read:  # the hello was before
                        connection._moved_on = now
                    connection._messages_read = session._messages_read
                if is_complete:
                    self._establish(connection, now)
                else:
                    self._schedule(connection, now + max(session.timeout(now) or 0.0, TICK))
            if session.established:
                self._take_messages(connection, now)
            self._collect(connection)
            if session.peer_closed:
                self._close(connection, CloseReason.PEER)
        except TimedOutError as error:
            self._close(connection, CloseReason.TIMED_OUT, error)
        except Exception as error:  # of libgnutls, of a PSK lookup, or of a machine without memory
            self._close(connection, CloseReason.FAILED, error)
        except BaseException:  # of a PSK lookup: for the caller, but the place is free again
            self._close(connection, CloseReason.FAILED)
            raise

    def _establish(self, connection: Connection, now: float) -> None:
        """The handshake is complete: only now a former session of this address is replaced."""
        peer = self._peers[connection.address]
        former, peer.current, peer.pending = peer.current, connection, None
        self.counters.handshaking -= 1
        self.counters.sessions += 1
        self.counters.connected += 1
        self.counters.records_refused += connection.session.records_refused
        connection._last_active = connection._moved_on = now
        self._schedule(connection, now + self._idle_timeout)
        if former is not None:
            self._end(former, CloseReason.REPLACED, None)
        self._events.append(Connected(connection))

    def _take_messages(self, connection: Connection, now: float) -> None:
        receive, messages = connection.session.receive, connection._messages
        while (message := receive()) is not None:
            self.counters.messages_received += 1
            connection._last_active = now
            if not messages:
                self._events.append(MessageReady(connection))
            elif (
                len(messages) >= self._max_queue
                or connection._queued_bytes + len(message) > self._max_queue_bytes
            ):
                self.counters.messages_dropped += 1
                continue
            messages.append(message)
            connection._queued_bytes += len(message)

    def _collect(self, connection: Connection) -> None:
        datagrams = connection.session.datagrams_to_send()
        if datagrams:
            address, local = connection.address, connection.local
            self._outgoing += [(datagram, address, local) for datagram in datagrams]

    def _close(
        self, connection: Connection, reason: CloseReason, error: Exception | None = None
    ) -> None:
        """Say goodbye where that is possible, and forget."""
        if not connection.is_open:
            return
        peer = self._peers[connection.address]
        if peer.current is connection:
            peer.current = None
        else:
            peer.pending = None
        if peer.current is None and peer.pending is None:
            del self._peers[connection.address]
            self._forgotten.add(connection.address)
        self._end(connection, reason, error)

    def _end(self, connection: Connection, reason: CloseReason, error: Exception | None) -> None:
        connection._open = False
        self._cancel_timer(connection)
        with contextlib.suppress(Exception):  # a goodbye that cannot be said is lost
            connection.session.close()
        if reason is not CloseReason.REPLACED:  # whoever replaces it would hear the goodbye
            self._collect(connection)
        self.counters.closed[reason] += 1
        if connection.session.established:
            self.counters.sessions -= 1
            self._events.append(Closed(connection, reason, error))
            self._note_error(error)
        else:
            self.counters.handshaking -= 1
            self.counters.records_refused += connection.session.records_refused
            if reason in (CloseReason.FAILED, CloseReason.TIMED_OUT):
                self._note_failure(connection.address, reason, error)

    def _note_failure(
        self, address: SocketAddress, reason: CloseReason, error: Exception | None
    ) -> None:
        self._failures.append(HandshakeFailure(address, reason, error))
        self._note_error(error)

    def _note_error(self, error: Exception | None) -> None:
        if error is None:
            return
        # Frames of ours would keep the session alive as long as the error; those of a lookup stay.
        trace = error.__traceback__
        while trace is not None and _is_ours(trace):
            trace = trace.tb_next
        error.__traceback__ = trace
        self.counters.last_error = error

    def _schedule(self, connection: Connection, when: float) -> None:
        """Wake for a connection at a time; where it wakes before that, it looks again then."""
        if connection._timer is not None:
            if connection._timer[0] <= when:
                return
            self._cancel_timer(connection)
        if len(self._timers) > 2 * len(self) + _DEAD_TIMERS:
            self._timers = [timer for timer in self._timers if timer[1] in self._waking]
            heapq.heapify(self._timers)
        connection._timer = (when, next(self._order))
        self._waking[connection._timer[1]] = connection
        heapq.heappush(self._timers, connection._timer)

    def _cancel_timer(self, connection: Connection) -> None:
        if connection._timer is not None:
            del self._waking[connection._timer[1]]
            connection._timer = None


def _is_ours(trace: TracebackType) -> bool:
    return str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE


def _check_now(now: float) -> None:
    if type(now) is not float or not -LATEST <= now <= LATEST:
        seconds("now", now, -LATEST, LATEST)


def _hello_of(datagram: bytes) -> bytes:
    """What tells one ClientHello from another: its random, session_id and cookie."""
    end = _SESSION_ID_AT
    for _ in range(2):
        end += 1 + datagram[end] if end < len(datagram) else 0
    return datagram[_RANDOM_AT:end]
