"""start_server(): a server in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import socket
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Unpack, cast

from gnutls_cookie._check import flag
from gnutls_cookie.base import ServerBase
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.errors import GnuTLSError
from gnutls_cookie.gate import CookieGate
from gnutls_cookie.keys import KeyRing
from gnutls_cookie.options import ServerOptions
from gnutls_cookie.plans import ServerPlan
from gnutls_cookie.server import Closed, Connected, Event
from gnutls_cookie.server import Connection as CoreConnection
from gnutls_cookie.session import TICK, Credentials

from .connection import Connection
from .driver import SocketDriver
from .names import resolve
from .opening import Opening
from .protocol import Protocol, ProtocolConnection
from .waiter import Steps

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["DTLSServer", "Handler", "start_server"]

Handler = Callable[[Connection], Coroutine[Any, Any, object]]

# asyncio's own affair: the last two end the loop.
_OF_THE_TASK = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
_CALLBACKS = ("connected", "message_received", "closed")  # of a Protocol


def start_server(
    handler: Handler | None = None,
    host: str | None = None,
    port: int = 0,
    *,
    credentials: Credentials | Sequence[Credentials],
    keys: CookieGate | KeyRing | Buffer | None = None,
    sock: socket.socket | Sequence[socket.socket] | None = None,
    reuse_port: bool = False,
    grace: float = 5.0,
    start_serving: bool = True,
    protocol_factory: Callable[[], Protocol] | None = None,
    **limits: Unpack[ServerOptions],
) -> Opening[DTLSServer]:
    """Start a DTLS server that challenges strangers and gives verified clients to `handler`.

    `await start_server(...)` gives a DTLSServer; `async with start_server(...) as server` closes it
    at the end of the block.

    Args:
        handler: called as handler(connection) for each client whose handshake is complete; it runs
            as a task, and its connection is closed when it returns. What it raises goes to the
            loop's exception handler and ends its own connection alone; but for SystemExit and
            KeyboardInterrupt, which end the loop, as of every task.
        host: what to bind to, resolved; one socket for each address. An address that this machine
            does not have is left out where another one can be bound.
        port: 0..65535; 0 lets the system choose.
        credentials: as for a Session.
        keys: the cookie key, a KeyRing, or a CookieGate that several servers share (in any threads;
            its counters are then of all); None makes a random key.
        sock: a bound UDP socket, or several, in place of host and port (from systemd, say); they
            are made non-blocking, and closed with the server.
        reuse_port: set SO_REUSEPORT, for several processes on one port.
        grace: seconds that handlers have to return once the server is closed; then they are
            cancelled. Infinity waits forever.
        start_serving: whether clients are answered at once; else once start_serving() or
            serve_forever() is called.
        protocol_factory: in place of a handler: called for each client whose handshake is complete;
            what it returns, a Protocol, is called for each message. It costs less than a task.
        limits: every other argument of Server, by name: priority, verify_peer, alpn, tickets,
            max_sessions, idle_timeout ... They hold for each socket.

    The loop keeps the server, as it keeps asyncio's own: one that nobody closes serves as long as
    the loop runs, and ends without goodbyes and with a ResourceWarning.

    Handshakes that fail are logged by the logger "gnutls_cookie" (INFO), what a PSK lookup raises
    too (ERROR, with its traceback): some lines a second at most, and how many more there were.

    Raises:
        OSError: the name is not known, or the address cannot be bound.
        ValueError, TypeError: an argument is out of range or of another type. At once: nothing need
            be awaited.

    Example:
        An echo server:

        >>> async def echo(connection):
        ...     async for message in connection:
        ...         most = connection.data_mtu  # what one datagram carries
        ...         for start in range(0, len(message), most):
        ...             await connection.send(message[start : start + most])
        >>> async def main(credentials):
        ...     async with start_server(echo, "::1", 5684, credentials=credentials) as server:
        ...         await server.serve_forever()
    """
    flag("start_serving", start_serving)
    called = {"handler": handler, "protocol_factory": protocol_factory}
    plan = ServerPlan(
        "start_server", called, host, port, sock, reuse_port, keys, grace, credentials, limits
    )
    return Opening(_started(plan, handler, protocol_factory, start_serving), "start_server")


async def _started(
    plan: ServerPlan,
    handler: Handler | None,
    protocol_factory: Callable[[], Protocol] | None,
    start_serving: bool,
) -> DTLSServer:
    found: list[Any] = []
    if plan.host is not None:
        found = await resolve(plan.host, plan.port, flags=socket.AI_PASSIVE)
    server = DTLSServer(plan.endpoints(found), handler, protocol_factory, plan.grace)
    try:
        if start_serving:
            await server.start_serving()
    except BaseException:
        server.close()
        raise
    return server


class DTLSServer(ServerBase, asyncio.AbstractServer):
    """A running server, as start_server() gives it. `async with server` closes it at the end."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        handler: Handler | None,
        protocol_factory: Callable[[], Protocol] | None,
        grace: float | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._endpoints = endpoints
        self._handler = handler
        self._protocol_factory = protocol_factory
        self._grace = grace
        self._pid = os.getpid()
        self._tasks: set[asyncio.Task[object]] = set()
        # One of each for all tasks: the collector looks at what each session has.
        self._discard, self._context = self._tasks.discard, contextvars.copy_context()
        self._closed = asyncio.Event()
        self._drivers = [ServerDriver(self._loop, one, self) for one in endpoints]

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the server is in."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether clients are answered."""
        return not self._closed.is_set() and all(one.is_reading for one in self._drivers)

    async def start_serving(self) -> None:
        """Answer clients, if that was not begun before.

        Raises:
            RuntimeError: the server is closed.
        """
        if self._closed.is_set():
            raise RuntimeError("the server is closed")
        for driver in self._drivers:
            driver.start()

    def close(self) -> None:
        """Say goodbye to every peer, and stop. Handlers see the end of their connection.

        In the child of a fork it closes what the child inherited, and peers hear nothing.
        """
        if self._closed.is_set():
            return
        if any(endpoint.is_busy for endpoint in self._endpoints):
            # A PSK lookup calls this, or a signal handler in one: its own handshake comes first.
            self._loop.call_soon(self.close)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._closed.set()
        for driver in self._drivers:
            driver.close()

    def close_clients(self) -> None:
        """Say goodbye to every peer, and serve on."""
        for driver in self._drivers:
            driver.end_all()

    def abort_clients(self) -> None:
        """The same as close_clients(): nothing waits to be sent."""
        self.close_clients()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and every handler has returned, or was cancelled after
        its `grace`. A handler that ignores that for another `grace` seconds is abandoned."""
        await self._closed.wait()
        tasks = self._tasks - {asyncio.current_task()}  # a handler may wait for all the others
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=self._grace)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=max(self._grace or 0.0, TICK))

    async def serve_forever(self) -> None:
        """Serve until the server is closed or this task is cancelled; then close it."""
        try:
            if not self._closed.is_set():
                await self.start_serving()
            await self._closed.wait()
        finally:
            self.close()
            await self.wait_closed()

    async def __aenter__(self) -> DTLSServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if "_drivers" not in vars(self) or self._closed.is_set():
            return  # never made, or closed
        # The collector may have freed what C has to do with sessions, listeners and locks before: a
        # call of theirs would crash. So there are no goodbyes.
        if os.getpid() == self._pid:
            _warn(f"unclosed DTLS server on {self.sockets}", ResourceWarning, stacklevel=1)
        for driver in self._drivers:
            driver.abandon()

    @property
    def _is_closed(self) -> bool:
        return self._closed.is_set()

    # --- for its drivers --------------------------------------------------------------------------

    def on_connected(self, core: CoreConnection, driver: ServerDriver) -> None:
        """A handshake is complete: call the handler in a task of its own, or a protocol."""
        if self._handler is not None:
            core.receiver = connection = Connection(core, driver)
            self._start_handler(self._handler, core, connection)
            return
        assert self._protocol_factory is not None
        try:
            protocol = _judged(self._protocol_factory())
        except Exception as error:
            self.report("unhandled exception in protocol_factory", error, None)
            driver.end(core)
            return
        called = ProtocolConnection(core, driver, protocol)
        core.receiver = called
        called.on_connected()

    def report(self, message: str, error: BaseException, what: object) -> None:
        """Tell the loop's exception handler."""
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "connection": what}
        )

    def _start_handler(
        self, handler: Handler, core: CoreConnection, connection: Connection
    ) -> None:
        running = _Handling(handler, connection, self)
        try:
            name = f"connection of {core._shown_address}"
            task: asyncio.Task[object] = self._loop.create_task(running, name=name)
        except Exception as error:  # of a task factory, or for want of memory
            connection.close()
            self.report("no task for a connection's handler", error, connection)
            return
        self._tasks.add(task)
        task.add_done_callback(self._discard, context=self._context)


