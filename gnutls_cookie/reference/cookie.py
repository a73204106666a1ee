"""libgnutls' two cookie functions in pure Python, with every quirk of lib/dtls.c.

The cookie is HMAC-SHA1(key, client_data) cut to 16 bytes. Nothing else goes in: no time, no field
of the hello. So a cookie is good for as long as its key, and proves one thing: whoever sends it
has read what was sent to the address in client_data.
"""

from __future__ import annotations

import hmac
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

# Sizes in bytes: COOKIE_SIZE of lib/dtls.c, and the datagram that gnutls_dtls_cookie_send makes.
COOKIE_SIZE = 16
HELLO_VERIFY_REQUEST_SIZE = 44

# Error codes of gnutls/gnutls.h that the two functions can return.
GNUTLS_E_UNEXPECTED_PACKET_LENGTH = -9
GNUTLS_E_INVALID_REQUEST = -50
GNUTLS_E_PUSH_ERROR = -53
GNUTLS_E_BAD_COOKIE = -214

_KEY_MAX = 2**31 - 1  # bytes; lib/dtls.c makes an int of the size, and crashes beyond

_Transport = TypeVar("_Transport")


class CookieError(Exception):
    """What libgnutls reports as a negative result.

    Attributes:
        code: the result, e.g. ``GNUTLS_E_BAD_COOKIE`` (-214).
    """

    code: int

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"{_ERROR_NAMES.get(self.code, 'libgnutls error')} ({self.code})"


@dataclass(slots=True)
class Prestate:
    """gnutls_dtls_prestate_st: three counters, 0..2**32-1, that a session starts from.

    Attributes:
        record_seq: record sequence number of the ClientHello.
        hsk_read_seq: message_seq of the ClientHello.
        hsk_write_seq: message_seq of the last message written before the session.
    """

    record_seq: int = 0
    hsk_read_seq: int = 0
    hsk_write_seq: int = 0


def cookie(key: bytes, client_data: bytes | None) -> bytes:
    """Make the cookie of a client (C_HASH and COOKIE_MAC_SIZE of lib/dtls.c).

    Args:
        key: 1..2**31-1 bytes; libgnutls makes keys of 16.
        client_data: the client's address, in whatever bytes the server chose; None is NULL with
            size 0, and the same as b"".

    Returns:
        16 bytes.

    Raises:
        CookieError: -50, the key is empty.
        OverflowError: the key is longer.
    """
    if not key:
        raise CookieError(GNUTLS_E_INVALID_REQUEST)
    if len(key) > _KEY_MAX:
        raise OverflowError(f"key must be of at most 2**31-1 bytes, not {len(key)}")
    return hmac.digest(key, client_data or b"", "sha1")[:COOKIE_SIZE]


def hello_verify_request(key: bytes, client_data: bytes | None, prestate: Prestate) -> bytes:
    """Make the datagram that gnutls_dtls_cookie_send hands to its push function.

    Of the prestate it writes two low bytes: record_seq into the last of the six bytes of the
    record's sequence number, hsk_write_seq into the last of the two of message_seq. Both versions
    are DTLS 1.0, whatever the client offered, as RFC 6347 4.2.1 wants.

    Args:
        key: 1 byte or more.
        client_data: as in ``cookie``.
        prestate: its hsk_read_seq is not used.

    Returns:
        44 bytes.

    Raises:
        CookieError: -50, the key is empty.
    """
    return b"%b%c%b%c%b%b" % (
        b"\x16\xfe\xff\x00\x00\x00\x00\x00\x00\x00",  # handshake, DTLS 1.0, epoch 0, 5 of 6 bytes
        prestate.record_seq & 0xFF,
        b"\x00\x1f\x03\x00\x00\x13\x00",  # 31 bytes; hello_verify_request of 19, 1 of 2 bytes
        prestate.hsk_write_seq & 0xFF,
        b"\x00\x00\x00\x00\x00\x13\xfe\xff\x10",  # offset 0, 19 bytes of 19; DTLS 1.0, 16 bytes:
        cookie(key, client_data),
    )


