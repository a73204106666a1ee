"""A changed key costs a client one round trip at the gate; with the stock recipe the client stalls.

The clients are third-party programs. No time is measured: a client whose timer fires repeats its
ClientHello, and the repetition is seen.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from gnutls_cookie import (
    BadCookieError,
    Challenge,
    CookieGate,
    KeyRing,
    Prestate,
    Session,
    UnexpectedPacketLengthError,
    Verified,
    client_data,
    cookie_send,
    cookie_verify,
    generate_key,
)
from tests.support.common import (
    ROOT,
    Address,
    gnutls_cli,
    mbedtls_required,
    openssl,
    running,
    udp_socket,
)
from tests.support.peers import CERTS, certificate

pytestmark = pytest.mark.peer

LINE = b"hello, cookie\n"
ALPN = ",".join(f"protocol-number-{number:03}" for number in range(30))  # 630 bytes


def openssl_command(port: int, *more: str) -> list[str]:
    return [
        openssl(), "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}",
        "-CAfile", str(CERTS / "localhost.pem"), *more,
    ]  # fmt: skip


def gnutls_command(port: int, *more: str) -> list[str]:
    return [
        gnutls_cli(), "--udp", "--port", str(port), "--x509cafile", str(CERTS / "localhost.pem"),
        "--sni-hostname", "localhost", "--verify-hostname", "localhost", *more, "127.0.0.1",
    ]  # fmt: skip


def mbedtls_command(port: int) -> list[str]:
    mbedtls_required()
    client = ROOT / "tests" / "peers" / "mbedtls_client.py"
    return [sys.executable, str(client), str(port), str(CERTS / "localhost.pem")]


CLIENTS = {
    "openssl s_client": openssl_command,
    "gnutls-cli": gnutls_command,
    "Mbed TLS": mbedtls_command,
}

# Judges one datagram: the reply to send, a prestate, or neither.
Judge = Callable[[bytes, bytes], "bytes | Prestate | None"]


class Exchange:
    """What went over the wire until a client was verified, and whether it was served then."""

    def __init__(self) -> None:
        self.hellos: list[bytes] = []
        self.replies = 0
        self.served = False


def cookie_in(hello: bytes) -> bytes:
    start = 61 + hello[59]
    return hello[start : start + hello[start - 1]]


def serve(
    judge: Judge, command: Callable[[int], list[str]], seconds: float, until_hellos: int = 100
) -> Exchange:
    """Run a client against a server that asks `judge` until it gives a prestate; then echo."""
    exchange = Exchange()
    session: Session | None = None
    peer: Address = ("", 0)
    with udp_socket() as sock, running(command(sock.getsockname()[1])) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(LINE)
        child.stdin.flush()
        said = b""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            selector.register(child.stdout, selectors.EVENT_READ)
            while time.monotonic() < deadline and len(exchange.hellos) < until_hellos:
                for key, _ in selector.select(0.05):
                    if key.fileobj is child.stdout:
                        chunk = os.read(child.stdout.fileno(), 65536)
                        said += chunk
                        if not chunk:
                            selector.unregister(child.stdout)
                        continue
                    datagram, address = sock.recvfrom(65535)
                    if session is not None:
                        session.receive_datagram(datagram)
                        continue
                    if datagram[13:14] == b"\x01" and datagram[19:22] == bytes(3):
                        exchange.hellos.append(datagram)
                    answer = judge(datagram, client_data.sockaddr(address))
                    if isinstance(answer, bytes):
                        sock.sendto(answer, address)
                        exchange.replies += 1
                    elif answer is not None:
                        session = Session("server", certificate(), prestate=answer)
                        session.receive_datagram(datagram)
                        peer = address
                if session is None:
                    continue
                if session.handshake():
                    while (message := session.receive()) is not None:
                        session.send(message)
                for datagram in session.datagrams_to_send():
                    sock.sendto(datagram, peer)
                if LINE in said:
                    exchange.served = True
                    break
    return exchange


class ChangingGate:
    """A gate that gets an unrelated key before each of the first `changes` cookies comes back."""

    def __init__(self, changes: int, rotate: bool = False) -> None:
        self.ring = KeyRing.random()
        self.gate = CookieGate(self.ring)
        self.changes = changes
        self.rotate = rotate

    def __call__(self, datagram: bytes, who: bytes) -> bytes | Prestate | None:
        if len(datagram) > 61 and datagram[60 + datagram[59]] and self.changes:
            self.changes -= 1
            if self.rotate:
                self.ring.rotate()
            else:  # as a restart does
                self.gate = CookieGate(KeyRing.random())
        match self.gate.receive(datagram, who):
            case Challenge(reply):
                return reply
            case Verified(prestate):
                return prestate
        return None


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("changes", [0, 1, 3])
def test_each_changed_key_costs_one_round_trip(client: str, changes: int) -> None:
    """The client takes each new cookie at once: no hello is repeated, so no timer fired."""
    exchange = serve(ChangingGate(changes), CLIENTS[client], 20)
    assert exchange.served
    assert exchange.replies == 1 + changes
    cookies = [cookie_in(hello) for hello in exchange.hellos]
    assert len(cookies) == len(set(cookies)) == 2 + changes
    assert [hello[18] for hello in exchange.hellos] == list(range(2 + changes))  # message_seq


@pytest.mark.parametrize("client", CLIENTS)
def test_rotation_costs_nothing(client: str) -> None:
    """The previous key verifies."""
    exchange = serve(ChangingGate(1, rotate=True), CLIENTS[client], 20)
    assert exchange.served
    assert exchange.replies == 1


def stock_recipe_with_a_changed_key() -> Judge:
    """The manual's recipe (empty prestate, verify, else send); its key changes once."""
    key = [generate_key()]
    changed = [False]

    def judge(datagram: bytes, who: bytes) -> bytes | Prestate | None:
        if datagram[60 + datagram[59]] and not changed[0]:
            changed[0] = True
            key[0] = generate_key()
        try:
            return cookie_verify(key[0], who, datagram, Prestate())
        except (BadCookieError, UnexpectedPacketLengthError):
            sent: list[bytes] = []
            cookie_send(key[0], who, Prestate(), sent, lambda to, data: to.append(data))
            return sent[0]

    return judge


