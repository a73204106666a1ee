"""Checks of the arguments that callers give, by one rule. Each error names the argument.

- TypeError: the argument is of another type. A bool is neither an int nor a number of seconds.
- OverflowError: the field of C that takes the number, or the size, cannot hold it.
- ValueError: every other value that is out of range. NaN always is; infinity is where there is an
  upper limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "INT_MAX",
    "UINT_MAX",
    "bytes_copy",
    "check_callable",
    "check_key_size",
    "fits",
    "flag",
    "integer",
    "items",
    "seconds",
    "seconds_to_wait",
    "shown",
    "text",
    "utf8",
]

INT_MAX = 0x7FFFFFFF
UINT_MAX = 0xFFFFFFFF

T = TypeVar("T")

_FOREVER_SECONDS = 10**9  # thirty years; a longer wait has no end
_TEXT_MAX_BYTES = 0xFFFF


def integer(name: str, value: object, least: int | None = None, most: int | None = None) -> int:
    """An int in least..most, or of `least` and more, or any.

    Raises:
        TypeError: the argument `name` is not an int.
        ValueError: it is out of range.
    """
    number = _int(name, value)
    if least is not None and (number < least or (most is not None and number > most)):
        wanted = f"at least {least}" if most is None else f"in {least}..{most}"
        raise ValueError(f"{name} must be {wanted}, not {_shown(number)}")
    return number


def fits(name: str, value: object, most: int) -> int:
    """An int in 0..most, which is all that an unsigned field of C holds.

    Raises:
        TypeError: the argument `name` is not an int.
        OverflowError: the field cannot hold it.
    """
    number = value if type(value) is int else _int(name, value)
    if not 0 <= number <= most:
        raise OverflowError(f"{name} must be in 0..{most}, not {_shown(number)}")
    return number


def flag(name: str, value: object) -> bool:
    """True or False; not what is merely true: "no" is.

    Raises:
        TypeError: the argument `name` is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
    return value


def check_callable(name: str, value: object) -> None:
    """What can be called.

    Raises:
        TypeError: the argument `name` is something else.
    """
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")


def items(name: str, value: Iterable[object], kind: type[T]) -> Iterator[T]:
    """Things of one kind, each judged as it is taken.

    Raises:
        TypeError: the argument `name` is not iterable, or one of them is of another kind.
    """
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} must be iterable, not {type(value).__name__}")
    for one in value:
        if not isinstance(one, kind):
            raise TypeError(f"{name} must be of {kind.__name__}s, not {type(one).__name__}")
        yield one


def seconds(name: str, value: object, least: float, most: float) -> float:
    """A number of seconds in least..most.

    Raises:
        TypeError: the argument `name` is neither an int nor a float.
        ValueError: it is NaN, or out of range.
    """
    number = _seconds(name, value)
    is_huge = isinstance(value, int) and math.isinf(number)
    if is_huge or not least <= number <= most:
        said = _shown(value) if isinstance(value, int) else number
        raise ValueError(f"{name} must be in {least:.15g}..{most:.15g} seconds, not {said}")
    return number


def seconds_to_wait(name: str, value: object, least: float = -math.inf) -> float | None:
    """The seconds to wait, 0 and more; None: forever.

    None, infinity and numbers above 10**9 (thirty years) wait forever. A number below 0 is 0,
    unless it is below `least`.

    Raises:
        TypeError: the argument `name` is neither an int, a float nor None.
        ValueError: it is NaN, or below `least`.
    """
    if value is None:
        return None
    number = _seconds(name, value)
    if not number >= least:
        if number != number:
            raise ValueError(f"{name} must be a number of seconds, not NaN")
        raise ValueError(f"{name} must be at least {least:.15g} seconds, not {number}")
    return None if number > _FOREVER_SECONDS else max(number, 0.0)


def bytes_copy(
    name: str, value: Buffer, check_size: Callable[[str, int], None] | None = None
) -> bytes:
    """A copy of a bytes-like object, to keep; `check_size` gets its size before it is copied.

    Raises:
        TypeError: the argument `name` is not bytes-like.
    """
    try:
        memory = memoryview(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name} must be a bytes-like object, not {kind}") from None
    with memory:
        if check_size is not None:
            check_size(name, memory.nbytes)
        return bytes(memory)


def check_key_size(name: str, size: int) -> None:
    """The size of a cookie key: it goes through an int in lib/dtls.c, where a longer key crashes.

    Raises:
        OverflowError: it is above 2**31-1 bytes.
    """
    if size > INT_MAX:
        raise OverflowError(f"{name} must be of at most 2**31-1 bytes, not {size}")


def text(name: str, value: object) -> str:
    """A str, of any size.

    Raises:
        TypeError: the argument `name` is something else.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return value


def utf8(name: str, value: object, *, least: int = 1) -> bytes:
    """A str for C: UTF-8 (undecodable bytes come back as they were), without NUL, and at most 65535
    bytes.

    Raises:
        TypeError: the argument `name` is not a str.
        ValueError: it contains NUL or lone surrogates, or has too few or too many bytes.
    """
    try:
        raw = text(name, value).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be text that UTF-8 can write") from None
    if b"\0" in raw:
        raise ValueError(f"{name} must not contain NUL")
    if not least <= len(raw) <= _TEXT_MAX_BYTES:
        raise ValueError(f"{name} must be of {least}..{_TEXT_MAX_BYTES} bytes, not {len(raw)}")
    return raw


def _int(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    return int.__index__(value)  # the number itself, whatever a subclass says of it


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:  # an int beyond every float
        return math.inf if value > 0 else -math.inf


def shown(value: object) -> str:
    """The value for an error, unless it is a number that Python refuses to write."""
    try:
        return repr(value)
    except ValueError:
        return f"that {type(value).__name__}"


def _shown(number: int) -> str:
    if abs(number) < 10**300:
        return str(int(number))
    return "a larger number" if number > 0 else "a smaller number"
