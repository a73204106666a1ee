"""gnutls_cookie.reference.cookie: known answers of libgnutls, and every boundary of its checks."""

from __future__ import annotations

import copy
import pickle

import pytest

from gnutls_cookie.reference.cookie import (
    COOKIE_SIZE,
    GNUTLS_E_BAD_COOKIE,
    GNUTLS_E_INVALID_REQUEST,
    GNUTLS_E_PUSH_ERROR,
    GNUTLS_E_UNEXPECTED_PACKET_LENGTH,
    HELLO_VERIFY_REQUEST_SIZE,
    CookieError,
    Prestate,
    cookie,
    cookie_send,
    cookie_verify,
)
from gnutls_cookie.reference.wire import HelloVerifyRequest, client_hello

KEY = bytes(range(16))
CLIENT_DATA = bytes(range(100, 116))

# printf 6465666768696a6b6c6d6e6f70717273 | xxd -r -p |
#   openssl dgst -sha1 -mac HMAC -macopt hexkey:000102030405060708090a0b0c0d0e0f | cut -c-45
COOKIE = bytes.fromhex("573893d8fbb31b3b5733af72b449bea9")
# printf '' | openssl dgst -sha1 -mac HMAC -macopt hexkey:000102030405060708090a0b0c0d0e0f
COOKIE_OF_NOTHING = bytes.fromhex("5433122f77bcf8a4d9b874b4149823ef")

UNTOUCHED = Prestate(7, 8, 9)


def code_of_verify(
    message: bytes, key: bytes = KEY, client_data: bytes | None = CLIENT_DATA
) -> int:
    """Run cookie_verify as C would see it: 0 or the error, and the prestate kept on error."""
    prestate = copy.copy(UNTOUCHED)
    try:
        result = cookie_verify(key, client_data, message, prestate)
    except CookieError as error:
        assert prestate == UNTOUCHED
        return error.code
    assert result is prestate
    return 0


def message_with(cookie_field: bytes, session_id: bytes = b"", tail: bytes = b"\x00") -> bytes:
    """Build the fixed offsets that verify reads: 59 numbered bytes, then the two fields."""
    fields = bytes([len(session_id)]) + session_id + bytes([len(cookie_field)]) + cookie_field
    return bytes(range(59)) + fields + tail


def send_all(transport: list[bytes], data: bytes) -> None:
    """A push that keeps what it is given and says nothing: all sent."""
    transport.append(data)


def test_cookie_is_the_known_answer() -> None:
    """The cookie of OpenSSL's HMAC, which libgnutls makes too."""
    assert cookie(KEY, CLIENT_DATA) == COOKIE
    assert len(COOKIE) == COOKIE_SIZE


def test_no_client_data_is_empty_client_data() -> None:
    """NULL with size 0, as real servers pass it."""
    assert cookie(KEY, None) == cookie(KEY, b"") == COOKIE_OF_NOTHING


# for n in 1 64 65 1000; do printf 6465666768696a6b6c6d6e6f70717273 | xxd -r -p | openssl dgst
#   -sha1 -mac HMAC -macopt hexkey:$(printf '61%.0s' $(seq $n)) | cut -c-45; done
@pytest.mark.parametrize(
    ("size", "answer"),
    [
        (1, "9c6f0158a27f2ad15fb396c7a9e7c918"),
        (64, "9948cecfb614b11ab7c2dc0fcdac5ac9"),
        (65, "839b3275e30a3c8f027853ee76ba4e17"),
        (1000, "fe2914cb4936605c71006b917c11752e"),
    ],
)
def test_key_of_any_size_is_used_whole(size: int, answer: str) -> None:
    """Below, at and above HMAC-SHA1's block of 64 bytes."""
    assert cookie(b"a" * size, CLIENT_DATA).hex() == answer


def test_empty_key_is_an_invalid_request_and_nothing_is_pushed() -> None:
    """-50 from all three, before anything else is looked at."""
    sent: list[bytes] = []
    with pytest.raises(CookieError) as made:
        cookie(b"", CLIENT_DATA)
    with pytest.raises(CookieError) as pushed:
        cookie_send(b"", CLIENT_DATA, Prestate(), sent, send_all)
    assert made.value.code == pushed.value.code == GNUTLS_E_INVALID_REQUEST == -50
    assert sent == []
    assert code_of_verify(b"", key=b"") == GNUTLS_E_INVALID_REQUEST


