"""cookie_send, cookie_verify and their kin: exactly what C does, seen through the thin wrapper."""

from __future__ import annotations

import array
import contextlib
import mmap
import re
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gnutls_cookie import (
    COOKIE_KEY_SIZE,
    COOKIE_SIZE,
    HELLO_VERIFY_REQUEST_SIZE,
    BadCookieError,
    GnuTLSError,
    InvalidRequestError,
    Prestate,
    PushError,
    UnexpectedPacketLengthError,
    _check,
    _convert,
    client_data,
    cookie_reply,
    cookie_send,
    cookie_verify,
    generate_key,
    library_version,
)
from gnutls_cookie import cookie as cookie_module
from gnutls_cookie._ffi import ffi, lib
from tests.support.common import (
    cookie_of,
    gnutls_cli,
    hello_with,
    libgnutls,
    openssl,
    running,
    seeded,
    udp_socket,
)

KEY = bytes(range(16))
CLIENT = b"192.0.2.7:5684"

# printf %s 192.0.2.7:5684 | openssl dgst -sha1 -mac HMAC \
#   -macopt hexkey:000102030405060708090a0b0c0d0e0f    (the first 32 of 40 digits)
COOKIE = bytes.fromhex("644122b51e3356f65236d1d1a13a59a2")


def sent_by(key: Any, data: Any, prestate: Prestate) -> bytes:
    """The one datagram that cookie_send pushes."""
    datagrams: list[bytes] = []
    assert cookie_send(key, data, prestate, datagrams, lambda to, data: to.append(data)) == 44
    (datagram,) = datagrams
    return datagram


# --- known answers --------------------------------------------------------------------------------


def test_constants_are_those_of_libgnutls() -> None:
    """Sizes of lib/dtls.c and gnutls/dtls.h."""
    assert (COOKIE_SIZE, COOKIE_KEY_SIZE, HELLO_VERIFY_REQUEST_SIZE) == (16, 16, 44)


def test_reply_is_the_known_44_bytes() -> None:
    """Record, handshake header and body, with the low bytes of two sequences and the cookie."""
    assert sent_by(KEY, CLIENT, Prestate(0x12345678, 0x99, 0xABCD)) == bytes.fromhex(
        "16feff 0000 000000000078 001f  03 000013 00cd 000000 000013  feff 10" + COOKIE.hex()
    )


@pytest.mark.parametrize("key_size", [1, 15, 16, 17, 63, 64, 65, 100, 1000])
@pytest.mark.parametrize("client_size", [0, 1, 16, 28, 128, 200])
def test_cookie_is_the_hmac_of_client_data(key_size: int, client_size: int) -> None:
    """HMAC-SHA1 from the standard library agrees, below and above the hash's block of 64."""
    random = seeded(key_size * 1000 + client_size)
    key, data = random.randbytes(key_size), random.randbytes(client_size)
    assert sent_by(key, data, Prestate())[28:] == cookie_of(key, data)
    assert cookie_verify(key, data, hello_with(cookie_of(key, data))) == Prestate(1, 1, 0)


@pytest.mark.parametrize("size", range(1, 101))
def test_key_of_every_size_works_both_ways(size: int) -> None:
    """A cookie made with a key of that size verifies, and fails under a key one bit off."""
    key = bytes([size]) * size
    hello = hello_with(sent_by(key, CLIENT, Prestate())[28:])
    cookie_verify(key, CLIENT, hello)
    with pytest.raises(BadCookieError):
        cookie_verify(bytes([key[0] ^ 1]) + key[1:], CLIENT, hello)


def test_captured_reply_is_the_one_that_would_be_sent() -> None:
    """The capture push in C gives what the Python push gets."""
    for prestate in (Prestate(), Prestate(0xFF, 1, 0xFE), Prestate(2**32 - 1, 0, 2**32 - 1)):
        assert cookie_reply(KEY, CLIENT, prestate) == sent_by(KEY, CLIENT, prestate)
    assert cookie_reply(bytearray(KEY), None, Prestate()) == sent_by(KEY, b"", Prestate())
    with pytest.raises(InvalidRequestError):
        cookie_reply(b"", CLIENT, Prestate())


