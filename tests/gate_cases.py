"""Datagrams for the gate: hellos of real clients, whole and broken in every way, by a seed."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gnutls_cookie.reference import cookie as reference
from gnutls_cookie.reference import wire

HELLOS = [
    bytes.fromhex(one)
    for found in json.loads(
        (Path(__file__).resolve().parent / "hellos.json").read_text(encoding="utf-8")
    ).values()
    for one in found
]

# Offsets of what a datagram with a ClientHello states of itself (RFC 6347 4.1, 4.2.2).
FIELDS = [0, 1, 2, 3, 4, *range(5, 11), 11, 12, 13, 14, 15, 16, 17, 18, *range(19, 25), 59]


@dataclass(frozen=True)
class Case:
    """What the gate is asked: keys, client and datagram."""

    current: bytes
    previous: bytes | None
    client_data: bytes
    datagram: bytes


def with_cookie(datagram: bytes, cookie: bytes) -> bytes:
    """A first fragment of a ClientHello with another cookie in it, every length set right."""
    end = 60 + datagram[59]
    rest = datagram[end + 1 + datagram[end] :]
    head = bytearray(datagram[:end])
    more = len(cookie) - datagram[end]
    for start, size in (11, 2), (14, 3), (22, 3):
        length = int.from_bytes(head[start : start + size], "big") + more
        head[start : start + size] = (length % 256**size).to_bytes(size, "big")
    return bytes(head) + bytes([len(cookie)]) + cookie + rest


def cases(seed: int, count: int) -> Iterator[Case]:
    """`count` cases; the same for the same seed."""
    chance = random.Random(seed)
    firsts = [one for one in HELLOS if one[19:22] == bytes(3)]
    for _ in range(count):
        current = chance.randbytes(chance.choice([16, 16, 1, 20, 64, 65, 100]))
        previous = chance.randbytes(16) if chance.random() < 0.5 else None
        who = chance.randbytes(chance.choice([0, 16, 28, 128]))
        kind = chance.random()
        if kind < 0.05:
            datagram = chance.randbytes(chance.choice([0, 1, 12, 13, 24, 25, 59, 60, 61, 62, 200]))
            if chance.random() < 0.5:
                datagram = b"\x16\xfe\xfd" + datagram
        elif kind < 0.1:
            datagram = chance.choice(HELLOS)
        else:
            datagram = with_cookie(
                chance.choice(firsts) if kind < 0.5 else made(chance),
                cookie_for(chance, current, previous, who),
            )
            if len(datagram) > 16200 and chance.random() < 0.5:
                datagram = of_record_length(chance.choice([16383, 16384, 16385]), datagram)
            elif chance.random() < 0.7:
                datagram = broken(chance, datagram)
        yield Case(current, previous, who, datagram)


def cookie_for(chance: random.Random, current: bytes, previous: bytes | None, who: bytes) -> bytes:
    good = reference.cookie(current, who)
    return chance.choice(
        [
            b"",
            good,
            good,
            reference.cookie(previous or b"nobody's", who),
            reference.cookie(current, who + b"x"),
            good[:15],
            good + b"\0",
            good[:15] + bytes([good[15] ^ 1]),
            chance.randbytes(chance.randrange(256)),
        ]
    )


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
