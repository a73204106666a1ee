"""Clients that have an address and send what costs a server most: the others are served on."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import Arrival, CertificateCredentials, Session, blocking
from gnutls_cookie.endpoint import Endpoint, gate_for
from gnutls_cookie.server import Event, MessageReady, RefusalReason
from tests.server.test_fair import PRESTATE, fresh_hello
from tests.support.common import ROOT, running
from tests.support.flood import Flooder
from tests.support.peers import CERTS, certificate, psk, trusting

SECONDS = 20


@contextmanager
def served(**options: Any) -> Iterator[Endpoint]:
    """A socket with what costs most: a signature by RSA for each session."""
    options = {"credentials": certificate("localhost-rsa")} | options
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    endpoint = Endpoint(sock, gate_for(None), **options)
    try:
        yield endpoint
    finally:
        endpoint.end_all()
        endpoint.flush()
        endpoint.close()


def until(endpoint: Endpoint, done: Callable[[], bool]) -> list[Event]:
    """Serve until something holds."""
    happened: list[Event] = []
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline
        timeout = endpoint.timeout(time.monotonic())
        endpoint.wait(0.01 if timeout is None else min(timeout, 0.01))
        happened += endpoint.turn(time.monotonic())
    return happened


def in_thread(endpoint: Endpoint, function: Callable[[], object]) -> list[object]:
    """What a function gives that needs the server meanwhile."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    until(endpoint, lambda: not thread.is_alive())
    thread.join()
    return found


def connect(port: int, source: str) -> blocking.Connection:
    """A client of another address."""
    return blocking.connect(
        "127.0.0.1",
        port,
        credentials=trusting("localhost-rsa"),
        server_name="localhost",
        local_address=(source, 0),
        handshake_timeout=SECONDS,
    )


def handshaking(endpoint: Endpoint) -> int:
    return endpoint.counters.server.handshaking


def test_a_message_and_a_newcomer_do_not_wait_for_a_flood_of_hellos() -> None:
    """The message is taken before most sessions begin, and the other network has its turn."""
    with served() as endpoint:
        there = endpoint.sock.getsockname()
        (client,) = in_thread(endpoint, lambda: connect(there[1], "127.0.8.1"))
        assert isinstance(client, blocking.Connection)
        (flooders,) = in_thread(endpoint, lambda: [Flooder(there, "127.0.9.1") for _ in range(100)])
        (newcomer,) = in_thread(endpoint, lambda: Flooder(there, "127.0.10.1"))
        assert isinstance(flooders, list)
        assert isinstance(newcomer, Flooder)
        with client:
            before = handshaking(endpoint)
            for flooder in flooders:
                flooder.hello()
            newcomer.hello()
            client.send(b"and I?")
            at_message = at_newcomer = 0
            address = newcomer.sock.getsockname()
            deadline = time.monotonic() + SECONDS
            while not (at_message and at_newcomer):
                assert time.monotonic() < deadline
                events = endpoint.turn(time.monotonic())
                begun = handshaking(endpoint) - before
                if any(isinstance(event, MessageReady) for event in events):
                    at_message = begun
                if not at_newcomer and address in endpoint._server:
                    at_newcomer = begun
            assert at_message < 60
            assert at_newcomer < 60
            until(endpoint, lambda: handshaking(endpoint) - before == 101)  # and nobody is lost
        for flooder in (*flooders, newcomer):
            flooder.close()


def test_hellos_of_one_network_do_not_take_the_places_of_others() -> None:
    """Where more wait than may, its own are refused, and counted."""
    with served(max_handshakes_per_address=1000) as endpoint:
        there = endpoint.sock.getsockname()
        native = endpoint._serving._native
        (flooders,) = in_thread(endpoint, lambda: [Flooder(there, "127.0.9.1") for _ in range(700)])
        (newcomer,) = in_thread(endpoint, lambda: Flooder(there, "127.0.10.1"))
        assert isinstance(flooders, list)
        assert isinstance(newcomer, Flooder)
        for start in range(0, 700, 60):
            for flooder in flooders[start : start + 60]:
                flooder.hello()
            endpoint.turn(time.monotonic())
            assert native.waiting.count <= 384
        assert endpoint.counters.server.refused_by[RefusalReason.BUSY] > 0
        waiting = native.waiting.count
        newcomer.hello()
        until(endpoint, lambda: newcomer.sock.getsockname() in endpoint._server)
        assert native.waiting.count > waiting // 2
        for flooder in (*flooders, newcomer):
            flooder.close()


