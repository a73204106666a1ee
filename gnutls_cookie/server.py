"""A sans-IO DTLS server: sessions by address, with timers and limits.

Verified clients and datagrams of admitted peers go in as Arrivals, datagrams and events come out.
No socket, no clock: `now` is the time in seconds, of one clock that is never set back, such as
time.monotonic(); within 10**12, and else a ValueError or TypeError. The sessions are in
native/server.c.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._agreed import unfit
from ._check import bytes_copy, flag, integer, seconds
from ._connection import (
    Closed,
    CloseReason,
    Connected,
    Connection,
    Event,
    HandshakeFailure,
    MessageReady,
    RefusalReason,
    ServerCounters,
)
from ._ffi import ffi, lib
from ._owned import not_copied
from ._paths import native_address, native_path
from ._settings import AlpnRequired, ClientCertificate, Credentials, Settings
from ._turns import REASONS, Turns
from .arrival import Arrival
from .cookie import Prestate
from .credentials import identity_text, psk_key
from .errors import GnuTLSError, check, error_from_code
from .handles import TABLE, Transport
from .session import LATEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from .address import SocketAddress
    from .tickets import TicketKey

__all__ = [
    "CloseReason",
    "Closed",
    "Connected",
    "Connection",
    "Event",
    "HandshakeFailure",
    "MessageReady",
    "RefusalReason",
    "Server",
    "ServerCounters",
]

_UNLIMITED = (1 << 64) - 1
_MOST_KEPT = 8 << 20  # bytes of messages that are not whole yet, of all handshakes

_SERVER = ffi.typeof("struct gcookie_server **")
_REFUSED_AT = 4  # of the numbers in struct gcookie_server_counters, native/server.h


class Server:
    """Sessions by address, with timers and limits. Not for two threads at once.

    Goes behind a CookieListener (or a CookieGate): what comes in has been verified. Of each address
    it keeps one connection, and while a client comes back from the same port a second one, which
    takes the place of the first once its handshake is complete (RFC 6347 4.2.8).

    Args:
        credentials: as for a Session.
        priority: as for a Session.
        verify_peer: whether clients' certificates must be trusted.
        client_certificate: as for a Session.
        mtu: as for a Session.
        max_sessions: connections at once, those in their handshake included. Beyond it the oldest
            handshake gives way to a verified client; where all are established the client is
            refused in silence, and counted.
        max_sessions_per_address: of one IP address; None: all but a 32nd of max_sessions.
        max_sessions_per_prefix: of one network, /24 of IPv4 or /64 of IPv6; None: all but a 64th.
        max_handshakes: handshakes at once, of some 22 KB each. Beyond it the oldest gives way.
        max_handshakes_per_address: of one IP address. Beyond it the oldest gives way if its flight
            is due again; else the client is refused.
        max_handshakes_per_prefix: the same of one network.
        handshake_timeout: seconds that a handshake may take.
        idle_timeout: seconds without any message after which a connection is closed; infinity:
            never.
        max_queue: messages that wait in a connection; a further one is dropped, and counted.
        max_queue_bytes: bytes of the messages that wait in a connection; what would be more is
            dropped, and counted. One message always has room.
        retransmit_timeout: seconds until a flight is sent again for the first time.
        server_names: as for a Session.
        record_size: as for a Session.
        srtp_profiles: as for a Session.
        alpn: as for a Session.
        alpn_required: as for a Session.
        tickets: whether clients get tickets to resume by. True: sealed with a random key of this
            server's own, another one each day and with each new credentials. A TicketKey: with
            that, so that servers with the same one resume each other's sessions. None: True where
            all clients are alike; False with PSKCredentials or `verify_peer`, since who has a
            ticket resumes for up to six hours, whatever became of his key or certificate. Servers
            that ask other things of their clients do not take each other's tickets, and with
            `srtp_profiles` there are none.

    Attributes:
        max_sessions: connections at once.
        counters: a ServerCounters, kept up to date.

    Raises:
        ValueError, TypeError: as of Session, and for a limit that is not a positive number.

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
        client_certificate: ClientCertificate | None = None,
        mtu: int | None = None,
        max_sessions: int = 10_000,
        max_sessions_per_address: int | None = None,
        max_sessions_per_prefix: int | None = None,
        max_handshakes: int = 2048,
        max_handshakes_per_address: int = 512,
        max_handshakes_per_prefix: int = 1024,
        handshake_timeout: float = 30.0,
        idle_timeout: float = 300.0,
        max_queue: int = 256,
        max_queue_bytes: int = 256 << 10,
        retransmit_timeout: float = 1.0,
        server_names: Sequence[str] = (),
        record_size: int | None = None,
        srtp_profiles: str | None = None,
        alpn: str | Sequence[str] = (),
        alpn_required: AlpnRequired = False,
        tickets: bool | TicketKey | None = None,
    ) -> None:
        if hasattr(self, "_box"):  # what C works on would be taken away under a call
            raise RuntimeError("a Server is made once")
        integer("max_sessions", max_sessions, 1)
        integer("max_queue", max_queue, 1)
        integer("max_queue_bytes", max_queue_bytes, 1)
        self._settings_of = functools.partial(
            Settings,
            "server",
            priority=priority,
            server_name=None,
            verify_peer=flag("verify_peer", verify_peer),
            client_certificate=client_certificate,
            mtu=mtu,
            retransmit_timeout=retransmit_timeout,
            handshake_timeout=handshake_timeout,
            server_names=server_names,
            record_size=record_size,
            srtp_profiles=srtp_profiles,
            alpn=alpn,
            alpn_required=alpn_required,
        )
        idle_seconds = seconds("idle_timeout", idle_timeout, sys.float_info.min, math.inf)
        self._box = ffi.new(_SERVER)
        check(lib.gcookie_server_new(self._box))
        self._owner = ffi.gc(self._box, lib.gcookie_server_free)
        self._counted = memoryview(ffi.buffer(ffi.addressof(self._native, "counters"))).cast("Q")
        self._native.idle_seconds = idle_seconds
        limits = self._native.limits
        limits.kept = _MOST_KEPT
        limits.handshakes = _most("max_handshakes", max_handshakes)
        limits.handshakes_of[0] = _most("max_handshakes_per_address", max_handshakes_per_address)
        limits.handshakes_of[1] = _most("max_handshakes_per_prefix", max_handshakes_per_prefix)
        self._shares = (
            ("max_sessions_per_address", max_sessions_per_address, 32),
            ("max_sessions_per_prefix", max_sessions_per_prefix, 64),
        )
        self._lookups = _Lookups(self._native)
        self._turns = Turns(
            max_queue, max_queue_bytes, self._lookups.error_of, (self._box, self._owner)
        )
        self._connections = self._turns.connections
        self._known: dict[int, Settings] = {}  # that sessions may have
        self.max_sessions = max_sessions
        self._tickets: bool | TicketKey | None = None
        self.set_credentials(credentials, tickets)  # what is wrong with the arguments is said here

    @property
    def credentials(self) -> Credentials | Sequence[Credentials]:
        """What new sessions prove themselves with; may be changed.

        Raises:
            ValueError, TypeError, GnuTLSError: on setting, as of Session; then nothing is changed.
        """
        return self._credentials

    @credentials.setter
    def credentials(self, credentials: Credentials | Sequence[Credentials]) -> None:
        self.set_credentials(credentials)

    def set_credentials(
        self,
        credentials: Credentials | Sequence[Credentials],
        tickets: bool | TicketKey | None = None,
    ) -> None:
        """Give new sessions other credentials, and other tickets.

        Args:
            credentials: as for a Session.
            tickets: as for a new Server; None: as before. A random key is replaced by another.

        Raises:
            ValueError, TypeError, GnuTLSError: as of Session; then nothing is changed.
        """
        wanted = self._tickets if tickets is None else tickets
        settings = self._settings_of(credentials, tickets=wanted)
        settings.try_out()  # what is wrong with them is said here, not at a client
        if lib.gcookie_server_set(self._native, settings.native) < 0:
            raise _busy()
        self._credentials = credentials
        self._tickets = wanted
        self._settings = settings
        for number, known in tuple(self._known.items()):
            if known.holders == 1:  # this dict alone
                del self._known[number]
        self._known[settings.number] = settings
        self._lookups.by_settings = {
            number: known.lookup for number, known in self._known.items() if known.lookup
        }

    @property
    def tickets(self) -> bool | TicketKey | None:
        """Whether, and by which key, clients get tickets; as set_credentials() was told."""
        return self._tickets

    @property
    def max_sessions(self) -> int:
        """Connections at once; may be changed. Those that there are stay."""
        return int(self._native.limits.sessions)

    @max_sessions.setter
    def max_sessions(self, most: int) -> None:
        limits = self._native.limits
        limits.sessions = most = _most("max_sessions", most)
        for scope, (name, share, part) in enumerate(self._shares):
            limits.sessions_of[scope] = most - most // part if share is None else _most(name, share)

    @property
    def refused(self) -> int:
        """The same as `counters.refused`, for whoever asks in every turn."""
        return int(self._counts[_REFUSED_AT])

    @property
    def counters(self) -> ServerCounters:
        """A ServerCounters, kept up to date."""
        self._count()
        return self._turns.counters

    # --- in and out -------------------------------------------------------------------------------

    def receive(self, arrival: Arrival, now: float) -> None:
        """Take what a listener brought: a verified client, or a datagram of an admitted peer.

        Raises nothing for what a client sent or the machine lacks: a session that fails ends alone,
        and one that cannot be made is counted. What a PSK lookup raises beyond Exception
        (KeyboardInterrupt) comes out, and its session has ended.

        Args:
            arrival: as a listener returns it.
            now: the time in seconds, of one clock that is never set back; within 10**12.

        Raises:
            TypeError, ValueError: it is not an Arrival, or an address in it is not a numeric one.
            RuntimeError: another call is under way, in another thread or around a PSK lookup.
        """
        _check_now(now)
        if not isinstance(arrival, Arrival):
            raise _wrong("arrival", "an Arrival", arrival)
        datagram, given = arrival.datagram, arrival.prestate
        if type(datagram) is not bytes:
            datagram = bytes_copy("datagram", datagram)
        if not (given is None or isinstance(given, Prestate)):
            raise _wrong("prestate", "a Prestate or None", given)
        prestate = ffi.NULL if given is None else given._struct
        self._call(
            lib.gcookie_server_receive,
            native_path(arrival.address, arrival.local),
            datagram,
            len(datagram),
            prestate,
            now,
        )

    def datagrams_to_send(self) -> list[tuple[bytes, SocketAddress]]:
        """Take the datagrams that are to be sent, in order."""
        return [(datagram, address) for datagram, address, _ in self.outgoing()]

    def outgoing(self) -> list[tuple[bytes, SocketAddress, str | None]]:
        """The same as datagrams_to_send(), each with the address to send from: Arrival.local of
        the hello that opened its session."""
        turns = self._turns
        turns.take_over()
        outgoing, turns.outgoing = turns.outgoing, []
        return outgoing

    def events(self) -> list[Event]:
        """Take what happened since the last time, in order."""
        turns = self._turns
        turns.take_over()
        events, turns.events = turns.events, []
        return events

    def failures(self) -> list[HandshakeFailure]:
        """Take the handshakes that failed since the last time, in order.

        At most the last 256; ServerCounters has the number of all.
        """
        turns = self._turns
        turns.take_over()
        failures = list(turns.failures)
        turns.failures.clear()
        return failures

    def forgotten(self) -> list[SocketAddress]:
        """Take the addresses that have no connection any more, for a listener's forget()."""
        turns = self._turns
        turns.take_over()
        forgotten = [address for address in turns.forgotten if address not in self]
        turns.forgotten.clear()
        return forgotten

    def timeout(self, now: float) -> float | None:
        """Seconds until handle_timeout() wants to be called; None where no timer runs.

        Args:
            now: as for receive().
        """
        _check_now(now)
        left: float = lib.gcookie_server_timeout(self._native, now)
        if left == lib.GCOOKIE_BUSY:
            raise _busy()
        return None if left < 0 else left

    def handle_timeout(self, now: float) -> None:
        """Send flights again, end handshakes and idle connections whose time is over.

        Args:
            now: as for receive().
        """
        _check_now(now)
        self._call(lib.gcookie_server_handle_timeout, now)

    # --- connections ------------------------------------------------------------------------------

    def send(self, connection: Connection, data: Buffer, now: float) -> int:
        """Send a message to a peer.

        Args:
            connection: of an event.
            data: 1..`connection.data_mtu` bytes.
            now: as for receive().

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is longer.
            InvalidRequestError: data is empty.
            GnuTLSError: the connection is closed, or its handshake is not complete.
            TypeError: connection is not a Connection, or data not bytes-like.
        """
        _check_now(now)
        message = data if type(data) is bytes else bytes_copy("data", data)
        number = _number_of(connection)
        if self._connections.get(number) is not connection:
            raise error_from_code(lib.GNUTLS_E_INVALID_SESSION, "the session is closed")
        session = connection._session
        if session is not None and session._outbox:  # what was said past the server comes first
            for datagram in session.datagrams_to_send():
                self._turns.outgoing.append((datagram, connection.address, connection.local))
        turn = self._turns.new()
        size = len(message)
        code: int = lib.gcookie_server_send(self._native, turn, number, message, size, now)
        if code < 0:
            if code == lib.GCOOKIE_BUSY:
                raise _busy()
            check(code, unfit(size, connection.data_mtu))
        self._turns.take_over()
        self._count()
        return code

    def close(self, connection: Connection) -> None:
        """Say goodbye to a peer, and forget it.

        Args:
            connection: of an event; one that has ended is left alone.

        Raises:
            TypeError: connection is not a Connection.
        """
        number = _number_of(connection)
        if self._connections.get(number) is connection:
            self._call_alone(lib.gcookie_server_close, number)

    def close_all(self) -> None:
        """Say goodbye to every peer, and forget them."""
        self._call_alone(lib.gcookie_server_close_all)

    def __len__(self) -> int:
        """Connections at present, those in their handshake included."""
        counters = self._native.counters
        return int(counters.sessions + counters.handshaking)

    def __contains__(self, address: object) -> bool:
        """Whether an address has a connection."""
        try:
            native = native_address(address)
        except (TypeError, ValueError, OverflowError):
            return False
        found = lib.gcookie_server_has(self._native, native)
        if found < 0:
            raise _busy()
        return bool(found)

    # --- helpers ----------------------------------------------------------------------------------

    @property
    def _native(self) -> Any:
        """The struct gcookie_server."""
        native = self._box[0]
        if not native:
            raise _gone()
        return native

    @property
    def _counts(self) -> memoryview:
        """What C has counted; it is read without a call, so that it must be there."""
        if not self._box[0]:
            raise _gone()
        return self._counted

    def _call(self, function: Any, *arguments: Any) -> None:
        """A call of C that may ask for pre-shared keys; what it gives is taken over."""
        turn = self._turns.new()
        if self._ask(function, self._native, turn, *arguments) == lib.GCOOKIE_BUSY:
            raise _busy()
        try:
            self._take_over(at_once=True)
        finally:
            self._count()

    def _ask(self, function: Any, *arguments: Any) -> int:
        """A call of C, with a handle for lookups as its last argument."""
        if not self._lookups.by_settings:
            code: int = function(*arguments, 0)
        else:
            code = TABLE.lending(self._lookups, function, *arguments)
        return code

    def _take_over(self, at_once: bool) -> None:
        """What calls gave, and what a lookup raised beyond Exception."""
        self._turns.take_over(at_once)
        lookups = self._lookups
        if lookups.raised_by or lookups.raised is not None:
            lookups.raise_what_is_left()

    def _takes(self, connection: Connection, data: bytes) -> bool:
        """Whether a message can be sent, and nothing else of its session comes first."""
        session = connection._session
        return (
            session is not None
            and not (session.closed or session._outbox)
            and self._connections.get(connection._id) is connection
            and 0 < len(data) <= session.data_mtu
        )

    def _call_alone(self, function: Any, *arguments: Any) -> None:
        turn = self._turns.new()
        if function(self._native, turn, *arguments) == lib.GCOOKIE_BUSY:
            raise _busy()
        self._turns.take_over()
        self._count()

    def _count(self) -> None:
        """What C has counted, into the counters that users see."""
        counted, counters = self._counts.tolist(), self._turns.counters
        (
            counters.sessions,
            counters.handshaking,
            counters.connected,
            counters.resumed,
            counters.refused,
            counters.session_errors,
            counters.duplicates,
            counters.strays,
            counters.records_refused,
            counters.messages_received,
            counters.messages_sent,
            *by_reason,
        ) = counted
        number = len(REASONS)
        counters.closed.update(zip(REASONS, by_reason[:number], strict=True))
        counters.displaced = by_reason[number]
        counters.refused_by.update(zip(RefusalReason, by_reason[number + 1 :], strict=True))


