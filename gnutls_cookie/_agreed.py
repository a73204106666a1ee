"""What an application reads of a session: what was agreed on, and who the peer is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._check import bytes_copy, integer, utf8
from ._convert import c_text
from ._ffi import ffi, lib
from ._owned import not_copied
from ._settings import MTU_MAX, MTU_MIN, Role
from .certificates import CertificateNames, matches, names_of
from .credentials import identity_text, public_key_of
from .errors import GnuTLSError, check, error_from_code
from .tickets import kept_session

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Agreed", "failure", "gone", "unfit"]

_NAME_SIZE = 257  # bytes: lib/ext/server_name.h has 256 with the NUL
_LABEL_SIZE = 128  # bytes: lib/prf.c takes 128 in all versions
_EXPORT_SIZE = 0xFFFF  # bytes: of the context by RFC 5705 4


_CLUES = (
    (lib.GCOOKIE_CLUE_GOODBYE, "the peer gave up the handshake"),
    (lib.GCOOKIE_CLUE_KEY, "is the shared key the same on both sides?"),
)


class Agreed:
    """The part of a Session that only looks. `_box` holds the struct gcookie_wire."""

    _box: Any
    role: Role

    @property
    def _wire(self) -> Any:
        """The struct gcookie_wire.

        Raises:
            GnuTLSError: the collector has freed it; this is a finalizer of the same cycle.
        """
        wire = self._box[0]
        if not wire:
            raise gone()
        return wire

    @property
    def _pointer(self) -> Any:
        """The gnutls_session_t."""
        return self._wire.session

    @property
    def established(self) -> bool:
        """Whether the handshake is complete."""
        return bool(self._box[0]) and bool(self._box[0].established)

    @property
    def closed(self) -> bool:
        """Whether close() was called, the session failed, or the peer's goodbye was answered."""
        wire = self._box[0]
        return not wire or bool(wire.closed or wire.failed)

    @property
    def peer_closed(self) -> bool:
        """Whether the peer said goodbye (close_notify)."""
        return bool(self._box[0]) and bool(self._box[0].peer_closed)

    @property
    def version(self) -> str | None:
        """The protocol, "DTLS1.2" or "DTLS1.0"; None before it is agreed on."""
        if not self.established:
            return None
        return c_text(lib.gnutls_protocol_get_name(lib.gnutls_protocol_get_version(self._pointer)))

    @property
    def cipher(self) -> str | None:
        """The cipher as GnuTLS names it, "AES-256-GCM"; None before the handshake ended."""
        if not self.established:
            return None
        return c_text(lib.gnutls_cipher_get_name(lib.gnutls_cipher_get(self._pointer)))

    @property
    def description(self) -> str | None:
        """Version, key exchange and cipher in one line (gnutls_session_get_desc)."""
        if not self.established:
            return None
        line = lib.gnutls_session_get_desc(self._pointer)
        if line == ffi.NULL:
            return None
        try:
            return c_text(line)
        finally:
            lib.gcookie_free(line)

    @property
    def pointer(self) -> int:
        """The address of the gnutls_session_t: the way to all that has no name here.

        It is valid for as long as this Session is there. Ask what you like of it by ctypes, cffi or
        a module of your own:

            ctypes.CDLL("libgnutls.so.30").gnutls_kx_get(ctypes.c_void_p(session.pointer))

        Only ask: the session's handshake, messages, transport, timers, MTU and end are in the care
        of this object (gnutls_handshake, gnutls_record_*, gnutls_bye, gnutls_deinit,
        gnutls_transport_*, gnutls_dtls_set_*, hooks). Not while another thread works on the
        session. Of a server's connection and of a Client the handshake has begun already.
        """
        return int(ffi.cast("uintptr_t", self._pointer))

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's own certificate in DER; None where it sent none."""
        chain = self._peers(lib.GNUTLS_CRT_X509, 1)
        return chain[0] if chain else None

    @property
    def peer_certificates(self) -> tuple[bytes, ...]:
        """The certificates that the peer sent, in DER, its own first.

        They are what it sent, trusted or not: `verify_peer` decides that. Stands on
        gnutls_certificate_get_peers.
        """
        return self._peers(lib.GNUTLS_CRT_X509)

    @property
    def peer_names(self) -> CertificateNames | None:
        """The names in the peer's own certificate; None where it sent none.

        They are what it says: `verify_peer` decides whether that is trusted.
        """
        own = self.peer_certificate
        return None if own is None else names_of(own)

    def peer_matches(self, name: str) -> bool:
        """Whether the peer's certificate is for that host name or address (RFC 6125).

        A client that verifies has asked that of its `server_name` already. A server can tell its
        clients apart by it. Stands on gnutls_x509_crt_check_hostname.

        Raises:
            TypeError, ValueError: name is not a str, or has none or too many bytes.
        """
        own = self.peer_certificate
        utf8("name", name)
        return own is not None and matches(own, name)

    @property
    def peer_public_key(self) -> bytes | None:
        """The peer's public key: SubjectPublicKeyInfo in DER. None where it showed none.

        Of its certificate, or the raw key that it sent in place of one (RFC 7250): then
        `peer_certificates` is empty, and whom the key belongs to is for `peer_keys` of the
        credentials, or for the application, to say.
        """
        raw = self._peers(lib.GNUTLS_CRT_RAWPK, 1)
        if raw:
            return raw[0]
        own = self.peer_certificate
        return None if own is None else public_key_of(own)

    @property
    def ocsp_response(self) -> bytes | None:
        """For a client: the OCSP response in DER that the server stapled (RFC 6066 8), if any.

        Where `verify_peer` is set it was verified with the certificate. Stands on
        gnutls_ocsp_status_request_get.
        """
        response = ffi.new("gnutls_datum_t *")
        if (
            self.role == "server"
            or not self.established
            or lib.gnutls_ocsp_status_request_get(self._pointer, response) < 0
        ):
            return None
        return bytes(ffi.buffer(response.data, response.size))

    def _peers(self, kind: int, most: int | None = None) -> tuple[bytes, ...]:
        """What the peer proved itself with, where it is of that kind (GNUTLS_CRT_*)."""
        size = ffi.new("unsigned int *")
        chain = lib.gnutls_certificate_get_peers(self._pointer, size)
        if (
            chain == ffi.NULL
            or lib.gnutls_certificate_type_get2(self._pointer, lib.GNUTLS_CTYPE_PEERS) != kind
        ):
            return ()
        return tuple(
            bytes(ffi.buffer(one.data, one.size))
            for one in chain[0 : min(size[0], most or size[0])]
        )

    @property
    def server_name(self) -> str | None:
        """The name in the server name extension (RFC 6066): for a server the one that the client
        asked for, for a client the one that it sends. None where there is none.

        A client may ask for any name. Bytes that are not UTF-8 are lone surrogates in it.
        """
        wire = self._wire
        if self.role == "client":
            settings = wire.settings
            sent = settings.texts[lib.GCOOKIE_SNI].data
            return c_text(sent) if sent else None
        name, kind = ffi.new("char[]", _NAME_SIZE), ffi.new("unsigned int *")
        size = ffi.new("size_t *", _NAME_SIZE)
        if lib.gnutls_server_name_get(wire.session, name, size, kind, 0) < 0:
            return None
        return bytes(ffi.buffer(name, size[0])).decode("utf-8", "surrogateescape")

    @property
    def alpn(self) -> str | None:
        """The application protocol that was agreed on (RFC 7301); None where none was.

        Stands on gnutls_alpn_get_selected_protocol.
        """
        name = ffi.new("gnutls_datum_t *")
        if not self.established or lib.gnutls_alpn_get_selected_protocol(self._pointer, name) < 0:
            return None
        return bytes(ffi.buffer(name.data, name.size)).decode("utf-8", "surrogateescape")

    @property
    def srtp_profile(self) -> str | None:
        """The profile of DTLS-SRTP that was agreed on (RFC 5764), by GnuTLS' name; None: none was.

        Stands on gnutls_srtp_get_selected_profile.
        """
        name = lib.gcookie_srtp_profile(self._pointer) if self.established else ffi.NULL
        return None if name == ffi.NULL else c_text(name)

    @property
    def resumed(self) -> bool:
        """Whether the session goes on from an earlier one (gnutls_session_is_resumed)."""
        return self.established and bool(lib.gnutls_session_is_resumed(self._pointer))

    @property
    def session_data(self) -> bytes | None:
        """For a client: what a later session resumes from, as its `resume`.

        None before the handshake is complete, for a server, with `srtp_profiles` (libgnutls reads
        such data in another way than it writes it), and where the server gave neither a ticket nor
        a session ID (RFC 5246 7.4.1.3). Whether the server will resume it is the
        server's to say, else there is a full handshake: one of libgnutls gives an ID whether it
        keeps sessions or not.

        These bytes hold the keys of this session and say who the server is: keep them as a secret,
        and take them from nobody. They are for this process' version of libgnutls. Stands on
        gnutls_session_get_data2.
        """
        wire = self._wire
        if self.role == "server" or not self.established:
            return None
        if wire.settings.texts[lib.GCOOKIE_SRTP].size > 0:  # lib/ext/srtp.c
            return None
        out = ffi.new("gnutls_datum_t *")
        # With a ticket libgnutls makes an ID of its own (RFC 5077 3.4).
        if lib.gnutls_session_get_id2(wire.session, out) < 0 or out.size == 0:
            return None
        if lib.gnutls_session_get_data2(wire.session, out) < 0:
            return None
        try:
            settings = wire.settings
            text = settings.texts[lib.GCOOKIE_NAME].data
            name = ffi.string(text) if text else b""
            meets = settings.texts[lib.GCOOKIE_MEETS]
            data = bytes(ffi.buffer(out.data, out.size))
            known = ffi.buffer(meets.data, meets.size)[:]
            is_verified = settings.verify_peer and not self._is_anonymous
            return kept_session(data, bool(is_verified), name, known)
        finally:
            lib.gnutls_memset(out.data, 0, out.size)
            lib.gcookie_free(out.data)

    @property
    def _is_anonymous(self) -> bool:
        return bool(lib.gnutls_auth_get_type(self._pointer) == lib.GNUTLS_CRD_ANON)

    @property
    def session_id(self) -> bytes:
        """The session ID (RFC 5246 7.4.1.3), which both sides have: 0..32 bytes.

        With a ticket a client of libgnutls makes one up (RFC 5077 3.4). Stands on
        gnutls_session_get_id2.
        """
        out = ffi.new("gnutls_datum_t *")
        if not self.established or lib.gnutls_session_get_id2(self._pointer, out) < 0:
            return b""
        return bytes(ffi.buffer(out.data, out.size)) if out.size else b""

    @property
    def certificate_requested(self) -> bool:
        """For a client: whether the server has asked for a certificate.

        Stands on gnutls_certificate_client_get_request_status.
        """
        return self.role == "client" and bool(
            lib.gnutls_certificate_client_get_request_status(self._pointer)
        )

    @property
    def psk_hint(self) -> str | None:
        """For a client: the identity hint that the server sent (RFC 4279 5.2); None: none.

        Stands on gnutls_psk_client_get_hint.
        """
        if self.role == "server" or not self.established:
            return None
        hint = lib.gnutls_psk_client_get_hint(self._pointer)
        return (c_text(hint) or None) if hint != ffi.NULL else None

    @property
    def encrypt_then_mac(self) -> bool:
        """Whether a record of CBC is encrypted first (RFC 7366, gnutls_session_etm_status)."""
        return self.established and bool(lib.gnutls_session_etm_status(self._pointer))

    @property
    def extended_master_secret(self) -> bool:
        """Whether the session's keys are bound to its handshake (RFC 7627)."""
        return self.established and bool(lib.gnutls_session_ext_master_secret_status(self._pointer))

    @property
    def safe_renegotiation(self) -> bool:
        """Whether the peer has secure renegotiation (RFC 5746). There is none here of any kind."""
        return self.established and bool(lib.gnutls_safe_renegotiation_status(self._pointer))

    def export_keying_material(
        self, label: str, length: int, context: Buffer | None = None
    ) -> bytes:
        """Keys of the session for another protocol (RFC 5705, gnutls_prf_rfc5705).

        Both sides get the same bytes for the same arguments, and nobody else does. Without
        `extended_master_secret` that does not hold against who has the keys of one side (RFC 7627).

        Args:
            label: what they are for, as registered with IANA, or one that begins with
                "EXPERIMENTAL"; 1..128 bytes of UTF-8.
            length: 1..65535 bytes.
            context: at most 65535 bytes that are bound in. None is another thing than b"".

        Raises:
            GnuTLSError: the handshake is not complete.
            ValueError, TypeError: an argument is out of range or of another type.
        """
        name = utf8("label", label)
        if len(name) > _LABEL_SIZE:
            raise ValueError(f"label must be of 1..{_LABEL_SIZE} bytes, not {len(name)}")
        integer("length", length, 1, _EXPORT_SIZE)
        bound: Any = ffi.NULL if context is None else bytes_copy("context", context)
        size = 0 if context is None else len(bound)
        if size > _EXPORT_SIZE:
            raise ValueError(f"context must be of at most {_EXPORT_SIZE} bytes, not {size}")
        if not self.established:
            raise error_from_code(lib.GNUTLS_E_INVALID_SESSION, "the handshake is not complete")
        out = ffi.new("char[]", length)
        check(
            lib.gnutls_prf_rfc5705(self._pointer, len(name), name, size, bound, length, out),
            "export_keying_material",
        )
        try:
            return bytes(ffi.buffer(out, length))
        finally:
            lib.gnutls_memset(out, 0, length)

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
        if self.role == "client" or not self.established:
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

    @property
    def records_refused(self) -> int:
        """How many records and fragments of a handshake were kept from libgnutls.

        Those that break a rule (RFC 6347 4.2.3): fragments that reach beyond their message,
        messages longer than the peer may send, out of turn, or too far ahead; encrypted ones other
        than a Finished. Anybody can send them, so none ends a handshake.
        """
        return int(lib.gcookie_wire_refused(self._wire))

    __reduce__ = not_copied

    def __repr__(self) -> str:
        wire = self._box[0]
        state = (
            "freed"
            if not wire
            else "failed"
            if wire.failed
            else "closed"
            if wire.closed
            else self.description
            if wire.established
            else "handshake"
        )
        return f"<Session {self.role} {state}>"


