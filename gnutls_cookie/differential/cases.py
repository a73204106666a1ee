"""The cases: what one call of an implementation is given, made by chance and by a seed.

A seed and a number name a case for ever: the cases come in blocks of BLOCK, each made from the seed
and its own number, so that one that was seen in a long run can be made again at once. In a block
they come in scenes: some calls with one key and one client, as a server sees them, in which a hello
is sent again, the key changes, and the numbers of one datagram go into the next.
"""

from __future__ import annotations

import hmac
import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from gnutls_cookie.reference import cookie as reference

from . import datagrams

__all__ = ["BLOCK", "OPERATIONS", "Case", "case_of_json", "cases"]

BLOCK = 1000
OPERATIONS = ("verify", "send", "receive")

UINT_MAX = 2**32 - 1
_KEY_SIZES = (16, 16, 16, 16, 1, 20, 63, 64, 65, 1000)
_CLIENT_DATA_SIZES = (16, 16, 28, 28, 128, 0, 1, 64, 300)
_NUMBERS = (0, 0, 0, 1, 2, 255, 256, 257, 65535, 65536, 2**31, UINT_MAX)
_PUSHED = (None, None, 44, 44, 0, 1, 43, 45, -1, -2, -(2**31), 2**31 - 1, 2**31, 2**32 - 1, 2**32,
           2**32 + 5, 2**63 - 1)  # fmt: skip
_SCENE = 12


