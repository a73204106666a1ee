"""The cases as strategies for hypothesis; needs the extra `hypothesis`.

They are put together of small parts, the plain ones first, so that what hypothesis shows at the end
is short: a hello of zeros with a good cookie is the simplest case of verify.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from functools import cache

from hypothesis import strategies as st

from . import classes, datagrams
from .cases import OPERATIONS, UINT_MAX, Case

__all__ = ["any_cases", "client_data", "keys", "receive_cases", "send_cases", "verify_cases"]

_SMALL = 130  # bytes: two blocks of the hash and more
_SIZES = [*classes.SIZES, *classes.LARGE_SIZES]


@cache  # making a strategy takes longer than a draw of it
def keys(empty: bool = False) -> st.SearchStrategy[bytes]:
    """Cookie keys: any bytes, and sizes at which an implementation may do something else.

    Args:
        empty: whether an empty key is among them.
    """
    return st.one_of(st.binary(min_size=0 if empty else 1, max_size=_SMALL), _sized(1))


@cache
def client_data() -> st.SearchStrategy[bytes | None]:
    """What identifies a client: any bytes, NULL, real sockaddrs and texts, large ones."""
    clients = st.builds(
        lambda made, chance: made(chance),
        st.sampled_from(list(classes.CLIENTS.values())),
        st.randoms(use_true_random=False),
    )
    return st.one_of(st.binary(max_size=_SMALL), st.none(), clients, _sized(0))


@cache
def _sized(least: int) -> st.SearchStrategy[bytes]:
    sizes = st.sampled_from([size for size in _SIZES if size >= least])
    return st.builds(lambda size, filling: filling * size, sizes, st.binary(min_size=1, max_size=1))


@cache
def _prestates() -> st.SearchStrategy[tuple[int, int, int]]:
    number = st.one_of(st.integers(0, UINT_MAX), st.sampled_from(classes.NUMBERS))
    return st.tuples(number, number, number)


@cache
def _pushed() -> st.SearchStrategy[int | None]:
    integers = st.integers(-(2**63), 2**63 - 1)
    return st.one_of(st.none(), st.sampled_from(classes.PUSHED), integers)


@cache
def _presented() -> st.SearchStrategy[classes.Presented]:
    return st.sampled_from(list(classes.PRESENTED.values()))


@cache
def _fields() -> st.SearchStrategy[tuple[int, bytes]]:
    return st.sampled_from(classes.FIELDS)


@st.composite
def verify_cases(draw: st.DrawFn) -> Case:
    """Cases of gnutls_dtls_cookie_verify: hellos around a good cookie, or another one, and cut."""
    key, who = draw(keys(empty=True)), draw(client_data())
    message = draw(_messages(key, who, st.binary(min_size=59, max_size=59)))
    return Case("verify", key, who, message, draw(_prestates()))


@st.composite
def send_cases(draw: st.DrawFn) -> Case:
    """Cases of gnutls_dtls_cookie_send, with all that a push function may return."""
    key, who = draw(keys(empty=True)), draw(client_data())
    return Case("send", key, who, b"", draw(_prestates()), draw(_pushed()))


@st.composite
def receive_cases(draw: st.DrawFn) -> Case:
    """Cases of the gate: hellos of real clients, made ones, and what is broken of them."""
    key, who = draw(keys()), draw(client_data())
    previous = draw(st.one_of(st.none(), keys()))
    of = previous if previous is not None and draw(st.booleans()) else key
    cookie = draw(_cookies(of, who))
    template = draw(st.sampled_from(datagrams.TEMPLATES))
    message = template.filled(cookie, draw(st.one_of(st.just(b""), st.binary(max_size=40))))
    return Case("receive", key, who, draw(_changed(message)), previous=previous)


def any_cases(operations: Sequence[str] = OPERATIONS) -> st.SearchStrategy[Case]:
    """Cases of any of the operations.

    Args:
        operations: which of OPERATIONS.

    Example:
        >>> from hypothesis import given
        >>> @given(any_cases(["verify"]))
        ... def test_my_verify(case):
        ...     assert case.operation == "verify"
    """
    of = {"verify": verify_cases, "send": send_cases, "receive": receive_cases}
    if not operations or not set(operations) <= set(of):
        raise ValueError(f"operations must be of {OPERATIONS}, not {operations!r}")
    return st.one_of([of[one]() for one in OPERATIONS if one in operations])


def _cookies(key: bytes, who: bytes | None) -> st.SearchStrategy[bytes]:
    mac = hmac.digest(key, who or b"", "sha1")
    presented = _presented().map(lambda made: made(key, who or b"", mac))
    return st.one_of(st.just(mac[:16]), presented, st.binary(max_size=255))


@st.composite
def _messages(
    draw: st.DrawFn, key: bytes, who: bytes | None, heads: st.SearchStrategy[bytes]
) -> bytes:
    head = draw(st.one_of(st.just(bytes(59)), heads))
    session_id = draw(st.binary(max_size=40))
    cookie = draw(_cookies(key, who))
    behind = draw(st.one_of(st.just(b"\0"), st.binary(max_size=20)))
    whole = b"%b%c%b%c%b%b" % (head, len(session_id), session_id, len(cookie), cookie, behind)
    return draw(_changed(whole))


@st.composite
def _changed(draw: st.DrawFn, message: bytes) -> bytes:
    """The datagram as it is, cut, or with a field or some bytes changed."""
    kind = draw(st.sampled_from(("plain", "cut", "field", "byte", "more")))
    if kind == "cut":
        return message[: draw(st.integers(0, len(message)))]
    if kind == "field":
        place, new = draw(_fields())
        return message[:place] + new + message[place + len(new) :]
    if kind == "byte" and message:
        place = draw(st.integers(0, len(message) - 1))
        return message[:place] + draw(st.binary(min_size=1, max_size=1)) + message[place + 1 :]
    if kind == "more":
        return message + draw(st.binary(max_size=60))
    return message
