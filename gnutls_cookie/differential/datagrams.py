"""ClientHello datagrams: those of real clients, made ones, and each of them broken in many ways."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

from gnutls_cookie.reference import wire

__all__ = [
    "HELLOS",
    "TEMPLATES",
    "Template",
    "broken",
    "faulty",
    "made",
    "of_record_length",
    "with_cookie",
]

#: First datagrams of real clients, as they were sent on loopback, by the client's name.
CLIENTS: dict[str, list[bytes]] = {
    name: [bytes.fromhex(one) for one in found]
    for name, found in json.loads(
        (Path(__file__).resolve().parent / "hellos.json").read_text(encoding="utf-8")
    ).items()
}
HELLOS = [datagram for found in CLIENTS.values() for datagram in found]

#: Those that hold a cookie field: fragment_offset is 0 (RFC 6347 4.2.2).
FIRST_FRAGMENTS = [datagram for datagram in HELLOS if datagram[19:22] == bytes(3)]

# Offsets of what a datagram with a ClientHello states of itself (RFC 6347 4.1, 4.2.2).
FIELDS = [0, 1, 2, 3, 4, *range(5, 11), 11, 12, 13, 14, 15, 16, 17, 18, *range(19, 25), 59]


class Template:
    """A first fragment of a ClientHello, taken apart to be filled with other cookies.

    Args:
        datagram: the fragment; it has a whole cookie field.
    """

    __slots__ = ("_parts", "_rest", "_session_id", "_sizes", "_started", "head")

    def __init__(self, datagram: bytes) -> None:
        end = 60 + datagram[59]
        self._session_id = datagram[59:end]
        self._rest = datagram[end + 1 + datagram[end] :]
        self._parts = datagram[:11], datagram[13:14], datagram[17:22], datagram[25:59]
        less = len(self._session_id) + datagram[end]
        self._sizes = [
            int.from_bytes(datagram[start:stop], "big") - less
            for start, stop in ((11, 13), (14, 17), (22, 25))
        ]
        self._started: dict[int, bytes] = {}  # what stands before a cookie of that size
        #: The first 59 bytes, with the lengths of the fragment itself.
        self.head = datagram[:59]

    def filled(self, cookie: bytes, session_id: bytes | None = None) -> bytes:
        """The fragment with another cookie in it, every length set right.

        Args:
            cookie: 0..255 bytes.
            session_id: 0..255 bytes in the place of its own; None leaves that.
        """
        size = len(cookie)
        if session_id is not None:
            own = b"%c%b" % (len(session_id), session_id)
            return self._start(own, size) + cookie + self._rest
        start = self._started.get(size)
        if start is None:
            start = self._started[size] = self._start(self._session_id, size)
        return start + cookie + self._rest

    def _start(self, session_id: bytes, size: int) -> bytes:
        more = len(session_id) + size
        record, message, fragment = self._sizes
        start, msg_type, middle, hello = self._parts
        return b"".join(
            (
                start,
                ((record + more) & 0xFFFF).to_bytes(2, "big"),
                msg_type,
                ((message + more) & 0xFFFFFF).to_bytes(3, "big"),
                middle,
                ((fragment + more) & 0xFFFFFF).to_bytes(3, "big"),
                hello,
                session_id,
                size.to_bytes(1, "big"),
            )
        )


def with_cookie(datagram: bytes, cookie: bytes, session_id: bytes | None = None) -> bytes:
    """A first fragment of a ClientHello with another cookie in it, every length set right.

    Args:
        datagram: the fragment; it has a whole cookie field.
        cookie: 0..255 bytes.
        session_id: 0..255 bytes in the place of its own; None leaves that.
    """
    return Template(datagram).filled(cookie, session_id)


def made(chance: random.Random) -> bytes:
    """A well-formed hello, or the first fragment of one, with all that may differ."""
    more = chance.randrange(300)
    if chance.random() < 0.01:
        more = chance.randrange(16250, 16290)  # with a cookie about as long as a record may be
    fragments = wire.client_hello_fragments(
        chance.choice([1, 2]) if 100 < more < 300 else 1,
        session_id=chance.randbytes(chance.choice([0, 0, 1, 31, 32])),
        random=chance.randbytes(32),
        client_version=chance.choice([wire.DTLS_1_0, wire.DTLS_1_2, 0x0100, 0x0303]),
        record_version=chance.choice([wire.DTLS_1_0, wire.DTLS_1_2, 0x0100]),
        extensions=((16, bytes(more)),),
        record_seq=chance.choice([0, 1, 255, 256, 2**32 - 1, 2**32, 2**48 - 2]),
        message_seq=chance.choice([0, 1, 2, 255, 256, 65535]),
    )
    if chance.random() < 0.1:
        return b"".join(fragments)
    return fragments[0]


def of_record_length(length: int, datagram: bytes) -> bytes:
    """A whole hello filled up or cut to that length of its record, of which 2**14 is the most."""
    sized = bytearray(datagram[: 13 + length].ljust(13 + length, b"\0"))
    sized[11:13] = struct.pack("!H", length)
    sized[14:17] = sized[22:25] = struct.pack("!I", length - 12)[1:]
    return bytes(sized)


def broken(chance: random.Random, datagram: bytes) -> bytes:
    """One or two faults: flipped bits, lengths off by one, cuts, more bytes, records, fragments."""
    broken = bytearray(datagram)
    for _ in range(chance.choice([1, 1, 2])):
        fault = chance.randrange(8)
        if fault == 0 and broken:
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        elif fault == 1 and broken:
            fields = FIELDS if len(broken) < 60 else [*FIELDS, 60 + broken[59]]  # the cookie's
            place = chance.choice(fields) % len(broken)
            broken[place] = (broken[place] + chance.choice([-1, 1])) % 256
        elif fault == 2:
            del broken[chance.randrange(len(broken) + 1) :]
        elif fault == 3:
            broken += chance.randbytes(chance.choice([1, 13, 60]))
        elif fault == 4:
            broken += datagram
        elif fault == 5 and broken:
            place = chance.randrange(len(broken))
            broken[place:place] = chance.randbytes(chance.randrange(1, 4))
        elif fault == 6 and len(broken) >= 25:
            # Cut, and the lengths set right: the first fragment of the hello, or all of it.
            del broken[chance.randrange(13, min(len(broken), 100) + 1) :]
            broken[11:13] = struct.pack("!H", len(broken) - 13)
            if len(broken) >= 25:
                broken[22:25] = struct.pack("!I", len(broken) - 25)[1:]
                if chance.random() < 0.3:
                    broken[14:17] = broken[22:25]
        elif broken:
            broken[chance.choice(FIELDS) % len(broken)] = chance.randrange(256)
    return bytes(broken)


def faulty(chance: random.Random, template: Template, good: bytes, wrong: bytes) -> bytes:
    """A hello for verify with one or several faults, at the places that verify looks at.

    Args:
        chance: decides.
        template: a first fragment of a ClientHello.
        good: the right cookie.
        wrong: another one, 0..255 bytes.
    """
    cookie, session_id, after = good, b"", None
    faults = chance.random()
    if 0.3 < faults < 0.5:
        cookie = wrong
    if faults > 0.8 or 0.48 < faults < 0.6:
        sizes = (0, 1, 31, 32, 32, 33, 33, 34, 64, 255)
        session_id = chance.randbytes(chance.choice(sizes))
    message = template.filled(cookie, session_id)
    end = 61 + len(session_id) + len(cookie)
    if faults > 0.9 or 0.45 < faults < 0.75:
        ends = (59, 60, 61, 61 + len(session_id), end - 1, end, end, end + 1, end + 1, end + 2)
        after = chance.choice(ends) if chance.random() < 0.8 else chance.randrange(len(message) + 1)
    changed = bytearray(message[:after])
    if len(changed) >= 25:
        if chance.random() < 0.5:  # sequences: the low bytes count, the high ones do not
            changed[5:11] = chance.randbytes(6)
            changed[17:19] = chance.randbytes(2)
        if faults < 0.1 or faults > 0.85:  # what a cookie is not bound to, and nobody looks at
            for _ in range(chance.randrange(1, 4)):
                changed[chance.randrange(min(59, len(changed)))] = chance.getrandbits(8)
        if 0.78 < faults < 0.82 and len(changed) > 61:
            place = chance.choice((59, 60 + len(session_id)))
            if place < len(changed):
                changed[place] = (changed[place] + chance.choice((-1, 1))) % 256
    return bytes(changed)


#: The first fragments of real clients.
TEMPLATES = [Template(one) for one in FIRST_FRAGMENTS]
