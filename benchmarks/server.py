"""Servers in Python to measure: listener [ADMITTED] | loop print as peers/servers.c does;
aio|aio-uvloop|protocol|protocol-uvloop|blocking x509|psk CERT|IDENTITY KEY|HEXKEY PRIORITY MTU is
an echo server as peers/echo.c is: tasks, callbacks, the same on uvloop, threads."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import signal
import socket
import sys
import time
from typing import Any

from gnutls_cookie import (
    CertificateCredentials,
    Challenge,
    CookieGate,
    CookieListener,
    KeyRing,
    PSKCredentials,
    aio,
    blocking,
    client_data,
)

_RECEIVE_BUFFER = 8 << 20  # bytes, as in peers/echo.c
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; for root


class Stop(BaseException):
    """SIGTERM."""


def stop(number: int, frame: object) -> None:
    raise Stop


def enlarge(sock: socket.socket) -> None:
    """A receive buffer for many clients at once."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def bound_socket() -> socket.socket:
    """One for many clients at once."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    enlarge(sock)
    return sock


async def echo(connection: aio.Connection) -> None:
    """Send every message back."""
    async for message in connection:
        await connection.send(message)


class Echo(aio.Protocol):
    """The same by callbacks."""

    __slots__ = ("_connection",)

    def connected(self, connection: aio.Connection) -> None:
        """Keep the connection."""
        self._connection = connection

    def message_received(self, message: bytes) -> None:
        """Send it back."""
        self._connection.send_nowait(message)


def echo_in_thread(connection: blocking.Connection) -> None:
    """The same in a thread."""
    for message in connection:
        connection.send(message)


def give_back() -> None:
    """What the imports left, which is not the sessions': much where Python compiled them."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)


async def serve(handlers: dict[str, Any], options: dict[str, Any]) -> None:
    """Print the port, and echo until SIGTERM."""
    server = await aio.start_server(**handlers, **options)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
    async with server:
        give_back()
        print(server.address[1], flush=True)
        await server.serve_forever()


def sessions(mode: str, kind: str, one: str, two: str, priority: str, mtu: str) -> None:
    """An echo server of one mode."""
    credentials: CertificateCredentials | PSKCredentials = (
        CertificateCredentials.from_files(one, two)
        if kind == "x509"
        else PSKCredentials(one, bytes.fromhex(two))
    )
    sock = bound_socket()
    options = {"sock": sock, "credentials": credentials, "priority": priority, "mtu": int(mtu)}
    options["tickets"] = False  # peers/echo.c gives none
    if mode == "blocking":
        server = blocking.start_server(echo_in_thread, **options)  # type: ignore[arg-type]
        signal.signal(signal.SIGTERM, stop)
        give_back()
        print(server.address[1], flush=True)
        with contextlib.suppress(Stop):
            server.serve_forever()
        return
    way, _, loop = mode.partition("-")
    handlers = {"protocol_factory": Echo} if way == "protocol" else {"handler": echo}
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(handlers, options))


def main() -> None:
    """Serve until SIGTERM, then print answers and nanoseconds of CPU."""
    if sys.argv[1] not in ("listener", "loop"):
        sessions(*sys.argv[1:])
        return
    gate = CookieGate(KeyRing.random())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        listener = CookieListener(sock, gate)
        for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0):
            listener.admit((f"127.{200 + number // 65536}.{number // 256 % 256}.{number % 256}", 9))
        signal.signal(signal.SIGTERM, stop)
        print(sock.getsockname()[1], flush=True)
        before = time.process_time_ns()
        try:
            if sys.argv[1] == "listener":
                while True:
                    listener.poll()
            while True:
                datagram, address = sock.recvfrom(2048)
                match gate.receive(datagram, client_data.sockaddr(address)):
                    case Challenge(reply):
                        sock.sendto(reply, address)
        except Stop:
            used = time.process_time_ns() - before
    print(gate.counters.challenged, used)


if __name__ == "__main__":
    main()
