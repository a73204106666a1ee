"""What a signal handler raises costs the call that it strikes, and nothing that C has given."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from gnutls_cookie import Arrival, CookieGate, PSKCredentials
from gnutls_cookie import Client as GnuTLSClient
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.server import (
    Closed,
    CloseReason,
    Connected,
    Connection,
    Event,
    MessageReady,
)
from tests.support.common import udp_socket
from tests.support.peers import psk
from tests.support.servers import Bench, Client

MESSAGES = [b"one", b"two", b"three"]


class Interrupt(BaseException):
    """What the handler raises."""


class Strikes:
    """Raises where a signal handler would be run, once: as a function is entered, and after a call.

    Args:
        after: how many of these places are left out.
    """

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, frame: FrameType, what: str, argument: Any) -> None:
        if what == "c_call" or not str(frame.f_globals.get("__name__")).startswith("gnutls_cookie"):
            return
        within: FrameType | None = frame
        while within is not None:
            if within.f_code.co_name == "gcookie_py_psk":
                return  # what strikes in a lookup is what the lookup raises
            within = within.f_back
        self.left -= 1
        if self.left == -1:
            raise Interrupt

    def call(self, function: Callable[..., object], *arguments: object) -> bool:
        """Call it; whether that was struck."""
        former = sys.getprofile()
        sys.setprofile(self)
        try:
            function(*arguments)
        except Interrupt:
            return True
        finally:
            sys.setprofile(former)
        return False


def last_flight(bench: Bench) -> tuple[Client, bytes]:
    """A client, and what makes its handshake complete at the server."""
    client = bench.client()
    while len(bench.arrivals) < 1:
        bench.send(client)
        bench.deliver(client)
    client.session.handshake()
    return client, b"".join(client.session.datagrams_to_send())


def struck(after: int) -> bool:
    """A handshake, three messages and a goodbye, with a strike; whether there was one."""
    bench = Bench(psk())
    server, strikes = bench.server, Strikes(after)
    client, flight = last_flight(bench)
    seen = False

    def receive(datagram: bytes, is_taken: Callable[[], bool]) -> None:
        nonlocal seen
        for _ in range(2):
            if is_taken():
                return
            arrival = Arrival(client.address, datagram, None)
            seen |= strikes.call(server.receive, arrival, bench.now())
        assert is_taken()

    receive(flight, lambda: server.counters.connected == 1)
    assert len(server) == 1
    bench.deliver(client)
    if not client.session.established:
        client.session.handshake()
    assert client.session.established
    for message in MESSAGES:
        client.session.send(message)
    client.session.close()
    receive(b"".join(client.session.datagrams_to_send()), lambda: len(server) == 0)
    bench.deliver(client)

    assert [type(event) for event in bench.events] == [Connected, MessageReady, Closed]
    connection = bench.connection(client)
    assert bench.events[1:] == [MessageReady(connection), Closed(connection, CloseReason.PEER)]
    assert [connection.receive() for _ in range(4)] == [*MESSAGES, None]
    assert not connection.is_open
    assert server.counters.closed[CloseReason.PEER] == 1
    assert server.counters.messages_received == 3
    assert connection.session.psk_identity == "sensor-1"
    return seen


def test_events_of_a_call_that_was_struck_are_told_by_the_next() -> None:
    """Each once and in order, wherever the strike was."""
    after = 0
    while struck(after):
        after += 1
    assert after > 60


class Heard(list[bytes]):
    """A receiver."""

    def on_message(self, message: bytes) -> None:
        """Keep it."""
        self.append(message)


class Answering(Heard):
    """One that calls the server, which then takes over what is left of the turn."""

    def __init__(self, bench: Bench, connection: Connection) -> None:
        super().__init__()
        self.bench, self.connection = bench, connection

    def on_message(self, message: bytes) -> None:
        """Keep it, and answer."""
        super().on_message(message)
        self.bench.server.send(self.connection, message, self.bench.now())


@pytest.mark.parametrize("answers", [False, True])
def test_messages_for_a_receiver_come_once_each_wherever_a_call_is_struck(answers: bool) -> None:
    """In order; those that it was not given wait."""
    after, was_struck = 0, True
    while was_struck:
        bench = Bench(psk())
        client = bench.connected()
        connection = bench.connection(client)
        heard = Answering(bench, connection) if answers else Heard()
        connection.receiver = heard
        for message in MESSAGES:
            client.session.send(message)
        arrival = Arrival(client.address, b"".join(client.session.datagrams_to_send()), None)
        strikes, was_struck = Strikes(after), False
        for _ in range(2):
            was_struck |= strikes.call(bench.server.receive, arrival, bench.now())
        bench.server.events()
        while (message_or_none := connection.receive()) is not None:
            heard.append(message_or_none)
        assert heard == MESSAGES
        after += 1
    assert after > 20


@pytest.mark.parametrize("count", [1, len(MESSAGES)])
def test_messages_of_a_turn_that_was_struck_come_once_each(count: int) -> None:
    """At a served socket, alone and several at once."""
    after, was_struck = 0, True
    with udp_socket() as peer, udp_socket() as sock:
        sock.setblocking(False)
        endpoint = Endpoint(sock, CookieGate(b"k" * 16), psk())
        peer.connect(sock.getsockname())
        peer.settimeout(10)
        client = GnuTLSClient(psk())
        client.connect(time.monotonic())
        events: list[Event] = []
        while not (client.session.established and events):
            for datagram in client.datagrams_to_send():
                peer.send(datagram)
            endpoint.wait(10)
            events += endpoint.turn(time.monotonic())
            if not client.session.established:
                client.receive_datagram(peer.recv(2048), time.monotonic())
        assert isinstance(events[0], Connected)
        connection, messages = events[0].connection, MESSAGES[:count]
        while was_struck:
            connection.receiver = heard = Heard()
            for message in messages:
                client.send(message)
            for datagram in client.datagrams_to_send():
                peer.send(datagram)
            strikes, was_struck = Strikes(after), False
            for _ in range(2):
                was_struck |= strikes.call(endpoint.turn, time.monotonic())
            while (message_or_none := connection.receive()) is not None:
                heard.append(message_or_none)
            assert heard == messages
            after += 1
        assert after > 10
        endpoint.close()


def test_failure_of_a_call_that_was_struck_is_told_with_what_its_lookup_raised() -> None:
    """Once, wherever the strike was outside of the lookup."""

    def lookup(identity: str) -> bytes | None:
        raise LookupError(identity)

    credentials = PSKCredentials(lookup=lookup)
    after, was_struck = 0, True
    while was_struck:
        bench = Bench(credentials)
        client, flight = last_flight(bench)
        arrival = Arrival(client.address, flight, None)
        strikes, was_struck = Strikes(after), False
        for _ in range(2):
            was_struck |= strikes.call(bench.server.receive, arrival, bench.now())
        failures = bench.server.failures()
        assert [failure.address for failure in failures] == [client.address]
        assert bench.server.failures() == []
        assert bench.server.forgotten() == [client.address]
        assert isinstance(failures[0].error, LookupError)
        after += 1
    assert after > 60


def test_connection_whose_end_nobody_took_over_outlives_its_server() -> None:
    """What it was with can still be asked, wherever the call that had its end was struck."""
    after, was_struck, missed = 0, True, 0
    while was_struck:
        bench = Bench(psk())
        client = bench.connected()
        connection = bench.connection(client)
        client.session.close()
        arrival = Arrival(client.address, b"".join(client.session.datagrams_to_send()), None)
        was_struck = Strikes(after).call(bench.server.receive, arrival, bench.now())
        missed += connection.is_open and len(bench.server) == 0
        del bench
        gc.collect()
        assert connection.address == client.address
        assert connection.session.psk_identity == "sensor-1"
        after += 1
    assert missed > 0


def test_turns_are_let_go_once_they_are_taken_over() -> None:
    """Also those of calls that were struck before or after C."""
    bench = Bench(psk())
    client = bench.connected()
    arrival = Arrival(client.address, b"\x17" + bytes(40), None)
    after = 0
    while Strikes(after).call(bench.server.receive, arrival, bench.now()):
        after += 1
    assert after > 10
    assert bench.server.events() == []
    assert not bench.server._turns.noted
