"""The scenes: what a server of one key sees of one client, a call after the other.

A block of cases has the same cast for each operation: a key and a client for each of its scenes,
some of them those of an earlier one, or related to them. What the calls of a scene are made of is
dealt like cards from packs of everything in classes.py, so that all of it comes up in each block.
"""

from __future__ import annotations

import hmac
import random
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

from . import classes, datagrams

__all__ = ["SCENE", "SCENES", "Call", "receive_calls", "send_calls", "verify_calls"]

#: Cases of a scene, and scenes of a block.
SCENE = 12
SCENES = 500

_SSIZE_MIN = -(2**63)
_FOUR_NUMBERS = struct.Struct("=4I")
_PRESTATES_SIZE = 256 * _FOUR_NUMBERS.size  # bytes, of the random ones that are had in one go
#: Scenes of one client in a row: more calls than an 8-bit counter holds.
_LONG_STAY = 23
_STAYS = {SCENES // 5: "failing", SCENES // 2: "passing"}
_TRIES_FOR_A_COOKIE = 600

_Card = TypeVar("_Card")

#: key, client_data, message, prestate, pushed, previous: a Case without its operation.
Call = tuple[
    bytes, bytes | None, bytes, tuple[int, int, int], "int | None", "bytes | None"
]  # fmt: skip
_ZEROS = (0, 0, 0)


class _Pack(Generic[_Card]):
    """Cards that are dealt one by one; when all have been, they are shuffled and dealt again."""

    __slots__ = ("_cards", "_left", "_random")

    def __init__(self, chance: random.Random, cards: Sequence[_Card]) -> None:
        self._random = chance.random
        self._cards = cards
        self._left: list[_Card] = []

    def deal(self) -> _Card:
        if not self._left:
            places = [self._random() for _ in self._cards]  # shuffle() takes three times as long
            order = sorted(range(len(places)), key=places.__getitem__)
            self._left = [self._cards[one] for one in order]
        return self._left.pop()


# --- the cast -------------------------------------------------------------------------------------


class _Role(NamedTuple):
    """Who calls in a scene: the key, the client, the MAC of both, and how long it stays."""

    key: bytes
    who: bytes | None
    mac: bytes
    stays: str = ""  # "failing", "passing": in one of many scenes without a good cookie, or with
    has_look: bool = False  # its cookie has one of COOKIES_THAT


@lru_cache(maxsize=4)
def _cast(seed: int, number: int) -> tuple[_Role, ...]:
    """The roles of a block's scenes."""
    chance = random.Random(f"{seed}/{number}/cast")
    sizes = {name: _Pack(chance, classes.SIZES) for name in ("key", "who")}
    fillings = {name: _Pack(chance, list(classes.FILLINGS.values())) for name in ("key", "who")}
    clients = _Pack(chance, list(classes.CLIENTS.values()))
    related = _Pack(chance, list(classes.RELATED.values()))
    looks = _Pack(chance, list(classes.COOKIES_THAT.values()))
    found: list[_Role] = []

    def data(name: str) -> bytes:
        size = sizes[name].deal()
        if chance.random() < 0.6:
            return chance.randbytes(size)
        return fillings[name].deal()(chance, size)

    while len(found) < SCENES:
        kind = chance.random()
        has_look = False
        who: bytes | None
        if kind < 0.15 and found:
            key, who = related.deal()(
                chance, (earlier := chance.choice(found)).key, earlier.who or b""
            )
        elif kind < 0.23 and found:
            key, who = chance.choice(found)[:2]
            if kind < 0.17:
                key = chance.randbytes(16)
            elif kind < 0.2:
                who = clients.deal()(chance)
        else:
            key = b"" if kind < 0.25 else data("key") if kind < 0.65 else chance.randbytes(16)
            if kind > 0.96:
                who, has_look = _client_whose_cookie(chance, key, looks), True
            elif kind > 0.9:
                who = None
            else:
                who = data("who") if chance.random() < 0.6 else clients.deal()(chance)
        stays = _STAYS.get(len(found), "")
        if stays and not key:
            key = chance.randbytes(16)
        mac = hmac.digest(key, who or b"", "sha1")
        if stays:
            found += [_Role(key, who, mac, stays)] * _LONG_STAY
        found.append(_Role(key, who, mac, has_look=has_look))
    return tuple(found[:SCENES])


def _client_whose_cookie(chance: random.Random, key: bytes, looks: _Pack[Any]) -> bytes:
    """One whose cookie has a look of COOKIES_THAT: most have none of them."""
    look = looks.deal()
    who = b""
    start = chance.getrandbits(64)
    for number in range(start, start + _TRIES_FOR_A_COOKIE):
        who = b"%020d" % number
        if look(hmac.digest(key, who, "sha1")):
            break
    return who


# --- what the operations share --------------------------------------------------------------------


class _Packs:
    """The packs of a block."""

    def __init__(self, chance: random.Random, moves: dict[str, int]) -> None:
        self.chance = chance

        def pack(cards: Sequence[_Card]) -> _Pack[_Card]:
            return _Pack(chance, cards)

        self.moves = pack([name for name, count in moves.items() for _ in range(count)])
        self.presented = pack(list(classes.PRESENTED.values()))
        self.plain = pack(classes.PLAIN)
        self.also_presented = pack(list(classes.PRESENTED.values()))
        self.related = pack([(one, way) for one in classes.RELATED.values() for way in range(3)])
        self.fields = pack(classes.FIELDS)
        self.lengths = pack(classes.LENGTHS)
        self.sizes = pack(classes.MESSAGE_SIZES)
        self.session_ids = pack([(s, end) for s in classes.SESSION_ID_SIZES for end in range(3)])
        self.ends = pack(classes.ENDS)
        self.misplaced = pack(list(classes.MISPLACED.values()))
        self.large = pack(
            [(name, size) for size in classes.LARGE_SIZES for name in ("key", "client_data")]
        )
        self.pushed = pack(classes.PUSHED)
        self.prestates = _prestates(chance)

    def template(self) -> datagrams.Template:
        """A hello, or the first fragment of one."""
        if self.chance.random() < 0.2:
            return datagrams.Template(datagrams.made(self.chance))
        return self.chance.choice(datagrams.TEMPLATES)

    def other(self, key: bytes, who: bytes | None) -> tuple[bytes, bytes, bytes, int]:
        """A related key and client, their MAC, and which of the two cookies goes with which."""
        made, way = self.related.deal()
        key, other = made(self.chance, key, who or b"")
        return key, other, hmac.digest(key, other, "sha1"), way

    def guest(self, key: bytes, who: bytes | None) -> tuple[bytes, bytes | None, bytes]:
        """A large key or client_data, and the MAC."""
        name, size = self.large.deal()
        if name == "key":
            key = self.chance.randbytes(size)
        else:
            who = self.chance.randbytes(size)
        return key, who, hmac.digest(key, who or b"", "sha1")

    def earlier(self, calls: Sequence[Call]) -> Call:
        """One of before: of the same scene, of the last ones, or of long ago."""
        back = min(len(calls), 1 << self.chance.randrange(13))
        return calls[-1 - self.chance.randrange(back)]

    def ending(self, template: datagrams.Template, mac: bytes) -> bytes:
        """A hello that ends near its cookie, which is the right one where it has that size."""
        session_id, cookie, behind = self.ends.deal()
        message = template.filled(mac[:cookie].ljust(cookie, b"\0"), bytes(session_id))
        end = 61 + session_id + cookie + behind
        return message[:end].ljust(end, b"\0")

    def with_field(self, message: bytes) -> bytes:
        """A datagram with another value in one of its header fields."""
        place, new = self.fields.deal()
        return message[:place] + new + message[place + len(new) :]

    def with_length(self, message: bytes) -> bytes:
        """A datagram with a length in it that says more or less than there is."""
        place, size, more = self.lengths.deal()
        said = int.from_bytes(message[place : place + size], "big")
        new = ((said + more) % (1 << 8 * size)).to_bytes(size, "big")
        return message[:place] + new + message[place + size :]

    def sized(self, message: bytes) -> bytes:
        """A datagram of a size that counts: cut, or with more behind it."""
        size = self.sizes.deal()
        return message[:size] if size <= len(message) else message.ljust(size, b"\x2a")


def _prestates(chance: random.Random) -> Iterator[tuple[int, int, int]]:
    """The numbers of a prestate before each call."""
    known, limits = classes.NUMBERS, len(classes.NUMBERS)
    while True:
        for kind, one, two, three in _FOUR_NUMBERS.iter_unpack(chance.randbytes(_PRESTATES_SIZE)):
            percent = kind % 100
            if percent < 30:
                yield _ZEROS
            elif percent < 40:  # the numbers of a hello, for the reply to it
                yield (one, 0, three & 0xFFFF)
            elif percent < 60:
                yield (one, two, three)
            else:
                yield (known[one % limits], known[two % limits], known[three % limits])


def _with_sequences(chance: random.Random, message: bytes) -> bytes:
    """Other sequence numbers: the low bytes count, the high ones do not."""
    new = chance.randbytes(8)
    return b"%b%b%b%b%b" % (message[:5], new[:6], message[11:17], new[6:], message[19:])


# --- gnutls_dtls_cookie_verify --------------------------------------------------------------------

# Of a hundred calls. "good" is an honest one; the others are the methods of that name.
_VERIFY_MOVES = {
    "good": 11, "wrong": 20, "fields": 17, "lengths": 2, "faulty": 5, "ending": 6, "sized": 5,
    "session_id": 5, "misplaced": 2, "again": 5, "earlier": 5, "related": 14, "guest": 1, "junk": 2,
}  # fmt: skip
# Where the right cookie has a look of its own, wrong ones that a look confuses are tried instead.
_NOT_FOR_A_LOOK = ("fields", "lengths", "sized", "ending", "session_id", "related")


def verify_calls(seed: int, number: int) -> Iterator[Call]:
    """The calls of verify of a block: clients that come back, honest or not, and changed keys."""
    chance = random.Random(f"{seed}/{number}/verify")
    packs = _Packs(chance, _VERIFY_MOVES)
    calls: list[Call] = []
    failed = False  # the client of a long stay without success: it has the right cookie now
    for role in _cast(seed, number):
        template = packs.template()
        for _ in range(SCENE):
            move = "good" if failed and not role.stays else packs.moves.deal()
            failed = role.stays == "failing"
            call = _verify_call(packs, move, role, template, calls)
            calls.append(call)
            yield call


def _verify_call(
    packs: _Packs, move: str, role: _Role, template: datagrams.Template, calls: Sequence[Call]
) -> Call:
    chance = packs.chance
    key, who, mac = role.key, role.who, role.mac
    if role.stays == "failing" and move != "junk":
        move = "wrong"
    elif role.stays == "passing":
        move = move if move in ("fields", "lengths") else "good"
    elif not key and move in ("fields", "wrong"):  # it is judged first: nothing else counts
        move = "good"
    elif role.has_look and move in _NOT_FOR_A_LOOK:
        move = "plain"
    if move == "again" and calls:
        key, who, message, *_ = calls[-1]
    elif move == "earlier" and calls:
        key, who, message, *_ = packs.earlier(calls)
    elif move == "wrong":
        cookie = packs.presented.deal()(key, who or b"", mac)
        if cookie == mac[:16] and role.stays == "failing":
            cookie = b""
        message = template.filled(cookie)
    elif move == "plain":
        message = template.filled(packs.plain.deal()(key, who or b"", mac))
    elif move == "fields":
        message = packs.with_field(template.filled(mac[:16]))
    elif move == "lengths":
        message = packs.with_length(template.filled(mac[:16]))
    elif move == "faulty":
        wrong = packs.also_presented.deal()(key, who or b"", mac)
        message = datagrams.faulty(chance, template, mac[:16], wrong)
    elif move == "ending":
        message = packs.ending(template, mac)
    elif move == "sized":
        message = packs.sized(template.filled(mac[:16]))
    elif move == "session_id":
        size, end = packs.session_ids.deal()
        message = template.filled(mac[:16], chance.randbytes(size))
        if end < 2:  # ends with its cookie, or a byte behind it
            message = message[: 61 + size + 16 + end]
    elif move == "misplaced":
        message = packs.misplaced.deal()(template.head, mac[:16])
    elif move == "related":
        key, who, message = _related_call(packs, role, template)
    elif move == "guest":
        key, who, mac = packs.guest(key, who)
        if chance.random() < 0.2:
            mac = mac[:15] + bytes([mac[15] ^ 1])
        message = template.filled(mac[:16])
    elif move == "junk":
        size = packs.sizes.deal()
        message = bytes(size) if chance.random() < 0.5 else chance.randbytes(size)
    else:
        if chance.random() < 0.2:  # the same cookie in another hello
            template = packs.template()
        message = _with_sequences(chance, template.filled(mac[:16]))
    return (key, who, message, next(packs.prestates), None, None)


def _related_call(
    packs: _Packs, role: _Role, template: datagrams.Template
) -> tuple[bytes, bytes | None, bytes]:
    key, who, mac, way = packs.other(role.key, role.who)
    if way == 0:  # the cookie of this role, presented to another key or by another client
        return key, who, template.filled(role.mac[:16])
    message = template.filled(mac[:16])
    return (key, who, message) if way == 1 else (role.key, role.who, message)


# --- gnutls_dtls_cookie_send ----------------------------------------------------------------------

_SEND_MOVES = {"plain": 63, "again": 6, "earlier": 6, "related": 24, "guest": 1}


def send_calls(seed: int, number: int) -> Iterator[Call]:
    """The calls of send of a block: for the clients of verify, and all that push may return."""
    chance = random.Random(f"{seed}/{number}/send")
    packs = _Packs(chance, _SEND_MOVES)
    calls: list[Call] = []
    for role in _cast(seed, number):
        for _ in range(SCENE):
            move = "plain" if role.stays else packs.moves.deal()
            key, who = role.key, role.who
            if move == "again" and calls:
                call = calls[-1]
            elif move == "earlier" and calls:
                call = packs.earlier(calls)
            else:
                if move == "related":
                    key, who, _, _ = packs.other(key, who)
                elif move == "guest":
                    key, who, _ = packs.guest(key, who)
                pushed = -1 if role.stays == "failing" else _pushed(packs)
                call = (key, who, b"", next(packs.prestates), pushed, None)
            calls.append(call)
            yield call


_EXPONENTS = (0, 5, 6, 7, 8, 15, 16, 30, 31, 31, 32, 32, 33, 47, 62, 63)
_NEAR = (-44, -2, -1, 0, 0, 1, 2, 44)


def _pushed(packs: _Packs) -> int | None:
    """A result of push: what is usual, and all that C may narrow to an int in its own way."""
    chance = packs.chance
    kind = chance.random()
    if kind < 0.15:
        return None
    if kind < 0.6:
        return packs.pushed.deal()
    if kind < 0.65:
        return chance.getrandbits(64) + _SSIZE_MIN
    high = 0
    if kind < 0.8:  # any high half over a low half that looks like something
        high = chance.getrandbits(32) << 32
    near = 1 << _EXPONENTS[chance.getrandbits(4)]
    sign = chance.getrandbits(4)
    found = (near if sign & 8 else -near) + _NEAR[sign & 7] + high
    return (found - _SSIZE_MIN) % 2**64 + _SSIZE_MIN


# --- the gate -------------------------------------------------------------------------------------

_RECEIVE_MOVES = {
    "good": 18, "wrong": 16, "fields": 16, "lengths": 3, "broken": 15, "ending": 5, "sized": 5,
    "session_id": 4, "misplaced": 2, "again": 4, "earlier": 4, "related": 12, "guest": 1, "junk": 3,
    "long": 1,
}  # fmt: skip


def receive_calls(seed: int, number: int) -> Iterator[Call]:
    """The calls of the gate of a block: hellos whole or broken, and what comes by else."""
    chance = random.Random(f"{seed}/{number}/receive")
    packs = _Packs(chance, _RECEIVE_MOVES)
    calls: list[Call] = []
    for role in _cast(seed, number):
        if not role.key:  # a gate has no empty key
            key = chance.randbytes(16)
            role = _Role(key, role.who, hmac.digest(key, role.who or b"", "sha1"))
        template = packs.template()
        previous = chance.randbytes(16)
        for _ in range(SCENE):
            call = _receive_call(packs, role, template, previous, calls)
            calls.append(call)
            yield call


def _receive_call(
    packs: _Packs, role: _Role, template: datagrams.Template, previous: bytes, calls: Sequence[Call]
) -> Call:
    chance = packs.chance
    move = packs.moves.deal()
    if role.stays == "failing" and move not in ("wrong", "junk"):
        move = "wrong"
    elif role.has_look and move in _NOT_FOR_A_LOOK:
        move = "plain"
    if move == "again" and calls:
        return calls[-1]
    if move == "earlier" and calls:
        return packs.earlier(calls)
    current, who, mac = role.key, role.who, role.mac
    before: bytes | None = None
    kind = chance.random()
    if move in ("wrong", "session_id", "ending", "misplaced"):
        before = previous if kind < 0.4 else None
    elif kind < 0.15:  # the key was changed: the cookie is of the previous one
        current, before = previous, current
    elif kind < 0.4:
        before = previous
    elif kind < 0.43:
        before = current
    elif kind < 0.46:  # changed twice: gone
        current, before = chance.randbytes(16), previous
    if move == "related":
        key, other, its, way = packs.other(current, who)
        if way == 0:
            current, who = key or current, other
        elif way == 1 and key:
            before, mac = key, its
        else:
            mac = its
    elif move == "guest":
        current, who, mac = packs.guest(current, who)
        if before == b"":
            before = None
    cookie = mac[:16]
    if move == "wrong":
        cookie = packs.presented.deal()(current, who or b"", mac)
    elif move == "plain":
        cookie = packs.plain.deal()(current, who or b"", mac)
    if move == "junk":
        if chance.random() < 0.5:
            datagram = chance.choice(datagrams.HELLOS)
        else:
            datagram = chance.randbytes(packs.sizes.deal())
            if chance.random() < 0.5:
                datagram = b"\x16\xfe\xfd"[: len(datagram)] + datagram[3:]
    elif move == "long":
        length = chance.choice([16383, 16384, 16385])
        datagram = datagrams.of_record_length(length, template.filled(cookie))
    elif move == "session_id":
        size, end = packs.session_ids.deal()
        datagram = template.filled(cookie, chance.randbytes(size))
        if end < 2:
            datagram = datagrams.of_record_length(48 + size + 16 + end, datagram)
    elif move == "ending":
        datagram = packs.ending(template, mac)
        datagram = datagrams.of_record_length(len(datagram) - 13, datagram)
    elif move == "misplaced":
        datagram = packs.misplaced.deal()(template.head, cookie)
        datagram = datagrams.of_record_length(len(datagram) - 13, datagram)
    else:
        datagram = template.filled(cookie)
        if move == "lengths":
            datagram = packs.with_length(datagram)
        elif move == "fields":
            datagram = packs.with_field(datagram)
        elif move == "broken":
            datagram = datagrams.broken(chance, datagram)
        elif move == "sized":
            datagram = packs.sized(datagram)
            if chance.random() < 0.7 and 25 <= len(datagram) <= 16397:
                datagram = datagrams.of_record_length(len(datagram) - 13, datagram)
        elif kind > 0.7:
            datagram = _with_sequences(chance, datagram)
            if (
                chance.random() < 0.7
            ):  # the gate takes 8 bits of message_seq, and 32 of the record's
                datagram = datagram[:17] + b"\0" + datagram[18:]
            if chance.random() < 0.5:
                datagram = datagram[:5] + b"\0\0" + datagram[7:]
    return (current, who, datagram, _ZEROS, None, before)