def gone() -> GnuTLSError:
    """The error of a session that the garbage collector has freed."""
    return error_from_code(lib.GNUTLS_E_INVALID_SESSION, "the garbage collector has freed it")


def failure(code: int, detail: int) -> GnuTLSError:
    """The error of a session that failed.

    Args:
        code: of libgnutls.
        detail: the alert that came, why a certificate is not trusted, or clues; as C found it.
    """
    text = ""
    if code == lib.GNUTLS_E_FATAL_ALERT_RECEIVED:
        name = lib.gnutls_alert_get_name(detail)
        text = "" if name == ffi.NULL else c_text(name)
    elif code == lib.GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
        text = _verification_text(detail)
    elif code in (lib.GNUTLS_E_TIMEDOUT, lib.GNUTLS_E_UNEXPECTED_PACKET):
        text = ": ".join(words for clue, words in _CLUES if detail & clue)
    return error_from_code(code, text)


def unfit(size: int, most: int) -> str:
    """What an error of send() says of a message that does not fit."""
    return "" if 0 < size <= most else f"data of {size} bytes, where 1..{most} fit"


def _verification_text(status: int) -> str:
    if status == lib.GCOOKIE_RAW_KEY_UNKNOWN:
        return "the peer's raw key is none of peer_keys"
    if status == lib.GCOOKIE_KEY_COSTLY:
        return "the peer's RSA key is too large: its modulus or its exponent"
    out = ffi.new("gnutls_datum_t *")
    code = lib.gnutls_certificate_verification_status_print(
        ffi.cast("unsigned int", status), lib.GNUTLS_CRT_X509, out, 0
    )
    if code < 0:
        return ""
    try:
        return bytes(ffi.buffer(out.data, out.size)).decode("utf-8", "replace").strip("\0 ")
    finally:
        lib.gcookie_free(out.data)
