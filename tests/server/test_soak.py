"""Two workers under all at once for a long time: no client fails, and nothing grows."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import blocking
from gnutls_cookie.reference import wire
from tests.support.common import ROOT, running, seeded
from tests.support.flood import Flooder
from tests.support.peers import CERTS, trusting
from tests.support.servers import needs_proc

SECONDS = 60.0  # of a client, for its handshake and for an echo: it asks again every second
STEADY = 12  # connections that last as long as the soak
MOST_GROWTH_BYTES = 24 << 20  # of a worker, from a third of the time to its end
TRUST = trusting()


class Soak:
    """Clients, and what goes on beside them.

    Attributes:
        failures: what clients failed with.
        connected: handshakes of clients so far.
        echoes: messages that came back.
    """

    def __init__(self, port: int, chance: random.Random) -> None:
        self.failures: list[str] = []
        self.connected = 0
        self.echoes = 0
        self._port = port
        self._chance = chance
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._numbers = itertools.count()
        work = [self._come_and_go] * 4 + [self._stay, self._junk, self._strangers, self._fragments]
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in work]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * SECONDS)
            assert not thread.is_alive()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.failures.append(f"{work.__name__}: {error!r}")

    # --- clients that must not fail

    def _connect(self) -> blocking.Connection:
        number = next(self._numbers)
        connection = blocking.connect(
            "127.0.0.1",
            self._port,
            credentials=TRUST,
            server_name="localhost",
            local_address=(f"127.1.{number % 200}.{number // 200 % 200 + 1}", 0),
            handshake_timeout=SECONDS,
        )
        with self._lock:
            self.connected += 1
        return connection

    def _echo(self, connection: blocking.Connection) -> None:
        message = b"%d" % next(self._numbers)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            connection.send(message)
            try:
                while connection.receive(1.0) != message:
                    assert connection.is_open
            except TimeoutError:
                continue
            with self._lock:
                self.echoes += 1
            return
        raise TimeoutError("no echo")

    def _come_and_go(self) -> None:
        while not self._over.is_set():
            with self._connect() as connection:
                for _ in range(20):
                    self._echo(connection)
            self._over.wait(0.05)

    def _stay(self) -> None:
        connections = [self._connect() for _ in range(STEADY)]
        while not self._over.wait(0.5):
            for connection in connections:
                self._echo(connection)
        for connection in connections:
            connection.close()

    # --- what goes on beside them

    def _socket(self, source: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", self._port))
        sock.setblocking(False)
        return sock

    def _send(self, sock: socket.socket, datagram: bytes) -> None:
        try:
            sock.send(datagram)
            sock.recv(4000)
        except OSError:
            pass

    def _junk(self) -> None:
        hello = wire.client_hello()
        with self._socket("127.3.0.1") as sock:
            while not self._over.wait(0.01):
                for _ in range(10):
                    changed = bytearray(hello)
                    changed[self._chance.randrange(len(changed))] ^= self._chance.randrange(256)
                    self._send(sock, bytes(changed[: self._chance.randrange(len(changed) + 1)]))
                    self._send(sock, self._chance.randbytes(self._chance.randrange(1, 200)))

    def _strangers(self) -> None:
        hello = wire.client_hello()
        with self._socket("127.3.0.2") as sock:
            while not self._over.wait(0.01):
                for _ in range(20):
                    self._send(sock, hello)

    def _fragments(self) -> None:
        flooders = [Flooder(("127.0.0.1", self._port), f"127.4.{number}.1") for number in range(50)]
        while not self._over.wait(0.05):
            one = self._chance.choice(flooders)
            one.hello()
            one.fragment(self._chance.choice((2_000, 9_000, 48_000)), 1_300)
        for flooder in flooders:
            flooder.close()


class Workers:
    """What is seen of the server's processes."""

    def __init__(self, parent: int) -> None:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        self._folders = [Path("/proc") / child for child in children]
        assert len(self._folders) == 2

    def resident(self) -> list[int]:
        """Bytes of memory of each."""
        page = resource.getpagesize()
        return [int((one / "statm").read_text().split()[1]) * page for one in self._folders]

    def descriptors(self) -> list[int]:
        return [len(os.listdir(one / "fd")) for one in self._folders]