def cookie_send(
    key: bytes,
    client_data: bytes | None,
    prestate: Prestate,
    transport: _Transport,
    push: Callable[[_Transport, bytes], object],
) -> int:
    """Send a HelloVerifyRequest through ``push`` (gnutls_dtls_cookie_send).

    Args:
        key: 1 byte or more.
        client_data: as in ``cookie``.
        prestate: low bytes of record_seq and hsk_write_seq go out; it is not changed.
        transport: given back to ``push``.
        push: called once as ``push(transport, datagram)`` with 44 bytes; returns the number of
            bytes sent, or None for all. What it raises comes out of this function as it is.

    Returns:
        What ``push`` returned, narrowed to a C int: 0 and a part of 44 are not errors.

    Raises:
        CookieError: -50, the key is empty, and ``push`` was not called; -53, the result of
            ``push`` is negative as a C int, or is not a number that a C function could return.
    """
    datagram = hello_verify_request(key, client_data, prestate)
    sent = push(transport, datagram)
    if sent is None:
        return len(datagram)
    # gnutls_push_func returns ssize_t, as wide as sys.maxsize.
    if not isinstance(sent, int) or not -sys.maxsize - 1 <= sent <= sys.maxsize:
        raise CookieError(GNUTLS_E_PUSH_ERROR)
    # "ret = push_func(...)" with an int ret keeps the low 32 bits, and only then asks "ret < 0":
    # 2**32 + 5 becomes 5, 2**31 becomes an error, and -2**31 - 1 becomes 2147483647.
    narrowed = (sent + 2**31) % 2**32 - 2**31
    if narrowed < 0:
        raise CookieError(GNUTLS_E_PUSH_ERROR)
    return narrowed


def cookie_verify(
    key: bytes,
    client_data: bytes | None,
    message: bytes,
    prestate: Prestate | None = None,
) -> Prestate:
    """Look for this client's cookie in a datagram (gnutls_dtls_cookie_verify).

    Fixed offsets are read and nothing else: content type, handshake type, versions, epoch, every
    length of record, message and fragment, and the fragment's offset are not looked at.

    Args:
        key: 1 byte or more.
        client_data: as in ``cookie``.
        message: the datagram from its record header on.
        prestate: filled on success, left as it is on failure; None makes a new one.

    Returns:
        The prestate: record_seq is byte 10 and hsk_read_seq byte 18 of the datagram, the low
        bytes only; hsk_write_seq is 0.

    Raises:
        CookieError: -50, the key is empty; -9, the datagram is too short for what its lengths say
            or the session id is longer than 32 bytes; -214, the cookie is not 16 bytes long or
            not the right one.
    """
    if not key:
        raise CookieError(GNUTLS_E_INVALID_REQUEST)
    # Record header (13), handshake header (12), client_version (2), random (32): 59 bytes. Then
    # the session id and the cookie, each behind a byte with its length.
    size = len(message)
    if size < 60:
        raise CookieError(GNUTLS_E_UNEXPECTED_PACKET_LENGTH)
    session_id_size = message[59]
    cookie_start = 60 + session_id_size + 1
    if session_id_size > 32 or size < cookie_start:
        raise CookieError(GNUTLS_E_UNEXPECTED_PACKET_LENGTH)
    cookie_size = message[cookie_start - 1]
    cookie_end = cookie_start + cookie_size
    # One byte too strict: a datagram that ends with its cookie is refused. No real ClientHello
    # does, the cipher suites follow.
    if size < cookie_end + 1:
        raise CookieError(GNUTLS_E_UNEXPECTED_PACKET_LENGTH)
    if cookie_size != COOKIE_SIZE:
        raise CookieError(GNUTLS_E_BAD_COOKIE)
    # C compares with memcmp, which gives the same answer in less even time.
    if not hmac.compare_digest(cookie(key, client_data), message[cookie_start:cookie_end]):
        raise CookieError(GNUTLS_E_BAD_COOKIE)
    if prestate is None:
        prestate = Prestate()
    prestate.record_seq = message[10]
    prestate.hsk_read_seq = message[18]
    prestate.hsk_write_seq = 0
    return prestate


_ERROR_NAMES = {
    GNUTLS_E_UNEXPECTED_PACKET_LENGTH: "GNUTLS_E_UNEXPECTED_PACKET_LENGTH",
    GNUTLS_E_INVALID_REQUEST: "GNUTLS_E_INVALID_REQUEST",
    GNUTLS_E_PUSH_ERROR: "GNUTLS_E_PUSH_ERROR",
    GNUTLS_E_BAD_COOKIE: "GNUTLS_E_BAD_COOKIE",
}
