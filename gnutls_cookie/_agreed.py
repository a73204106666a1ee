"""What an application reads of a session: what was agreed on, and who the peer is."""

from __future__ import annotations

from typing import Any

from ._check import integer
from ._convert import c_text
from ._ffi import ffi, lib
from ._owned import not_copied
from ._settings import MTU_MAX, MTU_MIN, Role
from .credentials import identity_text
from .errors import GnuTLSError, error_from_code

__all__ = ["Agreed", "failure", "gone"]


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
        detail: the alert that came, or why a certificate is not trusted; as C found it.
    """
    text = ""
    if code == lib.GNUTLS_E_FATAL_ALERT_RECEIVED:
        name = lib.gnutls_alert_get_name(detail)
        text = "" if name == ffi.NULL else c_text(name)
    elif code == lib.GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
        text = _verification_text(detail)
    return error_from_code(code, text)


def _verification_text(status: int) -> str:
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