class _Handling(Steps):
    """A handler at work."""

    __slots__ = ("_connection", "_handler", "_server")

    def __init__(self, handler: Handler, connection: Connection, server: DTLSServer) -> None:
        super().__init__(server.get_loop())
        self._handler = handler
        self._connection = connection
        self._server = server
        connection.wait_by(self)

    def _begin(self) -> Coroutine[Any, Any, object]:
        running: Any = self._handler(self._connection)
        if type(running) is CoroutineType:
            return running
        if not inspect.isawaitable(running):
            kind = type(running).__name__
            raise TypeError(f"handler must return an awaitable, as async def does, not {kind}")
        return _awaited(running)

    def _end(self, error: BaseException | None) -> bool:
        connection = self._connection
        try:
            if error is None or isinstance(error, _OF_THE_TASK):
                return True
            if isinstance(error, GnuTLSError):
                if connection.is_open:  # else the connection failed under the handler: counted
                    what = "unhandled error in a connection's handler"
                    self._server.report(what, error, connection)
            else:
                what = "unhandled exception in a connection's handler"
                self._server.report(what, error, connection)
            return False
        finally:
            del self._connection  # they hold one another
            connection.close()


async def _awaited(one: Awaitable[object]) -> object:
    return await one


def _judged(made: object) -> Protocol:
    """What a protocol_factory has made: a Protocol, or another object with its callbacks."""
    if isinstance(made, Protocol):
        return made
    if isinstance(made, type) or not all(callable(getattr(made, one, None)) for one in _CALLBACKS):
        raise TypeError(f"protocol_factory must return a Protocol, not {type(made).__name__}")
    return cast("Protocol", made)


