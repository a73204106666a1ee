"""The listener under flood: it does not grow, real clients are served, Ctrl-C is answered."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import Session
from tests.support.common import ROOT, compile_peer, gnutls_cli, openssl, running, udp_socket
from tests.support.listeners import POLL
from tests.support.peers import CERTS, SocketClient, psk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the flooder is Linux'"),
]

MIB = 1024 * 1024
LINE = b"hello, cookie\n"

# A server as a user writes one, with sessions for verified clients. Tells on request, which is any
# line on stdin, how much memory it has and what it did.
SERVER = """
import json, os, socket, sys, threading
from tests.support.listeners import KEY, ListenerServer
from tests.support.peers import certificate, psk
from gnutls_cookie import CookieGate, CookieListener

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 0))
    # The default holds less than comes in while Python does the work of a session.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
    with CookieListener(sock, CookieGate(KEY)) as listener:
        credentials = psk() if sys.argv[1] == "psk" else certificate()
        server = ListenerServer(listener, credentials, idle=40)

        def tell():
            planted = []
            for line in sys.stdin:
                planted += [b"x" * 2**20] if line == "leak\\n" else []
                with open("/proc/self/statm") as statm:
                    resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                print(json.dumps({
                    "resident": resident, "served": server.served, "failed": server.failed,
                    "sessions": len(server.sessions), "peers": listener.peers,
                    "received": listener.counters.received, "replies": listener.counters.replies,
                    "cpu": sum(os.times()[:2]),
                }), flush=True)

        print(sock.getsockname()[1], flush=True)
        threading.Thread(target=tell, daemon=True).start()
        try:
            while True:
                server.step(0.02)
        except KeyboardInterrupt:
            pass
"""


class Server:
    """SERVER in a process of its own."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self.port = int(self._line())

    def tell(self, line: bytes = b"tell\n") -> dict[str, Any]:
        """What it says of itself."""
        assert self._child.stdin is not None
        self._child.stdin.write(line)
        self._child.stdin.flush()
        said: dict[str, Any] = json.loads(self._line())
        return said

    def _line(self) -> bytes:
        assert self._child.stdout is not None
        return self._child.stdout.readline()


@contextmanager
def serving(credentials: str = "psk") -> Iterator[Server]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with running([sys.executable, "-c", SERVER, credentials], {"PYTHONPATH": path}) as child:
        yield Server(child)


def flooder() -> Path:
    return compile_peer("flood.c", "-O2")


@contextmanager
def flood(port: int, kind: str, sources: int, seconds: float) -> Iterator[None]:
    """A flood that lasts for so many seconds, or until the block ends."""
    command: list[str | Path] = [
        flooder(),
        "127.0.0.1",
        str(port),
        kind,
        str(sources),
        str(seconds),
    ]
    with running(command) as child:
        yield
        assert child.poll() in (0, None)


def handshakes(port: int, count: int, until: float) -> int:
    """Clients of our own, 5 at a time, each with an echo; gives how many were served."""
    served = 0
    while served < count:
        with ExitStack() as stack:
            clients = []
            for _ in range(min(5, count - served)):
                sock = stack.enter_context(udp_socket())
                sock.connect(("127.0.0.1", port))
                session = Session("client", psk(), retransmit_timeout=0.1, handshake_timeout=60)
                clients.append(SocketClient(sock, session))
            while not all(client.received for client in clients):
                assert time.monotonic() < until, f"{served} of {count}"
                exchange(clients)
            served += len(clients)
            for client in clients:
                client.session.close()
                client.send()
    return served


def openssl_command(port: int) -> list[str]:
    return [
        openssl(), "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}",
        "-CAfile", str(CERTS / "localhost.pem"),
    ]  # fmt: skip


def gnutls_command(port: int) -> list[str]:
    return [
        gnutls_cli(), "--udp", "--port", str(port), "--x509cafile", str(CERTS / "localhost.pem"),
        "--sni-hostname", "localhost", "--verify-hostname", "localhost", "127.0.0.1",
    ]  # fmt: skip


