"""What the tests of sessions share: credentials, pairs of sessions, a server on a socket.

Sessions here have small retransmission timeouts, so that a lost datagram costs milliseconds.
"""

from __future__ import annotations

import os
import random
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gnutls_cookie import (
    BadCookieError,
    CertificateCredentials,
    GnuTLSError,
    Prestate,
    PSKCredentials,
    Session,
    UnexpectedPacketLengthError,
    client_data,
    cookie_send,
    cookie_verify,
)
from gnutls_cookie.session import Credentials
from tests.support.common import Address

CERTS = Path(__file__).resolve().parent.parent / "certs"
IDENTITY = "sensor-1"
PSK_KEY = bytes(range(1, 17))
KINDS = ("PSK", "X.509")
DTLS_1_0 = "NORMAL:-VERS-ALL:+VERS-DTLS1.0"

Options = dict[str, Any]


# --- credentials ----------------------------------------------------------------------------------


def certificate(name: str = "localhost", trust: str | None = None) -> CertificateCredentials:
    """The certificate and key of tests/certs/NAME, and trust in the certificate of another."""
    return CertificateCredentials.from_files(
        CERTS / f"{name}.pem",
        CERTS / f"{name}.key",
        trust=None if trust is None else CERTS / f"{trust}.pem",
    )


def trusting(name: str = "localhost") -> CertificateCredentials:
    """No certificate, but trust in that of tests/certs/NAME."""
    return CertificateCredentials.from_files(trust=CERTS / f"{name}.pem")


def psk() -> PSKCredentials:
    """One identity and its key, for either side."""
    return PSKCredentials(IDENTITY, PSK_KEY)


# --- pairs in process -----------------------------------------------------------------------------


def client_of(kind: str, **options: Any) -> Session:
    """A client of that kind that trusts server_of(kind)."""
    options = {"retransmit_timeout": 0.02, "handshake_timeout": 60.0, **options}
    if kind == "PSK":
        return Session("client", psk(), **options)
    return Session("client", trusting(), **{"server_name": "localhost", **options})


def server_of(kind: str, **options: Any) -> Session:
    """A server of that kind."""
    options = {"retransmit_timeout": 0.02, "handshake_timeout": 60.0} | options
    credentials: Credentials = psk() if kind == "PSK" else certificate()
    return Session("server", credentials, **options)


def pair(kind: str = "PSK", **options: Any) -> tuple[Session, Session]:
    """A client and a server that would serve it; the options are for both."""
    return client_of(kind, **options), server_of(kind, **options)


def deliver(sender: Session, receiver: Session) -> list[bytes]:
    """Hand over all that `sender` has to send; gives the datagrams."""
    datagrams = sender.datagrams_to_send()
    for datagram in datagrams:
        receiver.receive_datagram(datagram)
    return datagrams


def shake(client: Session, server: Session) -> list[bytes]:
    """A whole handshake over a network that loses nothing; gives every datagram."""
    seen: list[bytes] = []
    for _ in range(40):
        client.handshake()
        seen += deliver(client, server)
        server.handshake()
        seen += deliver(server, client)
        if client.established and server.established:
            return seen
    raise AssertionError(f"no handshake: {client!r}, {server!r}")


def established(kind: str = "PSK", **options: Any) -> tuple[Session, Session]:
    """A client and a server after their handshake."""
    client, server = pair(kind, **options)
    shake(client, server)
    return client, server


def messages(session: Session) -> list[bytes]:
    """Every message that is at hand."""
    found = []
    while (message := session.receive()) is not None:
        found.append(message)
    return found


def echoes(client: Session, server: Session) -> bool:
    """Whether a message goes each way."""
    client.send(b"there")
    deliver(client, server)
    there = messages(server)
    server.send(b"and back")
    deliver(server, client)
    return (there, messages(client)) == ([b"there"], [b"and back"])


def fail_in_lookup() -> None:
    """A handshake that ends in the server's lookup."""

    def lookup(_: str) -> bytes:
        raise LookupError

    client, server = client_of("PSK"), Session("server", PSKCredentials(lookup=lookup))
    try:
        shake(client, server)
    except LookupError:
        return
    raise AssertionError("no LookupError")


class LossyNetwork:
    """Both ways between two sessions: drops, doubles, delays and so reorders, by a seed.

    Args:
        chance: seeded; decides each fate.
        rate: 0..1: how likely each of the three misfortunes is for each datagram.
    """

    def __init__(self, chance: random.Random, rate: float, one: Session, other: Session) -> None:
        self._chance = chance
        self._rate = rate
        self._ends = ((one, other), (other, one))
        self._flying: list[tuple[int, Session, bytes]] = []
        self._turn = 0
        self.lost = 0

    def carry(self) -> None:
        """One turn: takes what the ends have to send, and gives them what has arrived."""
        self._turn += 1
        for sender, receiver in self._ends:
            for datagram in sender.datagrams_to_send():
                if self._unlucky():
                    self.lost += 1
                    continue
                for _ in range(2 if self._unlucky() else 1):
                    late = self._chance.randint(1, 4) if self._unlucky() else 0
                    self._flying.append((self._turn + late, receiver, datagram))
        arrived = [flight for flight in self._flying if flight[0] <= self._turn]
        self._flying = [flight for flight in self._flying if flight[0] > self._turn]
        self._chance.shuffle(arrived)
        for _, receiver, datagram in arrived:
            receiver.receive_datagram(datagram)

    def _unlucky(self) -> bool:
        return self._chance.random() < self._rate


