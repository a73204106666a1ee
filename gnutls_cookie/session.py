"""A sans-IO DTLS session over libgnutls: datagrams go in and come out as bytes.

No socket, no thread, no clock: who owns the socket gives what arrived to receive_datagram() and
sends what datagrams_to_send() gives. Retransmissions (RFC 6347 4.2.4) are timed by the `now` that
handshake(), timeout() and handle_timeout() are given, in seconds of one clock that is never set
back; time.monotonic() where it is None. timeout() says when handle_timeout() wants to be called.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ._check import bytes_copy, integer, seconds, utf8
from ._clock import monotonic
from ._convert import c_text
from ._ffi import ffi, lib
from ._owned import not_copied, owned
from .cookie import Prestate, prestate_set
from .credentials import CertificateCredentials, PSKCredentials, identity_text, psk_key
from .errors import GnuTLSError, check, error_from_code
from .handles import TABLE, Transport

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .credentials import PSKLookup

__all__ = ["CertificateCredentials", "PSKCredentials", "Session"]

Role = Literal["client", "server"]
Credentials = CertificateCredentials | PSKCredentials

MTU_MIN, MTU_MAX = 128, 65507  # bytes of a UDP payload; below, no handshake fragment would fit
_RECORD_HEADER = 13  # bytes; the last two are the record's length (RFC 6347 4.1), big-endian
_INBOX_LIMIT = 256  # datagrams that wait to be read; a further one is dropped, as UDP does
_INBOX_LIMIT_BYTES = 1 << 20  # of these; one datagram always has room
TICK = 0.001  # seconds; the shortest time between two looks at a timer
_LONGEST_TIMEOUT = 4_000_000.0  # seconds; six weeks
_LONGEST_INTERVAL = 60.0  # seconds between two retransmissions (RFC 6347 4.2.4.1)
_TRIES = 100  # to make a session; each fails where it is interrupted at one moment of its making
LATEST = 1e12  # seconds, of `now` either way: sums with a TICK are exact enough up to there
_STEPS = 1024  # calls of libgnutls in one call of ours
_SIZE = ffi.sizeof("uint32_t")  # bytes; stands before each datagram that a call sent

_FIRST: int = lib.GCOOKIE_FIRST  # bytes
_SESSION = ffi.typeof("gnutls_session_t *")
_WIRE = ffi.typeof("struct gcookie_wire *")
_SEAT = ffi.typeof("struct gcookie_seat *")
_HANDSHAKE, _RECEIVE, _SEND = (
    lib.gcookie_wire_handshake,
    lib.gcookie_wire_receive,
    lib.gcookie_wire_send,
)
_AGAIN: int = lib.GNUTLS_E_AGAIN
_BUSY: int = lib.GCOOKIE_BUSY
_GONE: int = lib.GCOOKIE_GONE

# NORMAL still has DTLS 1.0, which RFC 8996 forbids. It lacks AES-128-CCM-8, mandatory for PSK in
# CoAP (RFC 7252 9.1.3.1), and the CBC-SHA256 suites of small devices (RFC 5487 3.1). What is added
# comes last in preference.
_NORMAL = "NORMAL:-VERS-DTLS1.0"
_PSK = "+ECDHE-PSK:+DHE-PSK:+PSK:+AES-128-CCM-8:+SHA256"
_PRIORITY = {
    (lib.GNUTLS_CRD_CERTIFICATE,): _NORMAL,
    (lib.GNUTLS_CRD_PSK,): f"{_NORMAL}:-KX-ALL:{_PSK}",
    (lib.GNUTLS_CRD_CERTIFICATE, lib.GNUTLS_CRD_PSK): f"{_NORMAL}:{_PSK}",
}
_DTLS = {lib.GNUTLS_DTLS0_9, lib.GNUTLS_DTLS1_0, lib.GNUTLS_DTLS1_2}
_EXCHANGES = {  # GNUTLS_KX_* that need credentials of a kind
    lib.GNUTLS_CRD_CERTIFICATE: {
        lib.GNUTLS_KX_RSA,
        lib.GNUTLS_KX_DHE_DSS,
        lib.GNUTLS_KX_DHE_RSA,
        lib.GNUTLS_KX_ECDHE_RSA,
        lib.GNUTLS_KX_ECDHE_ECDSA,
    },
    lib.GNUTLS_CRD_PSK: {
        lib.GNUTLS_KX_PSK,
        lib.GNUTLS_KX_DHE_PSK,
        lib.GNUTLS_KX_ECDHE_PSK,
        lib.GNUTLS_KX_RSA_PSK,
    },
}


class Session:
    """One side of a DTLS connection (gnutls_session_t), without input and output.

    Not for two threads at once: a call while another is under way (from a callback, too) is a
    RuntimeError.

    Args:
        role: "client" or "server".
        credentials: CertificateCredentials, PSKCredentials, or one of each.
        priority: GnuTLS priority string; None: NORMAL without DTLS 1.0, and with the key exchanges
            of the credentials; with PSKCredentials also AES-128-CCM-8 and CBC-SHA256 (for CoAP).
        server_name: for a client: the name in the server's certificate, and in the server name
            extension (RFC 6066) unless it is an IP address.
        verify_peer: whether the peer's certificate must be trusted. None: yes for a client, no for
            a server; a server that verifies asks the client for a certificate.
        mtu: bytes of the largest datagram to send, 128..65507; None: libgnutls' default (1200).
        prestate: for a server: what cookie_verify() gave, as by prestate_set(). The verified
            datagram must then be the first that receive_datagram() is given.
        retransmit_timeout: seconds until the first retransmission (RFC 6347 4.2.4.1: 1 s),
            0.001..4000000.
        handshake_timeout: seconds that the handshake may take in all, 0.001..4000000.

    Raises:
        ValueError: an argument is out of range, or does not go with the role.
        TypeError: an argument is of another type.
        GnuTLSError: libgnutls refused the session.

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
        mtu: int | None = None,
        prestate: Prestate | None = None,
        retransmit_timeout: float = 1.0,
        handshake_timeout: float = 60.0,
    ) -> None:
        if hasattr(self, "role"):  # what C works on would be taken away under a call
            raise RuntimeError("a Session is made once")
        if role not in ("client", "server"):
            raise ValueError(f"role must be 'client' or 'server', not {role!r}")
        is_server = role == "server"
        if prestate is not None and not is_server:
            raise ValueError("prestate is for a server")
        if server_name is not None and is_server:
            raise ValueError("server_name is for a client")
        self.role: Role = role
        listed = _listed(credentials)
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._outbox: list[bytes] = []
        self._dropped = 0
        lookup = _lookup(listed) if is_server else None
        self._lookup = None if lookup is None else _Lookup(lookup)
        self._handshake_timeout = seconds(
            "handshake_timeout", handshake_timeout, TICK, _LONGEST_TIMEOUT
        )
        self._deadline: float | None = None
        self._retransmit_timeout = seconds(
            "retransmit_timeout", retransmit_timeout, TICK, _LONGEST_TIMEOUT
        )
        self._interval = self._retransmit_timeout  # until the next retransmission, in seconds
        self._sent_at: float | None = None  # when the last flight was sent
        self._due_at: float | None = None  # when it is due again
        self._last_flight: list[bytes] = []  # with our Finished, where the peer may lack it
        self._established = False
        self._failed = False
        self._closed = False
        self._peer_closed = False

        for _ in range(_TRIES):
            code = self._open(listed, priority, server_name, verify_peer)
            if code != lib.GNUTLS_E_TIMEDOUT:
                break
        check(code)
        if mtu is not None:
            self.mtu = mtu
        if prestate is not None:
            prestate_set(self, prestate)

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

    @property
    def records_refused(self) -> int:
        """How many records and fragments of a handshake were kept from libgnutls.

        Those that break a rule (RFC 6347 4.2.3): fragments that reach beyond their message,
        messages longer than the peer may send, out of turn, or too far ahead; encrypted ones other
        than a Finished. Anybody can send them, so none ends a handshake.
        """
        return int(self._wire.guard.refused)

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
        if self._established:
            return True
        self._check_usable()
        if ffi.NULL in [box[0] for box in self._credentials]:
            raise _gone()
        now = _time(now)
        if self._deadline is None:
            self._deadline = now + self._handshake_timeout
        elif now >= self._deadline:
            self._fail(lib.GNUTLS_E_TIMEDOUT)
        inbox, wire = self._inbox, self._wire
        if self.role == "client" and not wire.ever_sent and inbox:
            # What comes before a client's hello answers nothing, and libgnutls would fail on some.
            self._dropped += len(inbox)
            self._inbox_bytes = 0
            inbox.clear()
        for _ in range(_STEPS):
            datagram = inbox[0] if inbox else b""
            is_due = self._due_at is not None and now >= self._due_at
            sent = len(self._outbox)
            seat = _take_seat()
            code = self._shake(seat, datagram, is_due)
            self._take_away(datagram)
            _SEATS.append(seat)
            if code == 0:
                self._established = True
                self._last_flight = self._outbox[sent:]
                return True
            if code != _AGAIN:
                self._fail(code)
            self._set_timer(now, is_due, len(self._outbox) > sent)
            if not wire.starved:
                return False
            if not inbox and not (self._due_at is not None and now >= self._due_at):
                return False
        return False

    def timeout(self, now: float | None = None) -> float | None:
        """Seconds until handle_timeout() wants to be called; None where no timer runs.

        A timer runs from the first handshake() to the end of the handshake.

        Args:
            now: as for handshake().
        """
        if self._deadline is None or self._established or self.closed:
            return None
        due_at = self._deadline if self._due_at is None else min(self._deadline, self._due_at)
        return max(0.0, due_at - _time(now))

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
        if self._failed or self._closed or not self._established:
            self._check_usable(established=True)
        seat = _take_seat()
        code = self._call(seat, _SEND, message, len(message))
        _SEATS.append(seat)
        if code < 0:
            fits = 0 < len(message) <= self.data_mtu
            check(code, "" if fits else f"data of {len(message)} bytes")
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
        if self._peer_closed:
            return None
        if self._failed or not self._established:
            self._check_usable(established=True, closed_too=True)
        inbox, wire = self._inbox, self._wire
        for _ in range(_STEPS):
            if inbox:
                datagram = inbox[0]
            elif wire.starved:
                return None
            else:
                datagram = b""
            seat = _take_seat()
            code = self._call(seat, _RECEIVE, datagram, len(datagram))
            self._take_away(datagram)
            message: bytes | None = seat[1][:code] if code >= 0 else None
            _SEATS.append(seat)
            if message is not None:
                self._last_flight = []
                return message
            if code == _AGAIN:
                if wire.wants_flight:
                    # The peer lacks it. libgnutls has forgotten it, by a clock that may be set.
                    # That the record numbers are the same does no harm: they did not arrive.
                    self._outbox += self._last_flight
                if not wire.starved:
                    return None
            elif code == lib.GCOOKIE_GOODBYE:
                self._peer_closed = True
                self.close()  # RFC 5246 7.2.1: a close_notify is answered with one
                return None
            elif code == lib.GNUTLS_E_REHANDSHAKE:
                if not self._closed:
                    self._alert(lib.GNUTLS_AL_WARNING, lib.GNUTLS_A_NO_RENEGOTIATION)
            else:
                self._fail(code)
        return None

    def close(self) -> None:
        """Say goodbye to the peer: close_notify (gnutls_bye). Once; more calls do nothing.

        During the handshake user_canceled goes before it (RFC 5246 7.2.2). What the peer sent
        before its own goodbye can still be received.
        """
        if self.closed:
            return
        self._closed = True
        if self._established:
            self._say(lib.gcookie_wire_bye)
        elif self._wire.ever_sent:
            self._alert(lib.GNUTLS_AL_WARNING, lib.GNUTLS_A_USER_CANCELED)
            self._alert(lib.GNUTLS_AL_WARNING, lib.GNUTLS_A_CLOSE_NOTIFY)

    # --- what is known ----------------------------------------------------------------------------

    @property
    def established(self) -> bool:
        """Whether the handshake is complete."""
        return self._established

    @property
    def closed(self) -> bool:
        """Whether close() was called, the session failed, or the peer's goodbye was answered."""
        return self._closed or self._failed or self._wire.session == ffi.NULL

    @property
    def peer_closed(self) -> bool:
        """Whether the peer said goodbye (close_notify)."""
        return self._peer_closed

    @property
    def version(self) -> str | None:
        """The protocol, "DTLS1.2" or "DTLS1.0"; None before it is agreed on."""
        if not self._established:
            return None
        return c_text(lib.gnutls_protocol_get_name(lib.gnutls_protocol_get_version(self._pointer)))

    @property
    def cipher(self) -> str | None:
        """The cipher as GnuTLS names it, "AES-256-GCM"; None before the handshake ended."""
        if not self._established:
            return None
        return c_text(lib.gnutls_cipher_get_name(lib.gnutls_cipher_get(self._pointer)))

    @property
    def description(self) -> str | None:
        """Version, key exchange and cipher in one line (gnutls_session_get_desc)."""
        if not self._established:
            return None
        line = lib.gnutls_session_get_desc(self._pointer)
        if line == ffi.NULL:
            return None
        try:
            return c_text(line)
        finally:
            lib.gcookie_free(line)

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's own certificate in DER; None where it sent none."""
        size = ffi.new("unsigned int *")
        chain = lib.gnutls_certificate_get_peers(self._pointer, size)
        if chain == ffi.NULL or size[0] == 0:
            return None
        return bytes(ffi.buffer(chain[0].data, chain[0].size))

    @property
    def psk_identity(self) -> str | None:
        """For a server: the identity that the client named; None without PSK.

        Bytes that are not UTF-8 are lone surrogates in it (surrogateescape), as in a lookup.
        """
        raw = self.psk_identity_bytes
        return None if raw is None else identity_text(raw)

    @property
    def psk_identity_bytes(self) -> bytes | None:
        """For a server: the identity that the client named, as it came; None without PSK."""
        if self.role == "client" or not self._established:
            return None  # libgnutls 3.7.9 crashes where a client asks
        if lib.gnutls_auth_get_type(self._pointer) != lib.GNUTLS_CRD_PSK:
            return None
        name = ffi.new("gnutls_datum_t *")
        if lib.gnutls_psk_server_get_username2(self._pointer, name) < 0:
            return b""  # it has no other answer to an identity of no bytes
        return bytes(ffi.buffer(name.data, name.size))

    @property
    def mtu(self) -> int:
        """Bytes of the largest datagram to send, 128..65507 (gnutls_dtls_set_mtu).

        libgnutls takes more than 16384, the largest record, as 16384. It sends a flight in at most
        31 records: with a certificate of more than 31 times the MTU no handshake succeeds.
        A flight that was lost twice is sent again in datagrams of at most 508 bytes, after two more
        losses of 228 (RFC 6347 4.1.1.1). That is for the handshake alone: messages may be as long
        as before.
        """
        return int(lib.gnutls_dtls_get_mtu(self._pointer))

    @mtu.setter
    def mtu(self, value: int) -> None:
        lib.gnutls_dtls_set_mtu(self._pointer, integer("mtu", value, MTU_MIN, MTU_MAX))

    @property
    def data_mtu(self) -> int:
        """Bytes of the largest message that send() takes.

        What fits the MTU (gnutls_dtls_get_data_mtu), or what the peer takes where that is less:
        max_fragment_length (RFC 6066), record_size_limit (RFC 8449).
        """
        return int(lib.gcookie_wire_data_mtu(self._pointer))

    __reduce__ = not_copied

    def __repr__(self) -> str:
        state = (
            "freed"
            if self._wire.session == ffi.NULL
            else "failed"
            if self._failed
            else "closed"
            if self._closed
            else self.description
            if self._established
            else "handshake"
        )
        return f"<Session {self.role} {state}>"

    # --- helpers ----------------------------------------------------------------------------------

    @property
    def _pointer(self) -> Any:
        """The gnutls_session_t.

        Raises:
            GnuTLSError: the collector has freed it; this is a finalizer of the same cycle.
        """
        if self._wire.session == ffi.NULL:
            raise _gone()
        return self._native

    def _gnutls_session_address(self) -> int:
        """The address of the gnutls_session_t, for prestate_set()."""
        if self.closed:
            raise ValueError("session is closed")
        return int(ffi.cast("uintptr_t", self._pointer))

    def _check_prestate(self) -> None:
        """Whether prestate_set() may be called: it sets sequence numbers back.

        Those of encrypted records too: the peer drops them as replays, and a nonce is used twice.
        """
        if self._established or self._wire.ever_sent:
            raise ValueError("session has sent something: its prestate can be set only before")

    def _open(
        self,
        listed: list[Credentials],
        priority: str | None,
        server_name: str | None,
        verify_peer: bool | None,
    ) -> int:
        """Make the gnutls_session_t; gives the code of gcookie_wire_begin()."""
        kinds_and_pointers = [one._of_role(self.role) for one in listed]
        is_server = self.role == "server"
        out = ffi.new(_SESSION)
        self._wire = ffi.new(_WIRE)
        # The destructor holds what C looks at: it goes when the session is gone, not before.
        alive: list[Any] = [listed, kinds_and_pointers]
        deinit = _Deinit(self._wire, alive)
        flags = lib.GNUTLS_SERVER if is_server else lib.GNUTLS_CLIENT
        flags |= lib.GNUTLS_DATAGRAM | lib.GNUTLS_NONBLOCK | lib.GNUTLS_NO_SIGNAL
        check(lib.gnutls_init(out, flags))
        self._native = ffi.gc(out[0], deinit)
        lib.gcookie_wire_attach(self._native, self._wire, is_server)
        self._credentials = [box for _, box, _ in kinds_and_pointers]
        for kind, box, _ in kinds_and_pointers:
            check(lib.gnutls_credentials_set(self._pointer, kind, box[0]))
        kinds = tuple(sorted(kind for kind, _, _ in kinds_and_pointers))
        self._set_priority(_PRIORITY[kinds] if priority is None else priority, kinds, alive)
        self._set_verification(server_name, verify_peer, alive)
        return int(lib.gcookie_wire_begin(self._pointer, self._wire))

    def _note_prestate(self, prestate: Any) -> None:
        """What prestate_set() told libgnutls: which message comes first."""
        lib.gcookie_wire_begin_at(self._wire, prestate.hsk_read_seq)

    def _set_priority(self, text: str, kinds: tuple[int, ...], alive: list[Any]) -> None:
        priority, exchanges = _priority(utf8("priority", text))
        if not any(exchanges & _EXCHANGES[kind] for kind in kinds):
            names = {
                lib.GNUTLS_CRD_CERTIFICATE: "a certificate",
                lib.GNUTLS_CRD_PSK: "a shared key",
            }
            what = " or ".join(names[kind] for kind in kinds)
            raise ValueError(f"priority allows no key exchange with {what}: {text!r}")
        alive.append(priority)
        check(lib.gnutls_priority_set(self._pointer, priority[0]), "priority")

    def _set_verification(
        self, server_name: str | None, verify_peer: bool | None, alive: list[Any]
    ) -> None:
        certificates = any(isinstance(one, CertificateCredentials) for one in alive[0])
        name = b""
        if server_name is not None:
            name = utf8("server_name", server_name)
            if len(name) > 255:  # RFC 1035 2.3.4
                raise ValueError(f"server_name must be of 1..255 bytes, not {len(name)}")
            if not _is_ip_address(server_name):
                code = lib.gnutls_server_name_set(
                    self._pointer, lib.GNUTLS_NAME_DNS, name, len(name)
                )
                check(code, "server_name")
        if not (verify_peer is None or isinstance(verify_peer, bool)):
            raise TypeError(f"verify_peer must be a bool, not {type(verify_peer).__name__}")
        if verify_peer is None:
            verify_peer = self.role == "client" and certificates
        if not verify_peer:
            return
        if not certificates:
            raise ValueError("verify_peer needs CertificateCredentials")
        hostname = ffi.NULL
        if self.role == "client":
            if not name:
                raise ValueError(
                    "server_name is needed to verify the server (or verify_peer=False)"
                )
            hostname = ffi.new("char[]", name)
            alive.append(hostname)  # libgnutls keeps the pointer
        else:
            lib.gnutls_certificate_server_set_request(self._pointer, lib.GNUTLS_CERT_REQUIRE)
        lib.gnutls_session_set_verify_cert(self._pointer, hostname, 0)

    def _check_usable(self, *, established: bool = False, closed_too: bool = False) -> None:
        if self._failed or (self._closed and not closed_too):
            raise error_from_code(lib.GNUTLS_E_INVALID_SESSION, "the session is closed")
        if established and not self._established:
            raise error_from_code(lib.GNUTLS_E_INVALID_SESSION, "the handshake is not complete")

    def _call(self, seat: _Seat, function: Any, *arguments: Any) -> int:
        """One call of libgnutls on this session by native/wire.c; what it sent is kept."""
        native = seat[0]
        code: int = function(self._native, self._wire, native, *arguments)
        if code == _BUSY:
            raise RuntimeError("another call of this session is under way")
        if code == _GONE:
            raise _gone()
        size = native.out_size
        if size:
            sent = seat[2] if size <= _FIRST else ffi.buffer(native.out, size)
            at = 0
            while at < size:
                end = at + _SIZE + int.from_bytes(sent[at : at + _SIZE], sys.byteorder)
                self._outbox.append(sent[at + _SIZE : end])
                at = end
        return code

    @property
    def _messages_read(self) -> int:
        """How far the peer's handshake has come: a number that grows with each of its messages."""
        return int(self._wire.guard.next)

    def _take_away(self, datagram: bytes) -> None:
        """What a call has read of the first datagram that waits."""
        if datagram:
            left = self._wire.left
            self._inbox_bytes -= len(datagram) - left
            if left:
                self._inbox[0] = datagram[-left:]
            else:
                self._inbox.popleft()

    def _set_timer(self, now: float, was_due: bool, has_sent: bool) -> None:
        """After a call of the handshake: when the flight that was sent last is due again."""
        wire = self._wire
        if was_due and (wire.resent or not has_sent):
            self._interval = max(
                self._retransmit_timeout, min(2 * self._interval, _LONGEST_INTERVAL)
            )
            self._due_at = now + self._interval
        elif has_sent:
            self._interval = self._retransmit_timeout
            self._due_at = now + self._interval
        if has_sent:
            self._sent_at = now
        if wire.guard.heard:
            # The way is open again, and what the peer repeats says that it lacks our flight
            # (RFC 6347 4.2.4, 4.2.4.1). A stranger can say it too: no more often than at first.
            wire.guard.heard = 0
            self._interval = self._retransmit_timeout
            if self._sent_at is not None and self._due_at is not None:
                self._due_at = min(self._due_at, self._sent_at + self._interval)

    def _shake(self, seat: _Seat, datagram: bytes, is_due: bool) -> int:
        """gnutls_handshake, with the PSK lookup lent for the time.

        What a lookup raised comes out here, and the session has failed.
        """
        lookup = self._lookup
        if lookup is None:
            return self._call(seat, _HANDSHAKE, 0, datagram, len(datagram), is_due)
        code: int = TABLE.lending(lookup, self._shake_with, seat, datagram, is_due)
        try:
            lookup.raise_again()
        except BaseException:
            self._failed = True
            self._alert(lib.GNUTLS_AL_FATAL, lib.GNUTLS_A_INTERNAL_ERROR)
            raise
        return code

    def _shake_with(self, seat: _Seat, datagram: bytes, is_due: bool, handle: int) -> int:
        return self._call(seat, _HANDSHAKE, handle, datagram, len(datagram), is_due)

    def _say(self, function: Any, *arguments: Any) -> None:
        """A call that only sends; an alert that cannot be sent is lost."""
        seat = _take_seat()
        self._call(seat, function, *arguments)
        _SEATS.append(seat)

    def _alert(self, level: int, description: int) -> None:
        self._say(lib.gcookie_wire_alert, level, description)

    def _fail(self, code: int) -> None:
        """The session has failed: tell the peer, and raise the error that `code` is."""
        self._failed = True
        detail = ""
        if code == lib.GNUTLS_E_FATAL_ALERT_RECEIVED:
            name = lib.gnutls_alert_get_name(lib.gnutls_alert_get(self._pointer))
            detail = "" if name == ffi.NULL else c_text(name)
        elif code != lib.GNUTLS_E_TIMEDOUT:  # silence is not answered
            if code == lib.GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
                detail = self._verification_text()
            self._say(lib.gcookie_wire_alert_for, code)
        raise error_from_code(code, detail)

    def _verification_text(self) -> str:
        status = lib.gnutls_session_get_verify_cert_status(self._pointer)
        out = ffi.new("gnutls_datum_t *")
        code = lib.gnutls_certificate_verification_status_print(status, lib.GNUTLS_CRT_X509, out, 0)
        if code < 0:
            return ""
        try:
            return bytes(ffi.buffer(out.data, out.size)).decode("utf-8", "replace").strip("\0 ")
        finally:
            lib.gcookie_free(out.data)


