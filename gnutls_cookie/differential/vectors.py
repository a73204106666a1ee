"""The set of vectors: chosen cases, each with a name and a reason.

vector_file.py has the file that they make with libgnutls' answers, notes.md the quirks that they
show. The command is `gnutls-cookie vectors`.
"""

from __future__ import annotations

import hmac
import runpy
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from gnutls_cookie.reference import wire

from . import datagrams, notes
from .cases import UINT_MAX, Case

__all__ = ["Vector", "vectors"]


class Vector(NamedTuple):
    """A case and why it is there.

    Attributes:
        name: its own, in this set.
        why: what an implementation may get wrong here.
        case: what is asked.
        flag: of the quirk that it shows, or "" where vector_file.py goes by the name.
    """

    name: str
    why: str
    case: Case
    flag: str = ""


def vectors() -> list[Vector]:
    """The set: always the same, in the same order."""
    return [*_verify(), *_send(), *_receive(), *_real_clients(), *_client(), *_quirks()]


def _quirks() -> Iterator[Vector]:
    """The cases of docs/quirks.md."""
    for note in notes.notes():
        for number, case in enumerate(note.cases, 1):
            name = f"{case.operation}: quirk {note.number}, {number}"
            yield Vector(name, note.title, case, note.flag)


# --- what the cases are made of -------------------------------------------------------------------

KEY = bytes(range(16))
OTHER_KEY = bytes(range(16, 32))
#: struct sockaddr_in of 192.0.2.1, port 5684, as Linux writes it on a little-endian machine.
WHO = bytes.fromhex("02001634c0000201") + bytes(8)
OTHER_WHO = bytes.fromhex("02001634c0000202") + bytes(8)
BEFORE = (7, 8, 9)  # a prestate that would show if it were touched

_KEYS = {1: b"k", 16: KEY, 20: bytes(range(20)), 63: bytes(range(63)), 64: bytes(range(64)),
         65: bytes(range(65)), 1000: bytes(number % 251 for number in range(1000))}  # fmt: skip
_WHOS = {
    "NULL": None,
    "empty": b"",
    "1 byte": b"\0",
    "sockaddr_in": WHO,
    "sockaddr_in6": bytes.fromhex("0a0016340000000020010db8") + bytes(11) + b"\x01" + bytes(4),
    "sockaddr_storage": WHO + bytes(112),
    "text": b"192.0.2.1:5684",
    "300 bytes": bytes(number % 256 for number in range(300)),
}


def _mac(key: bytes = KEY, who: bytes | None = WHO) -> bytes:
    """All 20 bytes, of which the cookie is the first 16."""
    return hmac.digest(key, who or b"", "sha1")


def _hello(cookie: bytes = b"", session_id: bytes = b"", number: int = 1, record: int = 1) -> bytes:
    """A whole hello; what cannot be encoded is put in by hand: see _patched()."""
    return wire.client_hello(
        cookie=cookie, session_id=session_id, record_seq=record, message_seq=number
    )


def _bare(session_id: bytes, cookie: bytes, after: bytes = b"\0") -> bytes:
    """59 bytes of zero, session id, cookie, and what is behind: all that C reads."""
    return b"%b%c%b%c%b%b" % (
        bytes(59), len(session_id), session_id, len(cookie), cookie, after,
    )  # fmt: skip


def _patched(datagram: bytes, place: int, new: bytes) -> bytes:
    return datagram[:place] + new + datagram[place + len(new) :]


# --- gnutls_dtls_cookie_verify --------------------------------------------------------------------


