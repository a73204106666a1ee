"""Servers in Python to measure: listener [ADMITTED] | loop print as peers/servers.c does;
aio x509|psk CERT|IDENTITY KEY|HEXKEY PRIORITY MTU is an echo server as peers/echo.c is."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time

from gnutls_cookie import (
    CertificateCredentials,
    Challenge,
    CookieGate,
    CookieListener,
    KeyRing,
    PSKCredentials,
    aio,
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


async def echo(connection: aio.Connection) -> None:
    """Send every message back."""
    async for message in connection:
        await connection.send(message)


async def serve(kind: str, one: str, two: str, priority: str, mtu: str) -> None:
    """Print the port, and echo until SIGTERM."""
    credentials: CertificateCredentials | PSKCredentials = (
        CertificateCredentials.from_files(one, two)
        if kind == "x509"
        else PSKCredentials(one, bytes.fromhex(two))
    )
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    enlarge(sock)
    server = await aio.start_server(
        echo, sock=sock, credentials=credentials, priority=priority, mtu=int(mtu)
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
    async with server:
        print(sock.getsockname()[1], flush=True)
        await server.serve_forever()


def main() -> None:
    """Serve until SIGTERM, then print answers and nanoseconds of CPU."""
    if sys.argv[1] == "aio":
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(*sys.argv[2:]))
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
