"""The smallest case that still shows a difference: fewer bytes, more of them zero, smaller numbers.

Key and client_data are made smaller together with the cookie that follows from them: where a part
of the cookie stands in the datagram, it is replaced by that of the new ones. Otherwise no case with
a good cookie could ever be shrunk.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator

from gnutls_cookie._check import check_callable, integer

from .cases import Case

__all__ = ["shrunk"]

_LEAST_OF_A_COOKIE = 6  # bytes by which a part of a cookie is recognised


def shrunk(case: Case, differs: Callable[[Case], bool], budget: int = 20_000) -> Case:
    """Make a case smaller for as long as it differs.

    At the end no single byte of the datagram, the key or client_data can be left out or made zero,
    unless the budget was used up.

    Args:
        case: one for which differs(case) is true.
        differs: whether a case still shows a difference.
        budget: how often it may be asked, 0 or more.

    Raises:
        TypeError: an argument is of another type.
        ValueError: budget is below 0.
    """
    if not isinstance(case, Case):
        raise TypeError(f"case must be a Case, not {type(case).__name__}")
    check_callable("differs", differs)
    integer("budget", budget, 0)
    left = [budget]

    def takes(candidate: Case) -> bool:
        if left[0] <= 0:
            return False
        left[0] -= 1
        return differs(candidate)

    while left[0] > 0:
        before = case
        for step in (_numbers, _key, _client_data, _previous, _shorter, _emptier):
            case = step(case, takes)
        if case == before:
            break
    return case


_Takes = Callable[[Case], bool]


def _first(case: Case, candidates: Iterator[Case], takes: _Takes) -> Case:
    return next((one for one in candidates if one != case and takes(one)), case)


def _numbers(case: Case, takes: _Takes) -> Case:
    for place in range(3):
        number = case.prestate[place]
        smaller = [one for one in (0, 1, 2**8, 2**16, 2**24, 2**31) if one < number]
        case = _first(case, (_with_number(case, place, one) for one in smaller), takes)
    if case.pushed is not None:
        tried = [None, 0, 44, -1, 2**31, 2**32, 2**32 + 44, -(2**31) - 1, -(2**32), 2**63 - 1]
        rank = tried.index(case.pushed) if case.pushed in tried else len(tried)
        case = _first(case, (case._replace(pushed=one) for one in tried[:rank]), takes)
    return case


def _with_number(case: Case, place: int, number: int) -> Case:
    numbers = list(case.prestate)
    numbers[place] = number
    return case._replace(prestate=(numbers[0], numbers[1], numbers[2]))


def _key(case: Case, takes: _Takes) -> Case:
    smaller = _smaller(case.key, 1 if case.key else 0)
    return _first(case, (_rekeyed(case, one, case.client_data) for one in smaller), takes)


def _client_data(case: Case, takes: _Takes) -> Case:
    if case.client_data is None:
        return _first(case, iter([_rekeyed(case, case.key, b"")]), takes)
    smaller = _smaller(case.client_data, 0)
    return _first(case, (_rekeyed(case, case.key, one) for one in smaller), takes)


def _previous(case: Case, takes: _Takes) -> Case:
    old = case.previous
    if old is None:
        return case

    def candidates() -> Iterator[Case]:
        yield case._replace(previous=None)
        for new in _smaller(old, 1):
            message = _with_cookie_of(case, old, case.client_data, new, case.client_data)
            yield case._replace(previous=new, message=message)

    return _first(case, candidates(), takes)


def _smaller(data: bytes, least: int) -> Iterator[bytes]:
    """Shorter ones first, then those with more zeros."""
    sizes = sorted({least, 1, len(data) // 2, len(data) - 1})
    for size in sizes:
        if least <= size < len(data):
            yield bytes(size)
            yield data[:size]
    if any(data):
        yield bytes(len(data))
        for place, byte in enumerate(data):
            if byte:
                yield data[:place] + b"\0" + data[place + 1 :]


def _rekeyed(case: Case, key: bytes, client_data: bytes | None) -> Case:
    message = _with_cookie_of(case, case.key, case.client_data, key, client_data)
    return case._replace(key=key, client_data=client_data, message=message)


def _with_cookie_of(
    case: Case, key: bytes, client_data: bytes | None, new_key: bytes, new_data: bytes | None
) -> bytes:
    """The datagram with the longest part of the old cookie that is in it replaced by the new."""
    if not case.message or not key or not new_key:
        return case.message
    old = hmac.digest(key, client_data or b"", "sha1")
    new = hmac.digest(new_key, new_data or b"", "sha1")
    for size in range(len(old), _LEAST_OF_A_COOKIE - 1, -1):
        for start in range(len(old) - size + 1):
            part = old[start : start + size]
            if part in case.message:
                return case.message.replace(part, new[start : start + size])
    return case.message


def _shorter(case: Case, takes: _Takes) -> Case:
    """Leave out chunks of the datagram, large ones first (ddmin)."""
    size = len(case.message) // 2
    while size > 0:
        start = 0
        while start < len(case.message):
            message = case.message[:start] + case.message[start + size :]
            candidate = case._replace(message=message)
            if takes(candidate):
                case = candidate
            else:
                start += size
        size //= 2
    return case


def _emptier(case: Case, takes: _Takes) -> Case:
    """Make chunks of the datagram zero, and then single bytes small."""
    size = len(case.message)
    while size > 0:
        for start in range(0, len(case.message), size):
            chunk = case.message[start : start + size]
            if any(chunk):
                message = case.message[:start] + bytes(len(chunk)) + case.message[start + size :]
                candidate = case._replace(message=message)
                if takes(candidate):
                    case = candidate
        size //= 2
    for place, byte in enumerate(case.message):
        for smaller in (1, byte // 2, byte - 1):
            if 0 < smaller < byte:
                message = case.message[:place] + bytes([smaller]) + case.message[place + 1 :]
                candidate = case._replace(message=message)
                if takes(candidate):
                    case = candidate
                    break
    return case