class ServerDriver(SocketDriver):
    """One socket of a server in the event loop.

    Attributes:
        is_reading: whether start() was called.
    """

    endpoint: Endpoint

    def __init__(
        self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint, owner: DTLSServer
    ) -> None:
        super().__init__(loop, endpoint)
        self.is_reading = False
        self._owner = owner

    def start(self) -> None:
        """Let the loop tell of what comes."""
        if not self.is_reading:
            self._watch.start(self._step, self.endpoint.turn)
            self.is_reading = True

    def end_all(self) -> None:
        """Say goodbye to every peer."""
        self.endpoint.end_all()
        self._step(self.endpoint.settle, is_direct=False)  # its caller may be a task

    def close(self) -> None:
        """Say goodbye to every peer, and close the socket."""
        if not self.is_open:
            return
        if os.getpid() == self._pid:
            if self.is_reading:
                self._watch.stop()
            self.end_all()
        self._watch.close()
        self.is_open = False
        self._cancel_timer()
        self.endpoint.close()

    def abandon(self) -> None:
        """Close the socket without a word."""
        self._watch.close()
        self.endpoint.sock.close()

    def report(self, message: str, error: BaseException, what: object) -> None:
        """Tell the loop's exception handler."""
        self._owner.report(message, error, what)

    def _tell(self, event: Event, is_direct: bool) -> None:
        core = event.connection
        connection = core.receiver
        if isinstance(event, Connected):
            self._owner.on_connected(core, self)
        elif isinstance(connection, Connection):
            if isinstance(event, Closed):
                core.receiver = None  # they hold one another
                connection.on_closed(event.error, is_direct)
            else:
                connection.on_news(is_direct)

    def _on_failure(self, error: OSError) -> None:
        self._owner.report("a socket of a DTLS server failed", error, self.endpoint.sock)
        self._owner.close()
