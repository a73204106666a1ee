"""The wrapper against the pure Python reference: no hostile input tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from gnutls_cookie import GnuTLSError, Prestate, cookie_send, cookie_verify
from gnutls_cookie.cookie import cookie_reply
from gnutls_cookie.reference import cookie as reference

MOST = 300  # bytes of a datagram

UINT = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 255, 256, 2**32 - 1])
PRESTATES = st.tuples(UINT, UINT, UINT)
KEYS = st.binary(min_size=1, max_size=100)
CLIENT_DATA = st.binary(max_size=200)

PUSHED = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-(2**33), 2**33)
    | st.sampled_from(
        [0, 1, 10, 44, 45, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**70]
    )
    | st.sampled_from([-(2**31), -(2**31) - 1, -(2**32), -(2**32) + 44, -(2**63)])
    | st.sampled_from([-(2**63) - 1, -(2**70), True, False, "x", b"", 1.0])
)


class Verification(NamedTuple):
    """The arguments of one cookie_verify."""

    key: bytes
    client_data: bytes
    message: bytes
    before: tuple[int, int, int]


@st.composite
def verifications(draw: st.DrawFn) -> Verification:
    """Random datagrams, and near-valid hellos around the right cookie for these arguments."""
    key, client_data = draw(KEYS), draw(CLIENT_DATA)
    message = draw(near_hellos(reference.cookie(key, client_data)) | st.binary(max_size=MOST))
    return Verification(key, client_data, message, draw(PRESTATES))


@st.composite
def near_hellos(draw: st.DrawFn, good: bytes) -> bytes:
    """A hello that verifies, or one with a fault or several in what verify reads."""
    faults = draw(
        st.sampled_from([(), (), ("cookie",), ("id",), ("lengths",), ("end",), ("cut",)])
        | st.sets(st.sampled_from(["cookie", "id", "lengths", "end", "cut"]))
    )
    head = draw(st.binary(min_size=59, max_size=59))
    session_id = bytes(draw(st.sampled_from([0, 0, 1, 16, 31, 32])))
    cookie, after = good, draw(st.sampled_from([1, 1, 2]) | st.integers(1, 200))
    if "cookie" in faults:
        cookie = draw(
            st.sampled_from([b"", good[:-1], good + b"\0", good * 2, bytes(16)])
            | st.integers(0, 127).map(lambda bit: flipped(good, bit))
            | st.binary(max_size=40)
        )
    if "id" in faults:
        session_id = bytes(draw(st.sampled_from([33, 34, 64, 255])))
    if "end" in faults:
        after = 0
    message = head + length_byte(draw, faults, session_id) + session_id
    message += length_byte(draw, faults, cookie) + cookie + bytes(after)
    if "cut" in faults:
        message = message[: draw(st.integers(0, len(message)))]
    return message[:MOST]


def length_byte(draw: st.DrawFn, faults: Collection[str], data: bytes) -> bytes:
    """The length in front of some bytes; wrong by one, too large or anything among the faults."""
    length = len(data)
    if "lengths" in faults:
        length = draw(st.sampled_from([length, length + 1, length - 1, 255]) | st.integers(0, 255))
    return bytes([length % 256])


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


def code_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result, or the code of the error."""
    try:
        return function(*arguments)
    except (GnuTLSError, reference.CookieError) as error:
        return ("error", error.code)


def numbers(prestate: Any) -> tuple[int, int, int]:
    return prestate.record_seq, prestate.hsk_read_seq, prestate.hsk_write_seq


def verify_agrees(case: Verification) -> str:
    """Error code, identity of the result, and the prestate afterwards, given or made new."""
    key, client_data, message, before = case
    real, pure = Prestate(*before), reference.Prestate(*before)
    of_real = code_of(cookie_verify, key, client_data, message, real)
    of_pure = code_of(reference.cookie_verify, key, client_data, message, pure)
    assert numbers(real) == numbers(pure)
    if of_real is real:
        assert of_pure is pure
        assert cookie_verify(bytearray(key), client_data, memoryview(message)) == real
        return "verified"
    assert of_real == of_pure
    assert numbers(real) == before
    assert code_of(cookie_verify, key, client_data, message) == of_pure
    return str(of_real)