class _Lookups(Transport):
    """What C's callback asks for pre-shared keys during a call: the lookup of the settings that a
    session was made with. What one raises belongs to its own session."""

    __slots__ = ("_native", "by_settings", "raised_by")

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._native = native
        self.raised_by: dict[int, BaseException] = {}
        self.by_settings: dict[int, Callable[[str], bytes | None]] = {}

    def psk(self, identity: bytes) -> bytes | None:
        number = int(self._native.asking_id)
        lookup = self.by_settings[int(self._native.asking_settings)]
        try:
            key = lookup(identity_text(identity))
            return None if key is None else psk_key("the key that lookup gave", key)
        except BaseException as error:
            self.raised_by[number] = error
            raise

    def error_of(self, number: int, lookup_failed: int) -> Exception | None:
        """What the lookup of a session raised, if that is an Exception."""
        error = self.raised_by.get(number)
        if error is None and lookup_failed:
            error = self.raised  # it struck outside of the lookup
        return error if isinstance(error, Exception) else None

    def raise_what_is_left(self) -> None:
        """Raise what no session was ended by, or should be alone: KeyboardInterrupt, say."""
        left = [*self.raised_by.values(), self.raised]
        self.raised_by.clear()
        self.raised = None
        for error in left:
            if error is not None and not isinstance(error, Exception):
                try:
                    raise error
                finally:
                    del error, left


def _most(name: str, value: int) -> int:
    return min(integer(name, value, 1), _UNLIMITED)


def _number_of(connection: Connection) -> int:
    if not isinstance(connection, Connection):
        raise _wrong("connection", "a Connection", connection)
    return connection._id


def _wrong(name: str, wanted: str, given: object) -> TypeError:
    return TypeError(f"{name} must be {wanted}, not {type(given).__name__}")


def _gone() -> GnuTLSError:
    return error_from_code(
        lib.GNUTLS_E_INVALID_SESSION, "the garbage collector has freed the server"
    )


def _busy() -> RuntimeError:
    return RuntimeError("another call of this server is under way")


def _check_now(now: float) -> None:
    if type(now) is not float or not -LATEST <= now <= LATEST:
        seconds("now", now, -LATEST, LATEST)