def real_client(command: list[str]) -> float:
    """Run a client until an echo came back; gives the seconds that it took."""
    start = time.monotonic()
    said = b""
    with running(command) as child, selectors.DefaultSelector() as selector:
        assert child.stdin is not None
        assert child.stdout is not None
        selector.register(child.stdout, selectors.EVENT_READ)
        while LINE not in said:
            assert time.monotonic() < start + 120, said.decode()
            assert child.poll() is None, said.decode()
            # Data has no timer in DTLS: it is sent again until its echo is there.
            child.stdin.write(LINE)
            child.stdin.flush()
            for _ in selector.select(0.5):
                said += os.read(child.stdout.fileno(), 65536)
        child.stdin.close()  # the client says goodbye
        child.stdin = None
        child.wait(20)
    return time.monotonic() - start


def exchange(clients: list[SocketClient]) -> None:
    """A step of each client. Data has no timer in DTLS: it is sent until its echo is there."""
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
            if client.session.established and not client.received:
                client.session.send(LINE)
            client.go_on()
        for key, _ in selector.select(0.05):
            key.data.readable()


@pytest.mark.parametrize("kind", ["hello", "wrong", "mixed"])
def test_clients_are_served_during_a_flood(kind: str) -> None:
    """10 handshakes that begin in the midst of it; memory stays what it was."""
    with serving() as server:
        until = time.monotonic() + 120
        handshakes(server.port, 10, until)
        before = server.tell()
        with flood(server.port, kind, 10_000, 60):
            time.sleep(1)
            handshakes(server.port, 10, until)
            time.sleep(1)
        after = server.tell()
    assert after["received"] - before["received"] > 10_000
    assert after["served"] >= 20
    assert after["resident"] - before["resident"] < MIB


@pytest.mark.parametrize("kind", ["junk", "long"])
def test_junk_of_any_length_makes_nothing_grow(kind: str) -> None:
    """The memory for the longest datagrams is there from the start."""
    with serving() as server:
        before = server.tell()
        with flood(server.port, kind, 1000, 60):
            time.sleep(3)
        after = server.tell()
        assert after["received"] - before["received"] > 1000
        assert after["replies"] == 0
        assert after["resident"] - before["resident"] < MIB
        assert handshakes(server.port, 1, time.monotonic() + 60) == 1


def test_detector_of_growth_detects() -> None:
    """A megabyte that is leaked on purpose."""
    with serving() as server:
        before = server.tell()
        handshakes(server.port, 5, time.monotonic() + 60)
        assert server.tell(b"leak\n")["resident"] - before["resident"] >= MIB


@pytest.mark.parametrize("kind", ["hello", "junk", "long"])
def test_ctrl_c_is_answered_under_flood(kind: str) -> None:
    """KeyboardInterrupt comes out of poll(), at once by human measure."""
    with running([sys.executable, "-c", POLL]) as child:
        assert child.stdout is not None
        with flood(int(child.stdout.readline()), kind, 1000, 60):
            time.sleep(0.5)
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            answered, received = child.stdout.readline().split()
        assert child.wait(20) == 0
    print(f"Ctrl-C was answered after {(float(answered) - sent) * 1000:.1f} ms")
    assert int(received) > 1000
    assert float(answered) - sent < 5


@pytest.mark.long
@pytest.mark.peer
def test_half_a_minute_of_flood_from_10_000_sources() -> None:
    """50 third-party clients that start during it are all served; less than 1 MiB is gained."""
    with serving("X.509") as server:
        clients = [client(server.port) for client in (openssl_command, gnutls_command)] * 25
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(real_client, clients[:16]))
        before = server.tell()
        start = time.monotonic()
        with flood(server.port, "mixed", 10_000, 300):
            time.sleep(1)
            with ThreadPoolExecutor(8) as pool:
                took = list(pool.map(real_client, clients))
            done = time.monotonic() - start
            time.sleep(max(45.0, 30 - done))  # the last sessions end meanwhile
            after = server.tell()
    wall = time.monotonic() - start
    gained = after["resident"] - before["resident"]
    print(
        f"{after['received'] - before['received']} datagrams in {wall:.0f} s,"
        f" {(after['cpu'] - before['cpu']) / wall:.0%} of a core; 50 handshakes in {done:.1f} s,"
        f" the slowest {max(took):.1f} s; {gained / 1024:.0f} KiB gained"
    )
    assert after["served"] - before["served"] >= 50
    assert gained < MIB