def send_agrees(key: bytes, client_data: bytes, before: tuple[int, int, int], pushed: Any) -> str:
    """Result or error code, the bytes pushed, and the prestate afterwards."""
    real, pure = Prestate(*before), reference.Prestate(*before)
    out: list[list[bytes]] = [[], []]

    def push(transport: list[bytes], data: bytes) -> Any:
        transport.append(data)
        return pushed

    of_real = code_of(cookie_send, key, client_data, real, out[0], push)
    of_pure = code_of(reference.cookie_send, key, client_data, pure, out[1], push)
    assert of_real == of_pure
    assert type(of_real) is type(of_pure)
    assert out[0] == out[1]
    assert len(out[0]) == 1
    assert cookie_reply(key, client_data, real) == out[1][0]
    assert numbers(real) == numbers(pure) == before
    return "sent" if isinstance(of_real, int) else str(of_real)


SHORT = settings(
    max_examples=400, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
LONG = settings(SHORT, max_examples=100_000)

verify_cases = given(verifications())
send_cases = given(KEYS, CLIENT_DATA, PRESTATES, PUSHED)


@SHORT
@verify_cases
def test_verify_is_the_reference(case: Verification) -> None:
    """Some hundred hostile datagrams: result, error code and prestate are the same."""
    event(verify_agrees(case))


@SHORT
@send_cases
@example(b"k", b"", (0, 0, 0), 2**32 + 5)
@example(b"k", b"", (0, 0, 0), -(2**31) - 1)
def test_send_is_the_reference(
    key: bytes, client_data: bytes, before: tuple[int, int, int], pushed: Any
) -> None:
    """Some hundred keys and results of push: result, error code and reply are the same."""
    event(send_agrees(key, client_data, before, pushed))


@pytest.mark.long
@LONG
@verify_cases
def test_verify_is_the_reference_in_100000_examples(case: Verification) -> None:
    """The long run of the same."""
    event(verify_agrees(case))


@pytest.mark.long
@LONG
@send_cases
def test_send_is_the_reference_in_100000_examples(
    key: bytes, client_data: bytes, before: tuple[int, int, int], pushed: Any
) -> None:
    """The long run of the same."""
    event(send_agrees(key, client_data, before, pushed))


@pytest.mark.parametrize("session_id_size", [0, 1, 31, 32, 33, 34, 255])
@pytest.mark.parametrize("cookie_size", [0, 1, 15, 16, 17, 32, 255])
def test_every_length_of_every_shape(session_id_size: int, cookie_size: int) -> None:
    """Each shape of hello cut to each length of 0 to 300 bytes, without chance."""
    key, client_data = b"a key", b"a client"
    cookie = reference.cookie(key, client_data).ljust(cookie_size, b"\0")[:cookie_size]
    message = bytes(range(59)) + bytes([session_id_size]) + bytes(session_id_size)
    message += bytes([cookie_size]) + cookie
    verified = 0
    for size in range(MOST + 1):
        case = Verification(key, client_data, message.ljust(MOST, b"\0")[:size], (1, 2, 3))
        verify_agrees(case)
        verified += code_of(cookie_verify, *case[:3]) == Prestate(10, 18, 0)
    # Good from the first length that holds one byte after the cookie.
    good = cookie_size == 16 and session_id_size <= 32
    assert verified == (MOST - len(message) if good else 0)


def test_the_reference_would_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison notices each quirk: one byte less strict, another code, a touched prestate."""
    original = reference.cookie_verify

    def lenient(key: bytes, who: bytes, message: bytes, prestate: Any = None) -> Any:
        return original(key, who, message + b"\0", prestate)

    def other_code(*arguments: Any) -> Any:
        try:
            return original(*arguments)
        except reference.CookieError as error:
            raise reference.CookieError(error.code - 1) from None

    def touching(key: bytes, who: bytes, message: bytes, prestate: Any = None) -> Any:
        prestate.hsk_write_seq += 1
        return original(key, who, message, prestate)

    for changed in (lenient, other_code, touching):
        monkeypatch.setattr(reference, "cookie_verify", changed)
        with pytest.raises(AssertionError):
            test_every_length_of_every_shape(0, 16)