@pytest.mark.parametrize("client", CLIENTS)
def test_stock_recipe_stalls_the_client(client: str) -> None:
    """The client repeats the dead cookie by its timers of 1 s and 2 s, and is not served."""
    exchange = serve(stock_recipe_with_a_changed_key(), CLIENTS[client], 20, until_hellos=4)
    assert not exchange.served
    cookies = [cookie_in(hello) for hello in exchange.hellos]
    assert cookies[0] == b""
    assert cookies[1] != b""
    assert cookies[1:] == [cookies[1]] * 3


def test_hello_in_four_fragments_gets_one_answer_and_is_served() -> None:
    """openssl -mtu 256 with a long ALPN list sends its hello in four datagrams."""

    def command(port: int) -> list[str]:
        return openssl_command(port, "-mtu", "256", "-alpn", ALPN)

    received: list[bytes] = []
    gate = ChangingGate(0)

    def judge(datagram: bytes, who: bytes) -> bytes | Prestate | None:
        received.append(datagram)
        return gate(datagram, who)

    exchange = serve(judge, command, 20)
    assert exchange.served
    assert exchange.replies == 1
    of_first = [one for one in received if one[17:19] == b"\0\0"]
    assert len(of_first) == 4
    assert received[4:] == received[4:5]  # the second hello's first fragment is verified


def test_subprocesses_end() -> None:
    """Nothing of a peer is left behind: its process was waited for."""
    with running([openssl(), "version"]) as child:
        pass
    assert isinstance(child, subprocess.Popen)
    assert child.returncode is not None
