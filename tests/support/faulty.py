"""Pure implementations with one planted fault each: the differential bench has to tell each apart.

Written out once, with a switch at every place where a fault is planted, so that each differs from
the right one in that place alone. FAULTS names them; target(fault) gives the two functions.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from gnutls_cookie.differential import PythonTarget
from gnutls_cookie.reference.cookie import CookieError, Prestate

FAULTS = {
    "verify: byte 59 is read where it is not there": "short-59",
    "verify: 63 bytes are needed": "short-63",
    "verify: a session id of 33 bytes is taken": "sid-33",
    "verify: a session id of 32 bytes is refused": "sid-31",
    "verify: the cookie's length is read where it is not there": "cookie-length-missing",
    "verify: a datagram may end with its cookie": "end-with-cookie",
    "verify: two bytes are needed behind the cookie": "two-after",
    "verify: the cookie's length is judged before the datagram's": "order",
    "verify: an empty key is judged last": "key-last",
    "verify: the key may be empty": "empty-key",
    "verify: HMAC-SHA256": "sha256",
    "verify: HMAC-MD5": "md5",
    "verify: a cookie of 20 bytes": "mac-20",
    "verify: a cookie of 15 bytes": "mac-15",
    "verify: a longer cookie is compared by its first 16 bytes": "prefix-16",
    "verify: the first 8 bytes alone are compared": "prefix-8",
    "verify: the last byte is not compared": "prefix-15",
    "verify: an empty cookie is good": "empty-cookie",
    "verify: client_data is cut to 16 bytes": "client-data-16",
    "verify: the cookie's bytes in another order": "byte-order",
    "verify: 16 bits of the record sequence": "record-high",
    "verify: 16 bits of message_seq": "message-high",
    "verify: byte 11 for byte 10": "record-offset",
    "verify: hsk_write_seq is left as it was": "write-kept",
    "verify: hsk_write_seq is that of the hello": "write-echo",
    "verify: the prestate is cleared on failure": "touched",
    "verify: the wrong one of the two errors": "wrong-error",
    "verify: the content type is looked at": "strict-type",
    "verify: the epoch is looked at": "strict-epoch",
    "send: the record's version is that of DTLS 1.2": "hvr-record-version",
    "send: server_version is that of DTLS 1.2": "hvr-version",
    "send: the record's length is one more": "hvr-length",
    "send: fragment_length is zero": "hvr-fragment",
    "send: no echo of the record sequence": "no-record-echo",
    "send: no echo of message_seq": "no-message-echo",
    "send: 16 bits of the record sequence": "record-echo-16",
    "send: message_seq in the other byte order": "message-echo-order",
    "send: hsk_read_seq in the place of hsk_write_seq": "read-for-write",
    "send: the prestate counts on": "counts-on",
    "send: a negative result comes through": "push-result",
    "send: a result is not narrowed": "no-narrowing",
    "send: part of the reply is an error": "partial",
    "send: always 44": "always-44",
    "send: pushed twice": "twice",
    "send: an empty key is an error of push": "send-key",
}


def target(fault: str) -> PythonTarget:
    """The two functions with a fault of FAULTS; "" for none."""
    return PythonTarget(fault or "right", *functions(fault))


def functions(fault: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """cookie_verify and cookie_send with that fault."""

    def cookie(key: bytes, client_data: bytes | None) -> bytes:
        digest = {"sha256": "sha256", "md5": "md5"}.get(fault, "sha1")
        who = client_data or b""
        if fault == "client-data-16":
            who = who[:16]
        made = hmac.new(key, who, getattr(hashlib, digest)).digest()
        if fault == "byte-order":
            made = made[:16][::-1]
        return made[: {"mac-20": 20, "mac-15": 15}.get(fault, 16)]

    def verify(
        key: bytes, client_data: bytes | None, message: bytes, prestate: Prestate
    ) -> Prestate:
        def fail(code: int) -> None:
            if fault == "touched":
                prestate.record_seq = prestate.hsk_read_seq = prestate.hsk_write_seq = 0
            if fault == "wrong-error" and code == -214:
                code = -9
            raise CookieError(code)

        if not key and fault not in ("key-last", "empty-key"):
            fail(-50)
        size = len(message)
        if size < {"short-59": 59, "short-63": 63}.get(fault, 60):
            fail(-9)
        if fault == "strict-type" and message[0] != 22:
            fail(-9)
        if fault == "strict-epoch" and message[3:5] != b"\0\0":
            fail(-9)
        session_id = message[59]
        start = 61 + session_id
        if session_id > {"sid-33": 33, "sid-31": 31}.get(fault, 32):
            fail(-9)
        if size < start and fault != "cookie-length-missing":
            fail(-9)
        length = message[start - 1]
        wanted = {"mac-20": 20, "mac-15": 15}.get(fault, 16)
        takes_longer = fault == "prefix-16" and length > 16
        if fault == "order" and length != wanted:
            fail(-214)
        if size < start + length + {"end-with-cookie": 0, "two-after": 2}.get(fault, 1):
            fail(-9)
        empty_is_good = fault == "empty-cookie" and length == 0
        if length != wanted and not takes_longer and not empty_is_good:
            fail(-214)
        compared = {"prefix-8": 8, "prefix-15": 15}.get(fault, wanted)
        presented = message[start : start + length][:compared]
        if not key and fault == "key-last":
            fail(-50)
        if presented != cookie(key, client_data)[:compared] and not empty_is_good:
            fail(-214)
        at = 11 if fault == "record-offset" else 10
        prestate.record_seq = message[at] + (message[9] * 256 if fault == "record-high" else 0)
        prestate.hsk_read_seq = message[18] + (message[17] * 256 if fault == "message-high" else 0)
        if fault == "write-echo":
            prestate.hsk_write_seq = message[18]
        elif fault != "write-kept":
            prestate.hsk_write_seq = 0
        return prestate

    def send(
        key: bytes,
        client_data: bytes | None,
        prestate: Prestate,
        transport: object,
        push: Callable[[object, bytes], int | None],
    ) -> int:
        if not key:
            raise CookieError(-53 if fault == "send-key" else -50)
        record_version = b"\xfe\xfd" if fault == "hvr-record-version" else b"\xfe\xff"
        version = b"\xfe\xfd" if fault == "hvr-version" else b"\xfe\xff"
        record_seq = prestate.record_seq & (0xFFFF if fault == "record-echo-16" else 0xFF)
        number = prestate.hsk_read_seq if fault == "read-for-write" else prestate.hsk_write_seq
        message_seq = (number & 0xFF).to_bytes(2, "big")
        if fault == "message-echo-order":
            message_seq = message_seq[::-1]
        datagram = b"".join(
            [
                b"\x16" + record_version + bytes(2),
                (0 if fault == "no-record-echo" else record_seq).to_bytes(6, "big"),
                (32 if fault == "hvr-length" else 31).to_bytes(2, "big"),
                b"\x03\x00\x00\x13",
                bytes(2) if fault == "no-message-echo" else message_seq,
                bytes(3),
                bytes(3) if fault == "hvr-fragment" else b"\x00\x00\x13",
                version + b"\x10" + cookie(key, client_data)[:16],
            ]
        )
        if fault == "counts-on":
            prestate.hsk_write_seq = (prestate.hsk_write_seq + 1) % 2**32
        sent = push(transport, datagram)
        if fault == "twice":
            push(transport, datagram)
        if sent is None or fault == "always-44":
            return len(datagram)
        narrowed = (sent + 2**31) % 2**32 - 2**31
        if fault == "no-narrowing":
            narrowed = sent
        if fault == "partial" and 0 <= narrowed < len(datagram):
            raise CookieError(-53)
        if narrowed < 0:
            raise CookieError(narrowed if fault == "push-result" else -53)
        return narrowed

    return verify, send