def wait_for_timer(*sessions: Session) -> None:
    """Sleep until the first of their timers is over, and call handle_timeout() on each."""
    timers = [timer for one in sessions if (timer := one.timeout()) is not None]
    if timers:
        time.sleep(min(timers) + 0.001)
    for one in sessions:
        one.handle_timeout()


# --- a server on a socket -------------------------------------------------------------------------


class CookieServer:
    """A UDP socket that challenges, verifies, and serves one client by an echo.

    It does what GnuTLS' manual does, and ignores what is not a first fragment of a ClientHello:
    for such a fragment the cookie cannot be seen, and one answer for one hello is enough.
    """

    def __init__(
        self, sock: socket.socket, credentials: Credentials | list[Credentials], **options: Any
    ) -> None:
        self.sock = sock
        self.key = os.urandom(16)
        self.challenges = 0
        self.hellos: list[bytes] = []
        self.received: list[bytes] = []
        self.session: Session | None = None
        self.peer: Address | None = None
        self._credentials = credentials
        self._options = options

    def readable(self) -> None:
        """Take one datagram from the socket."""
        datagram, address = self.sock.recvfrom(65535)
        if self.session is None:
            self._exchange(datagram, address)
        elif address == self.peer:
            self.session.receive_datagram(datagram)
        self.go_on()

    def go_on(self) -> None:
        """Whatever the session can do at present; sends what it has to send."""
        if self.session is None:
            return
        try:
            self.session.handle_timeout()
            if self.session.handshake():
                while (message := self.session.receive()) is not None:
                    self.received.append(message)
                    self.session.send(message)
        except GnuTLSError:
            self.send()
            raise
        self.send()

    def send(self) -> None:
        """Send what the session has to send."""
        assert self.session is not None
        for datagram in self.session.datagrams_to_send():
            self.sock.sendto(datagram, self.peer or ())

    @property
    def done(self) -> bool:
        """Whether a client was served and has said goodbye."""
        return self.session is not None and self.session.peer_closed

    def _exchange(self, datagram: bytes, address: Address) -> None:
        # RFC 6347 4.2.2: type at 13, message_seq at 17, fragment_offset at 19.
        if len(datagram) < 25 or datagram[0] != 22 or datagram[13] != 1:
            return
        if datagram[19:22] != bytes(3):
            return
        self.hellos.append(datagram)
        who = client_data.sockaddr(address)
        try:
            prestate = cookie_verify(self.key, who, datagram)
        except (BadCookieError, UnexpectedPacketLengthError):
            self.challenges += 1
            sent = cookie_send(
                self.key,
                who,
                Prestate(),
                (self.sock, address),
                lambda there, data: there[0].sendto(data, there[1]),
            )
            assert sent == 44
            return
        self.peer = address
        self.session = Session("server", self._credentials, prestate=prestate, **self._options)
        self.session.receive_datagram(datagram)


def drive(
    parts: Iterable[CookieServer | SocketClient],
    until: Callable[[], bool],
    process: subprocess.Popen[bytes] | None = None,
    said: bytearray | None = None,
    seconds: float = 60.0,
) -> None:
    """Run servers and clients of our own, and read a program, until `until()`; bounded.

    Args:
        parts: what has a socket here.
        until: asked after each step.
        process: a program whose stdout is collected meanwhile.
        said: where it is collected.
        seconds: the bound.

    Raises:
        AssertionError: the time is over, with what the program said.
    """
    said = bytearray() if said is None else said
    parts = list(parts)
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for part in parts:
            selector.register(part.sock, selectors.EVENT_READ, part)
        if process is not None and process.stdout is not None:
            selector.register(process.stdout, selectors.EVENT_READ, None)
        while True:
            for part in parts:
                part.go_on()
            if until():
                return
            assert time.monotonic() < deadline, f"not in {seconds} s:\n{bytes(said).decode()}"
            for key, _ in selector.select(0.02):
                if key.data is not None:
                    key.data.readable()
                    continue
                assert process is not None
                assert process.stdout is not None
                chunk = os.read(process.stdout.fileno(), 65536)
                said += chunk
                if not chunk:
                    selector.unregister(process.stdout)


class SocketClient:
    """A client session on a connected UDP socket."""

    def __init__(self, sock: socket.socket, session: Session) -> None:
        self.sock = sock
        self.session = session
        self.received: list[bytes] = []
        self.challenges = 0

    def readable(self) -> None:
        """Take one datagram from the socket."""
        try:
            datagram = self.sock.recv(65535)
        except ConnectionRefusedError:
            return  # the server is not there yet: the timer sends again
        self.challenges += datagram[:1] == b"\x16" and datagram[13:14] == b"\x03"  # of type 3
        self.session.receive_datagram(datagram)
        self.go_on()

    def go_on(self) -> None:
        """Whatever the session can do at present; sends what it has to send."""
        try:
            self.session.handle_timeout()
            if self.session.established:
                if not self.session.peer_closed:
                    self.received += messages(self.session)
            elif not self.session.closed:
                self.session.handshake()
        finally:
            self.send()

    def send(self) -> None:
        """Send what the session has to send."""
        for datagram in self.session.datagrams_to_send():
            try:
                self.sock.send(datagram)
            except ConnectionRefusedError:
                continue