class _Deinit:
    """gnutls_deinit that keeps alive what the session looks at until it has run."""

    def __init__(self, wire: Any, alive: list[Any]) -> None:
        self._wire = wire
        self._alive = alive

    def __call__(self, pointer: Any) -> None:
        self._wire.session = ffi.NULL
        lib.gnutls_deinit(pointer)
        lib.gcookie_wire_clear(self._wire)
        self._alive.clear()


def _time(now: float | None) -> float:
    return monotonic() if now is None else seconds("now", now, -LATEST, LATEST)


def _gone() -> GnuTLSError:
    return error_from_code(lib.GNUTLS_E_INVALID_SESSION, "the garbage collector has freed it")


class _Lookup(Transport):
    """The PSK lookup of a server: what C's callback works on."""

    __slots__ = ("lookup",)

    def __init__(self, lookup: PSKLookup) -> None:
        super().__init__()
        self.lookup = lookup

    def psk(self, identity: bytes) -> bytes | None:
        key = self.lookup(identity_text(identity))
        return None if key is None else psk_key("the key that lookup gave", key)


# What calls need for their length, each with views of its message and of what it sent first. A call
# takes one and gives it back, so that there are as many as calls ever were under way at once.
_Seat = tuple[Any, Any, Any, Any]
_SEATS: list[_Seat] = []


