"""What the tests of the listener share: a listener on a socket, clients, a server of sessions."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gnutls_cookie import Arrival, CookieGate, CookieListener, GnuTLSError, Session, client_data
from gnutls_cookie.reference import wire
from gnutls_cookie.session import Credentials
from tests.support.common import Address, udp_socket

KEY = b"k" * 16


@contextmanager
def listening(host: str = "127.0.0.1", **options: Any) -> Iterator[CookieListener]:
    """A listener on a free port, with the key KEY."""
    with udp_socket(host) as sock, CookieListener(sock, CookieGate(KEY), **options) as listener:
        yield listener


@contextmanager
def client_of(listener: CookieListener, host: str | None = None) -> Iterator[socket.socket]:
    """A UDP socket that is connected to a listener."""
    there = address_of(listener)
    if host is None:
        host = "::1" if len(there) == 4 else "127.0.0.1"
    with udp_socket(host) as sock:
        sock.connect((host, there[1]))
        sock.settimeout(20)
        yield sock


def address_of(listener: CookieListener) -> Address:
    """Where a listener listens."""
    with socket.socket(fileno=socket.dup(listener.fileno())) as sock:
        address: Address = sock.getsockname()
        return address


def poll_until(listener: CookieListener, count: int, **options: Any) -> list[Arrival]:
    """Poll until so many arrivals are there; bounded by 20 s a poll."""
    found: list[Arrival] = []
    while len(found) < count:
        more = listener.poll(20, **options)
        assert more, f"{len(found)} arrivals of {count}"
        found += more
    return found


def cookie_for(listener: CookieListener, sock: socket.socket) -> bytes:
    """What a HelloVerifyRequest gives a client: asked for, answered, received."""
    sock.send(wire.client_hello())
    replies = listener.counters.replies
    while listener.counters.replies == replies:
        assert listener.poll(0) == []
    return sock.recv(100)[-16:]


def verified(listener: CookieListener, sock: socket.socket) -> Arrival:
    """A whole exchange of a client; gives the arrival."""
    sock.send(second_hello(cookie_for(listener, sock)))
    (arrival,) = listener.poll(20)
    assert arrival.prestate is not None
    return arrival


def second_hello(cookie: bytes, seq: int = 1) -> bytes:
    """The ClientHello that brings a cookie back."""
    return wire.client_hello(cookie=cookie, record_seq=seq, message_seq=seq)


def seen_as(sock: socket.socket, family: int | None = None) -> bytes:
    """client_data of a client's socket, as a server of that family sees it."""
    return client_data.sockaddr(sock.getsockname(), family)


class ListenerServer:
    """Sessions behind a listener, by address; each is served by an echo.

    Args:
        idle: seconds without a datagram after which an established session is dropped.

    Attributes:
        served: how many sessions were established.
        arrivals: how many with a prestate, and without.
    """

    def __init__(
        self, listener: CookieListener, credentials: Credentials, idle: float = 60, **options: Any
    ) -> None:
        self.listener = listener
        self.sessions: dict[Address, Session] = {}
        self.established: set[Address] = set()
        self.served = 0
        self.failed = 0
        self.arrivals = [0, 0]
        self._heard: dict[Address, float] = {}
        self._idle = idle
        self._credentials = credentials
        self._options = options

    def step(self, timeout: float) -> None:
        """One poll, and what follows from it; and the timers."""
        for arrival in self.listener.poll(timeout):
            session = self.sessions.get(arrival.address)
            self.arrivals[arrival.prestate is None] += 1
            if arrival.prestate is not None and (session is None or session.established):
                session = Session(
                    "server", self._credentials, prestate=arrival.prestate, **self._options
                )
                self.sessions[arrival.address] = session
                self.established.discard(arrival.address)
                self.listener.admit(arrival.address)
            if session is not None:
                session.receive_datagram(arrival.datagram)
                self._heard[arrival.address] = time.monotonic()
        for address, session in list(self.sessions.items()):
            self._go_on(address, session)
            silence = time.monotonic() - self._heard.get(address, math.inf)
            if address in self.established and silence > self._idle:
                self._drop(address)

    def _go_on(self, address: Address, session: Session) -> None:
        try:
            session.handle_timeout()
            if session.handshake():
                if address not in self.established:
                    self.established.add(address)
                    self.served += 1
                while (message := session.receive()) is not None:
                    session.send(message)
        except GnuTLSError:
            self.failed += 1
            self._drop(address)
        with socket.socket(fileno=socket.dup(self.listener.fileno())) as sock:
            for datagram in session.datagrams_to_send():
                sock.sendto(datagram, address)
        if session.peer_closed:
            self._drop(address)

    def _drop(self, address: Address) -> None:
        self.sessions.pop(address, None)
        self._heard.pop(address, None)
        self.established.discard(address)
        self.listener.forget(address)


# Polls until Ctrl-C; prints its port first, then when it was stopped and what it had received.
POLL = """
import socket, time
from gnutls_cookie import CookieGate, CookieListener
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 0))
    with CookieListener(sock, CookieGate(b"k" * 16)) as listener:
        print(sock.getsockname()[1], flush=True)
        try:
            listener.poll()
        except KeyboardInterrupt:
            print(time.monotonic(), listener.counters.received, flush=True)
"""
