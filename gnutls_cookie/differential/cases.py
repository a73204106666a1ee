"""The cases: what one call of an implementation is given, made by chance and by a seed.

A seed, an operation and a number name a case, whatever else a target can do: each operation has its
own cases 0, 1, 2, ... They are made in blocks of BLOCK, each from the seed, the operation and its
own number, so that one that was seen in a long run can be made again at once. A block holds every
class of classes.py; scenes.py says what it is made of. All operations have the same key and client
in the same scene, and a run asks for scene after scene, of each operation in turn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice, starmap
from typing import Any, NamedTuple

from gnutls_cookie._check import integer, shown

from .scenes import SCENE, SCENES, receive_calls, send_calls, verify_calls

__all__ = [
    "BLOCK",
    "OPERATIONS",
    "SCENE",
    "VECTOR_OPERATIONS",
    "Case",
    "case_of_json",
    "case_of_seed",
    "cases",
    "check_seed",
    "named",
    "operation_names",
]

#: Cases of a block.
BLOCK = SCENES * SCENE
OPERATIONS = ("verify", "send", "receive")
#: Those of vectors; "client" has vectors alone.
VECTOR_OPERATIONS = (*OPERATIONS, "client")

UINT_MAX = 2**32 - 1
_SEED_DIGITS_MAX = 600  # Python writes that many, however it is set (sys.set_int_max_str_digits)
_SSIZE_MIN, _SSIZE_MAX = -(2**63), 2**63 - 1


class Case(NamedTuple):
    """What one call is given.

    Attributes:
        operation: "verify" (gnutls_dtls_cookie_verify), "send" (gnutls_dtls_cookie_send) or
            "receive" (the gate's judgement of a datagram); of vectors also "client" (what a client
            makes of the answer to its first hello), which has a message alone.
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
        if self.operation == "client":
            return {"operation": self.operation, "message": self.message.hex()}
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
        TypeError: text is neither a str nor bytes.
    """
    if not isinstance(text, (str, bytes, bytearray)):
        raise TypeError(f"text must be a str or bytes, not {type(text).__name__}")
    try:
        found = json.loads(text)
        operation = found["operation"]
        if operation not in VECTOR_OPERATIONS:
            raise ValueError(f"operation {operation!r}")
        if operation == "client":
            return Case("client", b"", None, bytes.fromhex(found["message"]))
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
    except KeyError as error:
        raise ValueError(f"not a case: it has no {error}") from None
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a case: {type(error).__name__}: {error}") from None


def check_seed(seed: int) -> int:
    """A seed, which Random is given as text.

    Raises:
        TypeError: it is not an int.
        ValueError: it is of more than 600 digits.
    """
    if abs(integer("seed", seed)) >= 10**_SEED_DIGITS_MAX:
        raise ValueError(f"seed must be of at most {_SEED_DIGITS_MAX} digits")
    return seed


def cases(
    seed: int, operations: Sequence[str] = OPERATIONS, count: int | None = None, start: int = 0
) -> Iterator[Case]:
    """The cases of a run: a scene of each operation in turn, in the order of OPERATIONS.

    Args:
        seed: any int of at most 600 digits.
        operations: which of OPERATIONS, in any order. The cases of one do not depend on the others.
        count: how many; None: without end.
        start: how many of the run to pass over, 0 or more.

    Raises:
        TypeError: an argument is of another type.
        ValueError: one is out of range.
    """
    asked = _in_order(operations)
    check_seed(seed)
    integer("start", start, 0, sys.maxsize)
    if count is not None:
        integer("count", count, 0, sys.maxsize)

    def endless() -> Iterator[Case]:
        size = BLOCK * len(asked)
        number, skip = divmod(start, size)
        while True:
            blocks = [_of_block(seed, number, one) for one in asked]
            scenes = (islice(one, SCENE) for _ in range(SCENES) for one in blocks)
            yield from islice(chain.from_iterable(scenes), skip, None)
            number, skip = number + 1, 0

    return islice(endless(), count)


def named(operations: Sequence[str], place: int) -> tuple[str, int]:
    """Operation and number of the case at a place of a run, as of cases()."""
    asked = _in_order(operations)
    scene, at = divmod(place, SCENE)
    return asked[scene % len(asked)], scene // len(asked) * SCENE + at


def case_of_seed(seed: int, operation: str, number: int) -> Case:
    """The case that these three name.

    Args:
        seed: as for cases().
        operation: one of OPERATIONS.
        number: of the case among those of the operation, 0 or more.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `operation` is not one, or `number` below 0.
    """
    (operation,) = _in_order([operation])
    place, skip = divmod(integer("number", number, 0, sys.maxsize), BLOCK)
    return next(islice(_of_block(check_seed(seed), place, operation), skip, None))


def operation_names(operations: object) -> tuple[str, ...]:
    """The names of operations, whatever they are.

    Raises:
        TypeError: `operations` is not a sequence of names.
    """
    if isinstance(operations, str) or not isinstance(operations, Iterable):
        raise TypeError(f"operations must be a sequence, not {type(operations).__name__}")
    return tuple(operations)


def _in_order(operations: Sequence[str]) -> tuple[str, ...]:
    operations = operation_names(operations)
    for name in operations:
        if name not in OPERATIONS:
            raise ValueError(f"operations must be of {OPERATIONS}, not {shown(name)}")
    if not operations:
        raise ValueError("operations must not be empty")
    return tuple(one for one in OPERATIONS if one in operations)


def _of_block(seed: int, number: int, operation: str) -> Iterator[Case]:
    calls = {"verify": verify_calls, "send": send_calls, "receive": receive_calls}[operation]
    return starmap(partial(Case, operation), calls(seed, number))
