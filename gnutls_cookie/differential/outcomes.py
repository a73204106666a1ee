"""What a target may answer, in the one form that is compared, and how odd values are described.

Types count: True is not 1, and 1.0 is not 1. Nothing that a target hands over can make a function
of this file raise, or take more memory than a datagram has.
"""

from __future__ import annotations

import reprlib
from typing import Any, Protocol

from .cases import UINT_MAX, Case

__all__ = [
    "Outcome",
    "Target",
    "TargetDied",
    "TargetHangs",
    "Unusable",
    "Wrong",
    "data_of",
    "described",
    "integer",
    "numbers",
    "one_line",
    "shown",
]

#: ("prestate", (record_seq, hsk_read_seq, hsk_write_seq)): verified, and what is left there.
#: ("sent", result, reply, prestate). ("error", code, reply or b"", prestate).
#: ("challenge", datagram, presented_cookie), ("verified", key_age, prestate),
#: ("discarded", reason). Of a client: ("hello", cookie), ("ignored",), ("failed", code).
#: Of a target alone: ("raised", text), ("wrong", text), ("died", text), ("hangs", text), and None
#: for what it does not tell.
Outcome = tuple[Any, ...]

#: The largest datagram in bytes; what is longer is not an answer.
DATAGRAM_SIZE_MAX = 65535

_TEXT_SIZE_MAX = 300  # characters that are shown of a value or a message


class Unusable(Exception):
    """The target cannot be tested at all; the text says why."""


class TargetDied(Exception):
    """The target's process ended in the middle of a case; the text says how."""


class TargetHangs(Exception):
    """The target gave no answer in the time that it has."""


class Wrong(Exception):
    """An answer that is not one; the text says why."""


class Target(Protocol):
    """Something that answers cases.

    Attributes:
        name: what it is called.
        operations: which of OPERATIONS it answers.
        one_key: whether it does not know of previous keys.
    """

    name: str
    operations: tuple[str, ...]
    one_key: bool

    def answer(self, case: Case) -> Outcome:
        """What it makes of a case.

        Raises:
            TargetDied: its process ended.
            TargetHangs: it gave no answer in time.
        """

    def close(self) -> None:
        """Free what it holds."""


def integer(name: str, value: object, *, bits: int = 64) -> int:
    """The number itself, whatever a subclass of int says of it.

    Raises:
        Wrong: it is not an int, or has more than `bits` bits.
    """
    if type(value) is not int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Wrong(f"{name} is {shown(value)}, not an int")
        value = int.__index__(value)
    if not -(2 ** (bits - 1)) <= value < 2**bits:
        raise Wrong(f"{name} has {value.bit_length()} bits")
    return value


def numbers(record_seq: object, hsk_read_seq: object, hsk_write_seq: object) -> tuple[int, ...]:
    """The three numbers of a prestate.

    Raises:
        Wrong: one is not an int of 0..2**32-1.
    """
    return (
        _uint("record_seq", record_seq),
        _uint("hsk_read_seq", hsk_read_seq),
        _uint("hsk_write_seq", hsk_write_seq),
    )


def _uint(name: str, value: object) -> int:
    if type(value) is int and 0 <= value <= UINT_MAX:
        return value
    number = integer(name, value)
    if not 0 <= number <= UINT_MAX:
        raise Wrong(f"{name} is {shown(number)}, outside of 0..2**32-1")
    return number


def data_of(name: str, value: object) -> bytes:
    """Bytes of a bytes-like object.

    Raises:
        Wrong: it is none, or is longer than a datagram can be.
    """
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        raise Wrong(f"{name} is {shown(value)}, not bytes") from None
    with view:
        if view.nbytes > DATAGRAM_SIZE_MAX:
            raise Wrong(f"{name} has {view.nbytes} bytes")
        return view.tobytes()


def shown(value: object) -> str:
    """A value as a short text."""
    try:
        return one_line(reprlib.repr(value))
    except Exception:
        return f"an object of type {_type_name(value)}"


def described(error: BaseException) -> str:
    """What was raised as a short text of one line."""
    try:
        return one_line(f"{_type_name(error)}: {error}")
    except Exception:
        return f"{_type_name(error)}, whose text cannot be had"


def one_line(text: str) -> str:
    """A text without line ends, control characters and surrogates, cut where it is long."""
    if len(text) > _TEXT_SIZE_MAX:
        text = text[:_TEXT_SIZE_MAX] + "..."
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _type_name(value: object) -> str:
    return type.__dict__["__name__"].__get__(type(value))  # type: ignore[no-any-return]
