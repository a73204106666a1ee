"""From which of its addresses a socket on the wildcard answers: from the one that was asked."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gnutls_cookie import (
    Arrival,
    Challenge,
    CookieGate,
    Server,
    Verified,
    aio,
    client_data,
)
from gnutls_cookie.address import SocketAddress
from gnutls_cookie.listener import CookieListener, send_each
from gnutls_cookie.reference import wire
from tests.support.common import hello_with, udp_socket
from tests.support.listeners import address_of, listening, second_hello
from tests.support.peers import client_of as client_session
from tests.support.peers import psk
from tests.support.servers import asynchronous, echo

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the whole of 127.0.0.0/8 is this host's on Linux"
)
WILDCARDS = ["0.0.0.0", "::"]
ASKED = "127.0.0.77"


@contextlib.contextmanager
def asking(listener: CookieListener, asked: str = ASKED) -> Iterator[socket.socket]:
    """A client at 127.0.0.1 that hears only who it asked: its socket is connected."""
    with udp_socket("::1" if ":" in asked else "127.0.0.1") as sock:
        sock.connect((asked, address_of(listener)[1]))
        yield sock


def as_seen(host: str, asked: str = ASKED) -> str:
    """An address as a socket on that wildcard shows it."""
    return f"::ffff:{asked}" if host == "::" and ":" not in asked else asked


@pytest.mark.parametrize("host", WILDCARDS)
def test_challenge_comes_from_the_address_that_was_asked(host: str) -> None:
    """Many in one batch, each from its own."""
    asked = [f"127.0.0.{number}" for number in range(2, 40)] + ["::1"] * (host == "::")
    with listening(host) as listener, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(asking(listener, one)) for one in asked]
        for client in clients:
            client.send(hello_with())
        while listener.counters.replies < len(clients):
            assert listener.poll(0) == []
        assert listener.counters.reply_errors == 0
        for client in clients:
            wire.HelloVerifyRequest.decode(client.recv(100))


@pytest.mark.parametrize("host", WILDCARDS)
def test_arrival_tells_which_address_was_asked(host: str) -> None:
    """With the hello and with what comes after it."""
    with listening(host) as listener, asking(listener) as client:
        client.send(hello_with())
        assert listener.poll(0.2) == []
        client.send(second_hello(client.recv(100)[-16:]))
        (first,) = listener.poll(20)
        listener.admit(first.address)
        client.send(b"data")
        (second,) = listener.poll(20)
        assert (first.prestate is not None, second.datagram) == (True, b"data")
        assert first.local == second.local == as_seen(host)


@pytest.mark.parametrize("host", WILDCARDS)
def test_hello_to_a_broadcast_address_is_answered_from_one_that_is_the_hosts(host: str) -> None:
    """None can be sent from 127.255.255.255, which the client asked."""
    with listening(host) as listener, udp_socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(hello_with(), ("127.255.255.255", address_of(listener)[1]))
        assert listener.poll(0.2) == []
        assert listener.counters.reply_errors == 0
        answer, address = client.recvfrom(100)
        wire.HelloVerifyRequest.decode(answer)
        assert address == ("127.0.0.1", address_of(listener)[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_socket_with_one_address_is_left_as_it_is(host: str) -> None:
    """No option is set, and an arrival tells nothing."""
    with listening(host) as listener, asking(listener, host) as client:
        with socket.socket(fileno=socket.dup(listener.fileno())) as sock:
            if host == "127.0.0.1":
                assert sock.getsockopt(socket.IPPROTO_IP, 8) == 0  # IP_PKTINFO
            else:
                assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO) == 0
        listener.admit(client.getsockname())
        client.send(b"data")
        (arrival,) = listener.poll(20)
        assert arrival.local is None


def test_arrival_may_be_made_without_a_local_address() -> None:
    """As before there was one."""
    assert Arrival(("192.0.2.1", 1), b"data", None).local is None


def test_what_else_the_caller_asked_the_kernel_for_does_no_harm() -> None:
    """Timestamps and the type of service come beside the address."""
    with udp_socket("0.0.0.0") as sock:
        for level, option in (
            (socket.SOL_SOCKET, 29),  # SO_TIMESTAMP
            (socket.IPPROTO_IP, socket.IP_RECVTOS),
            (socket.IPPROTO_IP, 12),  # IP_RECVTTL
        ):
            sock.setsockopt(level, option, 1)
        with listening_at(sock) as listener, asking(listener) as client:
            client.send(hello_with())
            assert listener.poll(0.2) == []
            wire.HelloVerifyRequest.decode(client.recv(100))


@contextlib.contextmanager
def listening_at(sock: socket.socket) -> Iterator[CookieListener]:
    with CookieListener(sock, CookieGate(b"k" * 16)) as listener:
        yield listener


@pytest.mark.parametrize("host", WILDCARDS)
def test_send_each_sends_from_where_it_is_told(host: str) -> None:
    """None: the kernel chooses. An address that is not this host's is a loss, and counted."""
    with udp_socket(host) as sock, udp_socket() as client:
        name = client_data.sockaddr(client.getsockname(), sock.family)
        sources = [as_seen(host, "127.0.0.5"), None, as_seen(host, "192.0.2.1"), as_seen(host)]
        lost = send_each(sock, [b"1", b"2", b"3", b"4"], [name] * 4, sources)
        assert lost == 1
        heard = [client.recvfrom(10) for _ in range(3)]
        port = sock.getsockname()[1]
        assert heard == [
            (b"1", ("127.0.0.5", port)),
            (b"2", ("127.0.0.1", port)),
            (b"4", (ASKED, port)),
        ]


@pytest.mark.parametrize(
    ("address", "asked", "other"),
    [
        (("192.0.2.1", 1), "192.0.2.77", "192.0.2.99"),
        (("2001:db8::1", 1, 0, 0), "fe80::77%4294967295", "fe80::77%2"),
    ],
)
def test_sessions_answer_from_where_their_hello_was_sent_to(
    address: SocketAddress, asked: str, other: str
) -> None:
    """All that they send; a datagram that a stranger sends to another address changes nothing."""
    server, session = Server(psk()), client_session("PSK")
    gate = CookieGate(b"k" * 16)
    for _ in range(6):
        session.handshake()
        for datagram in session.datagrams_to_send():
            match gate.receive(datagram, client_data.sockaddr(address)):
                case Challenge(reply):
                    session.receive_datagram(reply)
                case Verified(prestate):
                    server.receive(Arrival(address, datagram, prestate, asked), 0.0)
                case _:
                    server.receive(Arrival(address, datagram, None, other), 0.0)
        for datagram, there, source in server.outgoing():
            assert (there, source) == (address, asked)
            session.receive_datagram(datagram)
    assert session.established
    server.close_all()
    assert [source for _, _, source in server.outgoing()] == [asked]


@pytest.mark.parametrize("host", WILDCARDS)
@asynchronous
async def test_aio_serves_a_client_that_asked_another_address(host: str) -> None:
    """Handshake, messages, one of two in a turn, and the goodbye."""
    async with await aio.start_server(echo, host, 0, credentials=psk()) as server:
        port = server.address[1]
        options: dict[str, Any] = {"credentials": psk(), "local_address": ("127.0.0.1", 0)}
        one = await aio.connect(ASKED, port, **options)
        other = await aio.connect("127.0.0.78", port, **options)
        for message in (b"1", b"2"):
            await one.send(message)
            await other.send(message)
            assert (await one.receive(), await other.receive()) == (message, message)
        server.close()
        assert (await one.receive(), await other.receive()) == (None, None)
        one.close()
        other.close()
