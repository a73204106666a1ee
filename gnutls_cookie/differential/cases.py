"""The cases: what one call of an implementation is given, made by chance and by a seed.

A seed, an operation and a number name a case for ever, whatever else a target can do: each
operation has its own cases 0, 1, 2, ... They are made in blocks of BLOCK, each from the seed, the
operation and its own number, so that one that was seen in a long run can be made again at once. A
block is made of scenes: some calls with one key and one client, as a server sees them, in which a
hello is sent again, the key changes, and numbers of a datagram go into the reply. "verify" and
"send" have the same key and client in the same scene, and a run asks for scene after scene, of each
operation in turn.
"""

from __future__ import annotations

import hmac
import json
import random
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from gnutls_cookie.reference import cookie as reference

from . import datagrams

__all__ = ["BLOCK", "OPERATIONS", "SCENE", "Case", "case_of_json", "case_of_seed", "cases", "named"]

#: Cases of a scene, and of a block.
SCENE = 12
BLOCK = 100 * SCENE
OPERATIONS = ("verify", "send", "receive")

UINT_MAX = 2**32 - 1
_SSIZE_MIN, _SSIZE_MAX = -(2**63), 2**63 - 1
_KEY_SIZES = (16, 16, 16, 16, 1, 20, 63, 64, 65, 1000)
_CLIENT_DATA_SIZES = (16, 16, 28, 28, 128, 0, 1, 64, 300)
_NUMBERS = (0, 0, 0, 1, 2, 255, 256, 257, 65535, 65536, 2**31, UINT_MAX)