# Each line by gnutls_dtls_cookie_send of libgnutls 3.7.9 through ctypes, with KEY and CLIENT_DATA
# and these prestates.
@pytest.mark.parametrize(
    ("prestate", "datagram"),
    [
        (
            Prestate(0, 0, 0),
            "16feff0000000000000000001f030000130000000000000013feff10"
            "573893d8fbb31b3b5733af72b449bea9",
        ),
        (
            Prestate(1, 2, 3),
            "16feff0000000000000001001f030000130003000000000013feff10"
            "573893d8fbb31b3b5733af72b449bea9",
        ),
        (
            Prestate(105791312, 7, 67166359),
            "16feff0000000000000050001f030000130097000000000013feff10"
            "573893d8fbb31b3b5733af72b449bea9",
        ),
        (
            Prestate(2**32 - 1, 2**32 - 1, 2**32 - 1),
            "16feff00000000000000ff001f0300001300ff000000000013feff10"
            "573893d8fbb31b3b5733af72b449bea9",
        ),
    ],
)
def test_send_pushes_the_bytes_of_libgnutls(prestate: Prestate, datagram: str) -> None:
    """Only the low bytes of record_seq and hsk_write_seq go out; the prestate is not changed."""
    before = copy.copy(prestate)
    sent: list[bytes] = []
    assert cookie_send(KEY, CLIENT_DATA, prestate, sent, send_all) == HELLO_VERIFY_REQUEST_SIZE
    assert [data.hex() for data in sent] == [datagram]
    assert len(sent[0]) == HELLO_VERIFY_REQUEST_SIZE == 44
    assert prestate == before


def test_push_gets_the_transport_itself() -> None:
    """Any object, by identity."""
    transport = object()
    seen: list[object] = []

    def push(given: object, data: bytes) -> int:
        seen.append(given)
        return len(data)

    assert cookie_send(KEY, CLIENT_DATA, Prestate(), transport, push) == 44
    assert len(seen) == 1
    assert seen[0] is transport


# The results of gnutls_dtls_cookie_send of libgnutls 3.7.9 with a ctypes push that returns the
# number as ssize_t.
@pytest.mark.parametrize(
    ("pushed", "result"),
    [
        (0, 0),
        (10, 10),
        (44, 44),
        (2**31 - 1, 2**31 - 1),
        (2**32, 0),
        (2**32 + 5, 5),
        (-(2**31) - 1, 2**31 - 1),
        (-(2**32), 0),
        (-(2**32) + 7, 7),
        (-(2**63), 0),
        (True, 1),
        (None, 44),
    ],
)
def test_send_returns_what_push_returned_as_a_c_int(pushed: int | None, result: int) -> None:
    """The low 32 bits of it: partial counts and 0 are not errors."""
    assert cookie_send(KEY, CLIENT_DATA, Prestate(), None, lambda _, data: pushed) == result


@pytest.mark.parametrize(
    "pushed",
    [-1, -53, -(2**31), 2**31, 2**32 - 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**70, "x", 44.0, b""],
)
def test_send_reports_a_bad_result_as_push_error(pushed: object) -> None:
    """Negative as a C int, beyond ssize_t, or no int at all."""
    with pytest.raises(CookieError) as caught:
        cookie_send(KEY, CLIENT_DATA, Prestate(), None, lambda _, data: pushed)
    assert caught.value.code == GNUTLS_E_PUSH_ERROR == -53


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, SystemExit, CookieError])
def test_what_push_raises_comes_out_as_itself(kind: type[BaseException]) -> None:
    """The same object, whatever its kind."""
    raised = kind(1)

    def push(transport: None, data: bytes) -> int:
        raise raised

    with pytest.raises(kind) as caught:
        cookie_send(KEY, CLIENT_DATA, Prestate(), None, push)
    assert caught.value is raised


def test_verify_takes_the_cookie_that_send_made() -> None:
    """One exchange: challenge, second hello, verified."""
    sent: list[bytes] = []
    cookie_send(KEY, CLIENT_DATA, Prestate(), sent, send_all)
    given = HelloVerifyRequest.decode(sent[0]).cookie
    hello = client_hello(cookie=given, record_seq=1, message_seq=1)
    assert cookie_verify(KEY, CLIENT_DATA, hello) == Prestate(1, 1, 0)


def test_verify_fills_the_given_prestate_with_low_bytes() -> None:
    """record_seq is byte 10 alone, hsk_read_seq byte 18 alone, hsk_write_seq 0."""
    hello = client_hello(cookie=COOKIE, record_seq=0x010203040506, message_seq=0x0708)
    prestate = Prestate(2**32 - 1, 2**32 - 1, 2**32 - 1)
    assert cookie_verify(KEY, CLIENT_DATA, hello, prestate) is prestate
    assert prestate == Prestate(record_seq=0x06, hsk_read_seq=0x08, hsk_write_seq=0)


