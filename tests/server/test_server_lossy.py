"""The server over networks that drop, double, delay and reorder: in process, and over UDP.

One seed decides each fate. Timers are real; in process they are short, so that a loss costs little.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import random
import selectors
import subprocess
import time
from collections.abc import Callable

import pytest

from gnutls_cookie import PSKCredentials, aio
from gnutls_cookie.handles import TABLE
from gnutls_cookie.server import CloseReason
from gnutls_cookie.session import Credentials
from tests.support import interop
from tests.support.common import gnutls_cli, openssl, running, seeded
from tests.support.interop import HEX, IDENTITY, KEY, connected, jsse_command, started
from tests.support.peers import CERTS, KINDS, certificate, messages
from tests.support.servers import Bench, Client, LossyRelay, closed_by

LATE = 0.01  # seconds that a delayed datagram is late at most: half of the shortest timer
BOUND = 60.0  # seconds; a bound, never a measure
TRUST = str(CERTS / "localhost.pem")


class Deck:
    """Says whether a misfortune happens: `of_ten` times in ten, in an order by chance.

    Independent chances would now and then make a streak that no timer bears which doubles with each
    loss: for one client of 500, in every other run. Here at most six in a row are lost.
    """

    def __init__(self, chance: random.Random, of_ten: int) -> None:
        self._chance = chance
        self._of_ten = of_ten
        self._cards: list[bool] = []

    def draw(self) -> bool:
        if not self._cards:
            self._cards = [number < self._of_ten for number in range(10)]
            self._chance.shuffle(self._cards)
        return self._cards.pop()


class Fate:
    """What befalls the datagrams of one client in one direction: 1 to 3 in ten of each."""

    def __init__(self, chance: random.Random) -> None:
        of_ten = chance.randint(1, 3)
        self.lost, self.doubled, self.late = (Deck(chance, of_ten) for _ in range(3))


class LossyNetwork:
    """Between a Bench and its clients: datagrams are lost, come twice, or come later than others
    that were sent after them."""

    def __init__(self, chance: random.Random, bench: Bench, clients: list[Client]) -> None:
        self.lost = self.carried = 0
        self._fates = {(client, up): Fate(chance) for client in clients for up in (True, False)}
        self._chance = chance
        self._bench = bench
        self._clients = clients
        self._at = {client.address: client for client in clients}
        self._flying: list[tuple[float, float, Client, bytes, bool]] = []

    def step(self) -> None:
        """What was sent goes on its way, what is due arrives, and timers go off."""
        bench = self._bench
        bench.server.handle_timeout(bench.now())
        for client in self._clients:
            if not client.session.established:
                client.session.handshake()
            for datagram in client.session.datagrams_to_send():
                self._fly(client, datagram, up=True)
        for datagram, address in bench.lose():
            self._fly(self._at[address], datagram, up=False)
        now = time.monotonic()
        while self._flying and self._flying[0][0] <= now:
            _, _, client, datagram, up = heapq.heappop(self._flying)
            self.carried += 1
            if up:
                bench.arrive(datagram, client.address)
            else:
                client.session.receive_datagram(datagram)

    def settle(self) -> None:
        """Go on until nothing is on its way."""
        deadline = time.monotonic() + BOUND
        self.step()
        while self._flying and time.monotonic() < deadline:
            self.step()
            time.sleep(0.001)
        self.step()

    def _fly(self, client: Client, datagram: bytes, *, up: bool) -> None:
        fate = self._fates[client, up]
        if fate.lost.draw():
            self.lost += 1
            return
        for _ in range(2 if fate.doubled.draw() else 1):
            late = self._chance.random() * LATE if fate.late.draw() else 0.0
            entry = (time.monotonic() + late, self._chance.random(), client, datagram, up)
            heapq.heappush(self._flying, entry)


def over_a_lossy_network(handshakes: int, each: int) -> None:
    """All clients at once shake hands, send `each` messages either way, and go.

    Every handshake completes within its timers, what arrives is what was sent and comes once, and
    in the end nothing is left.
    """
    chance = seeded()
    bench = Bench(handshake_timeout=60.0, idle_timeout=300.0, max_queue=each)
    clients = [
        bench.client(KINDS[number % 2], handshake_timeout=60.0) for number in range(handshakes)
    ]
    network = LossyNetwork(chance, bench, clients)
    deadline = time.monotonic() + BOUND
    while bench.server.counters.sessions < handshakes or not all(
        client.session.established for client in clients
    ):
        network.step()
        assert time.monotonic() < deadline, bench.server.counters
        time.sleep(0.001)
    counters = bench.server.counters
    assert counters.connected == handshakes
    assert not {CloseReason.FAILED, CloseReason.TIMED_OUT} & closed_by(bench.server).keys()
    network.settle()

    expected = {b"%d" % number for number in range(each)}
    lost_before, served = network.lost, {client: bench.connection(client) for client in clients}
    for number in range(each):
        for client, connection in served.items():
            client.session.send(b"%d" % number)
            bench.server.send(connection, b"%d" % number, bench.now())
        network.step()
    network.settle()
    arrived = 0
    for client, connection in served.items():
        for came in (messages(client.session), list(iter(connection.receive, None))):
            assert len(set(came)) == len(came)  # libgnutls drops what comes twice
            assert set(came) <= expected
            arrived += len(came)
    assert counters.messages_dropped == 0
    assert arrived >= 2 * each * handshakes - (network.lost - lost_before)
    assert arrived > each * handshakes  # of twice as many; 30 % at most were lost

    for client in clients:
        client.session.close()
    network.settle()
    bench.pass_time(301.0)  # whose goodbye was lost is closed for its silence
    ended = closed_by(bench.server)
    assert ended.pop(CloseReason.PEER) + ended.pop(CloseReason.IDLE, 0) >= handshakes
    assert set(ended) <= {CloseReason.TIMED_OUT, CloseReason.REPLACED}
    assert (len(bench.server), bench.server.timeout(bench.now())) == (0, None)
    assert {client.address for client in clients} == set(bench.server.forgotten())
    assert len(TABLE) == 0
    print(f"{network.carried} datagrams carried, {network.lost} lost, {arrived} messages arrived")


def test_handshakes_and_messages_over_a_lossy_network() -> None:
    """25 clients at once, 20 messages each way for each."""
    over_a_lossy_network(25, 20)


@pytest.mark.slow
def test_500_handshakes_and_10000_messages_each_way_over_a_lossy_network() -> None:
    """500 clients at once, 20 messages each way for each."""
    over_a_lossy_network(500, 20)


# --- third-party programs over a lossy relay ------------------------------------------------------

LOSS = 0.2  # and as much of doubled and of late ones; their timers begin with 1 s
LINE = b"hello, cookie\n"


def third_party_client(peer: str, kind: str) -> Callable[[int], list[str]]:
    """The command of a client of docs/interop.md, made of the port."""
    return lambda port: interop.CLIENTS[peer].command("127.0.0.1", port, kind)


# With a blocking socket s_client waits for data of the server, and nothing else, once it has read a
# handshake record that was sent again: hence -nbio.
S_CLIENT = ["s_client", "-nbio", "-dtls1_2", "-connect"]
CLIENTS: dict[str, Callable[[int], list[str]]] = {
    "openssl X.509": lambda port: [
        openssl(), *S_CLIENT, f"127.0.0.1:{port}", "-CAfile", TRUST,
    ],
    "openssl PSK": lambda port: [
        openssl(), *S_CLIENT, f"127.0.0.1:{port}",
        "-psk", HEX, "-psk_identity", IDENTITY,
    ],
    "gnutls-cli X.509": lambda port: [
        gnutls_cli(), "--udp", "--port", str(port), "--x509cafile", TRUST,
        "--sni-hostname", "localhost", "--verify-hostname", "localhost", "127.0.0.1",
    ],
    "JSSE X.509": lambda port: jsse_command("127.0.0.1", port, "X.509"),
    **{
        f"{peer} {kind}": third_party_client(peer, kind)
        for peer, kind in (
            ("Botan", "X.509"),
            ("python-mbedtls, max_fragment_length 512", "X.509"),
            ("wolfSSL", "X.509"),
            ("trio", "X.509"),
            ("BouncyCastle", "X.509"),
            ("Erlang ssl", "X.509"),
            ("tinydtls", "PSK"),
        )
    },
}  # fmt: skip


def says_back(child: subprocess.Popen[bytes]) -> bytes:
    """Give a client the line each second until it comes back: a message may be lost, too."""
    assert child.stdin is not None
    assert child.stdout is not None
    said = b""
    deadline = time.monotonic() + BOUND
    while LINE not in said:
        assert time.monotonic() < deadline, said.decode()
        assert child.poll() is None, said.decode()
        child.stdin.write(LINE)
        child.stdin.flush()
        until = time.monotonic() + 1
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while (left := until - time.monotonic()) > 0 and LINE not in said:
                if selector.select(left):
                    chunk = os.read(child.stdout.fileno(), 65536)
                    assert chunk, said.decode()
                    said += chunk
    return said


async def echo(connection: aio.Connection) -> None:
    async for message in connection:
        await connection.send(message)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_third_party_client_over_a_lossy_relay(client: str) -> None:
    """20 % lost each way, timers of 1 s: the handshake completes, and a line comes back."""

    both: list[Credentials] = [certificate(), PSKCredentials(lookup={IDENTITY: KEY.encode()})]

    async def main() -> None:
        async with await aio.start_server(
            echo, "127.0.0.1", credentials=both, handshake_timeout=60.0
        ) as server:
            with LossyRelay(server.address, seeded(1), LOSS) as relay:
                with running(CLIENTS[client](relay.address[1])) as child:
                    await asyncio.to_thread(says_back, child)
                counters = server.counters.server
                print(f"{relay.carried} datagrams carried, {relay.lost} lost")
            assert counters.connected == 1
            assert not counters.closed[CloseReason.FAILED]

    asyncio.run(main())


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("peer", ["trio", "BouncyCastle"])
def test_third_party_server_over_a_lossy_relay(peer: str) -> None:
    """The same with our client."""
    with (
        started(interop.SERVERS[peer], "X.509", "127.0.0.1") as (_, port, _),
        LossyRelay(("127.0.0.1", port), seeded(1), LOSS) as relay,
    ):
        client = connected("blocking", "X.509", *relay.address[:2])
        answer, deadline = None, time.monotonic() + BOUND
        while answer is None:
            assert time.monotonic() < deadline
            client.send(LINE)
            with contextlib.suppress(TimeoutError):
                answer = client.receive(1.0)
        assert answer == LINE
        print(f"{relay.carried} datagrams carried, {relay.lost} lost")
        client.close()
