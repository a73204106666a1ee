"""A DTLS server and client for trio, over the endpoints that aio and blocking stand on.

python dtls_trio.py [PORT] echoes to `openssl s_client -dtls1_2 -psk_identity sensor-1 -psk
73656372657420736563726574 -connect 127.0.0.1:PORT`.
"""

import math
import socket
import sys
import time

import trio

from gnutls_cookie import Client, Closed, Connected, PSKCredentials
from gnutls_cookie.client_endpoint import ClientEndpoint
from gnutls_cookie.endpoint import Endpoint, gate_for


class Connection:
    def __init__(self, driver, core):
        self.address, self.session = core.address, core.session
        self._driver, self._core = driver, core
        self._news = trio.Event()

    async def receive(self):
        """The next message; None once the connection has ended."""
        await trio.lowlevel.checkpoint()
        while (message := self._core.receive()) is None and self._core.is_open:
            await self._news.wait()
        return message

    async def send(self, message):
        self._driver.endpoint.send(self._core, message, time.monotonic())
        self._driver.settle()
        await trio.lowlevel.checkpoint()

    def close(self):
        self._driver.endpoint.end(self._core)
        self._driver.settle()

    def wake(self):
        """Let the tasks look that wait: for a message, or for the end."""
        self._news.set()
        self._news = trio.Event()


class Driver:
    """One socket: all of its sessions, whoever made them."""

    def __init__(self, endpoint, on_connected):
        self.endpoint = endpoint
        self.connections = {}
        self._on_connected = on_connected

    async def run(self):
        """Serve until cancelled, then say goodbye."""
        try:
            while True:
                timeout = self.endpoint.timeout(time.monotonic())
                with trio.move_on_after(math.inf if timeout is None else max(timeout, 0.001)):
                    await trio.lowlevel.wait_readable(self.endpoint.sock)
                self._tell(self.endpoint.turn(time.monotonic()))
        finally:
            self.endpoint.end_all()
            self.settle()
            self.endpoint.close()

    def settle(self):
        """Send what is to be sent."""
        self._tell(self.endpoint.settle(time.monotonic()))

    def _tell(self, events):
        for event in events:
            if isinstance(event, Connected):
                connection = self.connections[event.connection] = Connection(self, event.connection)
                self._on_connected(connection)
            elif event.connection in self.connections:
                self.connections[event.connection].wake()
                if isinstance(event, Closed):
                    del self.connections[event.connection]
            elif isinstance(event, Closed) and event.error is not None:
                raise event.error  # a client's handshake failed


async def serve(handler, sock, credentials, keys=None, **limits):
    """Call handler(connection) in a task for each client, until cancelled."""

    async def run(connection):
        try:
            await handler(connection)
        finally:
            connection.close()

    endpoint = Endpoint(sock, gate_for(keys), credentials, **limits)
    async with trio.open_nursery() as nursery:
        await Driver(endpoint, lambda one: nursery.start_soon(run, one)).run()


async def connect(nursery, host, port, credentials, **options):
    """A Connection to a server, driven by a task of the nursery."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect((host, port))
    connected = trio.Event()
    client = Client(credentials, **options)
    driver = Driver(ClientEndpoint(sock, client), lambda _: connected.set())
    driver.endpoint.connect(time.monotonic())
    nursery.start_soon(driver.run)
    await connected.wait()
    return driver.connections[client]


async def echo(connection):
    while (message := await connection.receive()) is not None:
        await connection.send(message)


if __name__ == "__main__":
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 5684))
        try:
            print(f"serving on 127.0.0.1 port {sock.getsockname()[1]}", flush=True)
            trio.run(serve, echo, sock, PSKCredentials("sensor-1", b"secret secret"))
        except* KeyboardInterrupt:  # a nursery's exceptions come in groups
            pass
