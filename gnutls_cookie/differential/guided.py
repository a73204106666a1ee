"""Cases made of those that made a target do something new: the search goes where its code leads.

A round has some of the seed's cases, and changed ones: each is one that has reached an instruction
of the target that none before it had, with a few of its bytes or numbers changed, often to
constants of the target's code. What a round is made of depends on the seed and on the rounds before
it alone, so that a run can be repeated, and any part of one made again.
"""

from __future__ import annotations

import hmac
import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from .cases import SCENE, UINT_MAX, Case, cases, named
from .classes import NUMBERS, PUSHED

__all__ = ["ROUND", "Guided"]

#: Cases of a round, and how many of them are the seed's: two scenes.
ROUND = 96
_OF_SEED = 2 * SCENE

_SIZE_MAX = 65535  # bytes
_KEPT_MAX = 4096  # cases
_LATEST_RATE = 0.75  # of the changed cases are made of a late one: each half as often as the next
_INT_SIZES = (1, 2, 3, 4, 6, 8)  # bytes of a number in a datagram
_FEW = 4  # bytes
_TIMES = (1, 1, 1, 1, 2, 2, 4, 8)  # that a field is changed
_SSIZE_MIN, _SSIZE_MAX = -(2**63), 2**63 - 1

_FIELDS = {
    "verify": ("key", "client_data", "message", "prestate"),
    "send": ("key", "client_data", "prestate", "pushed"),
    "receive": ("key", "client_data", "message", "previous"),
}


class _Kept(NamedTuple):
    place: int  # in the run
    case: Case
    constants: list[bytes | int]


class Guided:
    """The cases of a guided run, a source of harness.py.

    Args:
        seed: any number.
        operations: which of OPERATIONS.
        count: how many cases.
    """

    def __init__(self, seed: int, operations: tuple[str, ...], count: int) -> None:
        self.seed = seed
        self.count = count
        self._operations = operations
        self._reached: set[int] = set()
        self._kept: list[_Kept] = []

    def number(self, place: int) -> int:
        """The number of the seed's case at a place; -1: it is a changed one, without a name."""
        number, at = divmod(place, ROUND)
        return named(self._operations, number * _OF_SEED + at)[1] if at < _OF_SEED else -1

    def saw(self, place: int, case: Case, news: bytes) -> None:
        """Hear what a case has reached, in the order in which the cases are.

        Args:
            place: of the case in the run; -1 where it is not of the run.
            case: that one.
            news: as of Reached.news(). The target may have written anything there.
        """
        try:
            places, constants = json.loads(news)
            new = {int(one) for one in places} - self._reached
            known = [one if isinstance(one, int) else bytes.fromhex(one) for one in constants]
        except (ValueError, TypeError, RecursionError):
            return
        if new and len(self._kept) < _KEPT_MAX and case.operation in self._operations:
            self._reached |= new
            self._kept.append(_Kept(place, case, known))

    def cases(self, start: int) -> Iterator[Case]:
        """Those from a place on; a round is made when its first case is asked for."""
        number, skip = divmod(start, ROUND)
        upcoming = cases(self.seed, self._operations, None, number * _OF_SEED)
        while number * ROUND < self.count:
            found = self._round(number, list(islice(upcoming, _OF_SEED)))
            yield from found[skip : self.count - number * ROUND]
            number, skip = number + 1, 0

    def _round(self, number: int, of_seed: list[Case]) -> list[Case]:
        chance = random.Random(f"{self.seed}/{number}/guided")
        known = [one for one in self._kept if one.place < number * ROUND]
        bases = [one.case for one in known] or of_seed
        constants = list(dict.fromkeys(value for one in known for value in one.constants))
        change = _Change(chance, constants, bases)
        made = list(of_seed)
        while len(made) < ROUND:
            back = chance.randrange(len(bases))
            if chance.random() < _LATEST_RATE:
                back = min(_leading_zeros(chance), len(bases) - 1)
            made.append(change.of(bases[-1 - back]))
        return made


def _leading_zeros(chance: random.Random) -> int:
    return 32 - chance.getrandbits(32).bit_length()


