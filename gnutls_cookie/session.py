"""A sans-IO DTLS session over libgnutls: datagrams go in and come out as bytes.

No socket, no thread, no clock: who owns the socket gives what arrived to receive_datagram() and
sends what datagrams_to_send() gives. Retransmissions (RFC 6347 4.2.4) are timed by the `now` that
handshake(), timeout() and handle_timeout() are given, in seconds of one clock that is never set
back; time.monotonic() where it is None. timeout() says when handle_timeout() wants to be called.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._agreed import Agreed, failure, unfit
from ._check import bytes_copy, seconds
from ._clock import monotonic
from ._ffi import ffi, lib
from ._settings import (
    TICK,
    AlpnRequired,
    ClientCertificate,
    Credentials,
    Role,
    Settings,
    new_session,
)
from .cookie import Prestate, prestate_set
from .credentials import CertificateCredentials, PSKCredentials, identity_text, psk_key
from .errors import check, error_from_code
from .handles import TABLE, Transport
from .tickets import TicketKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

__all__ = ["LATEST", "TICK", "CertificateCredentials", "Credentials", "PSKCredentials", "Session"]

_RECORD_HEADER = 13  # bytes; the last two are the record's length (RFC 6347 4.1), big-endian
_INBOX_LIMIT = 256  # datagrams that wait to be read; a further one is dropped, as UDP does
_INBOX_LIMIT_BYTES = 1 << 20  # of these; one datagram always has room
LATEST = 1e12  # seconds, of `now` either way: sums with a TICK are exact enough up to there
_STEPS = 1024  # calls of libgnutls in one call of ours
_SIZE = ffi.sizeof("uint32_t")  # bytes; stands before each datagram that a call sent

_SEAT = ffi.typeof("struct gcookie_seat *")
_new_seat = ffi.new_allocator(should_clear_after_alloc=False)
_HANDSHAKE, _RECEIVE, _SEND = (
    lib.gcookie_wire_handshake,
    lib.gcookie_wire_receive,
    lib.gcookie_wire_send,
)
_AGAIN: int = lib.GNUTLS_E_AGAIN
_BUSY: int = lib.GCOOKIE_BUSY


class Session(Agreed):
    """One side of a DTLS connection (gnutls_session_t), without input and output.

    Not for two threads at once: a call while another is under way (from a callback, too) is a
    RuntimeError.

    Args:
        role: "client" or "server".
        credentials: CertificateCredentials, PSKCredentials, AnonymousCredentials, or one of each.
        priority: GnuTLS priority string; None: NORMAL without DTLS 1.0, and with the key exchanges
            of the credentials; with PSKCredentials also AES-128-CCM-8 and CBC-SHA256 (for CoAP).
            One that begins with a colon is added to that (":%NO_TICKETS").
            A server does without FFDHE4096 and larger groups, which cost it 0.06 to 0.3 s.
        server_name: for a client: the name in the server's certificate, and in the server name
            extension (RFC 6066) unless it is an IP address.
        verify_peer: whether the peer's certificate must be trusted. None: yes for a client, no for
            a server.
        sni: for a client: the name in the server name extension in the place of `server_name`; "":
            none is sent.
        server_names: for a server: names that it goes by. A client that asks for another one is
            refused (unrecognized_name, RFC 6066 3); one that asks for none is not.
        client_certificate: for a server: "ignore": do not ask the client for a certificate;
            "request": ask for one, which the client need not have; "require": it must. None:
            "require" with verify_peer, else "ignore". Without verify_peer any certificate will do.
        mtu: bytes of the largest datagram to send, 128..65507; None: libgnutls' default (1200).
        record_size: bytes of the largest record that the peer may send, 512..16384 (RFC 8449,
            gnutls_record_set_max_recv_size); None: any.
        srtp_profiles: profiles of DTLS-SRTP (RFC 5764) to offer or to accept, by GnuTLS' names
            with colons between: "SRTP_AES128_CM_HMAC_SHA1_80:SRTP_AES128_CM_HMAC_SHA1_32". Keys for
            the media are export_keying_material("EXTRACTOR-dtls_srtp", 60) in RFC 5764 4.2's order.
        prestate: for a server: what cookie_verify() gave, as by prestate_set(). The verified
            datagram must then be the first that receive_datagram() is given.
        retransmit_timeout: seconds until the first retransmission (RFC 6347 4.2.4.1: 1 s),
            0.001..4000000.
        handshake_timeout: seconds that the handshake may take in all, 0.001..4000000.
        alpn: names of application protocols (RFC 7301) to offer or to accept, at most 8 of 1..31
            bytes. Of those that both sides have a server chooses the one that the client names
            first; `alpn` then tells it.
        alpn_required: whether the handshake fails where no protocol is agreed on, with the alert
            no_application_protocol. "offered": only where the peer names some
            (GNUTLS_ALPN_MANDATORY).
        tickets: for a server: the key of tickets by which clients resume; None: they cannot.
        resume: for a client: `session_data` of an earlier session with this server. A server that
            does not take it answers with a full handshake.

    Raises:
        ValueError: an argument is out of range, or does not go with the role.
        TypeError: an argument is of another type.
        GnuTLSError: libgnutls refused the session.

    Warns:
        RuntimeWarning: once in a process: this libgnutls lacks fixes that the package cannot make
            up for (SECURITY.md has the list).

    Example:
        A client and a server that hand each other their datagrams:

        >>> from gnutls_cookie import PSKCredentials, Session
        >>> secret = PSKCredentials("sensor-1", b"0123456789abcdef")
        >>> client, server = Session("client", secret), Session("server", secret)
        >>> while not (client.handshake() and server.handshake()):
        ...     for one, other in (client, server), (server, client):
        ...         for datagram in one.datagrams_to_send():
        ...             other.receive_datagram(datagram)
        ...         _ = other.handshake()
        >>> client.version, server.psk_identity
        ('DTLS1.2', 'sensor-1')
    """

    def __init__(
        self,
        role: Role,
        credentials: Credentials | Sequence[Credentials],
        *,
        priority: str | None = None,
        server_name: str | None = None,
        verify_peer: bool | None = None,
        client_certificate: ClientCertificate | None = None,
        mtu: int | None = None,
        prestate: Prestate | None = None,
        retransmit_timeout: float = 1.0,
        handshake_timeout: float = 60.0,
        sni: str | None = None,
        server_names: Sequence[str] = (),
        record_size: int | None = None,
        srtp_profiles: str | None = None,
        alpn: str | Sequence[str] = (),
        alpn_required: AlpnRequired = False,
        tickets: TicketKey | None = None,
        resume: Buffer | None = None,
    ) -> None:
        if hasattr(self, "role"):  # what C works on would be taken away under a call
            raise RuntimeError("a Session is made once")
        if role in ("client", "server") and prestate is not None and role != "server":
            raise ValueError("prestate is for a server")
        settings = Settings(
            role,
            credentials,
            priority=priority,
            server_name=server_name,
            verify_peer=verify_peer,
            client_certificate=client_certificate,
            mtu=mtu,
            retransmit_timeout=retransmit_timeout,
            handshake_timeout=handshake_timeout,
            sni=sni,
            server_names=server_names,
            record_size=record_size,
            srtp_profiles=srtp_profiles,
            alpn=alpn,
            alpn_required=alpn_required,
            tickets=False if tickets is None else tickets,
            resume=resume,
        )
        lookup = None if settings.lookup is None else Lookup(settings.lookup)
        self._hold(role, *new_session(settings), lookup)
        if prestate is not None:
            prestate_set(self, prestate)

    @classmethod
    def _of_server(cls, box: Any, owner: Any) -> Session:
        """A look at the session of a server's connection, and as long as it lasts a hold on it."""
        session = cls.__new__(cls)
        session._hold("server", box, owner, None)
        return session

    def _hold(self, role: Role, box: Any, owner: Any, lookup: Lookup | None) -> None:
        self._box = box
        self._owner = owner
        self.role = role
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._outbox: list[bytes] = []
        self._dropped = 0
        self._lookup = lookup

    # --- datagrams --------------------------------------------------------------------------------

    def receive_datagram(self, data: Buffer) -> None:
        """Give the session a datagram that came from the peer; handshake() or receive() read it.

        A datagram that begins with no whole record is dropped, and so is one beyond the 256, or
        the 1 MiB, that wait: see `dropped`. A record that is cut off at the end of a datagram is
        left out.

        Raises:
            TypeError: data is not bytes-like.
        """
        datagram = data if type(data) is bytes else bytes_copy("data", data)
        size = whole = len(datagram)
        if size < _RECORD_HEADER or size != _RECORD_HEADER + (datagram[11] << 8 | datagram[12]):
            # More than one record, or none. A record lies within one datagram (RFC 6347 4.1.1).
            # libgnutls (lib/buffers.c) keeps a cut one and takes the datagrams that follow for its
            # rest: a stranger's 13 bytes would cost the peer's next 16384. And zero bytes would be
            # the end of the stream to it.
            whole = lib.gcookie_whole_records(datagram, size, size)
        if whole and (
            not self._inbox
            or (len(self._inbox) < _INBOX_LIMIT and self._inbox_bytes + whole <= _INBOX_LIMIT_BYTES)
        ):
            self._inbox.append(datagram if whole == size else datagram[:whole])
            self._inbox_bytes += whole
        else:
            self._dropped += 1

    def datagrams_to_send(self) -> list[bytes]:
        """Take the datagrams that are to be sent to the peer, in order."""
        if not self._outbox:
            return []
        datagrams, self._outbox = self._outbox, []
        return datagrams

    @property
    def dropped(self) -> int:
        """How many datagrams receive_datagram() dropped, and records longer than DTLS has them."""
        return self._dropped + int(self._wire.dropped)

    # --- the handshake ----------------------------------------------------------------------------

    def handshake(self, now: float | None = None) -> bool:
        """Go on with the handshake as far as the datagrams at hand allow (gnutls_handshake).

        Args:
            now: the time in seconds; None: time.monotonic().

        Returns:
            True once it is complete, False while more datagrams are needed.

        Raises:
            FatalAlertError: the peer gave up.
            TimedOutError: handshake_timeout is over.
            CertificateVerificationError: the peer's certificate is not trusted.
            GnuTLSError: the handshake failed otherwise, or the session is closed.

        An exception of a callback (a PSK lookup) comes out as itself. After any of these the
        session has failed; datagrams_to_send() may hold the alert for the peer.
        """
        inbox, wire = self._inbox, self._wire
        if wire.established:
            return True
        self._check_usable()
        now = _time(now)
        if self.role == "client" and not wire.ever_sent and inbox:
            # What comes before a client's hello answers nothing, and libgnutls would fail on some.
            self._dropped += len(inbox)
            self._inbox_bytes = 0
            inbox.clear()
        for _ in range(_STEPS):
            datagram = inbox[0] if inbox else b""
            code = self._shake(datagram, now)
            self._take_away(datagram)
            if code == 0:
                return True
            if code != _AGAIN:
                raise failure(code, wire.error_detail)
            if not wire.starved or (not inbox and lib.gcookie_wire_timeout(wire, now) != 0):
                return False
        return False

    def timeout(self, now: float | None = None) -> float | None:
        """Seconds until handle_timeout() wants to be called; None where no timer runs.

        A timer runs from the first handshake() to the end of the handshake.

        Args:
            now: as for handshake().
        """
        left: float = lib.gcookie_wire_timeout(self._wire, _time(now))
        return None if left < 0 else left

    def handle_timeout(self, now: float | None = None) -> None:
        """Send the last flight again where its time is over (RFC 6347 4.2.4).

        Args:
            now: as for handshake().

        Raises:
            TimedOutError: handshake_timeout is over.
            GnuTLSError: as handshake().
        """
        if self.timeout(now) is not None:
            self.handshake(now)

    # --- messages ---------------------------------------------------------------------------------

    def send(self, data: Buffer) -> int:
        """Send one message as one record in one datagram (gnutls_record_send).

        Args:
            data: 1..`data_mtu` bytes.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is longer than `data_mtu`.
            InvalidRequestError: data is empty.
            GnuTLSError: the handshake is not complete, or the session is closed.
            TypeError: data is not bytes-like.
        """
        message = data if type(data) is bytes else bytes_copy("data", data)
        wire = self._wire
        if wire.failed or wire.closed or not wire.established:
            self._check_usable(established=True)
        code, _ = self._call(_SEND, message, len(message))
        if code < 0:
            check(code, unfit(len(message), self.data_mtu))
        return code

    def receive(self) -> bytes | None:
        """The next message of the peer (gnutls_record_recv_packet).

        Returns:
            The message, or None where none is at hand; then `peer_closed` tells whether the peer
            said goodbye (the session has answered with its own).

        Raises:
            FatalAlertError: the peer gave up.
            GnuTLSError: the handshake is not complete, or the session failed.
        """
        inbox, wire = self._inbox, self._wire
        if wire.peer_closed:
            return None
        if wire.failed or not wire.established:
            self._check_usable(established=True, closed_too=True)
        for _ in range(_STEPS):
            if inbox:
                datagram = inbox[0]
            elif wire.starved:
                return None
            else:
                datagram = b""
            code, seat = self._call(_RECEIVE, datagram, len(datagram))
            self._take_away(datagram)
            if code >= 0:
                message: bytes = ffi.buffer(seat.message, code)[:]
                return message
            if code == lib.GCOOKIE_GOODBYE:
                return None
            if code != _AGAIN:
                raise failure(code, wire.error_detail)
            if not wire.starved:
                return None
        return None

    def close(self) -> None:
        """Say goodbye to the peer: close_notify (gnutls_bye). Once; more calls do nothing.

        During the handshake user_canceled goes before it (RFC 5246 7.2.2). What the peer sent
        before its own goodbye can still be received.
        """
        if not self.closed:
            self._call(lib.gcookie_wire_close)

    # --- helpers ----------------------------------------------------------------------------------

    def _gnutls_session_address(self) -> int:
        """The address of the gnutls_session_t, for prestate_set()."""
        if self.closed:
            raise ValueError("session is closed")
        return int(ffi.cast("uintptr_t", self._pointer))

    def _check_prestate(self) -> None:
        """Whether prestate_set() may be called: it sets sequence numbers back.

        Those of encrypted records too: the peer drops them as replays, and a nonce is used twice.
        """
        if self.established or self._wire.ever_sent:
            raise ValueError("session has sent something: its prestate can be set only before")

    def _note_prestate(self, prestate: Any) -> None:
        """What prestate_set() told libgnutls: which message comes first."""
        lib.gcookie_wire_begin_at(self._wire, prestate.hsk_read_seq)

    def _check_usable(self, *, established: bool = False, closed_too: bool = False) -> None:
        wire = self._wire
        if wire.failed or (wire.closed and not closed_too):
            raise error_from_code(lib.GNUTLS_E_INVALID_SESSION, "the session is closed")
        if established and not wire.established:
            raise error_from_code(lib.GNUTLS_E_INVALID_SESSION, "the handshake is not complete")

    def _call(self, function: Any, *arguments: Any) -> tuple[int, Any]:
        """One call of native/wire.c on this session; what it sent is kept.

        Returns:
            C's answer, and the seat with the message that came.
        """
        seat = _seat()
        code: int = function(self._wire, seat, *arguments)
        if code == _BUSY:
            raise RuntimeError("another call of this session is under way")
        size = seat.out_size
        if size:
            sent = ffi.buffer(seat.out, size)
            at = 0
            while at < size:
                end = at + _SIZE + int.from_bytes(sent[at : at + _SIZE], sys.byteorder)
                self._outbox.append(sent[at + _SIZE : end])
                at = end
        return code, seat

    def _take_away(self, datagram: bytes) -> None:
        """What a call has read of the first datagram that waits."""
        if datagram:
            left = self._wire.left
            self._inbox_bytes -= len(datagram) - left
            if left:
                self._inbox[0] = datagram[-left:]
            else:
                self._inbox.popleft()

    def _shake(self, datagram: bytes, now: float) -> int:
        """gnutls_handshake, with the PSK lookup lent for the time.

        What a lookup raised comes out here, and the session has failed.
        """
        lookup = self._lookup
        if lookup is None:
            return self._call(_HANDSHAKE, 0, datagram, len(datagram), now)[0]
        code: int = TABLE.lending(lookup, self._shake_with, datagram, now)
        lookup.raise_again()
        return code

    def _shake_with(self, datagram: bytes, now: float, handle: int) -> int:
        return self._call(_HANDSHAKE, handle, datagram, len(datagram), now)[0]

    def _alert(self, level: int, description: int) -> None:
        self._call(lib.gcookie_wire_alert, level, description)


def _seat() -> Any:
    """What a call needs for its length; wiped when it is freed."""
    seat = _new_seat(_SEAT)
    lib.gcookie_seat_init(seat)
    return ffi.gc(seat, lib.gcookie_seat_clear)


def _time(now: float | None) -> float:
    return monotonic() if now is None else seconds("now", now, -LATEST, LATEST)


class Lookup(Transport):
    """The PSK lookup of a server: what C's callback works on."""

    __slots__ = ("lookup",)

    def __init__(self, lookup: Callable[[str], bytes | None]) -> None:
        super().__init__()
        self.lookup = lookup

    def psk(self, identity: bytes) -> bytes | None:
        key = self.lookup(identity_text(identity))
        return None if key is None else psk_key("the key that lookup gave", key)