def at_last_flight(there: tuple[str, int], source: str) -> tuple[socket.socket, list[bytes]]:
    """A client, and the flight that makes the server decrypt by its RSA key."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((source, 0))
    sock.connect(there)
    sock.settimeout(SECONDS)
    priority = "NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+RSA"
    session = Session("client", CertificateCredentials(), verify_peer=False, priority=priority)
    flights = 0
    while True:
        session.handshake()
        flight = session.datagrams_to_send()
        flights += bool(flight)
        if flights == 3:
            return sock, flight
        for datagram in flight:
            sock.send(datagram)
        session.receive_datagram(sock.recv(2000))


def test_a_flight_of_many_datagrams_is_taken_in_one_batch() -> None:
    """As those of a long certificate in small fragments are. None of them is turned away."""
    with served() as endpoint:
        there = endpoint.sock.getsockname()
        (client,) = in_thread(endpoint, lambda: at_last_flight(there, "127.0.9.1"))
        assert isinstance(client, tuple)
        sock, flight = client
        with sock:
            for datagram in [*flight[:1] * 60, *flight]:
                sock.send(datagram)
            until(endpoint, lambda: endpoint.counters.server.connected == 1)
        assert endpoint.counters.server.refused == 0


def test_a_message_does_not_wait_for_a_flood_of_key_exchanges() -> None:
    """Each costs what a signature does, and they came in one batch: a turn does some of them."""
    with served(max_handshakes_per_address=1000) as endpoint:
        there = endpoint.sock.getsockname()
        (client,) = in_thread(endpoint, lambda: connect(there[1], "127.0.8.1"))
        assert isinstance(client, blocking.Connection)
        (waiting,) = in_thread(
            endpoint, lambda: [at_last_flight(there, "127.0.9.1") for _ in range(60)]
        )
        assert isinstance(waiting, list)
        with client:
            before = endpoint.counters.server.connected
            for sock, flight in waiting:
                for datagram in flight:
                    sock.send(datagram)
            endpoint.turn(time.monotonic())
            assert endpoint.counters.server.connected - before < 30
            client.send(b"and I?")
            happened = endpoint.turn(time.monotonic())
            assert any(isinstance(event, MessageReady) for event in happened)
            assert endpoint.counters.server.connected - before < 60
            until(endpoint, lambda: endpoint.counters.server.connected - before == 60)
        for sock, _ in waiting:
            sock.close()


def test_timers_of_a_flood_leave_the_others_their_turn() -> None:
    """What is due is done by several turns, and a message in the first of them."""
    with served(credentials=[certificate("localhost-rsa"), psk()]) as endpoint:
        there = endpoint.sock.getsockname()
        (client,) = in_thread(endpoint, lambda: connect(there[1], "127.0.8.1"))
        assert isinstance(client, blocking.Connection)
        now = time.monotonic()
        for number in range(4000):
            address = (f"127.2.{number // 250}.{number % 250 + 1}", 9)
            endpoint._server.receive(Arrival(address, fresh_hello(), PRESTATE), now)
        endpoint._server.outgoing()
        with client:
            client.send(b"and I?")
            later = now + 2.0
            happened = endpoint.turn(later)
            assert any(isinstance(event, MessageReady) for event in happened)
            turns = 1
            while endpoint.timeout(later) == 0.0:
                endpoint.turn(later)
                turns += 1
            assert 1 < turns < 4000


@contextmanager
def flooding(port: int, source: str, ports: int, rate: int) -> Iterator[None]:
    """Fresh hellos from another process."""
    numbers = (str(port), source, str(ports), str(rate))
    command = [sys.executable, "-m", "tests.support.flood", *numbers]
    with running(command, env={"PYTHONPATH": str(ROOT)}) as flood:
        assert flood.stdout is not None
        assert flood.stdout.readline() == b"ready\n"
        yield
        assert flood.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "ports"), [("127.0.2.1", 1), ("127.0.2.1", 400), ("127.0.2.0/24", 400)]
)
def test_fresh_hellos_of_a_verified_client_leave_the_server_to_the_others(
    source: str, ports: int, tmp_path: Path
) -> None:
    """2,000 a second: a client's echoes come back, others connect, and Ctrl-C ends the server."""
    key = tmp_path / "key.pem"
    key.write_bytes((CERTS / "localhost-rsa.key").read_bytes())
    key.chmod(0o600)
    command = [
        *(sys.executable, "-m", "gnutls_cookie", "serve", "--port", "0"),
        *("--json", "-q", "--x509certfile", str(CERTS / "localhost-rsa.pem")),
        *("--x509keyfile", str(key)),
    ]
    with running(command) as server:
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["port"]
        with connect(port, "127.0.8.1") as client, flooding(port, source, ports, 2000):
            quick = 0
            for number in range(100):
                began = time.monotonic()
                client.send(b"%d" % number)
                assert client.receive(SECONDS) == b"%d" % number
                quick += time.monotonic() - began < 0.5
            assert quick >= 90
            for number in range(20):
                with connect(port, f"127.1.{number}.1") as other:
                    other.send(b"hello")
                    assert other.receive(SECONDS) == b"hello"
            server.send_signal(signal.SIGINT)
            began = time.monotonic()
            server.wait(SECONDS)
            assert time.monotonic() - began < 10