class _Change:
    """Changes a case."""

    def __init__(
        self, chance: random.Random, constants: Sequence[bytes | int], others: Sequence[Case]
    ) -> None:
        self._chance = chance
        self._constants = constants
        self._numbers = [one for one in constants if isinstance(one, int)]
        self._sizes = [one for one in self._numbers if 0 <= one <= _SIZE_MAX]
        self._others = others

    def of(self, case: Case) -> Case:
        """One with one or two of its fields changed, once or several times."""
        chance = self._chance
        fields = _FIELDS[case.operation]
        macs = [_cookie(key, case) for key in (case.key, case.previous) if key is not None]
        found = case
        for name in chance.sample(fields, chance.choice((1, 1, 1, 2))):
            for _ in range(chance.choice(_TIMES)):
                found = self._changed(found, name)
        at, mac = next(
            ((place, mac) for mac in macs if (place := case.message.find(mac)) >= 0), (-1, b"")
        )
        moved = found.key != case.key or found.client_data != case.client_data
        if at >= 0 and moved and found.message == case.message and chance.random() < 0.8:
            right = _cookie(found.key, found)
            message = case.message[:at] + right + case.message[at + len(mac) :]
            found = found._replace(message=message)
        return found

    def _changed(self, case: Case, name: str) -> Case:
        chance = self._chance
        if name == "prestate":
            numbers = list(case.prestate)
            which = chance.randrange(3)
            numbers[which] = self._number(numbers[which], NUMBERS) & UINT_MAX
            return case._replace(prestate=(numbers[0], numbers[1], numbers[2]))
        if name == "pushed":
            if chance.random() < 0.1:
                return case._replace(pushed=None)
            number = self._number(case.pushed or 0, PUSHED)
            return case._replace(pushed=min(max(number, _SSIZE_MIN), _SSIZE_MAX))
        given: bytes | None = getattr(case, name)
        if name == "client_data" and chance.random() < 0.05:
            return case._replace(client_data=None)
        if name == "previous" and chance.random() < 0.3:
            return case._replace(previous=None if given is not None else case.key)
        data = self._data(given or b"", name)[:_SIZE_MAX]
        if not data and case.operation == "receive" and name in ("key", "previous"):
            data = b"\0"  # a gate has no empty key
        if name == "key":
            return case._replace(key=data)
        if name == "previous":
            return case._replace(previous=data)
        return (
            case._replace(client_data=data)
            if name == "client_data"
            else case._replace(message=data)
        )

    def _number(self, number: int, usual: Sequence[int]) -> int:
        chance = self._chance
        kind = chance.randrange(4)
        if kind == 0 and self._numbers:
            return chance.choice(self._numbers) + chance.choice((-1, 0, 0, 1))
        if kind == 1:
            return number ^ (1 << chance.randrange(32))
        if kind == 2:
            return number + chance.choice((-1, 1))
        return chance.choice(usual)

    def _data(self, data: bytes, name: str) -> bytes:
        chance = self._chance
        change = chance.choice(_CHANGES)
        return change(self, data, name)

    def _place(self, size: int) -> int:
        """A place in data: near the start or the end, or one that the code names."""
        chance = self._chance
        if self._sizes and chance.random() < 0.3:
            place = chance.choice(self._sizes)
            if place < size:
                return place
        if size <= 1:
            return 0
        near = min(size, 1 << chance.randrange(1, 8))
        place = chance.randrange(near)
        return place if chance.random() < 0.75 else size - 1 - place

    def _byte(self, data: bytes, name: str) -> bytes:
        return self._put(data, bytes([self._chance.getrandbits(8)]))

    def _bit(self, data: bytes, name: str) -> bytes:
        if not data:
            return data
        place = self._place(len(data))
        other = data[place] ^ 1 << self._chance.randrange(8)
        return data[:place] + bytes([other]) + data[place + 1 :]

    def _mixed(self, data: bytes, name: str) -> bytes:
        """Many bytes at once."""
        chance = self._chance
        kept = chance.choice((0.5, 0.9))
        other = chance.randbytes(len(data))
        return bytes(
            one if chance.random() < kept else new for one, new in zip(data, other, strict=True)
        )

    def _constant(self, data: bytes, name: str) -> bytes:
        return self._put(data, self._any_constant())

    def _whole(self, data: bytes, name: str) -> bytes:
        """The constant alone, before or behind."""
        one = self._any_constant()
        return self._chance.choice((one, one + data, data + one))

    def _resized(self, data: bytes, name: str) -> bytes:
        chance = self._chance
        size = chance.choice(self._sizes) if self._sizes and chance.random() < 0.6 else len(data)
        size = max(0, size + chance.choice((-1, 0, 1)))
        return data[:size].ljust(size, b"\x2a")

    def _inserted(self, data: bytes, name: str) -> bytes:
        place = self._place(len(data) + 1)
        return data[:place] + self._chance.randbytes(self._chance.randint(1, _FEW)) + data[place:]

    def _left_out(self, data: bytes, name: str) -> bytes:
        place = self._place(len(data))
        return data[:place] + data[place + self._chance.randint(1, _FEW) :]

    def _of_other(self, data: bytes, name: str) -> bytes:
        other = getattr(self._chance.choice(self._others), name)
        return data if other is None else bytes(other)

    def _any_constant(self) -> bytes:
        """A constant as bytes, a number in any size that holds it."""
        chance = self._chance
        if not self._constants:
            return chance.randbytes(chance.choice(_INT_SIZES))
        one = chance.choice(self._constants)
        if isinstance(one, bytes):
            return one
        one %= 1 << 64
        sizes = [size for size in _INT_SIZES if one < 1 << 8 * size]
        return one.to_bytes(sizes[0] if chance.random() < 0.6 else chance.choice(sizes),
                            "big" if chance.random() < 0.8 else "little")  # fmt: skip

    def _put(self, data: bytes, new: bytes) -> bytes:
        place = self._place(len(data))
        return data[:place] + new + data[place + len(new) :]


_CHANGES: Sequence[Callable[[_Change, bytes, str], bytes]] = (
    _Change._byte, _Change._byte, _Change._mixed, _Change._mixed, _Change._bit, _Change._constant,
    _Change._constant, _Change._whole, _Change._resized, _Change._inserted, _Change._left_out,
    _Change._of_other,
)  # fmt: skip


def _cookie(key: bytes, case: Case) -> bytes:
    return hmac.digest(key, case.client_data or b"", "sha1")[:16]
