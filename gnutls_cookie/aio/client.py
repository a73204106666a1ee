"""connect(): a client in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Unpack

from gnutls_cookie.client_endpoint import ClientEndpoint
from gnutls_cookie.options import ClientOptions
from gnutls_cookie.plans import ClientPlan
from gnutls_cookie.server import Closed, Connected, Event
from gnutls_cookie.server import Connection as CoreConnection
from gnutls_cookie.session import Credentials

from .connection import Connection
from .driver import SocketDriver
from .names import resolve
from .opening import Opening
from .waiter import Waiter
from .watch import Watch

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["connect"]


def connect(
    host: str,
    port: int,
    *,
    credentials: Credentials | Sequence[Credentials],
    server_name: str | None = None,
    local_address: tuple[str, int] | None = None,
    local_addr: tuple[str, int] | None = None,
    **options: Unpack[ClientOptions],
) -> Opening[Connection]:
    """Connect to a DTLS server and complete the handshake.

    `await connect(...)` gives a Connection; `async with connect(...) as connection` closes it at
    the end of the block.

    The addresses of a name are tried in turn: the next one where the former is refused or cannot be
    reached, and where it is silent for its share of `handshake_timeout` (half of it where one more
    is left). Who has answered has all the time that is left, and what its handshake fails with is
    final.

    A connection that is never closed is closed when nobody has it any more, without a goodbye and
    with a ResourceWarning.

    Args:
        host: name or IP address.
        port: 1..65535.
        credentials: as for a Session.
        server_name: the name in the server's certificate; None takes `host`.
        local_address: (ip, port) to bind to; port 0 lets the system choose.
        local_addr: the same, by the name that asyncio has for it.
        options: every other argument of Client, by name: priority, verify_peer, alpn, resume,
            idle_timeout, handshake_timeout (of all addresses together) ...

    Raises:
        TimedOutError: the server did not complete the handshake in time.
        ConnectionRefusedError: nobody listens at the address.
        GnuTLSError: the handshake failed.
        OSError: the name is not known, and so on. Where several addresses were tried, the text says
            what each of them gave.
        ValueError, TypeError: an argument is out of range or of another type. At once: nothing need
            be awaited.
    """
    if local_addr is not None:
        if local_address is not None:
            raise TypeError("local_address and local_addr are the same: only one may be given")
        local_address = local_addr
    plan = ClientPlan(host, port, credentials, server_name, local_address, options)
    return Opening(_connected(plan), "connect")


async def _connected(plan: ClientPlan) -> Connection:
    found = await resolve(plan.host, plan.port)
    attempts = plan.attempts(found, time.monotonic())
    while True:
        try:
            here = []
            if plan.local is not None:
                here = await resolve(*plan.local, family=attempts.info[0])
            return await _shaken(plan.endpoint(attempts, here, time.monotonic()))
        except Exception as error:
            attempts.failed(error, time.monotonic())


async def _shaken(endpoint: ClientEndpoint) -> Connection:
    """The connection of an endpoint, after its handshake."""
    driver = ClientDriver(asyncio.get_running_loop(), endpoint)
    del endpoint  # which a traceback would keep, as long as the error is kept
    try:
        return await driver.shake()
    finally:
        del driver


class _Reader:
    """What the loop calls when a client's socket is readable. The loop keeps it, and it keeps the
    client only while somebody waits for something: one that everybody has forgotten goes away.

    Attributes:
        kept: what is to be kept alive.
    """

    __slots__ = ("_driver", "kept")

    def __init__(self, driver: ClientDriver) -> None:
        self._driver = weakref.ref(driver)
        self.kept: set[object] = set()

    def __call__(self) -> None:
        driver = self._driver()
        if driver is not None:
            driver.on_readable()


class _KeptWaiter(Waiter):
    """A wait that keeps its task, which has the connection."""

    __slots__ = ("_reader",)

    def __init__(self, loop: asyncio.AbstractEventLoop, reader: _Reader) -> None:
        super().__init__(loop)
        self._reader = reader

    def add_done_callback(
        self, callback: Callable[[Waiter], object], *, context: Context | None = None
    ) -> None:
        """As of a future."""
        super().add_done_callback(callback, context=context)
        self._reader.kept.add(self)

    def wake(self, is_direct: bool) -> None:
        """Let the task go on."""
        self._reader.kept.discard(self)
        super().wake(is_direct)


class _Alarm(_Reader):
    """The same for its timer."""

    __slots__ = ()

    def __call__(self) -> None:
        driver = self._driver()
        if driver is not None:
            driver.on_timer()


class ClientDriver(SocketDriver):
    """A client's socket in the event loop."""

    endpoint: ClientEndpoint

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: ClientEndpoint) -> None:
        super().__init__(loop, endpoint)
        self._reader = _Reader(self)
        self._shaken: asyncio.Future[None] = loop.create_future()
        self._connection: weakref.ref[Connection] | None = None

    async def shake(self) -> Connection:
        """Begin the handshake, and wait for its end."""
        endpoint = self.endpoint
        connection = Connection(endpoint.client, self)
        self._connection = weakref.ref(connection)
        del endpoint
        self._reader.kept.add(connection)
        try:
            self._watch.start(self._reader)
            self.endpoint.connect(time.monotonic())
            self._settle()
            await self._shaken
        except BaseException:
            self._finish(None)
            del connection
            raise
        finally:
            self._reader.kept.clear()  # from now on it lives as long as its user wants
            del self  # its future holds the exception, whose traceback holds this frame
        return connection

    def send(self, core: CoreConnection, data: Buffer) -> int:
        """Send a message, at once."""
        return self.endpoint.send(core, data, time.monotonic())

    def end(self, core: CoreConnection) -> None:
        """Say goodbye."""
        self._finish(None)

    def new_waiter(self) -> Waiter:
        """What a task is to wait for; the loop knows clients by weak references alone."""
        return _KeptWaiter(self.loop, self._reader)

    def _step(self, step: Callable[[float], list[Event]], is_direct: bool = False) -> None:
        # Never at once: the task would run within frames that have the connection, and what it
        # drops would not go away before they have returned.
        super()._step(step, is_direct=False)

    def _tell(self, event: Event, is_direct: bool) -> None:
        if isinstance(event, Closed):
            self._finish(event.error)
        elif isinstance(event, Connected):
            if not self._shaken.done():
                self._shaken.set_result(None)
        elif self._connection is not None and (connection := self._connection()) is not None:
            connection.on_news(is_direct)

    def _alarm(self) -> Callable[[], object]:
        return _Alarm(self)

    def _on_failure(self, error: OSError) -> None:
        self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        if not self.is_open:
            return
        self.is_open = False
        if os.getpid() != self._pid:
            self._watch.close()
            self.endpoint.close()  # the session is the parent's
            return
        self.endpoint.end(self.endpoint.client)
        self.endpoint.settle(time.monotonic())
        self._let_go()
        if error is not None:
            error.__traceback__ = None  # its frames would keep the session alive
            if not self._shaken.done():
                self._shaken.set_exception(error)
        connection = self._connection() if self._connection is not None else None
        if connection is not None:
            connection.on_closed(error, is_direct=False)

    def _let_go(self) -> None:
        self._watch.stop()
        self.endpoint.close()
        self._cancel_timer()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if "_connection" not in vars(self) or not self.is_open:
            return
        sock, loop, watch = self.endpoint.sock, self.loop, self._watch
        if os.getpid() != self._pid:
            watch.close()
            sock.close()
            return
        # No goodbye: the collector may have freed what the session has in C before.
        _warn(f"unclosed DTLS connection to {self.endpoint.peer}", ResourceWarning, stacklevel=1)
        here: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):
            here = asyncio.get_running_loop()
        if loop.is_running() and here is not loop:
            # The collector came by in another thread. Until its turn the loop keeps the socket.
            with contextlib.suppress(RuntimeError):  # closed in this very moment
                loop.call_soon_threadsafe(_abandon, watch, sock)
                return
        self._let_go()


def _abandon(watch: Watch, sock: socket.socket) -> None:
    watch.stop()
    sock.close()
