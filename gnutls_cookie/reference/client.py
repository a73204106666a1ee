"""What libgnutls' client makes of the datagram that answers its first hello, in pure Python.

Written from RFC 6347 4.2.1 and recv_hello_verify_request in lib/handshake.c. The client has sent
one ClientHello, with message_seq 0 and without a cookie.
"""

from __future__ import annotations

from .cookie import GNUTLS_E_UNEXPECTED_PACKET_LENGTH, CookieError
from .wire import (
    CONTENT_HANDSHAKE,
    HANDSHAKE_HEADER_SIZE,
    HELLO_VERIFY_REQUEST,
    RECORD_HEADER_SIZE,
)

#: DTLS_MAX_COOKIE_SIZE of lib/gnutls_int.h, in bytes; RFC 6347 4.2.1 allows 255.
COOKIE_SIZE_MAX = 32


def client_receive(datagram: bytes) -> bytes | None:
    """Read a HelloVerifyRequest.

    The versions in it are not looked at, nor is the record's sequence number.

    Args:
        datagram: what came from the server.

    Returns:
        The cookie that the next ClientHello holds; None where the datagram is not one to answer,
        and the client waits on.

    Raises:
        CookieError: -9, the handshake ends: the cookie is longer than 32 bytes, or its length is
            not that of the rest of the message.
    """
    payload = datagram[RECORD_HEADER_SIZE:]
    if len(payload) < HANDSHAKE_HEADER_SIZE or datagram[0] != CONTENT_HANDSHAKE:
        return None
    epoch = int.from_bytes(datagram[3:5], "big")
    record_length = int.from_bytes(datagram[11:13], "big")
    if epoch != 0 or record_length > len(payload):
        return None
    payload = payload[:record_length]
    message_length = int.from_bytes(payload[1:4], "big")
    message_seq = int.from_bytes(payload[4:6], "big")
    fragment_offset = int.from_bytes(payload[6:9], "big")
    fragment_length = int.from_bytes(payload[9:12], "big")
    body = payload[HANDSHAKE_HEADER_SIZE:]
    if payload[0] != HELLO_VERIFY_REQUEST or message_seq != 0:
        return None
    if fragment_offset != 0 or not fragment_length == message_length == len(body):
        return None
    # server_version 2, length of the cookie 1, the cookie.
    if len(body) < 3 or body[2] > COOKIE_SIZE_MAX or len(body) != 3 + body[2]:
        raise CookieError(GNUTLS_E_UNEXPECTED_PACKET_LENGTH)
    return body[3:]