class Case(NamedTuple):
    """What one call is given.

    Attributes:
        operation: "verify" (gnutls_dtls_cookie_verify), "send" (gnutls_dtls_cookie_send) or
            "receive" (the gate's judgement of a datagram).
        key: the cookie key; for "receive" the current one.
        client_data: what identifies the client; None is NULL.
        message: "verify", "receive": the datagram. "send": empty.
        prestate: record_seq, hsk_read_seq and hsk_write_seq before the call. "receive": zeros.
        pushed: "send": what the push function returns; None stands for all 44 bytes.
        previous: "receive": the previous key.
    """

    operation: str
    key: bytes
    client_data: bytes | None
    message: bytes = b""
    prestate: tuple[int, int, int] = (0, 0, 0)
    pushed: int | None = None
    previous: bytes | None = None

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold: bytes in hex."""
        found: dict[str, Any] = {
            "operation": self.operation,
            "key": self.key.hex(),
            "client_data": None if self.client_data is None else self.client_data.hex(),
        }
        if self.operation != "send":
            found["message"] = self.message.hex()
        else:
            found["pushed"] = self.pushed
        if self.operation == "receive":
            found["previous"] = None if self.previous is None else self.previous.hex()
        else:
            found["prestate"] = list(self.prestate)
        return found

    def as_json(self) -> str:
        """The case in one line of JSON, that case_of_json() reads."""
        return json.dumps(self.as_dict())


def case_of_json(text: str | bytes) -> Case:
    """The case of a line of JSON; members that it does not know are passed over.

    Raises:
        ValueError: it is none; the text says why.
    """
    try:
        found = json.loads(text)
        operation = found["operation"]
        if operation not in OPERATIONS:
            raise ValueError(f"operation {operation!r}")
        who, previous, pushed = (found.get(name) for name in ("client_data", "previous", "pushed"))
        first, second, third = found.get("prestate", (0, 0, 0))
        numbers = (first, second, third)
        if any(type(one) is not int or not 0 <= one <= UINT_MAX for one in numbers):
            raise ValueError(f"prestate {numbers!r}")
        if pushed is not None and type(pushed) is not int:
            raise ValueError(f"pushed {pushed!r}")
        return Case(
            operation,
            bytes.fromhex(found["key"]),
            None if who is None else bytes.fromhex(who),
            bytes.fromhex(found.get("message", "")),
            numbers,
            pushed,
            None if previous is None else bytes.fromhex(previous),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"no case: {type(error).__name__}: {error}") from None


def cases(
    seed: int, operations: Sequence[str] = OPERATIONS, count: int | None = None, start: int = 0
) -> Iterator[Case]:
    """The cases of a seed from number `start` on.

    Args:
        seed: any number.
        operations: which of OPERATIONS; the cases depend on it.
        count: how many; None: without end.
        start: the number of the first, 0 or more.
    """
    for name in operations:
        if name not in OPERATIONS:
            raise ValueError(f"operations must be of {OPERATIONS}, not {name!r}")
    if not operations:
        raise ValueError("operations must not be empty")

    def endless() -> Iterator[Case]:
        number, skip = divmod(start, BLOCK)
        while True:
            yield from islice(block(seed, number, operations), skip, None)
            number, skip = number + 1, 0

    return islice(endless(), count)


def block(seed: int, number: int, operations: Sequence[str]) -> list[Case]:
    """The BLOCK cases from number `number` * BLOCK on."""
    chance = random.Random(f"{seed}/{number}")
    found: list[Case] = []
    while len(found) < BLOCK:
        operation = chance.choice(operations)
        if operation == "receive":
            found += [_receive(chance) for _ in range(_SCENE)]
        elif operation == "send":
            found += _send_scene(chance)
        else:
            found += _verify_scene(chance, "send" in operations)
    return found[:BLOCK]


# --- verify and send ------------------------------------------------------------------------------


def _key(chance: random.Random) -> bytes:
    if chance.random() < 0.03:
        return b""
    return chance.randbytes(chance.choice(_KEY_SIZES))


def _client_data(chance: random.Random) -> bytes | None:
    if chance.random() < 0.05:
        return None
    return chance.randbytes(chance.choice(_CLIENT_DATA_SIZES))


def _numbers(chance: random.Random) -> tuple[int, int, int]:
    if chance.random() < 0.3:
        return (0, 0, 0)
    if chance.random() < 0.5:
        bits = chance.getrandbits(96)
        return (bits >> 64, bits >> 32 & UINT_MAX, bits & UINT_MAX)
    first, second, third = chance.choices(_NUMBERS, k=3)
    return (first, second, third)


def _send_scene(chance: random.Random) -> list[Case]:
    key, who = _key(chance), _client_data(chance)
    return [
        Case("send", key, who, b"", _numbers(chance), chance.choice(_PUSHED)) for _ in range(_SCENE)
    ]


def _verify_scene(chance: random.Random, with_answers: bool) -> list[Case]:
    """A client that comes back, honest or not, and a key that may change on the way."""
    key, who = _key(chance), _client_data(chance)
    mac = hmac.digest(key, who or b"", "sha1")  # 20 bytes, of which the cookie is the first 16
    template = chance.choice(datagrams.FIRST_FRAGMENTS)
    if chance.random() < 0.2:
        template = datagrams.made(chance)
    found: list[Case] = []
    message = b""
    for _ in range(_SCENE):
        before = _numbers(chance)
        kind = chance.random()
        if kind < 0.08 and message:
            pass  # the same datagram once more: a retransmission, or an echo of the network
        elif kind < 0.12:
            size = chance.choice((0, 1, 12, 13, 24, 25, 58, 59, 60, 61, 62, 63, 80, 200))
            message = bytes(size) if chance.random() < 0.5 else chance.randbytes(size)
        else:
            message = _hello(chance, template, mac)
        if kind > 0.97:  # the key changed between the hellos
            found.append(Case("verify", chance.randbytes(16), who, message, before))
            continue
        found.append(Case("verify", key, who, message, before))
        if kind > 0.94 and with_answers:  # the numbers of the hello go into the reply
            record_seq, message_seq = message[7:11], message[17:19]
            answer = (int.from_bytes(record_seq, "big"), 0, int.from_bytes(message_seq, "big"))
            found.append(Case("send", key, who, b"", answer, chance.choice(_PUSHED)))
    return found


def _hello(chance: random.Random, template: bytes, mac: bytes) -> bytes:
    """A hello with a cookie of the right key, and no, one or several faults in it."""
    cookie, session_id, after = mac[:16], b"", None
    faults = chance.random()
    if 0.3 < faults < 0.5:
        cookie = _wrong_cookie(chance, mac)
    if faults > 0.8 or 0.48 < faults < 0.6:
        sizes = (0, 1, 31, 32, 32, 33, 33, 34, 64, 255)
        session_id = chance.randbytes(chance.choice(sizes))
    message = datagrams.with_cookie(template, cookie, session_id)
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


def _wrong_cookie(chance: random.Random, mac: bytes) -> bytes:
    kind = chance.randrange(8)
    good = mac[:16]
    if kind == 0:
        return b""
    if kind == 1:
        return mac[: chance.choice((1, 8, 15))]
    if kind == 2:
        return mac[: chance.choice((17, 20))]
    if kind == 3:
        return mac.ljust(chance.choice((32, 255)), b"\0")
    if kind == 4:
        return chance.randbytes(16)
    if kind == 5:
        return good[::-1]
    place = chance.choice((0, 1, 7, 8, 14, 15)) if kind == 6 else chance.randrange(16)
    return good[:place] + bytes([good[place] ^ (1 << chance.randrange(8))]) + good[place + 1 :]


# --- receive --------------------------------------------------------------------------------------


def _receive(chance: random.Random) -> Case:
    """A datagram for the gate: a hello whole or broken, or what comes by else."""
    current = chance.randbytes(chance.choice([16, 16, 1, 20, 64, 65, 100]))
    previous = chance.randbytes(16) if chance.random() < 0.5 else None
    who = chance.randbytes(chance.choice([0, 16, 28, 128]))
    kind = chance.random()
    if kind < 0.05:
        size = chance.choice([0, 1, 12, 13, 24, 25, 59, 60, 61, 62, 200])
        datagram = chance.randbytes(size)
        if chance.random() < 0.5:
            datagram = b"\x16\xfe\xfd" + datagram
    elif kind < 0.1:
        datagram = chance.choice(datagrams.HELLOS)
    else:
        datagram = datagrams.with_cookie(
            datagrams.made(chance) if kind < 0.3 else chance.choice(datagrams.FIRST_FRAGMENTS),
            _cookie_for(chance, current, previous, who),
        )
        if len(datagram) > 16200 and chance.random() < 0.5:
            length = chance.choice([16383, 16384, 16385])
            datagram = datagrams.of_record_length(length, datagram)
        elif chance.random() < 0.7:
            datagram = datagrams.broken(chance, datagram)
    return Case("receive", current, who, datagram, previous=previous)


def _cookie_for(chance: random.Random, current: bytes, previous: bytes | None, who: bytes) -> bytes:
    kind = chance.randrange(9)
    if kind == 0:
        return b""
    if kind == 1:
        return chance.randbytes(chance.randrange(256))
    if kind == 2:
        return reference.cookie(previous or b"nobody's", who)
    if kind == 3:
        return reference.cookie(current, who + b"x")
    good = reference.cookie(current, who)
    if kind == 4:
        return good[:15]
    if kind == 5:
        return good + b"\0"
    if kind == 6:
        return good[:15] + bytes([good[15] ^ 1])
    return good