def soak(seconds: float, folder: Path) -> None:
    chance = seeded()
    key = folder / "key.pem"
    key.write_bytes((CERTS / "localhost.key").read_bytes())
    key.chmod(0o600)
    command = [
        *(sys.executable, "-m", "gnutls_cookie", "serve", "--port", "0", "--workers", "2"),
        *("--json", "-q", "--stats", "3600", "--x509keyfile", str(key)),
        *("--x509certfile", str(CERTS / "localhost.pem")),
    ]
    with running(command) as server:
        assert server.stdout is not None
        port = int(json.loads(server.stdout.readline())["port"])
        numbers = (str(port), "127.0.2.0/24", "200", "300")
        flood = [sys.executable, "-m", "tests.support.flood", *numbers]
        with running(flood, env={"PYTHONPATH": str(ROOT)}) as flooding:
            work = Soak(port, chance)
            work.start()
            began = time.monotonic()
            try:
                workers = Workers(server.pid)
                samples = watch(workers, began + seconds, lambda: bool(work.failures))
            finally:
                work.stop()
            assert flooding.poll() is None
        server.send_signal(signal.SIGTERM)
        told = lines_of(server)
    stats = [line for line in told if "worker" in line and "server" in line]
    print(json.dumps({"connected": work.connected, "echoes": work.echoes}), *stats, sep="\n")
    assert work.failures == []
    assert server.returncode == 0, told
    assert work.connected > STEADY
    adds_up(work, stats)
    third = len(samples) // 3
    for number in (0, 1):
        resident = [sample[0][number] for sample in samples]
        descriptors = [sample[1][number] for sample in samples]
        print(f"worker {number}: {min(resident)}..{max(resident)} bytes, {set(descriptors)}")
        assert max(resident[third:]) - max(resident[: third + 1]) < MOST_GROWTH_BYTES
        assert len(set(descriptors[third:])) == 1


def watch(
    workers: Workers, end: float, is_over: Callable[[], bool]
) -> list[tuple[list[int], list[int]]]:
    samples = []
    while time.monotonic() < end and not is_over():
        time.sleep(1.0)
        samples.append((workers.resident(), workers.descriptors()))
    return samples


def lines_of(server: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """What the server says until it has ended."""
    assert server.stdout is not None
    said = bytearray()
    end = time.monotonic() + SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(server.stdout, selectors.EVENT_READ)
        while True:
            assert time.monotonic() < end, said
            if selector.select(1.0):
                chunk = os.read(server.stdout.fileno(), 65536)
                if not chunk:
                    break
                said += chunk
    server.wait(SECONDS)
    return [json.loads(line) for line in said.splitlines() if line.startswith(b"{")]


def adds_up(work: Soak, stats: list[dict[str, Any]]) -> None:
    """Of both workers together; the attackers never complete a handshake."""
    assert {line["worker"] for line in stats} == {0, 1}, stats
    last = {line["worker"]: line for line in stats}.values()
    servers = [line["server"] for line in last]
    assert sum(one["connected"] for one in servers) == work.connected
    assert sum(one["messages_sent"] for one in servers) >= work.echoes
    for line, one in zip(last, servers, strict=True):
        gate, listener = line["gate"], line["listener"]
        judged = gate["challenged"] + gate["verified"] + gate["verified_previous"]
        assert judged + sum(gate["discarded"].values()) <= listener["received"]
        assert one["messages_sent"] + one["messages_dropped"] == one["messages_received"]
        assert one["refused"] == sum(one["refused_by"].values())
        assert (one["sessions"], one["handshaking"]) == (0, 0)
        assert one["session_errors"] == 0


@pytest.mark.slow
@needs_proc
def test_a_quarter_of_a_minute_under_all_at_once(tmp_path: Path) -> None:
    """Clients, junk, strangers, fresh hellos and fragments."""
    soak(15.0, tmp_path)


@pytest.mark.long
@needs_proc
def test_ten_minutes_under_all_at_once(tmp_path: Path) -> None:
    """The long run of the same."""
    soak(600.0, tmp_path)
