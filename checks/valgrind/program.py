"""What run.py lets valgrind watch: wrapper, gate, listener and sessions, all of the C half once.

python checks/valgrind/program.py [CASES [SEED]]: no threads, and few calls, for memcheck's pace.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from gnutls_cookie import (
    BadCookieError,
    Challenge,
    Client,
    Connected,
    CookieGate,
    CookieListener,
    GnuTLSError,
    KeyRing,
    MessageReady,
    Prestate,
    PSKCredentials,
    Session,
    Verified,
    client_data,
    cookie_send,
    cookie_verify,
    prestate_set,
)
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.listener import send_each
from gnutls_cookie.reference import wire
from tests.support.gate_cases import cases

KEY = b"k" * 16
PSK = PSKCredentials("sensor", b"0123456789abcdef")


def hello(cookie: bytes = b"", seq: int = 0) -> bytes:
    """A ClientHello datagram with both sequence numbers `seq`."""
    return wire.client_hello(cookie=cookie, record_seq=seq, message_seq=seq)


def refused(call: Callable[..., object], *arguments: object, error: type[BaseException]) -> None:
    """Whether a call fails as it must."""
    try:
        call(*arguments)
    except error:
        return
    raise AssertionError(f"{call} took {arguments}")


def wrapper() -> None:
    """Both cookie functions with every kind of buffer, a push that raises, and a hand-over."""
    sent: list[bytes] = []
    for who in (b"client", bytearray(b"client"), memoryview(b"a client")[2:], None):
        cookie_send(KEY, who, Prestate(1, 2, 3), sent, lambda box, data: box.append(data))
        prestate = cookie_verify(KEY, who, hello(sent.pop()[-16:], 1))
        refused(cookie_verify, KEY, who, hello(bytes(16)), error=BadCookieError)
        for size in (0, 1, 12, 59, 60, 61):
            refused(cookie_verify, KEY, who, hello()[:size], error=GnuTLSError)
        prestate_set(Session("server", PSK), prestate)

    def failing(transport: object, data: bytes) -> int:
        raise KeyError(data)

    refused(cookie_send, KEY, b"", Prestate(), None, failing, error=KeyError)
    refused(cookie_send, b"", b"", Prestate(), None, failing, error=GnuTLSError)


def gate(count: int, seed: int) -> None:
    """Cases of the generator; each datagram in memory of its own, so that an overread is seen."""
    for case in cases(seed, count):
        keys = KeyRing(case.current, case.previous)
        CookieGate(keys).receive(bytearray(case.datagram), case.client_data)
    one = CookieGate(KEY)
    challenge = one.receive(hello(), b"me")
    assert isinstance(challenge, Challenge)
    assert isinstance(one.receive(hello(challenge.datagram[-16:], 1), b"me"), Verified)


def listener(host: str) -> None:
    """A whole exchange, junk, datagrams of a peer that is admitted and forgotten, a full batch."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        sock, client = (
            stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(2)
        )
        for one in (sock, client):
            one.bind((host, 0))
            one.settimeout(60)
        client.connect(sock.getsockname()[:2])
        served = stack.enter_context(CookieListener(sock, CookieGate(KEY), batch=4))
        for datagram in (b"", b"x", bytes(2000), hello()[:40], hello()):
            client.send(datagram)
        while served.counters.replies == 0:
            assert served.poll(0.1) == []
        cookie = client.recv(100)[-16:]
        client.send(hello(cookie, 1))
        client.send(b"\x16" + bytes(30))
        arrivals = served.poll(60)
        assert arrivals[0].prestate is not None
        address = arrivals[0].address
        served.admit(address)
        for number in range(9):
            client.send(bytes([23]) * (100 * number))
        found = 0
        while found < 9:
            arrivals = served.poll(60)
            found += sum(arrival.datagram[:1] in (b"", b"\x17") for arrival in arrivals)
        name = client_data.sockaddr(client.getsockname(), family)
        assert send_each(sock, [bytes(size) for size in range(1, 100)], [name] * 99) < 99
        served.forget(address)
        assert served.peers == 0