def _take_seat() -> _Seat:
    try:
        return _SEATS.pop()
    except IndexError:
        native = ffi.new(_SEAT)
        lib.gcookie_seat_init(native)
        owner = ffi.gc(native, lib.gcookie_seat_clear)
        return native, ffi.buffer(native.message), ffi.buffer(native.first), owner


@functools.lru_cache(maxsize=64)
def _priority(text: bytes) -> tuple[Any, frozenset[int]]:
    """A priority string as libgnutls has parsed it, for any number of sessions; and the key
    exchanges in it (GNUTLS_KX_*)."""
    out = ffi.new("gnutls_priority_t *")
    raw = ffi.new("char[]", text)
    position = ffi.new("char **")
    if lib.gnutls_priority_init(out, raw, position) < 0:
        rest = "" if position[0] == ffi.NULL else f" at {c_text(position[0])!r}"
        raise ValueError(
            f"priority is not understood{rest}: {text.decode('utf-8', 'surrogateescape')!r}"
        )
    priority = owned(out, lib.gnutls_priority_deinit)
    if not _DTLS.intersection(_numbers(lib.gnutls_priority_protocol_list, priority[0])):
        raise ValueError(
            f"priority allows no version of DTLS: {text.decode('utf-8', 'surrogateescape')!r}"
        )
    return priority, frozenset(_numbers(lib.gnutls_priority_kx_list, priority[0]))


def _numbers(function: Any, priority: Any) -> list[int]:
    out = ffi.new("const unsigned int **")
    count = function(priority, out)
    return [int(number) for number in out[0][0:count]] if count > 0 else []


def _listed(credentials: Credentials | Sequence[Credentials]) -> list[Credentials]:
    listed = list(credentials) if isinstance(credentials, Sequence) else [credentials]
    for one in listed:
        if not isinstance(one, (CertificateCredentials, PSKCredentials)):
            raise TypeError(
                "credentials must be CertificateCredentials, PSKCredentials or a sequence of them, "
                f"not {type(one).__name__}"
            )
    if not listed or len({type(one) for one in listed}) != len(listed):
        raise ValueError("credentials must be one, or one of each kind")
    return listed


def _lookup(listed: list[Credentials]) -> PSKLookup | None:
    return next((one.lookup for one in listed if isinstance(one, PSKCredentials)), None)


def _is_ip_address(name: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
