"""docs/quirks.md says the truth: its cases by libgnutls and the reference, the rest by tests here.

What a case cannot show (sessions, logs, numbers that C narrows) is run with libgnutls itself.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gnutls_cookie import (
    BadCookieError,
    GnuTLSError,
    Prestate,
    PSKCredentials,
    Session,
    cookie_send,
    cookie_verify,
)
from gnutls_cookie.cli import main
from gnutls_cookie.differential import LIBGNUTLS, REFERENCE, case_of_json, notes
from gnutls_cookie.differential.vector_file import answer
from gnutls_cookie.differential.vectors import vectors
from gnutls_cookie.reference import cookie as reference
from gnutls_cookie.reference import wire
from tests.binding.test_gnutls_scenario import CLIENT, SERVER, Side
from tests.support.common import ROOT, libgnutls

PAGE = (ROOT / "docs" / "quirks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]

WHO = b"client"


# --- the page -------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", LINES)
def test_case_is_answered_as_the_page_says(line: str) -> None:
    """By the libgnutls in use and by the reference."""
    case = case_of_json(line)
    expected = json.loads(line)["answer"]
    assert answer(LIBGNUTLS, case) == expected
    assert answer(REFERENCE, case) == expected


def test_page_is_read_whole() -> None:
    """No case is left out, every quirk is there, and so is every test and vector it names."""
    assert PAGE.count('{"operation":') == len(LINES) > 40
    titles = re.findall(r"^## (\d+)\. (.+)$", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in titles] == list(range(1, 31))
    slugs = {
        re.sub(r"[^\w -]", "", f"{n} {title}".lower()).replace(" ", "-") for n, title in titles
    }
    assert set(re.findall(r"\(#(.+?)\)", PAGE)) <= slugs
    for name in re.findall(r"`(test_\w+)`", PAGE):
        assert callable(globals()[name])
    named = re.findall(r"`(verify: .+?)`", PAGE, re.DOTALL)
    assert named
    assert {name.replace("\n", " ") for name in named} <= {one.name for one in vectors()}
    for path in re.findall(r"`(tests/\w+(?:\.py)?)`|\]\((\w+\.md)\)", PAGE):
        assert (ROOT / path[0] if path[0] else ROOT / "docs" / path[1]).exists()


def test_page_is_made_of_the_notes() -> None:
    """`gnutls-cookie vectors --format markdown` prints it."""
    assert notes.page(lambda case: answer(LIBGNUTLS, case)) == PAGE


def test_case_runs_by_the_command_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """A line as it stands is what `diff --case` takes; one for each operation."""
    targets = {"receive": "gnutls_cookie.reference.gate"}
    for operation in "verify", "send", "receive":
        line = next(line for line in LINES if case_of_json(line).operation == operation)
        target = targets.get(operation, "gnutls_cookie.reference.cookie")
        assert main(["diff", target, "--case", line]) == 0
        assert " 1 case " in capsys.readouterr().out


# --- numbers --------------------------------------------------------------------------------------


def client() -> Session:
    return Session("client", PSKCredentials("a", b"0123456789abcdef"))


def server(prestate: Prestate | None = None) -> Session:
    return Session("server", PSKCredentials("a", b"0123456789abcdef"), prestate=prestate)


def hello_of(session: Session) -> bytes:
    """The one ClientHello that a client has to send now."""
    assert not session.handshake()
    (hello,) = session.datagrams_to_send()
    return hello


def numbers(hello: bytes) -> tuple[int, int]:
    """record sequence number and message_seq."""
    header = wire.HandshakeHeader.decode(hello[13:])
    return wire.RecordHeader.decode(hello).record_seq, header.message_seq


def challenge(key: bytes, record_seq: int, message_seq: int) -> bytes:
    replies: list[bytes] = []
    before = Prestate(record_seq, 0, message_seq)
    assert cookie_send(key, WHO, before, replies, lambda to, data: to.append(data)) == 44
    return replies[0]


def test_a_dead_cookie_stalls_the_recipe_and_not_the_cure() -> None:
    """Challenged under two keys, by the recipe and with the numbers of the hello."""
    stalled = client()
    stalled.receive_datagram(challenge(b"first", *numbers(hello_of(stalled))))
    second = hello_of(stalled)
    with pytest.raises(BadCookieError):
        cookie_verify(b"second", WHO, second)
    stalled.receive_datagram(challenge(b"second", 0, 0))
    assert not stalled.handshake()
    for again in stalled.datagrams_to_send():  # its timer, if this machine is that slow
        assert again[25:] == second[25:]
    cured = client()
    cured.receive_datagram(challenge(b"first", *numbers(hello_of(cured))))
    cured.receive_datagram(challenge(b"second", *numbers(hello_of(cured))))
    third = hello_of(cured)
    assert numbers(third) == (2, 2)
    assert cookie_verify(b"second", WHO, third) == Prestate(2, 2, 0)


@pytest.mark.parametrize("cured", [True, False])
def test_half_of_the_cure_is_none(cured: bool) -> None:
    """After two challenges a ServerHello with the recipe's number is one too early for the client.

    That the first half is needed shows the test before this one.
    """
    one = client()
    for key in b"first", b"second":
        one.receive_datagram(challenge(key, *numbers(hello_of(one))))
    hello = hello_of(one)
    prestate = cookie_verify(b"second", WHO, hello)
    if cured:
        prestate.hsk_write_seq = max(numbers(hello)[1], 1) - 1
    other = server(prestate)
    other.receive_datagram(hello)
    other.handshake()
    flight = other.datagrams_to_send()
    assert numbers(flight[0]) == (2, 2 if cured else 1)
    for datagram in flight:
        one.receive_datagram(datagram)
    if cured:
        one.handshake()
        assert one.datagrams_to_send()  # its next flight
    else:
        with pytest.raises(GnuTLSError) as caught:
            one.handshake()
        assert caught.value.name == "GNUTLS_E_UNEXPECTED_HANDSHAKE_PACKET"


def test_a_session_without_its_prestate_says_nothing() -> None:
    """The second hello is message 1, and it waits for 0; told of it, it answers."""
    one = client()
    one.receive_datagram(challenge(b"key", *numbers(hello_of(one))))
    hello = hello_of(one)
    silent, told = server(), server(cookie_verify(b"key", WHO, hello))
    for session in silent, told:
        session.receive_datagram(hello)
        assert not session.handshake()
    assert silent.datagrams_to_send() == []
    assert numbers(told.datagrams_to_send()[0]) == (1, 1)


@pytest.mark.parametrize(
    ("written", "first"), [(0, 1), (65534, 65535), (65535, 0), (65540, 5), (2**32 - 1, 0)]
)
def test_16_bits_of_hsk_write_seq_are_kept(written: int, first: int) -> None:
    """message_seq has no more on the wire (RFC 6347 4.2.2); ServerHello is the next one."""
    one = server(Prestate(0, 0, written))
    one.receive_datagram(hello_of(client()))
    one.handshake()
    assert numbers(one.datagrams_to_send()[0]) == (0, first)


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_ssize_t) < 8, reason="ssize_t has no more than an int")
@pytest.mark.parametrize(
    ("pushed", "result"),
    [(-1, -53), (-(2**31), -53), (-(2**31) - 1, 2**31 - 1), (-(2**32), 0), (2**32 + 5, 5)],
)
def test_c_takes_some_negative_results_of_push_for_success(pushed: int, result: int) -> None:
    """gnutls_dtls_cookie_send itself, through ctypes; the reference does the same."""

    class Datum(ctypes.Structure):
        _fields_ = (("data", ctypes.c_char_p), ("size", ctypes.c_uint))

    kind = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    push = kind(lambda ptr, data, size: pushed)
    key = Datum(b"key", 3)
    code = libgnutls().gnutls_dtls_cookie_send(
        ctypes.byref(key), WHO, ctypes.c_size_t(len(WHO)), bytes(12), None, push
    )
    assert code == result

    def of_reference() -> int:
        try:
            return reference.cookie_send(
                b"key", WHO, reference.Prestate(), None, lambda to, data: pushed
            )
        except reference.CookieError as error:
            return error.code

    assert of_reference() == result


# --- the log --------------------------------------------------------------------------------------


def test_a_cookie_of_another_size_writes_a_line_to_the_log() -> None:
    """To the audit log; without one to the log, whatever its level. None for 0 and for 16 bytes."""
    audited: list[bytes] = []
    logged: list[tuple[int, bytes]] = []
    audit = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)(
        lambda session, text: audited.append(text)
    )
    log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)(
        lambda level, text: logged.append((level, text))
    )

    def ask(*sizes: int) -> None:
        for size in sizes:
            with pytest.raises(BadCookieError):
                cookie_verify(b"key", WHO, wire.client_hello(cookie=bytes(size)))

    library = libgnutls()
    library.gnutls_global_set_log_level(0)
    try:
        library.gnutls_global_set_log_function(log)
        ask(0, 15, 16)
        library.gnutls_global_set_audit_log_function(audit)
        ask(0, 255, 16)
    finally:
        library.gnutls_global_set_audit_log_function(None)
        library.gnutls_global_set_log_function(None)
    assert logged == [(1, b"Received cookie with illegal size 15. Expected 16\n")]
    assert audited == [b"Received cookie with illegal size 255. Expected 16\n"]


# --- around the exchange --------------------------------------------------------------------------


def test_the_client_gives_up_at_the_fifth_helloverifyrequest() -> None:
    """Four are answered, each with a new cookie in it."""
    one = client()
    for count in itertools.count(1):
        hello = hello_of(one)
        assert numbers(hello) == (count - 1, count - 1)
        one.receive_datagram(challenge(b"key %d" % count, *numbers(hello)))
        if count == 5:
            break
    with pytest.raises(GnuTLSError) as caught:
        one.handshake()
    assert caught.value.code == -15


@pytest.mark.parametrize(("size", "is_taken"), [(32, True), (33, False), (255, False)])
def test_the_client_takes_cookies_of_32_bytes_at_most(size: int, is_taken: bool) -> None:
    """RFC 6347 has 255."""
    one = client()
    hello_of(one)
    body = b"%b%c%b" % (b"\xfe\xff", size, bytes(size))
    one.receive_datagram(wire.handshake_record(wire.HELLO_VERIFY_REQUEST, body))
    if is_taken:
        assert len(wire.decode_client_hello(hello_of(one))[2].cookie) == size
    else:
        with pytest.raises(GnuTLSError) as caught:
            one.handshake()
        assert caught.value.code == -9


@contextmanager
def established() -> Iterator[tuple[socket.socket, Side, Callable[[], Any]]]:
    """Two sessions of libgnutls: the client and its socket, and what the server receives next."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one, other = Side(CLIENT, ends[0]), Side(SERVER, ends[1])
    thread = threading.Thread(target=one.handshake)
    thread.start()
    assert other.handshake() == 0
    thread.join(60)
    libgnutls().gnutls_record_set_timeout(other.pointer, 200)

    def receive() -> bytes | int:
        """A message, or the code of an error."""
        buffer = ctypes.create_string_buffer(1500)
        size = int(libgnutls().gnutls_record_recv(other.pointer, buffer, len(buffer)))
        return size if size < 0 else buffer.raw[:size]

    try:
        yield ends[0], one, receive
    finally:
        for side in one, other:
            side.close()
        for end in ends:
            end.close()


def test_an_empty_datagram_ends_a_session_of_libgnutls() -> None:
    """Messages came through before it, and none does after it."""
    with established() as (wire_of_client, one, receive):
        one.send(b"before")
        assert receive() == b"before"
        wire_of_client.send(b"")
        assert receive() == -110
        one.send(b"after")
        assert receive() == -10


def test_a_cut_record_swallows_what_the_peer_sends_next() -> None:
    """13 bytes that announce 16384: messages of the peer are lost until it has sent as many."""
    with established() as (wire_of_client, one, receive):
        wire_of_client.send(b"\x17\xfe\xfd\x00\x01" + bytes(5) + b"\x63\x40\x00")
        sent, heard = [], []
        for number in range(40):
            sent.append(b"%04d" % number * 250)
            assert one.send(sent[-1]) == 1000
            got = receive()
            if not isinstance(got, int):
                heard.append(got)
        lost = [message for message in sent[: sent.index(heard[-1])] if message not in heard]
        assert lost == sent[: len(lost)]
        assert 16384 - 2000 < sum(map(len, lost)) < 16384 + 2000
