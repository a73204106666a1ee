"""What a server or a client tells its user: connections, events, counters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from ._owned import not_copied
from ._paths import own_text, peer_shown, peer_text
from ._settings import hold_at, wire_at, wire_in
from .session import Session

if TYPE_CHECKING:
    from .address import SocketAddress

__all__ = [
    "CloseReason",
    "Closed",
    "Connected",
    "Connection",
    "Event",
    "HandshakeFailure",
    "MessageReady",
    "Receiver",
    "RefusalReason",
    "ServerCounters",
]


class CloseReason(Enum):
    """Why a connection ended."""

    LOCAL = "closed here"
    PEER = "the peer said goodbye"
    REPLACED = "the client came back from the same port with a new session"
    IDLE = "nothing came or went for idle_timeout"
    TIMED_OUT = "the handshake took longer than handshake_timeout"
    FAILED = "the session failed"


class RefusalReason(Enum):
    """Why a verified client was turned away."""

    FULL = "max_sessions are established"
    ADDRESS = "their address has its share"
    PREFIX = "their network has its share"
    EARLY = "a handshake from their address and port had just begun"
    BUSY = "more of them came than there was time for"


class Receiver(Protocol):
    """What a Connection hands its messages to."""

    def on_message(self, message: bytes) -> None:
        """A message has come. What this raises comes out of the server's call; what has come with
        the message is told by the next one."""


class Callbacks(Protocol):
    """What a PassingReceiver calls."""

    def message_received(self, message: bytes) -> None:
        """A message has come."""


class PassingReceiver(Protocol):
    """A Receiver that hands each message on to its `protocol`, which a server calls itself: that
    saves a call for each."""

    @property
    def protocol(self) -> Callbacks:
        """What is called."""

    def on_error(self, error: BaseException) -> None:
        """The protocol has raised it. What this raises comes out of the server's call."""


class Connection:
    """One session of a Server, with the messages that wait to be taken.

    Attributes:
        address: the peer's, as the socket module gives it.
        session: the Session; what was agreed on stands there, after the end of the connection as
            well. Do not feed it.
        local: our address that the peer asked, as Arrival.local had it.
        receiver: whose on_message() a server calls as a message comes, where none waits: in the
            place of a MessageReady. None at first.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_first",
        "_hold",
        "_id",
        "_most",
        "_open",
        "_passing",
        "_ready",
        "_rest",
        "_rest_bytes",
        "_server",
        "_session",
        "_wire",
        "receiver",
    )
    __reduce__ = not_copied

    def __init__(
        self,
        address: SocketAddress | None,
        server: Any = None,
        wire: int = 0,
        number: int = 0,
        data_mtu: int = 0,
    ) -> None:
        self._address = address  # None: of a server; made when it is asked for
        # Of a server's, while it is open: what holds its session; see _settings.py.
        self._server = server
        self._wire = wire  # where the session stands
        self._hold: Any = None  # one of its own: once it has ended, or somebody has asked
        self._id = number  # in the server; 0: of a client
        # Bytes of a message that may be sent without looking at the session; 0: look.
        self._most = data_mtu
        self._session: Session | None = None  # made when it is asked for
        self._first: bytes | None = None  # the message that waits
        self._rest: deque[bytes] | None = None  # those behind it: an empty deque has 600 bytes
        self._rest_bytes = 0  # of those
        self.receiver: Receiver | None = None
        self._passing: PassingReceiver | None = None  # the same, if it is one
        self._ready: MessageReady | None = None
        self._open = True

    @property
    def address(self) -> SocketAddress:
        address = self._address
        if address is None:
            address = self._address = peer_text(self._in_c())
        return address

    @address.setter
    def address(self, address: SocketAddress) -> None:
        self._address = address

    @property
    def _shown_address(self) -> str:
        """str(address) of a server's. Neither is kept."""
        return peer_shown(self._in_c())

    @property
    def local(self) -> str | None:
        return own_text(self._in_c()) if self._id else None

    @property
    def session(self) -> Session:
        session = self._session
        if session is None:
            self._most = 0  # from now on its user may say something past the server
            server, hold = self._server, self._hold  # its end gives the one and takes the other
            if hold is None:
                hold = self._hold = hold_at(server, self._wire)
            session = self._session = Session._of_server(*hold)
        return session

    @property
    def data_mtu(self) -> int:
        """Bytes of the largest message that can be sent; Session.data_mtu, at less cost."""
        return self._most or self.session.data_mtu

    @property
    def sendable(self) -> int:
        """Bytes of a message that can be sent without a look at the session; 0: look."""
        return self._most

    @property
    def has_messages(self) -> bool:
        """Whether receive() would give one."""
        return self._first is not None

    @property
    def is_open(self) -> bool:
        """Whether the server still serves it."""
        return self._open

    def receive(self) -> bytes | None:
        """Take the next message of the peer; None where none is waiting."""
        rest = self._rest
        size = len(rest[0]) if rest else 0
        # No call from here on: a signal handler would come between.
        message = self._first
        if rest:
            self._first = rest[0]
            del rest[0]
            self._rest_bytes -= size
        else:
            self._first = self._rest = None
            self._rest_bytes = 0
        return message

    def _queue(self, message: bytes, most: int, most_bytes: int) -> bool | None:
        """Let a message wait. Whether it is the first that does; None: there is no room for it."""
        size = len(message)
        if self._first is None:
            self._first = message
            return True
        rest = self._rest
        waiting = 1 if rest is None else 1 + len(rest)
        if waiting >= most or len(self._first) + self._rest_bytes + size > most_bytes:
            return None
        queue = deque() if rest is None else rest
        # No call from here on, as in receive().
        self._rest = queue
        queue += (message,)
        self._rest_bytes += size
        return False

    def _in_c(self) -> Any:
        """The struct gcookie_wire, which lasts as long as this object."""
        server, hold = self._server, self._hold  # in this order, as above
        return wire_at(server, self._wire) if hold is None else wire_in(hold)

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
        resumed: of these, how many went on from an earlier session.
        refused: verified clients turned away, all together.
        displaced: handshakes that gave way to a newer one where the server was full.
        session_errors: verified clients for whom no session could be made: no memory, say.
        duplicates: repeated hellos that went to the session they had opened.
        strays: datagrams of addresses without a session.
        records_refused: what sessions refused in their handshake (Session.records_refused).
        messages_received: messages of peers.
        messages_dropped: of these, how many a full queue did not take.
        messages_sent: messages to peers.
        closed: connections that ended, by reason.
        refused_by: verified clients turned away, by reason.
        last_error: what the last failed session failed with, or could not be made for.
    """

    sessions: int = 0
    handshaking: int = 0
    connected: int = 0
    resumed: int = 0
    refused: int = 0
    displaced: int = 0
    session_errors: int = 0
    duplicates: int = 0
    strays: int = 0
    records_refused: int = 0
    messages_received: int = 0
    messages_dropped: int = 0
    messages_sent: int = 0
    closed: dict[CloseReason, int] = field(default_factory=lambda: dict.fromkeys(CloseReason, 0))
    refused_by: dict[RefusalReason, int] = field(
        default_factory=lambda: dict.fromkeys(RefusalReason, 0)
    )
    last_error: Exception | None = None
