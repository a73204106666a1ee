"""A client finds out that its server is gone, or was started again and knows nothing of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gnutls_cookie import Client, aio, blocking
from gnutls_cookie.client_endpoint import ClientEndpoint
from gnutls_cookie.errors import TimedOutError
from tests.support.common import (
    free_udp_port,
    python_in_silence,
    python_peer,
    running,
    udp_socket,
)
from tests.support.interop import (
    SERVERS,
    TRUST,
    TRUST_KEY,
    Server,
)
from tests.support.peers import drive, psk, server_of, trusting

LINE = b"hello, cookie\n"
SILENCE = 1.0  # seconds; servers answer within milliseconds


def ours(host: str, port: int, kind: str) -> list[str]:
    command = [sys.executable, "-m", "gnutls_cookie", "serve", "--host", host, "-p", str(port)]
    return [*command, "--x509certfile", TRUST, "--x509keyfile", TRUST_KEY]


KINDS = {
    "ours": Server(ours, rb"serving on "),
    "gnutls-serv": SERVERS["gnutls-serv"],
    "openssl s_server": SERVERS["openssl s_server"],
}


@contextlib.contextmanager
def started_at(server: Server, host: str, port: int) -> Iterator[None]:
    """A server at that port, killed at the end."""
    said = bytearray()
    with running(server.command(host, port, "X.509")) as child:
        drive([], lambda: re.search(server.ready, said) is not None, child, said)
        yield


OPTIONS: dict[str, Any] = {
    "credentials": trusting(),
    "server_name": "localhost",
    "handshake_timeout": 30.0,
}


@pytest.mark.peer
@pytest.mark.parametrize("name", KINDS)
def test_a_client_that_waits_finds_out_that_its_server_was_started_again(name: str) -> None:
    """The new server drops its messages; the silence ends the connection, and from the same port
    it connects again. (Not to gnutls-serv, which looks at the dropped message for ever.)"""
    server, host = KINDS[name], "127.0.0.1"
    port, own = free_udp_port(), free_udp_port()
    local = (host, own)
    with started_at(server, host, port):
        first = blocking.connect(host, port, local_address=local, idle_timeout=SILENCE, **OPTIONS)
        if not server.shows:
            first.send(LINE)
            assert first.receive(20) == LINE
    with started_at(server, host, port), first:
        first.send(LINE)
        with pytest.raises(TimedOutError, match="no message came"):
            first.receive(20)
        assert not first.is_open
        with pytest.raises(ConnectionError):
            first.send(LINE)
        first.close()
        if name != "gnutls-serv":
            blocking.connect(host, port, local_address=local, **OPTIONS).close()


def test_a_client_in_an_event_loop_finds_out_as_well() -> None:
    """Whether the server was started again or is gone, and whether somebody waits or not."""
    host, port = "127.0.0.1", free_udp_port()

    async def met() -> tuple[aio.Connection, aio.Connection]:
        found = []
        for _ in range(2):
            connection = await aio.connect(host, port, idle_timeout=SILENCE, **OPTIONS)
            await connection.send(LINE)
            assert await connection.receive() == LINE
            found.append(connection)
        return found[0], found[1]

    async def main() -> None:
        with started_at(KINDS["ours"], host, port):
            waiting, idle = await met()
        async with waiting, idle:
            with pytest.raises(TimedOutError, match="no message came"):
                await waiting.receive()
            await asyncio.wait_for(idle.wait_closed(), 20)
            with pytest.raises(ConnectionError):
                await idle.send(LINE)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_server_that_speaks_now_and_then_is_not_gone() -> None:
    """The connection lives for as long as there is a message in each span of idle_timeout."""
    host, port = "127.0.0.1", free_udp_port()
    with (
        started_at(KINDS["ours"], host, port),
        blocking.connect(host, port, idle_timeout=2.0, **OPTIONS) as connection,
    ):
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            connection.send(LINE)
            assert connection.receive(20) == LINE
            time.sleep(0.05)
        assert connection.is_open


def test_an_error_of_an_earlier_message_costs_a_client_no_other_one() -> None:
    """The kernel tells what ICMP said in the place of sending the next one (udp(7))."""
    with udp_socket() as sock, contextlib.ExitStack() as stack:
        there = sock.getsockname()
        server, client = server_of("PSK"), Client(psk())
        own = stack.enter_context(udp_socket())
        own.connect(there)
        own.setblocking(False)
        endpoint = ClientEndpoint(own, client)
        endpoint.connect(0.0)
        while not (client.session.established and server.established):
            server.receive_datagram(sock.recv(2000))
            server.handshake()
            for datagram in server.datagrams_to_send():
                sock.sendto(datagram, own.getsockname())
            endpoint.turn(0.0)
        sock.close()
        endpoint.send(client, b"to nobody", 0.0)
        again = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        again.bind(there)
        again.settimeout(20)
        endpoint.send(client, b"to somebody", 0.0)
        server.receive_datagram(again.recv(2000))
        assert server.receive() == b"to somebody"


LOOPS = """
import asyncio, socket, sys
from gnutls_cookie import PSKCredentials, aio

KEY = {"credentials": PSKCredentials("sensor", b"0123456789abcdef")}

async def echo(connection):
    async for message in connection:
        await connection.send(message)

class Path:
    "From a port of this host to the server and back."
    def __init__(self, there):
        self.loop, self.there, self.client = asyncio.get_running_loop(), there, None
        self.front, self.back = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
        self.front.bind(("127.0.0.1", 0))
        self.back.bind(("127.0.0.1", 0))
        self.address = self.front.getsockname()
        self.loop.add_reader(self.back, self.backwards)
        self.loop.add_reader(self.front, self.forwards)
    def forwards(self):
        datagram, self.client = self.front.recvfrom(2000)
        self.back.sendto(datagram, self.there)
    def backwards(self):
        self.front.sendto(self.back.recv(2000), self.client)
    def interrupt(self):
        self.loop.remove_reader(self.front)
        self.front.close()
    def go_on(self):
        self.front = socket.socket(type=socket.SOCK_DGRAM)
        self.front.bind(self.address)
        self.loop.add_reader(self.front, self.forwards)

async def main():
    asyncio.get_running_loop().set_exception_handler(lambda _, context: sys.exit(str(context)))
    async with aio.start_server(echo, "127.0.0.1", **KEY) as server:
        path = Path(server.address)
        async with aio.connect(*path.address, **KEY) as client:
            for _ in range(3):
                path.interrupt()
                await client.send(b"lost")
                await asyncio.sleep(0.05)  # the loop hears of it
                path.go_on()
                await client.send(b"hello")
                assert await asyncio.wait_for(client.receive(), 20) == b"hello"
        path.interrupt()
        path.loop.remove_reader(path.back)
        path.back.close()

if sys.argv[1] == "uvloop":
    import uvloop
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_outlives_what_icmp_says(loop: str) -> None:
    """Anybody can forge that nobody listens there. libuv drops a descriptor with an error."""
    if loop == "uvloop":
        python_peer("uvloop")
    python_in_silence(LOOPS, loop, timeout=60, dev=loop == "asyncio")
