"""aio and blocking by one face, for tests of what both must do. asyncio's loop is in a thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from gnutls_cookie import aio, blocking
from tests.support.peers import certificate, psk
from tests.support.servers import SECONDS

T = TypeVar("T")
Seen = Callable[[Any], object]


class Blocking:
    """gnutls_cookie.blocking."""

    name = "blocking"

    def do(self, step: Callable[[], T]) -> T:
        """Call something where connections and servers may be used."""
        return step()

    def start(self, *where: Any, seen: Seen = id, **options: Any) -> Any:
        """A DTLSServer that shows each connection to `seen`, and sends back what comes."""

        def handler(connection: blocking.Connection) -> None:
            seen(connection)
            for message in connection:
                connection.send(message)

        return blocking.start_server(handler, *where, **with_credentials(options))

    def stop(self, server: Any) -> None:
        """Close a server, and wait."""
        server.close()
        server.wait_closed()

    def connect(self, *address: Any, **options: Any) -> Any:
        """A client."""
        return blocking.connect(*address[:2], **({"credentials": psk()} | options))

    def send(self, connection: Any, data: bytes) -> int:
        """Send a message."""
        sent: int = connection.send(data)
        return sent

    def receive(self, connection: Any, timeout: float = SECONDS) -> bytes | None:
        """The next message."""
        message: bytes | None = connection.receive(timeout)
        return message

    def wait_closed(self, connection: Any, timeout: float = SECONDS) -> None:
        """Until the connection has ended."""
        connection.wait_closed(timeout)

    def echoes(self, connection: Any, message: bytes = b"hello") -> bool:
        """Whether a message comes back."""
        self.send(connection, message)
        return self.receive(connection) == message

    @contextmanager
    def serving(self, *where: Any, **options: Any) -> Iterator[Any]:
        """A server for the block."""
        server = self.start(*(where or ("127.0.0.1",)), **options)
        try:
            yield server
        finally:
            self.stop(server)

    @contextmanager
    def client(self, *address: Any, **options: Any) -> Iterator[Any]:
        """A client for the block."""
        connection = self.connect(*address, **options)
        try:
            yield connection
        finally:
            self.do(connection.close)

    def end(self) -> None:
        """Free what it has."""


class Aio(Blocking):
    """gnutls_cookie.aio."""

    name = "aio"

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event loop")
        self._thread.start()

    def wait(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """What a coroutine returns."""

        async def whole() -> T:
            return await asyncio.wait_for(coroutine, timeout)

        return asyncio.run_coroutine_threadsafe(whole(), self._loop).result(SECONDS)

    def do(self, step: Callable[[], T]) -> T:
        async def whole() -> T:
            done: Any = step()
            result: T = await done if inspect.isawaitable(done) else done
            return result

        return self.wait(whole())

    def start(self, *where: Any, seen: Seen = id, **options: Any) -> Any:
        async def handler(connection: aio.Connection) -> None:
            seen(connection)
            async for message in connection:
                await connection.send(message)

        async def whole() -> aio.DTLSServer:
            return await aio.start_server(handler, *where, **with_credentials(options))

        return self.wait(whole())

    def stop(self, server: Any) -> None:
        self.do(server.close)
        self.wait(server.wait_closed())

    def connect(self, *address: Any, **options: Any) -> Any:
        async def whole() -> aio.Connection:
            return await aio.connect(*address[:2], **({"credentials": psk()} | options))

        return self.wait(whole())

    def send(self, connection: Any, data: bytes) -> int:
        sent: int = self.wait(connection.send(data))
        return sent

    def receive(self, connection: Any, timeout: float = SECONDS) -> bytes | None:
        message: bytes | None = self.wait(connection.receive(), timeout)
        return message

    def wait_closed(self, connection: Any, timeout: float = SECONDS) -> None:
        self.wait(connection.wait_closed(), timeout)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


def with_credentials(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a server; both kinds of credentials, unless they say others."""
    return {"credentials": [certificate(), psk()], "grace": 0.5, **options}


@pytest.fixture(params=[Aio, Blocking], ids=["aio", "blocking"])
def both(request: pytest.FixtureRequest) -> Iterator[Blocking]:
    """Each of the adapters."""
    adapter: Blocking = request.param()
    try:
        yield adapter
    finally:
        adapter.end()