class Case(NamedTuple):
    """What one call is given.

    Attributes:
        operation: "verify" (gnutls_dtls_cookie_verify), "send" (gnutls_dtls_cookie_send) or
            "receive" (the gate's judgement of a datagram).
        key: the cookie key; for "receive" the current one.
        client_data: what identifies the client; None is NULL.
        message: "verify", "receive": the datagram. "send": empty.
        prestate: record_seq, hsk_read_seq and hsk_write_seq before the call. "receive": zeros.
        pushed: "send": what the push function returns, -2**63..2**63-1; None stands for the
            number of bytes that it is given.
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
        first, second, third = found.get("prestate") or (0, 0, 0)
        numbers = (first, second, third)
        if any(type(one) is not int or not 0 <= one <= UINT_MAX for one in numbers):
            raise ValueError(f"prestate {numbers!r}")
        if pushed is not None and (
            type(pushed) is not int or not _SSIZE_MIN <= pushed <= _SSIZE_MAX
        ):
            raise ValueError(f"pushed {pushed!r} is not an ssize_t")
        case = Case(
            operation,
            bytes.fromhex(found["key"]),
            None if who is None else bytes.fromhex(who),
            bytes.fromhex(found.get("message", "")),
            numbers,
            pushed,
            None if previous is None else bytes.fromhex(previous),
        )
        if operation == "receive" and (case.key == b"" or case.previous == b""):
            raise ValueError("a gate has no empty key")
        return case
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"no case: {type(error).__name__}: {error}") from None


def cases(
    seed: int, operations: Sequence[str] = OPERATIONS, count: int | None = None, start: int = 0
) -> Iterator[Case]:
    """The cases of a run: a scene of each operation in turn, in the order of OPERATIONS.

    Args:
        seed: any number.
        operations: which of OPERATIONS, in any order. The cases of one do not depend on the others.
        count: how many; None: without end.
        start: how many of the run to pass over, 0 or more.
    """
    asked = _in_order(operations)

    def endless() -> Iterator[Case]:
        size = BLOCK * len(asked)
        number, skip = divmod(start, size)
        while True:
            blocks = [block(seed, number, one) for one in asked]
            scenes = (
                one[first : first + SCENE] for first in range(0, BLOCK, SCENE) for one in blocks
            )
            yield from islice(chain.from_iterable(scenes), skip, None)
            number, skip = number + 1, 0

    return islice(endless(), count)


def named(operations: Sequence[str], place: int) -> tuple[str, int]:
    """Operation and number of the case at a place of a run, as of cases()."""
    asked = _in_order(operations)
    scene, at = divmod(place, SCENE)
    return asked[scene % len(asked)], scene // len(asked) * SCENE + at


def case_of_seed(seed: int, operation: str, number: int) -> Case:
    """The case that these three name."""
    (operation,) = _in_order([operation])
    return next(islice(_of_block(seed, number // BLOCK, operation), number % BLOCK, None))


def _in_order(operations: Sequence[str]) -> tuple[str, ...]:
    for name in operations:
        if name not in OPERATIONS:
            raise ValueError(f"operations must be of {OPERATIONS}, not {name!r}")
    if not operations:
        raise ValueError("operations must not be empty")
    return tuple(one for one in OPERATIONS if one in operations)


def block(seed: int, number: int, operation: str) -> list[Case]:
    """The cases of an operation from number `number` * BLOCK on."""
    return list(islice(_of_block(seed, number, operation), BLOCK))


def _of_block(seed: int, number: int, operation: str) -> Iterator[Case]:
    chance = random.Random(f"{seed}/{number}/{operation}")
    if operation == "receive":
        while True:
            yield _receive(chance)
    who = random.Random(f"{seed}/{number}")
    scene = _send_scene if operation == "send" else _verify_scene
    while True:
        yield from scene(chance, _key(who), _client_data(who))


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
    kind = chance.random()
    if kind < 0.3:
        return (0, 0, 0)
    if kind < 0.4:  # the numbers of a hello, for the reply to it
        return (chance.getrandbits(32), 0, chance.getrandbits(16))
    if kind < 0.65:
        bits = chance.getrandbits(96)
        return (bits >> 64, bits >> 32 & UINT_MAX, bits & UINT_MAX)
    first, second, third = chance.choices(_NUMBERS, k=3)
    return (first, second, third)


def _send_scene(chance: random.Random, key: bytes, who: bytes | None) -> list[Case]:
    return [Case("send", key, who, b"", _numbers(chance), _pushed(chance)) for _ in range(SCENE)]


def _pushed(chance: random.Random) -> int | None:
    """A result of push: what is usual, and all that C may narrow to an int in its own way."""
    kind = chance.random()
    if kind < 0.3:
        return None if kind < 0.15 else chance.choice((44, 44, 0, 1, 43, 45, -1, -2, -44, -214))
    if kind < 0.4:
        return chance.getrandbits(64) + _SSIZE_MIN
    high = 0
    if kind < 0.55:  # any high half over a low half that looks like something
        high = chance.getrandbits(32) << 32
    near = 1 << chance.choice((0, 5, 6, 7, 8, 15, 16, 30, 31, 31, 31, 32, 32, 32, 33, 47, 62, 63))
    if kind > 0.9:
        near = 1 << chance.randrange(64)
    found = chance.choice((-1, 1)) * near + chance.choice((-44, -2, -1, 0, 0, 1, 2, 44)) + high
    return (found - _SSIZE_MIN) % 2**64 + _SSIZE_MIN


def _verify_scene(chance: random.Random, key: bytes, who: bytes | None) -> list[Case]:
    """A client that comes back, honest or not, and a key that may change on the way."""
    mac = hmac.digest(key, who or b"", "sha1")  # 20 bytes, of which the cookie is the first 16
    template = chance.choice(datagrams.FIRST_FRAGMENTS)
    if chance.random() < 0.2:
        template = datagrams.made(chance)
    found: list[Case] = []
    message = b""
    for _ in range(SCENE):
        before = _numbers(chance)
        kind = chance.random()
        if kind < 0.08 and message:
            pass  # the same datagram once more: a retransmission, or an echo of the network
        elif kind < 0.12:
            size = chance.choice((0, 1, 12, 13, 24, 25, 58, 59, 60, 61, 62, 63, 80, 200))
            message = bytes(size) if chance.random() < 0.5 else chance.randbytes(size)
        else:
            message = _hello(chance, template, mac)
        changed = kind > 0.97  # the key, between the hellos
        found.append(Case("verify", chance.randbytes(16) if changed else key, who, message, before))
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