def test_send_leaves_the_prestate_alone() -> None:
    """C reads two of its bytes and writes none."""
    prestate = Prestate(0x11223344, 0x55667788, 0x99AABBCC)
    sent_by(KEY, CLIENT, prestate)
    assert prestate == Prestate(0x11223344, 0x55667788, 0x99AABBCC)


def test_error_of_a_long_key_does_not_keep_it_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody has the error and its traceback, a bytearray can be resized again."""
    for module in (_check, _convert):
        monkeypatch.setattr(module, "INT_MAX", 15)
    key = bytearray(16)
    with pytest.raises(OverflowError, match="key") as raised:
        cookie_verify(key, b"client", hello_with())
    key.append(0)
    assert raised.value.__traceback__ is not None


def test_c_s_copy_of_a_generated_key_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its memory is freed."""
    freed: list[bytes] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(lib, name)

        def gcookie_free(self, pointer: Any) -> None:
            freed.append(bytes(ffi.buffer(pointer, 16)))
            lib.gcookie_free(pointer)

    monkeypatch.setattr(cookie_module, "lib", Watched())
    assert any(generate_key())
    assert freed == [bytes(16)]


def test_generated_keys_are_16_bytes_and_all_different() -> None:
    """A key that repeats would be no secret."""
    keys = [generate_key() for _ in range(1000)]
    assert {type(key) for key in keys} == {bytes}
    assert {len(key) for key in keys} == {COOKIE_KEY_SIZE}
    assert len(set(keys)) == len(keys)


def test_library_version_is_that_of_the_loaded_library() -> None:
    """The same text as gnutls_check_version(NULL) gives through ctypes."""
    assert library_version() == libgnutls().gnutls_check_version(None).decode()
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", library_version())


# --- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pushed", "result"),
    [
        (None, 44),
        (44, 44),
        (43, 43),
        (1, 1),
        (0, 0),
        (10, 10),
        (True, 1),
        (False, 0),
        (2**31 - 1, 2**31 - 1),
        (2**32, 0),
        (2**32 + 5, 5),
        (2**62 + 7, 7),
        (2**63 - 2**32, 0),
        (-(2**31) - 1, 2**31 - 1),
        (-(2**32), 0),
        (-(2**32) + 44, 44),
        (-(2**63), 0),
    ],
)
def test_result_is_that_of_push_as_c_narrows_it(pushed: int | None, result: int) -> None:
    """0 and partial counts pass; C's int keeps the low 32 bits; None stands for all of it."""
    given = cookie_send(KEY, CLIENT, Prestate(), None, lambda transport, data: pushed)
    assert given == result
    assert type(given) is int


@pytest.mark.parametrize("pushed", [-1, -44, -(2**31), -(2**32) - 1, 2**31, 2**32 - 1, 2**63 - 1])
def test_negative_result_of_push_is_a_push_error(pushed: int) -> None:
    """Negative once C has narrowed it to an int: GNUTLS_E_PUSH_ERROR."""
    with pytest.raises(PushError) as caught:
        cookie_send(KEY, CLIENT, Prestate(), None, lambda transport, data: pushed)
    assert caught.value.code == -53


@pytest.mark.parametrize(
    "pushed", [2**63, 2**70, -(2**63) - 1, -(2**70), "x", b"", 1.0, [], object()]
)
def test_result_of_push_that_c_cannot_hold_is_a_push_error(pushed: Any) -> None:
    """No int, or one beyond ssize_t: an error, never a silent 0."""
    with pytest.raises(PushError, match="push") as caught:
        cookie_send(KEY, CLIENT, Prestate(), None, lambda transport, data: pushed)
    assert caught.value.code == -53


def test_push_gets_the_very_transport_and_bytes_of_its_own() -> None:
    """The transport comes back as the same object; the data is bytes and outlives the call."""
    transport = object()
    calls: list[tuple[object, bytes]] = []
    for seq in (1, 2):
        cookie_send(
            KEY, CLIENT, Prestate(seq), transport, lambda *arguments: calls.append(arguments)
        )
    assert [given is transport for given, _ in calls] == [True, True]
    assert [type(data) for _, data in calls] == [bytes, bytes]
    assert [data[10] for _, data in calls] == [1, 2]


