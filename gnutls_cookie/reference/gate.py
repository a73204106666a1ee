"""The gate in pure Python: one datagram of an unknown client in, one verdict out.

Written from RFC 6347. It holds no state for a client that has not proved its address, answers a
datagram at most once and never with more bytes than came in, and is silent on everything that is
not the beginning of a ClientHello.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from .cookie import (
    COOKIE_SIZE,
    CookieError,
    Prestate,
    cookie,
    cookie_verify,
    hello_verify_request,
)
from .wire import (
    CLIENT_HELLO,
    CONTENT_HANDSHAKE,
    HANDSHAKE_HEADER_SIZE,
    MAX_RECORD_LENGTH,
    MAX_SESSION_ID_SIZE,
    RECORD_HEADER_SIZE,
    VERSIONS,
)


class DiscardReason(IntEnum):
    """Why a datagram gets no answer. Checked in this order; the first that fails is the reason."""

    RECORD_HEADER = 1
    """Fewer than 13 bytes: no whole record header (RFC 6347 4.1)."""
    CONTENT_TYPE = 2
    """The record is not a handshake record (RFC 5246 6.2.1)."""
    RECORD_VERSION = 3
    """The record's version is not DTLS 1.0, DTLS 1.2 or 0.9 (RFC 6347 4.1)."""
    EPOCH = 4
    """The epoch is not 0, the only one there is before a ChangeCipherSpec (RFC 6347 4.1)."""
    RECORD_LENGTH = 5
    """The record is longer than the rest of the datagram or than 2**14 bytes (RFC 6347 4.1)."""
    HANDSHAKE_HEADER = 6
    """The record has fewer than 12 bytes: no whole handshake header (RFC 6347 4.2.2)."""
    HANDSHAKE_TYPE = 7
    """The handshake message is not a ClientHello (RFC 5246 7.4)."""
    MESSAGE_SEQ = 8
    """message_seq is over 255; the reply of libgnutls can echo 8 of its 16 bits."""
    FRAGMENT_OFFSET = 9
    """Not the first fragment of the ClientHello, where the cookie is (RFC 6347 4.2.3)."""
    FRAGMENT_LENGTH = 10
    """The fragment does not fill its record, or is longer than its message (RFC 6347 4.2.2)."""
    TRAILING_DATA = 11
    """A whole ClientHello with more behind it: it is a flight of its own (RFC 6347 4.2.4)."""
    SESSION_ID = 12
    """The session id is longer than 32 bytes (RFC 5246 7.4.1.2)."""
    COOKIE_FIELD = 13
    """The cookie field does not end inside this fragment (RFC 6347 4.2.1)."""
    INTERNAL = 14
    """The cookie could not be made: the fault is on this side, e.g. an empty key."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """A ClientHello without a cookie of ours: answer it.

    Attributes:
        datagram: the HelloVerifyRequest to send back, 44 bytes.
        presented_cookie: whether the hello held a cookie, which was then not a good one.
    """

    datagram: bytes
    presented_cookie: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """A ClientHello with our cookie: its sender reads what is sent to that address.

    Attributes:
        prestate: for gnutls_dtls_prestate_set.
        key_age: 0, made with the current key; 1, with the previous one.
    """

    prestate: Prestate
    key_age: int


@dataclass(frozen=True, slots=True)
class Discarded:
    """Anything else: no answer (RFC 6347 4.1.2.7, invalid records are discarded in silence).

    Attributes:
        reason: why.
    """

    reason: DiscardReason


def receive(
    datagram: bytes,
    client_data: bytes | None,
    current: bytes,
    previous: bytes | None = None,
) -> Challenge | Verified | Discarded:
    """Judge one datagram of a client that has no session yet (RFC 6347 4.2.1).

    A pure function: equal arguments, equal verdict. Raises nothing, whatever the datagram.

    Args:
        datagram: what was received, 0 bytes or more.
        client_data: the client's address in the bytes that go into its cookie; None as b"".
        current: the key that new cookies are made with, 1 byte or more.
        previous: the key used before it, whose cookies are still good; None or b"" if none is.

    Returns:
        What to do.
    """
    hello = parse_first_fragment_untrusted(datagram)
    if isinstance(hello, DiscardReason):
        return Discarded(hello)
    try:
        # The server echoes the record sequence number (RFC 6347 4.2.1). It echoes message_seq
        # too: a client that was challenged before, under a key now gone, waits for the number
        # after the last HelloVerifyRequest and would drop a 0. In a first hello both are the
        # same.
        reply = hello_verify_request(
            current,
            client_data,
            Prestate(record_seq=hello.record_seq % 2**32, hsk_write_seq=hello.message_seq),
        )
    except CookieError:
        return Discarded(DiscardReason.INTERNAL)
    # A prestate has 32 bits for the record sequence number: beyond that no session could go on.
    if len(hello.cookie) == COOKIE_SIZE and hello.record_seq < 2**32:
        if _is_verified(datagram, client_data, hello, current, reply[-COOKIE_SIZE:]):
            return Verified(_prestate(hello), key_age=0)
        if previous and _is_verified(
            datagram, client_data, hello, previous, cookie(previous, client_data)
        ):
            return Verified(_prestate(hello), key_age=1)
    # libgnutls writes 8 of the 48 bits of the record sequence number; the others go in here.
    echoed = reply[:5] + datagram[5:11] + reply[11:]
    return Challenge(echoed, presented_cookie=len(hello.cookie) > 0)


class FirstFragment(NamedTuple):
    """What the gate needs of a ClientHello, all from its first fragment.

    Attributes:
        record_seq: 48 bits.
        message_seq: 0..255.
        cookie: 0 to 255 bytes.
    """

    record_seq: int
    message_seq: int
    cookie: bytes


def parse_first_fragment_untrusted(datagram: bytes) -> FirstFragment | DiscardReason:
    """Read the first fragment of a ClientHello, or all of it, up to the end of its cookie.

    client_version, random and all that follows the cookie are not judged: the session will, once
    the address is proved. Only the first record is read.

    Args:
        datagram: 0 bytes or more.

    Returns:
        The fields, or why there are none.
    """
    # Record header, RFC 6347 4.1: type 1, version 2, epoch 2, sequence number 6, length 2.
    if len(datagram) < RECORD_HEADER_SIZE:
        return DiscardReason.RECORD_HEADER
    if datagram[0] != CONTENT_HANDSHAKE:
        return DiscardReason.CONTENT_TYPE
    if _uint(datagram, 1, 2) not in VERSIONS:
        return DiscardReason.RECORD_VERSION
    if _uint(datagram, 3, 2) != 0:
        return DiscardReason.EPOCH
    record_seq = _uint(datagram, 5, 6)
    record_length = _uint(datagram, 11, 2)
    record_end = RECORD_HEADER_SIZE + record_length
    if record_end > len(datagram) or record_length > MAX_RECORD_LENGTH:
        return DiscardReason.RECORD_LENGTH

    # Handshake header, RFC 6347 4.2.2: type 1, length 3, message_seq 2, fragment offset 3,
    # fragment length 3. Many messages may share a record, but not with a ClientHello.
    if record_length < HANDSHAKE_HEADER_SIZE:
        return DiscardReason.HANDSHAKE_HEADER
    if datagram[13] != CLIENT_HELLO:
        return DiscardReason.HANDSHAKE_TYPE
    message_length = _uint(datagram, 14, 3)
    message_seq = _uint(datagram, 17, 2)
    if message_seq > 0xFF:
        return DiscardReason.MESSAGE_SEQ
    if _uint(datagram, 19, 3) != 0:
        return DiscardReason.FRAGMENT_OFFSET
    fragment_length = _uint(datagram, 22, 3)
    if HANDSHAKE_HEADER_SIZE + fragment_length != record_length or fragment_length > message_length:
        return DiscardReason.FRAGMENT_LENGTH
    # After a first fragment the next ones may share its datagram.
    if fragment_length == message_length and record_end != len(datagram):
        return DiscardReason.TRAILING_DATA

    # ClientHello, RFC 6347 4.2.1: version 2, random 32, session id and cookie, each behind a byte
    # with its length. From here on no byte at or after record_end, the end of the fragment, counts.
    if record_end < 60:
        return DiscardReason.COOKIE_FIELD
    session_id_size = datagram[59]
    if session_id_size > MAX_SESSION_ID_SIZE:
        return DiscardReason.SESSION_ID
    cookie_start = 60 + session_id_size + 1
    if record_end < cookie_start:
        return DiscardReason.COOKIE_FIELD
    cookie_end = cookie_start + datagram[cookie_start - 1]
    if record_end < cookie_end:
        return DiscardReason.COOKIE_FIELD
    return FirstFragment(record_seq, message_seq, datagram[cookie_start:cookie_end])


def _is_verified(
    datagram: bytes,
    client_data: bytes | None,
    hello: FirstFragment,
    key: bytes,
    wanted: bytes,
) -> bool:
    """Say whether the hello holds ``wanted``, the cookie that ``key`` makes, and libgnutls agrees.

    libgnutls is asked only where the cookies are equal, so that a wrong one costs one HMAC. It
    says no to an equal one if the datagram ends with it.
    """
    if not hmac.compare_digest(hello.cookie, wanted):
        return False
    try:
        cookie_verify(key, client_data, datagram)
    except CookieError:
        return False
    return True


def _prestate(hello: FirstFragment) -> Prestate:
    """Make the prestate of a verified hello: full numbers where libgnutls fills in low bytes.

    The session writes its first message, the ServerHello, with message_seq hsk_write_seq + 1
    (gnutls_dtls_prestate_set, lib/dtls.c). The client waits for the number after the last
    HelloVerifyRequest, which echoed the message_seq of the hello before this one: hello number
    n >= 1 wants ServerHello number n. Number 0 with a cookie, which no client sends, gets what
    libgnutls gives it.
    """
    return Prestate(
        record_seq=hello.record_seq,
        hsk_read_seq=hello.message_seq,
        hsk_write_seq=max(hello.message_seq, 1) - 1,
    )


def _uint(data: bytes, start: int, size: int) -> int:
    """Read a big-endian number (RFC 5246 4.4)."""
    return int.from_bytes(data[start : start + size], "big")