def _verify() -> Iterator[Vector]:
    def vector(name: str, why: str, message: bytes, *, key: bytes = KEY, who: bytes | None = WHO,
               before: tuple[int, int, int] = BEFORE) -> Vector:  # fmt: skip
        return Vector(f"verify: {name}", why, Case("verify", key, who, message, before))

    good = _mac()[:16]
    hello = _hello(good)
    yield vector("a good cookie", "result 0 and a filled prestate", hello)
    yield vector("no cookie", "the first hello of every client: -214", _hello())

    for size in 0, 1, 12, 13, 24, 25, 58, 59:
        why = "too short to hold the length of a session id, at byte 59"
        yield vector(f"{size} bytes of a hello", why, hello[:size])
    for size, why in (
        (59, "too short by one byte for the length of the session id"),
        (60, "an empty session id; the length of the cookie is missing"),
        (61, "an empty cookie, and the one byte behind it is missing"),
        (62, "long enough: there is no cookie in it, another error"),
        (63, "the same with a byte more"),
    ):
        yield vector(f"{size} bytes of zero", why, bytes(size))

    for size in 1, 31, 32:
        why = "a session id moves the cookie; 32 bytes are the most"
        yield vector(f"session id of {size}", why, _hello(good, bytes(range(size))))
    for size in 33, 64, 255:
        why = "a longer one is -9, good cookie or not"
        message = _bare(bytes(range(size)), good, bytes(200))
        yield vector(f"session id of {size}", why, message)
    for size, why in (
        (91, "the session id is cut"),
        (92, "the length of the cookie is missing"),
        (93, "an empty cookie, and the one byte behind it is missing"),
        (94, "long enough, no cookie"),
    ):
        name = f"session id of 32 in {size} bytes"
        yield vector(name, why, _bare(bytes(32), b"")[:size])

    mac = _mac()
    for size in 0, 1, 15, 16, 17, 20, 32, 255:
        cookie = mac[:size].ljust(size, b"\0")
        for after in b"", b"\0", b"\0\0":
            why = "one byte must follow the cookie, and 16 bytes are its only size"
            name = f"cookie of {size}, {len(after)} behind it"
            yield vector(name, why, _bare(b"", cookie, after))
    for cut in 1, 15, 16:
        why = "the datagram ends inside of the cookie"
        yield vector(f"cookie cut by {cut}", why, _bare(b"", good, b"")[:-cut])
    why = "one byte must follow the cookie, wherever that is"
    yield vector("session id of 32, cookie of 16, 0 behind it", why, _bare(bytes(32), good, b""))
    yield vector("session id of 32, cookie of 16, 1 behind it", why, _bare(bytes(32), good))
    why = "too short for its own length, which is -9 before a wrong size is -214"
    yield vector("cookie said to be of 17, 16 there", why, _patched(_bare(b"", good), 60, b"\x11"))
    why = "long enough, of a wrong size"
    yield vector("cookie said to be of 15, 16 there", why, _patched(_bare(b"", good), 60, b"\x0f"))

    why = "another cookie; every bit counts"
    for bit in 0, 7, 63, 64, 120, 127:
        wrong = bytearray(good)
        wrong[bit // 8] ^= 128 >> bit % 8
        yield vector(f"bit {bit} of the cookie flipped", why, _hello(bytes(wrong)))
    yield vector("cookie of zeros", why, _hello(bytes(16)))
    yield vector("cookie backwards", why, _hello(good[::-1]))
    yield vector("the last 16 bytes of the MAC", why, _hello(mac[4:]))
    why = "the cookie is bound to client_data and to the key"
    yield vector("cookie of another client", why, _hello(_mac(KEY, OTHER_WHO)[:16]))
    yield vector("cookie of another key", why, _hello(_mac(OTHER_KEY)[:16]))
    for digest in "md5", "sha256":
        wrong_one = hmac.digest(KEY, WHO, digest)[:16]
        yield vector(f"cookie by {digest}", "the digest is SHA-1", _hello(wrong_one))

    for size, key in _KEYS.items():
        why = "HMAC keys below, at and above its block of 64 bytes"
        yield vector(f"key of {size}", why, _hello(_mac(key)[:16]), key=key)
    yield vector("empty key", "-50, whatever the datagram", hello, key=b"")
    yield vector("empty key, short datagram", "the key is judged first", b"", key=b"")
    wrong_size = _bare(b"", mac[:15])
    yield vector("empty key, cookie of 15", "the key is judged first", wrong_size, key=b"")
    yield vector("empty key, its own MAC", "no way around", _hello(_mac(b"")[:16]), key=b"")

    for name, who in _WHOS.items():
        why = "every byte of client_data is in the cookie, and NULL is the same as none"
        yield vector(f"client_data {name}", why, _hello(_mac(KEY, who)[:16]), who=who)
        yield vector(f"client_data {name}, cookie of WHO cut", why, _hello(good[:15]), who=who)
    longer = _mac(KEY, WHO + bytes(112))[:16]
    yield vector("cookie of a longer client_data", "padding counts", _hello(longer))
    yield vector("cookie of the empty client_data", "not for all", _hello(_mac(KEY, b"")[:16]))

    why = "the low byte of the record's sequence number alone goes into the prestate"
    for number in 0, 1, 255, 256, 257, 65535, 2**32 - 1, 2**32, 2**48 - 1, 0x010203040506:
        yield vector(f"record_seq {number}", why, _hello(good, record=number))
    why = "the low byte of message_seq alone goes into the prestate; hsk_write_seq is 0"
    for number in 0, 1, 2, 127, 128, 255, 256, 258, 65535:
        yield vector(f"message_seq {number}", why, _hello(good, number=number))
    for before in (0, 0, 0), (1, 2, 3), (UINT_MAX, UINT_MAX, UINT_MAX):
        yield vector(f"prestate {before}, good", "overwritten", hello, before=before)
        for name, message, key in (
            ("-214", _hello(), KEY), ("-9", b"", KEY), ("-50", hello, b""),
        ):  # fmt: skip
            why = "left as it was on failure"
            yield vector(f"prestate {before}, {name}", why, message, key=key, before=before)

    why = "not looked at"
    for name, place, new in (
        ("content type 23", 0, b"\x17"),
        ("record version 0303", 1, b"\x03\x03"),
        ("epoch 1", 3, b"\0\1"),
        ("record length 0", 11, b"\0\0"),
        ("record length 65535", 11, b"\xff\xff"),
        ("handshake type 2", 13, b"\x02"),
        ("message length 0", 14, bytes(3)),
        ("fragment_offset 1", 19, b"\0\0\1"),
        ("fragment_length 0", 22, bytes(3)),
        ("client_version 0000", 25, bytes(2)),
        ("random of zeros", 27, bytes(32)),
    ):
        yield vector(name, why, _patched(hello, place, new))
    yield vector("59 bytes of zero, then a good cookie", why, _bare(b"", good))
    yield vector("59 bytes of ff, then a good cookie", why, b"\xff" * 59 + _bare(b"", good)[59:])


# --- gnutls_dtls_cookie_send ----------------------------------------------------------------------


def _send() -> Iterator[Vector]:
    def vector(name: str, why: str, *, key: bytes = KEY, who: bytes | None = WHO,
               before: tuple[int, int, int] = (0, 0, 0), pushed: int | None = None
               ) -> Vector:  # fmt: skip
        return Vector(f"send: {name}", why, Case("send", key, who, b"", before, pushed))

    yield vector("zeros", "the 44 bytes of every first reply")
    for size, key in _KEYS.items():
        why = "HMAC keys below, at and above its block of 64 bytes"
        yield vector(f"key of {size}", why, key=key)
    yield vector("empty key", "-50, and push is not called", key=b"")
    for name, who in _WHOS.items():
        yield vector(f"client_data {name}", "every byte is in the cookie", who=who)

    why = "low byte of record_seq at byte 10, low byte of hsk_write_seq at byte 18, nothing else"
    for before in (
        (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (255, 255, 255), (256, 256, 256),
        (257, 258, 259), (65535, 0, 65535), (0x01020304, 0x05060708, 0x090A0B0C),
        (2**31, 2**31, 2**31), (UINT_MAX, 0, 0), (0, UINT_MAX, 0), (0, 0, UINT_MAX),
        (UINT_MAX, UINT_MAX, UINT_MAX),
    ):  # fmt: skip
        yield vector(f"prestate {before}", why, before=before)

    for pushed, why in (
        (None, "all 44"),
        (44, "all 44"),
        (0, "nothing was sent, and that is no error"),
        (1, "part of it was sent, and that is no error"),
        (43, "part of it was sent, and that is no error"),
        (45, "more than there was: handed on"),
        (-1, "any error of push is -53"),
        (-2, "any error of push is -53"),
        (-44, "any error of push is -53"),
        (-214, "any error of push is -53, also one that looks like another of libgnutls"),
        (-(2**31), "the least int"),
        (2**31 - 1, "the largest int"),
        (-(2**32) + 44, "narrowed to int it is 44: no error"),
        (-(2**32) - 1, "narrowed to int it is -1: -53"),
        (-(2**63), "the least ssize_t; narrowed to int it is 0: no error"),
        (2**31, "narrowed to int it is negative: -53"),
        (2**32 - 1, "narrowed to int it is -1: -53"),
        (2**32, "narrowed to int it is 0: nothing was sent"),
        (-(2**31) - 1, "narrowed to int it is the largest one"),
        (-(2**32), "narrowed to int it is 0: no error, and nothing was sent"),
        (2**32 + 5, "narrowed to int it is 5"),
        (2**32 + 44, "narrowed to int it is 44"),
        (2**63 - 1, "the largest ssize_t; narrowed to int it is -1: -53"),
    ):
        yield vector(f"push returns {pushed}", why, pushed=pushed)
    why = "the prestate is not changed, whatever happens"
    yield vector("push fails, prestate of ones", why, before=(UINT_MAX,) * 3, pushed=-1)
    yield vector("empty key, prestate of ones", why, key=b"", before=(UINT_MAX,) * 3)


# --- the gate -------------------------------------------------------------------------------------


def _receive() -> Iterator[Vector]:
    def vector(name: str, why: str, datagram: bytes, *, previous: bytes | None = None,
               key: bytes = KEY, who: bytes | None = WHO) -> Vector:  # fmt: skip
        case = Case("receive", key, who, datagram, previous=previous)
        return Vector(f"receive: {name}", why, case)

    good, old = _mac()[:16], _mac(OTHER_KEY)[:16]
    first, hello = _hello(b"", number=0, record=0), _hello(good)

    yield vector("first hello", "challenged, and holds no cookie", first)
    yield vector("wrong cookie", "challenged, and holds one", _hello(bytes(16)))
    yield vector("cookie of another client", "challenged", _hello(_mac(KEY, OTHER_WHO)[:16]))
    yield vector("current key", "verified, key_age 0", hello)
    yield vector("current key, a previous one too", "key_age 0", hello, previous=OTHER_KEY)
    yield vector("previous key", "verified, key_age 1", _hello(old), previous=OTHER_KEY)
    why = "the key before the previous one is good no more: challenged with the current one"
    yield vector("key that is gone", why, _hello(old), previous=bytes(16))
    yield vector("no previous key", why, _hello(old))
    yield vector("the same key twice", "key_age 0", hello, previous=KEY)
    for name, who in _WHOS.items():
        mine = _hello(_mac(KEY, who)[:16])
        yield vector(f"client_data {name}", "as libgnutls has it", mine, who=who)
    for size, key in _KEYS.items():
        yield vector(f"key of {size}", "as libgnutls has it", _hello(_mac(key)[:16]), key=key)

    why = "the hello after a second challenge: both halves of the cure"
    for number in 0, 1, 2, 3, 255:
        again = _hello(good, number=number, record=number)
        yield vector(f"message_seq {number}, verified", f"hsk_write_seq one less; {why}", again)
        again = _hello(bytes(16), number=number, record=number)
        yield vector(f"message_seq {number}, challenged", f"echoed; {why}", again)
    why = "48 bits are echoed, 32 fit a prestate"
    for number in 255, 256, 65536, 2**32 - 1, 2**32, 2**48 - 1:
        yield vector(f"record_seq {number}", why, _hello(good, record=number))

    for size in 0, 1, 15, 17, 20, 32, 255:
        cookie = _mac()[:size].ljust(size, b"\0")
        yield vector(f"cookie of {size}", "challenged: only 16 bytes can be ours", _hello(cookie))
    for size in 1, 31, 32:
        yield vector(f"session id of {size}", "verified", _hello(good, bytes(size)))
    ends = wire.handshake_record(1, _bare(b"", good, b"")[25:], record_seq=1, message_seq=1)
    yield vector("ends with its cookie", "libgnutls refuses it: challenged", ends)
    longer = wire.handshake_record(1, _bare(b"", good)[25:], record_seq=1, message_seq=1)
    yield vector("ends one byte after its cookie", "verified", longer)
    for version in 0xFEFF, 0xFEFD, 0x0100:
        datagram = _patched(hello, 1, version.to_bytes(2, "big"))
        yield vector(f"record version {version:04x}", "verified", datagram)
    datagram = _patched(hello, 25, bytes(2))
    yield vector("client_version 0000", "not the gate's to judge: verified", datagram)

    fragments = wire.client_hello_fragments(
        2, cookie=good, extensions=((16, bytes(100)),), record_seq=1, message_seq=1
    )
    yield vector("first of two fragments", "it holds the cookie: verified", fragments[0])
    why = "behind a first fragment the next one may follow: verified"
    yield vector("both fragments in a datagram", why, b"".join(fragments))

    record = bytearray(hello)
    for name, why, datagram in (
        ("empty datagram", "1: no record header", b""),
        ("12 bytes", "1: no whole record header", hello[:12]),
        ("content type 23", "2: no handshake record", _patched(hello, 0, b"\x17")),
        ("content type 20", "2: no handshake record", _patched(hello, 0, b"\x14")),
        ("TLS 1.2", "3: version 0303", _patched(hello, 1, b"\x03\x03")),
        ("DTLS 1.3's fefc", "3: no record of a hello has it", _patched(hello, 1, b"\xfe\xfc")),
        ("epoch 1", "4: no keys yet", _patched(hello, 3, b"\0\1")),
        ("epoch 256", "4: both bytes count", _patched(hello, 3, b"\1\0")),
        ("cut by one byte", "5: the record is longer than the datagram", hello[:-1]),
        ("13 bytes", "5: the record is longer than the datagram", hello[:13]),
        ("record of 2**14 + 1", "5: too long", datagrams.of_record_length(16385, hello)),
        ("record of 11", "6: no whole handshake header",
         _patched(hello[:24], 11, b"\0\x0b")),
        ("record of 0", "6: no handshake header", _patched(hello[:13], 11, bytes(2))),
        ("ServerHello", "7: no ClientHello", _patched(hello, 13, b"\x02")),
        ("HelloRequest", "7: no ClientHello", _patched(hello, 13, b"\0")),
        ("message_seq 256", "8: more than libgnutls can echo", _hello(good, number=256)),
        ("message_seq 65535", "8: more than libgnutls can echo", _hello(good, number=65535)),
        ("later fragment", "9: the cookie is in the first one", fragments[1]),
        ("fragment_offset 1", "9: not the first", _patched(hello, 19, b"\0\0\1")),
        ("fragment_offset 65536", "9: all three bytes count", _patched(hello, 19, b"\1\0\0")),
        ("fragment_length one less", "10: it does not fill the record",
         _patched(hello, 24, bytes([record[24] - 1]))),
        ("fragment_length one more", "10: it is longer than the record",
         _patched(hello, 24, bytes([record[24] + 1]))),
        ("message length one less", "10: the fragment is longer than its message",
         _patched(hello, 16, bytes([record[16] - 1]))),
        ("a byte more", "11: nothing follows a whole hello", hello + b"\0"),
        ("twice in a datagram", "11: nothing follows a whole hello", hello + hello),
        ("session id of 33", "12: 32 bytes are the most",
         wire.handshake_record(1, _bare(bytes(33), good, bytes(9))[25:])),
        ("session id of 255", "12: 32 bytes are the most",
         wire.handshake_record(1, _bare(bytes(255), good, bytes(9))[25:])),
        ("fragment of 34", "13: no length of the session id",
         wire.handshake_record(1, bytes(34))),
        ("fragment of 35", "13: no length of the cookie", wire.handshake_record(1, bytes(35))),
        ("session id of 32 in a fragment of 67", "13: no length of the cookie",
         wire.handshake_record(1, _bare(bytes(32), b"", b"")[25:-1])),
        ("cookie cut by one byte", "13: the cookie does not end here",
         wire.handshake_record(1, _bare(b"", good, b"")[25:-1])),
        ("cookie goes on in the next record", "13: the bytes of another record do not count",
         wire.handshake_record(1, _bare(b"", good, b"")[25:-8], length=100) + good[8:] + b"\0"),
        ("ClientHello of SSL 2", "2: nothing to do with DTLS", bytes.fromhex("802e010002001500")
         + bytes(60)),
        ("text", "2: a datagram of somebody else", b"GET / HTTP/1.1\r\n\r\n".ljust(80)),
    ):  # fmt: skip
        yield vector(name, f"discarded, reason {why}", datagram)
    why = "the shortest of all hellos: 61 bytes, answered by 44"
    yield vector("fragment of 36", why, wire.handshake_record(1, bytes(36)))
    why = "the longest record: verified"
    yield vector("record of 2**14", why, datagrams.of_record_length(16384, hello))
    why = "a first fragment may be all but the message's last byte: verified"
    yield vector("message length one more", why, _patched(hello, 16, bytes([record[16] + 1])))


# --- real clients ---------------------------------------------------------------------------------


def _real_clients() -> Iterator[Vector]:
    """The datagrams of real clients, as they came and as they come back with a cookie."""
    good, bad = _mac()[:16], _mac(OTHER_KEY)[:16]

    def both(name: str, why: str, datagram: bytes) -> Iterator[Vector]:
        yield Vector(f"verify: {name}", why, Case("verify", KEY, WHO, datagram, BEFORE))
        yield Vector(f"receive: {name}", why, Case("receive", KEY, WHO, datagram))

    for client, found in datagrams.CLIENTS.items():
        first = found[0]
        again = _patched(_patched(first, 10, b"\1"), 18, b"\1")  # sequence numbers of the second
        yield from both(f"{client}, as it came", "a real hello without a cookie", first)
        why = "a real hello that came back"
        yield from both(f"{client}, good cookie", why, datagrams.with_cookie(again, good))
        yield from both(f"{client}, dead cookie", why, datagrams.with_cookie(again, bad))
        for number, later in enumerate(found[1:], 2):
            why = "what verify takes for a cookie here is the middle of something else"
            yield from both(f"{client}, datagram {number}", why, later)


# --- the client's reading of a HelloVerifyRequest -------------------------------------------------


def _request(cookie: bytes, length: int | None = None, after: bytes = b"", **changed: int) -> bytes:
    """A HelloVerifyRequest in one record, by hand: everything in it may be wrong."""
    size = len(cookie) if length is None else length
    body = struct.pack("!HB", changed.get("version", 0xFEFF), size) + cookie + after
    return wire.handshake_record(
        changed.get("msg_type", wire.HELLO_VERIFY_REQUEST),
        body,
        message_seq=changed.get("message_seq", 0),
        record_version=changed.get("record_version", 0xFEFF),
        epoch=changed.get("epoch", 0),
        record_seq=changed.get("record_seq", 0),
    )


def _client() -> Iterator[Vector]:
    def vector(name: str, why: str, datagram: bytes) -> Vector:
        return Vector(f"client: {name}", why, Case("client", b"", None, datagram))

    good = _mac()[:16]
    plain = _request(good)
    yield vector("a cookie of 16", "the next hello holds it", plain)
    for size in 0, 1, 15, 17, 20, 31, 32:
        why = "any cookie of up to 32 bytes is sent back as it is, an empty one too"
        yield vector(f"cookie of {size}", why, _request(_mac()[:size].ljust(size, b"\1")))
    for size in 33, 64, 255:
        why = "longer than 32 bytes: the handshake ends, where RFC 6347 allows 255"
        yield vector(f"cookie of {size}", why, _request(bytes(size)))
    for size in 0, 15, 17, 32, 33, 255:
        why = "the cookie's length is not that of the rest"
        yield vector(f"cookie said to be of {size}, 16 there", why, _request(good, size))
    for size in 1, 20:
        why = "nothing may follow the cookie in its message"
        yield vector(f"{size} bytes behind the cookie", why, _request(good, after=bytes(size)))
    for version in 0xFEFF, 0xFEFD, 0xFEFC, 0x0100, 0x0000, 0xFFFF:
        why = "server_version is not looked at: it says nothing of the session (4.2.1)"
        yield vector(f"server_version {version:04x}", why, _request(good, version=version))
    for version in 0xFEFF, 0xFEFD, 0x0100:
        why = "the record's version is not that of the session either"
        yield vector(f"record version {version:04x}", why, _request(good, record_version=version))
    for number in 1, 255, 256, 2**32, 2**48 - 1:
        why = "the record's sequence number need not be that of the hello"
        yield vector(f"record_seq {number}", why, _request(good, record_seq=number))
    for number in 1, 2, 255, 256, 65535:
        why = "message_seq 0 is due: another one is dropped, and the client repeats its hello"
        yield vector(f"message_seq {number}", why, _request(good, message_seq=number))
    for kind in 0, 1, 14:
        yield vector(f"handshake type {kind}", "no answer", _request(good, msg_type=kind))
    yield vector("epoch 1", "no keys yet: no answer", _request(good, epoch=1))
    for kind in 20, 21, 23:
        yield vector(f"content type {kind}", "no answer", _patched(plain, 0, bytes([kind])))
    for size in 0, 1, 12, 13, 24, 25, 27, 43:
        yield vector(f"{size} bytes of it", "cut: no answer", plain[:size])
    for size in 0, 1, 2, 3, 4:
        why = "a message too short for its fields ends the handshake; 3 bytes are an empty cookie"
        yield vector(f"message of {size} zeros", why, wire.handshake_record(3, bytes(size)))
    for name, place, new in (
        ("record length one less", 11, b"\0\x1e"),
        ("record length one more", 11, b"\0\x20"),
        ("message length one less", 16, b"\x12"),
        ("message length one more", 16, b"\x14"),
        ("fragment_offset 1", 21, b"\1"),
        ("fragment_length one less", 24, b"\x12"),
        ("fragment_length one more", 24, b"\x14"),
    ):
        yield vector(name, "no whole message: no answer", _patched(plain, place, new))
    yield vector("a byte behind the record", "the record is read, the byte is not", plain + b"\0")
    yield vector("twice in a datagram", "the first one is answered", plain + plain)


if __name__ == "__main__":  # the command's former name
    sys.argv[1:1] = ["vectors"]
    runpy.run_module("gnutls_cookie", run_name="__main__", alter_sys=True)
