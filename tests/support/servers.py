"""What the tests of the server share: a Server behind a gate without any socket, and its clients.

The clock is the real one and what a test adds to it: minutes pass without waiting for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import heapq
import itertools
import os
import random
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from gnutls_cookie import (
    Arrival,
    Challenge,
    CookieGate,
    Discarded,
    Server,
    Session,
    Verified,
    aio,
    client_data,
)
from gnutls_cookie.server import CloseReason, Connected, Connection, Event
from gnutls_cookie.session import Credentials
from tests.support.common import Address
from tests.support.peers import certificate, client_of, messages, psk, trusting

RETRANSMIT = 0.02  # seconds
SECONDS = 60.0  # a bound, never a measure


@dataclass(eq=False)
class Client:
    """A client session and the address that it sends from."""

    session: Session
    address: Address


class Bench:
    """A Server behind a CookieGate as a listener would put it there; memory between it and clients.

    Attributes:
        events: all that the server told so far, in order.
        heard: the datagrams of the server so far.
        arrivals: all that the server was given so far.
        challenges: HelloVerifyRequests so far.
    """

    def __init__(
        self, credentials: Credentials | Sequence[Credentials] | None = None, **limits: Any
    ) -> None:
        limits = {"retransmit_timeout": RETRANSMIT} | limits
        self.server = Server(
            [certificate(), psk()] if credentials is None else credentials, **limits
        )
        self.gate = CookieGate(b"k" * 16)
        self.events: list[Event] = []
        self.heard: list[tuple[bytes, Address]] = []
        self.arrivals: list[Arrival] = []
        self.challenges = 0
        self._waiting: list[tuple[bytes, Address]] = []
        self._added = 0.0
        self._still: float | None = None
        self._ports = iter(range(40_000, 65_536))

    # --- the clock

    def now(self) -> float:
        """What the server is told."""
        return (time.monotonic() if self._still is None else self._still) + self._added

    def stop_clock(self) -> None:
        """From now on only pass_time() and stall() let time pass, however slow the machine is."""
        self._still = time.monotonic()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and the server's timers go off."""
        self._added += seconds
        self.server.handle_timeout(self.now())
        self._gather()

    def stall(self, seconds: float) -> None:
        """Let time pass in which nobody calls the server: no timer goes off."""
        self._added += seconds

    # --- clients

    def client(self, kind: str = "PSK", address: Address | None = None, **options: Any) -> Client:
        """A new client, at an address of its own or at the given one."""
        if address is None:
            address = ("192.0.2.1", next(self._ports))
        return Client(client_of(kind, **options), address)

    def connected(self, kind: str = "PSK", address: Address | None = None) -> Client:
        """A client after its handshake."""
        client = self.client(kind, address)
        self.talk(client)
        assert client.session.established
        return client

    def at_server_hello(self, client: Client) -> None:
        """Let a client bring its cookie back, and not yet read the flight that answers it."""
        self.send(client)
        self.deliver(client)
        before = len(self.arrivals)
        self.send(client)
        assert self.arrivals[before].prestate is not None
        self._gather()

    def connection(self, client: Client) -> Connection:
        """The server's side of a client: the one that was connected last at its address."""
        return [
            event.connection
            for event in self.events
            if isinstance(event, Connected) and event.connection.address == client.address
        ][-1]

    def echoes(self, client: Client, message: bytes = b"hello") -> bool:
        """Whether a message of a client comes to the server, and one goes back."""
        served = self.connection(client)
        client.session.send(message)
        self.send(client)
        there = served.receive()
        if there != message or not served.is_open:
            return False
        self.server.send(served, there, self.now())
        self._gather()
        self.deliver(client)
        return messages(client.session) == [message]

    # --- datagrams

    def arrive(self, datagram: bytes, address: Address) -> None:
        """What the listener does with a datagram, and the server with what the listener lets in."""
        verdict = self.gate.receive(datagram, client_data.sockaddr(address))
        match verdict:
            case Challenge(reply):
                self.challenges += 1
                self.heard.append((reply, address))
                self._waiting.append((reply, address))
            case Verified(prestate):
                self._give(Arrival(address, datagram, prestate))
            case Discarded() if address in self.server:
                self._give(Arrival(address, datagram, None))

    def send(self, client: Client) -> list[bytes]:
        """Whatever the client has to send at present comes to the server; gives the datagrams."""
        session = client.session
        if not session.established and not session.closed:
            session.handshake()
        datagrams = session.datagrams_to_send()
        for datagram in datagrams:
            self.arrive(datagram, client.address)
        return datagrams

    def deliver(self, *clients: Client) -> None:
        """Give the clients what the server has sent to their addresses."""
        self._gather()
        addresses = {client.address for client in clients}
        arrived = [one for one in self._waiting if one[1] in addresses]
        self._waiting = [one for one in self._waiting if one[1] not in addresses]
        for datagram, address in arrived:
            for client in clients:
                if client.address == address:
                    client.session.receive_datagram(datagram)

    def lose(self) -> list[tuple[bytes, Address]]:
        """What the server has sent, and nobody gets."""
        self._gather()
        lost, self._waiting = self._waiting, []
        return lost

    @contextmanager
    def delayed(self) -> Iterator[None]:
        """What the server has sent so far arrives after the block."""
        late = self.lose()
        yield
        self._waiting += late

    def talk(self, *clients: Client) -> None:
        """Datagrams go both ways, and timers go off, until all have shaken hands; bounded."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            sent = [self.send(client) for client in clients]
            if not any(sent) and not self._waiting:
                time.sleep(0.002)
                self.pass_time(0.0)
            self.deliver(*clients)
            for client in clients:
                client.session.handshake()
            if all(client.session.established for client in clients):
                # The timers of a slow run may have repeated a flight: the next client of this
                # address is not to have it among its own.
                for client in clients:
                    client.session.datagrams_to_send()
                self._gather()
                addresses = {client.address for client in clients}
                self._waiting = [one for one in self._waiting if one[1] not in addresses]
                return
        raise AssertionError(f"not in {SECONDS} s: {clients}")

    # --- helpers

    def _give(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        self.server.receive(arrival, self.now())
        self._gather()

    def _gather(self) -> None:
        self.events += self.server.events()
        outgoing = self.server.datagrams_to_send()
        self.heard += outgoing
        self._waiting += outgoing


def closed_by(server: Server) -> dict[CloseReason, int]:
    """How many connections ended, by reason; those that occurred."""
    return {reason: number for reason, number in server.counters.closed.items() if number}


@contextmanager
def bounded(seconds: int = 20) -> Iterator[None]:
    """What would hang raises after so many seconds: a bound, never a measure."""

    def give_up(*_: object) -> None:
        raise AssertionError(f"not done in {seconds} s")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


class LossyRelay:
    """A UDP relay in a thread, which loses and doubles and delays; `with` ends it.

    Each client has a socket of its own towards the server, as behind a NAT.

    Args:
        there: the server's address, IPv4.
        chance: seeded; decides each fate.
        rate: 0..1: how likely each of the three misfortunes is for each datagram of either way.

    Attributes:
        address: what clients connect to.
        carried: datagrams that arrived.
        lost: datagrams that did not.
    """

    def __init__(self, there: Address, chance: random.Random, rate: float) -> None:
        self.carried = self.lost = 0
        self._there = there
        self._chance = chance
        self._rate = rate
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self.address: Address = self._front.getsockname()
        self._backs: dict[Address, socket.socket] = {}
        self._flying: list[tuple[float, int, socket.socket, Address, bytes]] = []
        self._order = itertools.count()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lossy relay")

    def __enter__(self) -> LossyRelay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for sock in (self._front, *self._backs.values()):
            sock.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._front, selectors.EVENT_READ, None)
            while not self._over.is_set():
                for key, _ in selector.select(0.005 if self._flying else 0.05):
                    self._take(selector, key.data)
                now = time.monotonic()
                while self._flying and self._flying[0][0] <= now:
                    _, _, sock, address, datagram = heapq.heappop(self._flying)
                    with contextlib.suppress(OSError):  # the client is gone
                        sock.sendto(datagram, address)
                        self.carried += 1

    def _take(self, selector: selectors.DefaultSelector, client: Address | None) -> None:
        """One datagram of a client (None), or one for it."""
        try:
            if client is not None:
                datagram, _ = self._backs[client].recvfrom(65535)
                self._fly(self._front, client, datagram)
                return
            datagram, client = self._front.recvfrom(65535)
        except OSError:
            return  # ICMP
        if client not in self._backs:
            sock = self._backs[client] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            selector.register(sock, selectors.EVENT_READ, client)
        self._fly(self._backs[client], self._there, datagram)

    def _fly(self, sock: socket.socket, address: Address, datagram: bytes) -> None:
        if self._unlucky():
            self.lost += 1
            return
        for _ in range(2 if self._unlucky() else 1):
            when = time.monotonic() + (self._chance.random() / 20 if self._unlucky() else 0.0)
            heapq.heappush(self._flying, (when, next(self._order), sock, address, datagram))

    def _unlucky(self) -> bool:
        return self._chance.random() < self._rate


# --- asyncio --------------------------------------------------------------------------------------


_told: list[dict[str, Any]] = []  # what the event loop of the present test was told of


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine as a test, in debug mode; what goes wrong and nobody hears of fails it."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        _told.clear()

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: _told.append(context))
            loop.slow_callback_duration = 60.0  # a slow machine is not a fault
            await asyncio.wait_for(test(**fixtures), SECONDS)

        asyncio.run(main(), debug=True)
        gc.collect()  # "never retrieved" is told by destructors
        assert _told == []

    return run


@contextmanager
def heard_errors() -> Iterator[list[dict[str, Any]]]:
    """What the event loop is told of within the block, and not held against the test."""
    heard: list[dict[str, Any]] = []
    before = len(_told)
    yield heard
    heard += _told[before:]
    del _told[before:]


def client_options(kind: str, **options: Any) -> dict[str, Any]:
    """What connect() of either adapter is given for a client of that kind; `options` come first."""
    options = {"retransmit_timeout": 0.1, "handshake_timeout": 15.0} | options
    if kind == "PSK":
        return {"credentials": psk()} | options
    return {"server_name": "localhost", "credentials": trusting()} | options


def open_files() -> set[str]:
    """What this process has open: number and what it is; nothing where there is no /proc.

    Compare with <=: what a test before this one had open may be closed meanwhile.
    """
    found = set()
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc here")


async def echo(connection: aio.Connection) -> None:
    """A handler that sends everything back."""
    async for message in connection:
        await connection.send(message)


async def echo_or_fail(connection: aio.Connection) -> None:
    """The same, but for b"fail", where it raises."""
    async for message in connection:
        if message == b"fail":
            raise ZeroDivisionError("of the handler")
        await connection.send(message)
