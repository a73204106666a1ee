"""Threads of Python over one gate, one KeyRing and several servers, listeners and clients.

python checks/sanitize/python_threads.py [SECONDS]

It fails where one of them raises or nothing gets done. Made for a Python without the GIL, under
ThreadSanitizer (python_threads.sh); it runs everywhere. `planted` in the place of SECONDS: two
threads do what they must not do, and ThreadSanitizer must say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable

from gnutls_cookie import (
    CookieGate,
    CookieListener,
    KeyRing,
    PSKCredentials,
    aio,
    blocking,
    client_data,
)
from gnutls_cookie._ffi import ffi, lib
from gnutls_cookie.reference import wire

SERVED = 2  # servers of each kind
CLIENTS = 3
HOST = "127.0.0.1"
BOUND = 60.0  # seconds for one step of a client, on any machine
CREDENTIALS = PSKCredentials("sensor-1", b"0123456789abcdef")


class Stress:
    """What all threads share.

    Attributes:
        done: how often each kind of work was done.
        errors: what threads raised.
        ports: of the servers.
    """

    def __init__(self) -> None:
        self.ring = KeyRing.random()
        self.gate = CookieGate(self.ring)
        self.over = threading.Event()
        self.unused = threading.Event()  # servers may end
        self.done: Counter[str] = Counter()
        self.errors: list[str] = []
        self.ports: list[int] = []
        self.listeners: list[CookieListener] = []
        self._lock = threading.Lock()

    def count(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1

    def run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append("".join(traceback.format_exception(error)))
            self.over.set()
            self.unused.set()

    # --- servers

    def serve_by_threads(self) -> None:
        def echo(connection: blocking.Connection) -> None:
            for message in connection:
                connection.send(message)
                connection.session.export_keying_material("EXPORTER-threads", 32)

        with blocking.start_server(
            echo, HOST, 0, credentials=CREDENTIALS, keys=self.gate, grace=BOUND
        ) as server:
            self.ports.append(server.sockets[0].getsockname()[1])
            while not self.unused.wait(0.02):
                server.set_credentials(PSKCredentials("sensor-1", b"0123456789abcdef"))
                assert server.counters.server.session_errors == 0
                self.count("credentials set")

    def serve_by_tasks(self) -> None:
        async def echo(connection: aio.Connection) -> None:
            async for message in connection:
                await connection.send(message)

        async def serve() -> None:
            async with aio.start_server(
                echo, HOST, 0, credentials=CREDENTIALS, keys=self.gate, grace=BOUND
            ) as server:
                self.ports.append(server.sockets[0].getsockname()[1])
                while not self.unused.is_set():
                    await asyncio.sleep(0.02)
                    assert server.counters.server.session_errors == 0

        asyncio.run(serve())

    def listen(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((HOST, 0))
            with CookieListener(sock, self.gate) as listener:
                self.listeners.append(listener)
                while not self.over.is_set():
                    listener.poll(0.05)
                    self.count("polls")

    # --- what is done to them

    def connect(self) -> None:
        for number in itertools.count():
            if self.over.is_set():
                return
            with blocking.connect(
                HOST,
                random.choice(self.ports),
                credentials=CREDENTIALS,
                handshake_timeout=BOUND,
            ) as connection:
                for _ in range(5):
                    message = b"%d" % number
                    connection.send(message)
                    assert connection.receive(BOUND) == message
            self.count("connections")

    def send_hellos(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            while not self.over.wait(0.001):
                datagram = random.choice((wire.client_hello(), os.urandom(80)))
                ports = [one.fileno() for one in self.listeners if not one.closed]
                for port in [*self.ports, *map(_port_of, ports)]:
                    sock.sendto(datagram, (HOST, port))
                try:
                    while sock.recv(100):
                        self.count("answers")
                except BlockingIOError:
                    pass

    def judge(self) -> None:
        hello, address = wire.client_hello(), client_data.sockaddr((HOST, 4711))
        while not self.over.is_set():
            for _ in range(50):
                self.gate.receive(hello, address)
            assert self.gate.counters.challenged > 0
            self.count("verdicts")

    def rotate(self) -> None:
        while not self.over.wait(0.5):
            self.ring.rotate()  # the former key is still good
            self.count("keys")

    def admit(self) -> None:
        for port in itertools.cycle(range(1, 1000)):
            if self.over.is_set():
                return
            for listener in self.listeners:
                if not listener.closed:
                    _ignoring_closed(listener.admit, (HOST, port))
                    _ignoring_closed(listener.forget, (HOST, port // 2 + 1))
            self.count("admitted")


def _port_of(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return int(sock.getsockname()[1])


def _ignoring_closed(call: Callable[[tuple[str, int]], None], address: tuple[str, int]) -> None:
    with contextlib.suppress(ValueError):  # another thread has closed it meanwhile
        call(address)


def stress(seconds: float) -> None:
    one = Stress()
    served = [one.serve_by_threads, one.serve_by_tasks] * SERVED
    work = [one.listen, one.judge, one.admit] * 2 + [one.connect] * CLIENTS
    work += [one.send_hellos, one.rotate]
    threads = [threading.Thread(target=one.run, args=(each,)) for each in [*served, *work]]
    for thread in threads[: len(served)]:
        thread.start()
    deadline = time.monotonic() + BOUND
    while len(one.ports) < len(served) and time.monotonic() < deadline and not one.errors:
        time.sleep(0.01)
    for thread in threads[len(served) :]:
        thread.start()
    one.over.wait(seconds)
    one.over.set()
    for thread in threads[len(served) :]:
        thread.join(2 * BOUND)
    one.unused.set()
    for thread in threads[: len(served)]:
        thread.join(2 * BOUND)
    print(dict(one.done))
    if one.errors:
        raise SystemExit("\n".join(one.errors))
    assert not any(thread.is_alive() for thread in threads)
    assert one.done["connections"] > 0
    assert one.done["answers"] > 0


def plant() -> None:
    """Two threads write what a call gives to the same place."""
    turn = ffi.new("struct gcookie_turn *")
    lib.gcookie_turn_init(turn)

    end = time.monotonic() + 3.0

    def reset() -> None:
        while time.monotonic() < end:
            lib.gcookie_turn_reset(turn)

    threads = [threading.Thread(target=reset) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    asked = sys.argv[1] if len(sys.argv) > 1 else "30"
    if asked == "planted":
        plant()
    else:
        stress(float(asked))