# --- codes ----------------------------------------------------------------------------------------

GOOD = cookie_of(KEY, CLIENT)
HELLO = hello_with(GOOD)
LONG_ID = bytes(range(32))

FAILURES: dict[str, tuple[bytes, type[GnuTLSError], int]] = {
    "no bytes": (b"", UnexpectedPacketLengthError, -9),
    "one byte": (b"\x16", UnexpectedPacketLengthError, -9),
    "a record header": (HELLO[:13], UnexpectedPacketLengthError, -9),
    "up to the session id's length": (HELLO[:59], UnexpectedPacketLengthError, -9),
    "60 bytes": (HELLO[:60], UnexpectedPacketLengthError, -9),
    "61 bytes": (HELLO[:61], UnexpectedPacketLengthError, -9),
    "61 zeros": (bytes(61), UnexpectedPacketLengthError, -9),
    "62 zeros": (bytes(62), BadCookieError, -214),
    "cut within the cookie": (HELLO[:76], UnexpectedPacketLengthError, -9),
    "ends with its cookie": (HELLO[:77], UnexpectedPacketLengthError, -9),
    "session id of 33": (
        HELLO[:59] + b"\x21" + bytes(33) + HELLO[60:],
        UnexpectedPacketLengthError,
        -9,
    ),
    "session id of 255": (
        HELLO[:59] + b"\xff" + bytes(255) + HELLO[60:],
        UnexpectedPacketLengthError,
        -9,
    ),
    "session id beyond the end": (
        HELLO[:59] + b"\x20" + bytes(32),
        UnexpectedPacketLengthError,
        -9,
    ),
    "cookie beyond the end": (HELLO[:60] + b"\xff" + bytes(200), UnexpectedPacketLengthError, -9),
    "no cookie": (hello_with(), BadCookieError, -214),
    "cookie of 15": (hello_with(GOOD[:15]), BadCookieError, -214),
    "cookie of 17": (hello_with(GOOD + b"\0"), BadCookieError, -214),
    "cookie of 20": (hello_with(GOOD + bytes(4)), BadCookieError, -214),
    "cookie of 255": (hello_with(GOOD.ljust(255, b"\0")), BadCookieError, -214),
    "another cookie": (hello_with(cookie_of(KEY, b"192.0.2.8:5684")), BadCookieError, -214),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failure_has_the_code_of_c_and_leaves_the_prestate(case: str) -> None:
    """Each way to fail, and not a bit of the caller's prestate moves."""
    message, kind, code = FAILURES[case]
    prestate = Prestate(0x01020304, 0x05060708, 0x090A0B0C)
    with pytest.raises(kind) as caught:
        cookie_verify(KEY, CLIENT, message, prestate)
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert prestate == Prestate(0x01020304, 0x05060708, 0x090A0B0C)
    with pytest.raises(kind):
        cookie_verify(KEY, CLIENT, message)


@pytest.mark.parametrize("bit", range(128))
def test_every_bit_of_the_cookie_counts(bit: int) -> None:
    """One flipped bit anywhere in the cookie is another cookie."""
    flipped = (int.from_bytes(GOOD, "big") ^ 1 << bit).to_bytes(16, "big")
    with pytest.raises(BadCookieError):
        cookie_verify(KEY, CLIENT, hello_with(flipped))


def test_bytes_outside_of_the_cookie_are_not_judged() -> None:
    """C binds client_data alone: a flip before the session id's length or after the cookie passes.

    Strictness about headers is the gate's business, not that of this function.
    """
    for offset in [*range(59), *range(77, len(HELLO))]:
        changed = bytearray(HELLO)
        changed[offset] ^= 0xFF
        cookie_verify(KEY, CLIENT, changed)


@pytest.mark.parametrize("session_id", [b"", b"\x01", LONG_ID[:31], LONG_ID])
def test_session_id_of_every_allowed_size_is_stepped_over(session_id: bytes) -> None:
    """The cookie is found behind a session id of 0 to 32 bytes."""
    assert cookie_verify(KEY, CLIENT, hello_with(GOOD, session_id)) == Prestate(1, 1, 0)


def test_success_fills_the_given_prestate_and_returns_it() -> None:
    """record_seq and hsk_read_seq are low bytes of the hello's numbers, hsk_write_seq is 0."""
    message = bytearray(HELLO)
    message[5:11] = bytes.fromhex("010203040506")
    message[17:19] = bytes.fromhex("0708")
    prestate = Prestate(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    assert cookie_verify(KEY, CLIENT, message, prestate) is prestate
    assert prestate == Prestate(6, 8, 0)


def test_success_without_a_prestate_makes_a_new_one_each_time() -> None:
    """Two results share no struct."""
    first, second = cookie_verify(KEY, CLIENT, HELLO), cookie_verify(KEY, CLIENT, HELLO)
    first.record_seq = 99
    assert second == Prestate(1, 1, 0)


def test_one_byte_after_the_cookie_is_enough() -> None:
    """The shortest datagram that verifies: 78 bytes with an empty session id."""
    assert cookie_verify(KEY, CLIENT, HELLO[:78]) == Prestate(1, 1, 0)


def test_empty_key_is_an_invalid_request() -> None:
    """-50 from both functions; push is not called, the prestate is not touched."""
    called: list[bytes] = []
    with pytest.raises(InvalidRequestError, match=r": the key is empty$") as caught:
        cookie_send(b"", CLIENT, Prestate(), None, lambda transport, data: called.append(data))
    assert (caught.value.code, called) == (-50, [])
    prestate = Prestate(1, 2, 3)
    with pytest.raises(InvalidRequestError, match=r": the key is empty$") as caught:
        cookie_verify(b"", CLIENT, HELLO, prestate)
    assert (caught.value.code, prestate) == (-50, Prestate(1, 2, 3))


# --- bytes-like arguments -------------------------------------------------------------------------


class Bytes(bytes):
    """A subclass of bytes takes the path of every other bytes-like object."""


def in_mmap(data: bytes) -> mmap.mmap:
    mapped = mmap.mmap(-1, len(data))
    mapped[:] = data
    return mapped


KINDS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "subclass": Bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "memoryview of a bytearray": lambda data: memoryview(bytearray(data)),
    "slice of a memoryview": lambda data: memoryview(b"<" + data + b">")[1:-1],
    "two-dimensional memoryview": lambda data: memoryview(data).cast("B", [len(data) // 2, 2]),
    "mmap": in_mmap,
    "array": lambda data: array.array("B", data),
    "array of 16 bits": lambda data: array.array("H", data),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("argument", ["key", "client_data", "message"])
def test_any_contiguous_bytes_like_object_is_as_good_as_bytes(argument: str, kind: str) -> None:
    """Each argument takes each kind, and reads all of its bytes."""
    even = HELLO + b"\0" * (len(HELLO) % 2)
    arguments: dict[str, Any] = {"key": KEY, "client_data": CLIENT, "message": even}
    arguments[argument] = KINDS[kind](arguments[argument])
    assert cookie_verify(**arguments) == Prestate(1, 1, 0)
    if argument != "message":
        reply = sent_by(arguments["key"], arguments["client_data"], Prestate())
        assert reply[28:] == GOOD
        assert cookie_reply(arguments["key"], arguments["client_data"], Prestate()) == reply


@pytest.mark.parametrize("kind", ["bytes", "bytearray"])
def test_arguments_are_only_read(kind: str) -> None:
    """C takes them through pointers to non-const, and writes to none."""
    make = KINDS[kind]
    key, data, message = make(KEY), make(CLIENT), make(HELLO)
    sent_by(key, data, Prestate())
    cookie_verify(key, data, message)
    assert (key, data, message) == (KEY, CLIENT, HELLO)


@pytest.mark.parametrize("empty", [None, b"", bytearray(), memoryview(b""), array.array("B")])
def test_no_client_data_is_empty_client_data(empty: Any) -> None:
    """NULL with size 0, as some servers pass it, and every empty object: the same cookie."""
    assert sent_by(KEY, empty, Prestate())[28:] == cookie_of(KEY, b"")
    assert cookie_verify(KEY, empty, hello_with(cookie_of(KEY, b""))) == Prestate(1, 1, 0)


def test_arguments_go_by_keyword_too() -> None:
    """The names are part of the interface."""
    sent: list[bytes] = []
    cookie_send(
        key=KEY,
        client_data=CLIENT,
        prestate=Prestate(),
        transport=sent,
        push=lambda transport, data: transport.append(data),
    )
    cookie_verify(
        key=KEY, client_data=CLIENT, message=hello_with(sent[0][28:]), prestate=Prestate()
    )


# --- on a real socket -----------------------------------------------------------------------------


def push_to(transport: tuple[socket.socket, Any], data: bytes) -> int:
    """A gnutls_push_func over a UDP socket: what the README shows."""
    sock, address = transport
    return sock.sendto(data, address)


def test_reply_is_one_datagram_of_44_bytes_on_the_wire() -> None:
    """sendto as push: its count comes out, and exactly that datagram arrives."""
    with udp_socket() as server, udp_socket() as client:
        address = client.getsockname()
        data = client_data.sockaddr(address)
        assert cookie_send(KEY, data, Prestate(5, 0, 0), (server, address), push_to) == 44
        datagram, sender = client.recvfrom(65535)
        assert (len(datagram), sender) == (44, server.getsockname())
        assert datagram[28:] == cookie_of(KEY, data)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


OPENSSL = ("s_client", "-dtls1_2", "-connect", "127.0.0.1:{port}")
GNUTLS_CLI = ("--udp", "--insecure", "-p", "{port}", "127.0.0.1")


@pytest.mark.peer
@pytest.mark.parametrize(
    ("program", "arguments"),
    [pytest.param(openssl, OPENSSL, id="openssl"), pytest.param(gnutls_cli, GNUTLS_CLI, id="cli")],
)
def test_real_client_sends_the_cookie_back(
    program: Callable[[], str], arguments: Sequence[str]
) -> None:
    """A third-party client takes the 44 bytes: its next hello carries a cookie that verifies."""
    path = program()
    key = generate_key()
    with udp_socket() as server:
        port = server.getsockname()[1]
        with running([path, *(word.format(port=port) for word in arguments)]) as client:
            hello, address = receive(server, client)
            data = client_data.sockaddr(address)
            with pytest.raises(BadCookieError):
                cookie_verify(key, data, hello)
            assert cookie_send(key, data, Prestate(), (server, address), push_to) == 44
            again, sender = receive(server, client)
    assert sender == address
    assert cookie_of(key, data) in again
    assert cookie_verify(key, data, again) == Prestate(again[10], again[18], 0)
    assert again[18] == 1  # message_seq: the hello after the HelloVerifyRequest, RFC 6347 4.2.2
    with pytest.raises(BadCookieError):
        cookie_verify(generate_key(), data, again)


def receive(server: socket.socket, client: Any) -> tuple[bytes, Any]:
    """One datagram; where none comes, what the client said."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and client.poll() is None:
        if select.select([server], [], [], 0.2)[0]:
            return server.recvfrom(65535)
    with contextlib.suppress(ProcessLookupError):
        client.kill()
    raise AssertionError(f"no datagram came; the client said: {client.communicate()[0]!r}")


@pytest.mark.parametrize("capacity", [0, 1, 43])
def test_reply_is_not_written_where_it_has_no_room(capacity: int) -> None:
    """The push that captures in C refuses it, and touches nothing."""
    struct = Prestate()._struct
    memory = ffi.new("unsigned char[64]", b"?" * 64)
    assert lib.gcookie_reply(KEY, len(KEY), CLIENT, len(CLIENT), struct, memory, capacity) == -53
    assert bytes(ffi.buffer(memory)) == b"?" * 64
    assert lib.gcookie_reply(KEY, len(KEY), CLIENT, len(CLIENT), struct, memory, 44) == 44
    assert bytes(ffi.buffer(memory))[44:] == b"?" * 20
