"""A flood of hellos without a cookie, and clients that connect meanwhile."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time

from gnutls_cookie import Client, PSKCredentials
from gnutls_cookie.blocking import Connection, DTLSServer, start_server

from .exchange import HOST, DemoError, own_client
from .screen import GREEN, say, say_for_now

__all__ = ["show"]

_SECONDS = 4.0
_LOOK_SECONDS = 0.25
_HELLOS_A_SECOND = 50_000
_SOURCES = 64  # sockets, each with a port of its own
_LEAST = 1000  # hellos; fewer are no flood


def show(credentials: PSKCredentials) -> None:
    """Print what the server counts, and how long its clients wait.

    Raises:
        DemoError: no flood came, or a stranger was let in.
        GnuTLSError: a client was not served.
    """
    waits: list[float] = []
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    flooder = _start_flood(sock, credentials)  # before there are threads
    try:
        with start_server(_echo, sock=sock, credentials=credentials) as server:
            own_client(server.address[1], credentials)
            before = _memory()
            end = time.monotonic() + _SECONDS
            while (now := time.monotonic()) < end:
                own_client(server.address[1], credentials)
                waits.append(time.monotonic() - now)
                say_for_now(_line(server, waits, before))
                time.sleep(_LOOK_SECONDS)
            say_for_now("")
            say(_line(server, waits, before))
            counters = server.counters
    finally:
        os.kill(flooder, signal.SIGKILL)
        os.waitpid(flooder, 0)
    if counters.gate.challenged < _LEAST:
        raise DemoError(f"no flood came: {counters.gate.challenged} strangers were challenged")
    if counters.server.connected != 1 + len(waits):
        raise DemoError(f"{counters.server.connected} were let in, and {1 + len(waits)} connected")
    say(
        "  of strangers a count is kept, and nothing else; whoever showed its address was served",
        GREEN,
    )


def _echo(connection: Connection) -> None:
    for message in connection:
        connection.send(message)


def _line(server: DTLSServer, waits: list[float], before: int) -> str:
    challenged, slowest_ms = server.counters.gate.challenged, 1000 * max(waits)
    return (
        f"  {challenged:9,} strangers challenged   {len(waits):2} clients served, the slowest in"
        f" {slowest_ms:4.0f} ms   memory +{_memory() - before} KiB"
    )


def _memory() -> int:
    """The most that this process has held, in KiB on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _start_flood(server: socket.socket, credentials: PSKCredentials) -> int:
    """A process that sends hellos, and ends with ours. Returns its number."""
    client = Client(credentials)
    client.connect(0.0)
    hello = client.datagrams_to_send()[0]
    address = server.getsockname()
    ours = os.getpid()
    process = os.fork()
    if process != 0:
        return process
    try:
        server.close()
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(_SOURCES)]
        for sock in sockets:
            sock.connect(address)
            sock.setblocking(False)
        start = time.monotonic()
        for sent in range(0, int(5 * _SECONDS * _HELLOS_A_SECOND), _SOURCES):
            if os.getppid() != ours:
                break
            for sock in sockets:
                with contextlib.suppress(OSError):
                    sock.send(hello)
            time.sleep(max(0.0, start + sent / _HELLOS_A_SECOND - time.monotonic()))
    finally:
        os._exit(0)