@pytest.mark.parametrize(
    ("size", "code"),
    [(size, -9) for size in range(62)] + [(size, -214) for size in (62, 63, 64, 300)],
)
def test_zero_bytes_are_too_short_up_to_61_and_a_bad_cookie_from_62(size: int, code: int) -> None:
    """60 for the session id's length, 61 for the cookie's, 62 for the byte after it."""
    assert code_of_verify(bytes(size)) == code


# gnutls_dtls_cookie_verify of libgnutls 3.7.9 through ctypes gives these codes.
@pytest.mark.parametrize("session_id_size", [0, 1, 31, 32])
@pytest.mark.parametrize(
    ("cookie_size", "tail", "code"),
    [
        (0, 0, -9),
        (0, 1, -214),
        (1, 0, -9),
        (1, 1, -214),
        (15, 0, -9),
        (15, 1, -214),
        (16, 0, -9),
        (16, 1, 0),
        (16, 2, 0),
        (17, 0, -9),
        (17, 1, -214),
        (20, 1, -214),
        (255, 0, -9),
        (255, 1, -214),
    ],
)
def test_cookie_of_another_size_is_bad_and_one_byte_must_follow(
    session_id_size: int, cookie_size: int, tail: int, code: int
) -> None:
    """The length is judged before the size, the size before the value."""
    field = (COOKIE + bytes(255))[:cookie_size]
    message = message_with(field, session_id=bytes(session_id_size), tail=bytes(tail))
    assert code_of_verify(message) == code


@pytest.mark.parametrize("session_id_size", [33, 34, 255])
@pytest.mark.parametrize("cookie_field", [b"", COOKIE])
def test_session_id_over_32_bytes_is_a_length_error(
    session_id_size: int, cookie_field: bytes
) -> None:
    """Even where all of it is there and a good cookie follows."""
    message = message_with(cookie_field, session_id=bytes(session_id_size))
    assert code_of_verify(message) == GNUTLS_E_UNEXPECTED_PACKET_LENGTH == -9


def test_session_id_that_ends_the_datagram_is_a_length_error() -> None:
    """The byte with the cookie's length must be there."""
    for size in range(33):
        assert code_of_verify(bytes(59) + bytes([size]) + bytes(size)) == -9


def test_one_bit_anywhere_in_the_cookie_makes_it_bad() -> None:
    """128 flips, 128 times -214."""
    hello = client_hello(cookie=COOKIE)
    start = hello.index(COOKIE)
    for bit in range(128):
        flipped = bytearray(hello)
        flipped[start + bit // 8] ^= 1 << bit % 8
        assert code_of_verify(bytes(flipped)) == GNUTLS_E_BAD_COOKIE == -214


def test_no_byte_but_the_two_lengths_and_the_cookie_is_judged() -> None:
    """Any other byte may be anything: type, versions, epoch, lengths, offsets, what follows."""
    hello = client_hello(cookie=COOKIE)
    judged = {59, 60, *range(61, 77)}
    for offset in range(len(hello)):
        changed = bytearray(hello)
        changed[offset] ^= 0xFF
        assert (code_of_verify(bytes(changed)) == 0) is (offset not in judged)


def test_cookie_of_another_key_or_client_is_bad() -> None:
    """Both go into the cookie."""
    hello = client_hello(cookie=COOKIE)
    assert code_of_verify(hello) == 0
    assert code_of_verify(hello, key=KEY[::-1]) == -214
    assert code_of_verify(hello, client_data=CLIENT_DATA + b"\x00") == -214
    assert code_of_verify(hello, client_data=None) == -214
    assert code_of_verify(client_hello(cookie=COOKIE_OF_NOTHING), client_data=None) == 0


def test_prestate_is_zero_compares_copies_and_pickles() -> None:
    """A plain value of three ints."""
    prestate = Prestate(1, 2, 3)
    assert Prestate() == Prestate(0, 0, 0)
    assert prestate == Prestate(1, 2, 3) != Prestate(1, 2, 4)
    assert copy.copy(prestate) == pickle.loads(pickle.dumps(prestate)) == prestate
    prestate.record_seq = 5
    assert prestate.record_seq == 5


def test_error_says_its_name_and_code_and_pickles() -> None:
    """The text is for people, the code for programs."""
    error = CookieError(GNUTLS_E_BAD_COOKIE)
    assert str(error) == "GNUTLS_E_BAD_COOKIE (-214)"
    assert str(CookieError(-1)) == "libgnutls error (-1)"
    assert pickle.loads(pickle.dumps(error)).code == -214
