"""A sans-IO DTLS client: one session with its timers, the messages that wait, and its end.

What Server is for servers. Datagrams of the server go in, datagrams and events come out. No socket,
no clock: `now` is the time in seconds, of one clock that is never set back, such as
time.monotonic(); within 10**12, and else a ValueError or TypeError.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._check import integer, seconds, shown
from .errors import TimedOutError, connection_closed, timed_out
from .server import Closed, CloseReason, Connected, Connection, Event, MessageReady
from .session import LATEST, Credentials, Session

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._settings import AlpnRequired
    from .address import SocketAddress

__all__ = ["Client"]


class Client(Connection):
    """The client's side of one connection. Not for two threads at once.

    Args:
        credentials: as for a Session.
        server_name: as for a Session.
        priority: as for a Session.
        verify_peer: as for a Session.
        mtu: as for a Session.
        address: the server's, for whoever asks for it; it is not used here.
        handshake_timeout: seconds that the handshake may take.
        idle_timeout: seconds without a message of the server after which the connection ends, with
            a TimedOutError: the server may be gone, or was restarted and drops what it has no
            session for. Infinity: never.
        max_queue: messages that wait; a further one is dropped, and counted.
        max_queue_bytes: bytes of the messages that wait; what would be more is dropped, and
            counted. One message always has room.
        retransmit_timeout: seconds until a flight is sent again for the first time.
        sni: as for a Session.
        record_size: as for a Session.
        srtp_profiles: as for a Session.
        alpn: as for a Session.
        alpn_required: as for a Session.
        resume: as for a Session.

    Attributes:
        address: the server's, as given.
        session: the Session; what was agreed on stands there. Do not feed it.
        error: what the session failed with; None where it did not.
        messages_dropped: messages that the full queue did not take.

    Raises:
        ValueError, TypeError: as of Session, and for a limit that is not a positive number.

    Example:
        >>> from gnutls_cookie import Client, PSKCredentials
        >>> client = Client(PSKCredentials("sensor-1", b"0123456789abcdef"))
        >>> client.connect(now=0.0)
        >>> len(client.datagrams_to_send()), client.timeout(now=0.25)
        (1, 0.75)
    """

    __slots__ = (
        "_events",
        "_idle_timeout",
        "_max_queue",
        "_max_queue_bytes",
        "_silent_from",
        "error",
        "messages_dropped",
    )

    def __init__(
        self,
        credentials: Credentials | Sequence[Credentials],
        *,
        server_name: str | None = None,
        priority: str | None = None,
        verify_peer: bool | None = None,
        mtu: int | None = None,
        address: SocketAddress = ("", 0),
        handshake_timeout: float = 60.0,
        idle_timeout: float = math.inf,
        max_queue: int = 256,
        max_queue_bytes: int = 1 << 20,
        retransmit_timeout: float = 1.0,
        sni: str | None = None,
        record_size: int | None = None,
        srtp_profiles: str | None = None,
        alpn: str | Sequence[str] = (),
        alpn_required: AlpnRequired = False,
        resume: Buffer | None = None,
    ) -> None:
        self._max_queue = integer("max_queue", max_queue, 1)
        self._max_queue_bytes = integer("max_queue_bytes", max_queue_bytes, 1)
        self._idle_timeout = seconds("idle_timeout", idle_timeout, sys.float_info.min, math.inf)
        self._silent_from = math.inf  # the time of the last message, or of the end of the handshake
        session = Session(
            "client",
            credentials,
            priority=priority,
            server_name=server_name,
            verify_peer=verify_peer,
            mtu=mtu,
            retransmit_timeout=retransmit_timeout,
            handshake_timeout=handshake_timeout,
            sni=sni,
            record_size=record_size,
            srtp_profiles=srtp_profiles,
            alpn=alpn,
            alpn_required=alpn_required,
            resume=resume,
        )
        if not isinstance(address, tuple) or len(address) not in (2, 4):
            raise TypeError(f"address must be a tuple (ip, port, ...), not {shown(address)}")
        super().__init__(address)
        self._session = session
        self.error: Exception | None = None
        self.messages_dropped = 0
        self._events: list[Event] = []

    def connect(self, now: float) -> None:
        """Begin the handshake: the first datagram is to be sent then.

        Args:
            now: the time in seconds, of one clock that is never set back; within 10**12.
        """
        self._advance(now)

    def receive_datagram(self, data: Buffer, now: float) -> None:
        """Take a datagram that came from the server.

        Raises nothing for what the server sent: events() says how the session ended.

        Args:
            data: the whole datagram; any size.
            now: as for connect().

        Raises:
            TypeError: data is not bytes-like.
        """
        _check_now(now)
        if self._open:
            self.session.receive_datagram(data)
            self._advance(now)

    def datagrams_to_send(self) -> list[bytes]:
        """Take the datagrams that are to be sent, in order. After the end, a goodbye or alert."""
        return self.session.datagrams_to_send()

    def events(self) -> list[Event]:
        """Take what happened since the last time, in order: Connected, MessageReady, Closed.

        Closed comes once, whether the handshake was complete or not; its reason is LOCAL, PEER,
        TIMED_OUT, IDLE or FAILED.
        """
        events, self._events = self._events, []
        return events

    def timeout(self, now: float) -> float | None:
        """Seconds until handle_timeout() wants to be called; None where no timer runs.

        Args:
            now: as for connect().
        """
        _check_now(now)
        if not self._open:
            return None
        idle_at = self._silent_from + self._idle_timeout
        return self.session.timeout(now) if math.isinf(idle_at) else max(0.0, idle_at - now)

    def handle_timeout(self, now: float) -> None:
        """Send the last flight again, or end a handshake or a silence whose time is over.

        Args:
            now: as for connect().
        """
        if self.timeout(now) is None:
            return
        # The sum by which timeout() goes: a difference could be rounded to less.
        if now >= self._silent_from + self._idle_timeout:
            text = f"no message came from the server for {self._idle_timeout:g} s"
            self._end(CloseReason.IDLE, timed_out(text))
        else:
            self._advance(now)

    def send(self, data: Buffer) -> int:
        """Send one message.

        Args:
            data: 1..`data_mtu` bytes.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is longer.
            InvalidRequestError: data is empty.
            ConnectionClosedError: the connection has ended.
            GnuTLSError: the handshake is not complete.
        """
        if not self._open:
            raise connection_closed("the connection has ended", self.error)
        return self.session.send(data)

    def close(self) -> None:
        """Say goodbye. Messages that wait can still be received."""
        self._end(CloseReason.LOCAL)

    # --- helpers ----------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        """Let the session work on what it was given, or on its timer."""
        _check_now(now)
        if not self._open:
            return
        session = self.session
        try:
            if not session.established and session.handshake(now):
                self._silent_from = now
                self._events.append(Connected(self))
            if session.established:
                self._take_messages(now)
        except TimedOutError as error:
            self._end(CloseReason.TIMED_OUT, error)
        except Exception as error:  # of libgnutls, or of a machine without memory
            self._end(CloseReason.FAILED, error)
        else:
            if session.peer_closed:
                self._end(CloseReason.PEER)

    def _take_messages(self, now: float) -> None:
        """At once: only so is the peer's goodbye seen where nobody reads."""
        while (message := self.session.receive()) is not None:
            self._silent_from = now
            is_first = self._queue(message, self._max_queue, self._max_queue_bytes)
            if is_first:
                self._events.append(MessageReady(self))
            elif is_first is None:
                self.messages_dropped += 1

    def _end(self, reason: CloseReason, error: Exception | None = None) -> None:
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(Exception):  # a goodbye that cannot be said is lost
            self.session.close()
        if error is not None:
            error.__traceback__ = None  # its frames would keep the session alive
            self.error = error
        self._events.append(Closed(self, reason, error))


def _check_now(now: float) -> None:
    seconds("now", now, -LATEST, LATEST)