def sessions(chance: random.Random) -> None:
    """Handshakes with a network that changes things, a lookup that fails, messages, goodbyes."""

    def no_key(identity: str) -> bytes | None:
        raise LookupError(identity)

    for turn in range(6):
        lookup = PSKCredentials(lookup=no_key) if turn == 5 else PSK
        client = Session("client", PSK, mtu=300)
        server = Session("server", lookup, mtu=16000, prestate=Prestate() if turn == 4 else None)
        hostile = turn % 2 == 1
        with contextlib.suppress(GnuTLSError, LookupError):
            for _ in range(12):
                for one, other in ((client, server), (server, client)):
                    if one.handshake() and not one.closed:
                        one.send(b"hello " * 30)
                        while one.receive():
                            pass
                    datagrams = one.datagrams_to_send()
                    if turn == 2:  # the Finished comes before its keys
                        datagrams.reverse()
                    for datagram in datagrams:
                        other.receive_datagram(datagram)
                        if hostile:
                            other.receive_datagram(changed(chance, datagram))
            assert hostile or turn >= 4 or (client.established and server.established)
            server.send(bytes(12000))  # more than a call's own memory has room for
            client.receive_datagram(b"".join(server.datagrams_to_send()))
            client.receive()
            client.close()
            for datagram in client.datagrams_to_send():
                server.receive_datagram(datagram)
            server.receive()


def served() -> None:
    """A turn of a served socket: clients of both kinds of end, a lookup that fails, junk, time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        lookup = PSKCredentials(lookup=lambda identity: {"sensor": b"0123456789abcdef"}[identity])
        endpoint = Endpoint(sock, CookieGate(KEY), lookup, max_handshakes=3, idle_timeout=50.0)
        now, open_connections = 0.0, []
        for identity in ("sensor", "stranger", "sensor", "sensor"):
            client = Client(PSKCredentials(identity, b"0123456789abcdef"), handshake_timeout=20.0)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
                theirs.connect(sock.getsockname())
                theirs.setblocking(False)
                client.connect(now)
                for _ in range(40):
                    for datagram in client.datagrams_to_send():
                        theirs.send(datagram)
                    theirs.send(b"junk")
                    endpoint.wait(0.01)
                    for event in endpoint.turn(now):
                        if isinstance(event, Connected):
                            open_connections.append(event.connection)
                        elif isinstance(event, MessageReady):
                            message = event.connection.receive()
                            assert message is not None
                            endpoint.send(event.connection, message, now)
                            assert event.connection.session.psk_identity == "sensor"
                    endpoint.settle(now)
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            client.receive_datagram(theirs.recv(2000), now)
                    if client.session.established and client.receive() is None:
                        client.send(b"hello")
            now += 9.0
        endpoint.end(open_connections[0])
        endpoint.turn(now + 60.0)
        endpoint.end_all()
        endpoint.settle(now)
        endpoint.close()
        assert len(open_connections) == 3
        assert open_connections[1].session.description  # after its end


def changed(chance: random.Random, datagram: bytes) -> bytes:
    """A datagram cut off, or with another byte."""
    if chance.random() < 0.5:
        return datagram[: chance.randrange(1, len(datagram))]
    other = bytearray(datagram)
    other[chance.randrange(len(other))] ^= 1 << chance.randrange(8)
    return bytes(other)


def main() -> None:
    """All of it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    logging.disable()  # the lookup that fails is logged
    wrapper()
    gate(count, seed)
    listener("127.0.0.1")
    if socket.has_ipv6:
        with contextlib.suppress(OSError):
            listener("::1")
    sessions(random.Random(seed))
    served()
    print("all was called")


if __name__ == "__main__":
    main()
