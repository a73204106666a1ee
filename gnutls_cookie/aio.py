"""DTLS servers and clients for asyncio, in the manner of its own start_server()."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import warnings
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from ._check import seconds_to_wait
from ._owned import not_copied
from .address import SocketAddress
from .client import Client
from .endpoint import Counters, Endpoint, gate_for, total
from .errors import GnuTLSError, connection_closed, fresh, timed_out
from .gate import CookieGate
from .keys import KeyRing
from .options import ClientOptions, ServerOptions, check_names
from .server import Closed, Connected, Event, MessageReady
from .server import Connection as Served
from .session import TICK, Credentials, Session
from .sockets import (
    LARGEST_DATAGRAM,
    Attempts,
    bound,
    host_and_port,
    send_or_lose,
    server_name_for,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Connection", "DTLSServer", "connect", "start_server"]

_DATAGRAMS = 64
_SENDS = 16  # by a task that does nothing but send, before others have their turn
_TIMER_SECONDS = 3600.0  # at a time: uvloop takes no number without end

Handler = Callable[["Connection"], Coroutine[Any, Any, object]]


class Connection:
    """One side of a DTLS connection; for one task that reads, and any number that write.

    Attributes:
        address: the peer's, as the socket module gives it.
        session: the Session: version, cipher, peer_certificate, psk_identity, data_mtu. Do not
            feed it.

    `async for message in connection` gives the peer's messages until the connection ends;
    `async with connection` closes it at the end of the block.
    """

    __reduce__ = not_copied

    def __init__(
        self,
        address: SocketAddress,
        session: Session,
        take: Callable[[], bytes | None],
        send: Callable[[Buffer], int],
        close: Callable[[], None],
    ) -> None:
        self.address = address
        self.session = session
        self._take = take
        self._send = send
        self._close = close
        # Tasks in receive(). An asyncio.Event would make the same futures, and four calls besides.
        self._waiters: list[asyncio.Future[None]] = []
        self._sends = 0  # since a task of this connection last let the others go on
        self._ended = asyncio.Event()
        self._error: Exception | None = None
        self._waiting = 0  # tasks in receive() and wait_closed()
        self._reader: _Reader | None = None  # of a client

    async def receive(self) -> bytes | None:
        """The next message of the peer; None once the connection has ended.

        Raises:
            GnuTLSError: the session failed.
        """
        while (message := self._take()) is None:
            if self._ended.is_set():
                if self._error is not None:
                    raise fresh(self._error)
                return None
            self._sends = 0
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            self._begin_to_wait()
            try:
                await waiter
            finally:
                if waiter in self._waiters:  # cancelled
                    self._waiters.remove(waiter)
                self._end_to_wait()
        return message

    async def send(self, data: Buffer) -> int:
        """Send one message of 1..`session.data_mtu` bytes; as with UDP it may get lost.

        Lets other tasks go on now and then, so that one that does nothing but send leaves them
        their turn.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is too long.
            ConnectionClosedError: the connection has ended; a ConnectionResetError.
            GnuTLSError: the session failed.
        """
        if self._ended.is_set():
            raise connection_closed("the connection has ended", self._error)
        sent = self._send(data)
        self._sends += 1
        if self._sends >= _SENDS:
            self._sends = 0
            await asyncio.sleep(0)
        return sent

    def close(self) -> None:
        """Say goodbye to the peer. Messages that came before can still be received.

        In the child of a fork it closes what the child inherited, and the peer hears nothing: the
        connection is the parent's.
        """
        self._close()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, whoever ended it."""
        self._begin_to_wait()
        try:
            await self._ended.wait()
        finally:
            self._end_to_wait()

    @property
    def is_open(self) -> bool:
        """Whether the connection has not ended."""
        return not self._ended.is_set()

    def is_closing(self) -> bool:
        """Whether the connection has ended, as asyncio's transports call it."""
        return self._ended.is_set()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Connection {self.address} {self.session!r}>"

    def _begin_to_wait(self) -> None:
        """Who waits is kept by the loop, which else knows clients by weak references alone."""
        self._waiting += 1
        if self._reader is not None:
            self._reader.kept = self

    def _end_to_wait(self) -> None:
        self._waiting -= 1
        if self._reader is not None and not self._waiting:
            self._reader.kept = None

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _end(self, error: Exception | None) -> None:
        if not self._ended.is_set():
            self._error = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._ended.set()
                self._wake()


async def start_server(
    handler: Handler,
    host: str | None = None,
    port: int = 0,
    *,
    credentials: Credentials | Sequence[Credentials],
    keys: KeyRing | Buffer | None = None,
    sock: socket.socket | None = None,
    reuse_port: bool = False,
    grace: float = 5.0,
    **limits: Unpack[ServerOptions],
) -> DTLSServer:
    """Start a DTLS server that challenges strangers and gives verified clients to `handler`.

    Args:
        handler: called as handler(connection) for each client whose handshake is complete; it runs
            as a task, and its connection is closed when it returns. What it raises goes to the
            loop's exception handler and ends its own connection alone; but for SystemExit and
            KeyboardInterrupt, which end the loop, as of every task.
        host: what to bind to, resolved; one socket for each address. An address that this machine
            does not have is left out where another one can be bound.
        port: 0..65535; 0 lets the system choose.
        credentials: as for a Session.
        keys: the cookie key or a KeyRing; None makes a random one.
        sock: a bound UDP socket in place of host and port (from systemd, say); it is made
            non-blocking, and closed with the server.
        reuse_port: set SO_REUSEPORT, for several processes on one port.
        grace: seconds that handlers have to return once the server is closed; then they are
            cancelled. Infinity waits for ever.
        limits: what Server takes besides: priority, verify_peer, mtu, max_sessions,
            handshake_timeout, idle_timeout, max_queue, max_queue_bytes, retransmit_timeout. They
            hold for each socket.

    The loop keeps the server, as it keeps asyncio's own: one that nobody closes serves as long as
    the loop runs, and ends without goodbyes and with a ResourceWarning.

    Handshakes that fail are logged by the logger "gnutls_cookie" (INFO), what a PSK lookup raises
    too (ERROR, with its traceback): some lines a second at most, and how many more there were.

    Raises:
        OSError: the name is not known, or the address cannot be bound.
        ValueError, TypeError: an argument is out of range or of another type.

    Example:
        An echo server:

        >>> async def echo(connection):
        ...     async for message in connection:
        ...         most = connection.session.data_mtu  # what one datagram carries
        ...         for start in range(0, len(message), most):
        ...             await connection.send(message[start : start + most])
        >>> async def main(credentials):
        ...     async with await start_server(echo, "::1", 5684, credentials=credentials) as server:
        ...         await server.serve_forever()
    """
    check_names("start_server", limits, ServerOptions)
    if not callable(handler):
        raise TypeError(f"handler must be callable, not {type(handler).__name__}")
    if (sock is None) == (host is None):
        raise ValueError("either host (and port) or sock is needed")
    gate = gate_for(keys)
    if sock is not None:
        sockets = [sock]
    else:
        assert host is not None
        host_and_port(host, port)
        found = await _resolve(host, port, flags=socket.AI_PASSIVE)
        sockets = bound(found, reuse_port)
    try:
        return DTLSServer(handler, sockets, gate, grace, credentials, limits)
    except BaseException:
        if sock is None:
            for one in sockets:
                one.close()
        raise


class DTLSServer:
    """A running server, as start_server() gives it. `async with server` closes it at the end."""

    __reduce__ = not_copied

    def __init__(
        self,
        handler: Handler,
        sockets: Sequence[socket.socket],
        gate: CookieGate,
        grace: float,
        credentials: Credentials | Sequence[Credentials],
        limits: ServerOptions,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._grace = seconds_to_wait("grace", grace)
        self._pid = os.getpid()
        self._tasks: set[asyncio.Task[object]] = set()
        self._closed = asyncio.Event()
        self._served = [
            _Served(self, Endpoint(sock, gate, credentials, **limits)) for sock in sockets
        ]
        try:
            for served in self._served:
                served.start()
        except BaseException:
            for served in self._served:
                self._loop.remove_reader(served.endpoint.sock.fileno())
            self._served.clear()
            self._closed.set()
            raise

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets that are served."""
        return tuple(served.endpoint.sock for served in self._served)

    @property
    def address(self) -> SocketAddress:
        """The first socket's own address.

        Raises:
            OSError: the server is closed.
        """
        address: SocketAddress = self._served[0].endpoint.sock.getsockname()
        return address

    @property
    def counters(self) -> Counters:
        """What happened so far, at all sockets together."""
        return total([served.endpoint for served in self._served])

    @property
    def keys(self) -> KeyRing:
        """The KeyRing in use. Another one may be set: a client in mid-exchange is then challenged
        once more, and that is all."""
        return self._served[0].endpoint.keys

    @keys.setter
    def keys(self, keys: KeyRing) -> None:
        self._served[0].endpoint.keys = keys  # they share a gate

    def set_credentials(self, credentials: Credentials | Sequence[Credentials]) -> None:
        """Give new sessions other credentials; those that there are keep theirs.

        Raises:
            ValueError, TypeError, GnuTLSError: as of Session; then nothing is changed.
        """
        for served in self._served:  # the first one judges them: all have the same options
            served.endpoint.credentials = credentials

    def close(self) -> None:
        """Say goodbye to every peer, and stop. Handlers see the end of their connection.

        In the child of a fork it closes what the child inherited, and peers hear nothing.
        """
        if self._closed.is_set():
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._closed.set()
        for served in self._served:
            served.close()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and every handler has returned, or was cancelled after
        its `grace`. One that takes no notice of that for as long again is left behind."""
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
            await self._closed.wait()
        finally:
            self.close()
            await self.wait_closed()

    async def __aenter__(self) -> DTLSServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()

    def __repr__(self) -> str:
        if self._closed.is_set():
            return "<DTLSServer closed>"
        sessions = sum(len(served.endpoint) for served in self._served)
        return f"<DTLSServer on {self.address}, {sessions} sessions>"

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if "_served" not in vars(self) or self._closed.is_set():
            return  # never made, or closed
        # The collector may have freed what C has to do with sessions, listeners and locks before: a
        # call of theirs would crash. So there are no goodbyes.
        if os.getpid() == self._pid:
            _warn(f"unclosed DTLS server on {self.sockets}", ResourceWarning, stacklevel=1)
        for served in self._served:
            served.endpoint.sock.close()

    def _start_handler(self, connection: Connection) -> None:
        running = self._run_handler(connection)
        try:
            task = self._loop.create_task(running)
        except Exception as error:  # of a task factory, or for want of memory
            running.close()
            connection.close()
            self._tell("no task for a connection's handler", error, connection)
            return
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_handler(self, connection: Connection) -> None:
        try:
            await self._handler(connection)
        except GnuTLSError as error:
            if connection.is_open:  # else the connection failed under the handler: counted
                self._tell("unhandled error in a connection's handler", error, connection)
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit):
            raise  # asyncio's own affair: the last two end the loop
        except BaseException as error:
            self._tell("unhandled exception in a connection's handler", error, connection)
        finally:
            connection.close()

    def _tell(self, message: str, error: BaseException, what: object) -> None:
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "connection": what}
        )


class _Served:
    """One socket of a server in the event loop: readable, timer, events."""

    def __init__(self, owner: DTLSServer, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._owner = owner
        self._loop = owner._loop
        self._connections: dict[Served, Connection] = {}
        self._events: deque[Event] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._open = True
        self._settling = False  # whether _settle() is to be called in this turn of the loop

    def start(self) -> None:
        self.endpoint.sock.setblocking(False)
        self._loop.add_reader(self.endpoint.sock.fileno(), self._on_readable)

    def close(self) -> None:
        if not self._open:
            return
        if os.getpid() == self._owner._pid:
            _stop_reading(self._loop, self.endpoint.sock)
            self.endpoint.end_all()
            self._settle()
        # Else not: the kernel's side of an epoll selector is the parent's, too.
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        self.endpoint.close()

    def _on_readable(self) -> None:
        try:
            self._happen(self.endpoint.turn)
        except OSError as error:  # the socket itself is of no use any more
            self._owner._tell("a socket of a DTLS server failed", error, self.endpoint.sock)
            self._owner.close()

    def _on_timer(self) -> None:
        self._timer = None
        self._happen(self.endpoint.handle_timeout)

    def _settle(self) -> None:
        self._settling = False
        if self._open:
            self._happen(self.endpoint.settle)

    def _happen(self, step: Callable[[float], list[Event]]) -> None:
        """Let the endpoint do something, tell what happened, and set the timer."""
        # Kept until each is dealt with: a handler that runs at once (asyncio.eager_task_factory)
        # may close its connection meanwhile, and may raise SystemExit.
        try:
            self._events += step(time.monotonic())
        except OSError:
            raise
        except BaseException:  # KeyboardInterrupt in a PSK lookup: the others are served
            self._settle()
            raise
        try:
            while self._events:
                self._on_event(self._events.popleft())
        finally:
            self._set_timer()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Connected):
            self._connect(event.connection)
            return
        connection = self._connections.get(event.connection)
        if connection is not None and isinstance(event, MessageReady):
            connection._wake()
        elif connection is not None and isinstance(event, Closed):
            del self._connections[event.connection]
            connection._end(event.error)

    def _connect(self, served: Served) -> None:
        endpoint = self.endpoint

        def send(data: Buffer) -> int:
            sent = endpoint.send(served, data, time.monotonic())
            if not self._settling:  # once for all that the tasks of this turn send
                self._settling = True
                self._loop.call_soon(self._settle)
            return sent

        def close() -> None:
            if self._open and os.getpid() == self._owner._pid:
                endpoint.end(served)
                self._settle()

        connection = Connection(served.address, served.session, served.receive, send, close)
        self._connections[served] = connection
        self._owner._start_handler(connection)

    def _set_timer(self) -> None:
        """One that goes off too early does no harm, and is cheaper than one anew each time."""
        if not self._open:
            return
        seconds = self.endpoint.timeout(time.monotonic())
        if seconds is None or self._loop.is_closed():
            return
        when = self._loop.time() + min(seconds, _TIMER_SECONDS)
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._on_timer)


async def connect(
    host: str,
    port: int,
    *,
    credentials: Credentials | Sequence[Credentials],
    server_name: str | None = None,
    local_address: tuple[str, int] | None = None,
    **options: Unpack[ClientOptions],
) -> Connection:
    """Connect to a DTLS server and complete the handshake.

    The addresses of a name are tried in turn: the next one where the former is refused or cannot be
    reached, and where it is silent for its share of `handshake_timeout` (half of it where one more
    is left). Who has answered has all the time that is left, and what its handshake fails with is
    final.

    Args:
        host: name or IP address.
        port: 1..65535.
        credentials: as for a Session.
        server_name: the name in the server's certificate; None takes `host`.
        local_address: (ip, port) to bind to.
        options: what Session takes besides: priority, verify_peer, mtu, retransmit_timeout,
            handshake_timeout (of all addresses together).

    A connection that is never closed is closed when nobody has it any more, without a goodbye and
    with a ResourceWarning.

    Raises:
        TimedOutError: the server did not complete the handshake in time.
        ConnectionRefusedError: nobody listens at the address.
        GnuTLSError: the handshake failed.
        OSError: the name is not known, and so on. Where several addresses were tried, the text says
            what each of them gave.
        ValueError, TypeError: an argument is out of range or of another type.
    """
    check_names("connect", options, ClientOptions)
    host_and_port(host, port, 1)
    if local_address is not None:
        if not isinstance(local_address, tuple) or len(local_address) < 2:
            raise TypeError("local_address must be a tuple (ip, port)")
        host_and_port(*local_address[:2], prefix="local_address: ")
    loop = asyncio.get_running_loop()
    options.setdefault("handshake_timeout", 60.0)
    name = server_name_for(host, server_name)
    core = Client(credentials, server_name=name, **options)
    found = await _resolve(host, port)
    attempts = Attempts(found, options["handshake_timeout"], loop.time())
    while True:
        patience = attempts.patience(loop.time())
        try:
            return await _attempt(loop, attempts.info, core, local_address, patience)
        except Exception as error:
            attempts.failed(error, loop.time())
        finally:
            del core  # which a traceback would keep
        options["handshake_timeout"] = attempts.seconds(loop.time())
        core = Client(credentials, server_name=name, **options)


async def _attempt(
    loop: asyncio.AbstractEventLoop,
    info: Any,
    core: Client,
    local_address: tuple[str, int] | None,
    patience: float | None,
) -> Connection:
    """Connect to one address; TimedOutError where nothing comes within `patience` seconds."""
    family, kind, protocol, _, address = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        if local_address is not None:
            here = await _resolve(*local_address[:2], family=family)
            sock.bind(here[0][4])
        sock.connect(address)
        peer: SocketAddress = sock.getpeername()
        client = _Client(loop, sock, core)
    except BaseException:
        sock.close()
        raise
    connection = Connection(peer, core.session, core.receive, client.send, client.close)
    try:
        client.start(connection, patience)
        await client.shaken
    except BaseException:
        client.close()
        raise
    finally:
        client.reader.kept = None  # from now on it lives as long as its user wants
        del client  # its future holds the exception, whose traceback holds this frame
    return connection


async def _resolve(host: str, port: int, *, family: int = 0, flags: int = 0) -> list[Any]:
    return await asyncio.get_running_loop().getaddrinfo(
        host, port, family=family, type=socket.SOCK_DGRAM, flags=flags
    )


def _stop_reading(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    if not loop.is_closed():
        loop.remove_reader(sock.fileno())


class _Reader:
    """What the loop calls when a client's socket is readable. The loop keeps it, and it keeps the
    client only while somebody waits for something: one that everybody has forgotten goes away.

    Attributes:
        kept: what is to be kept alive.
    """

    __slots__ = ("_client", "kept")

    def __init__(self, client: _Client) -> None:
        self._client = weakref.ref(client)
        self.kept: object = None

    def __call__(self) -> None:
        client = self._client()
        if client is not None:
            client.on_readable()


class _Client:
    """A client's socket in the event loop: readable, timer, events."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, client: Client
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._client = client
        self._peer = sock.getpeername()
        self._pid = os.getpid()
        self._timer: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._connection: weakref.ref[Connection] | None = None
        self.reader = _Reader(self)
        self.shaken: asyncio.Future[None] = loop.create_future()

    def start(self, connection: Connection, patience: float | None) -> None:
        """Begin the handshake; give up where nothing has come after `patience` seconds."""
        self._connection = weakref.ref(connection)
        connection._reader = self.reader
        self.reader.kept = self
        self._loop.add_reader(self._sock.fileno(), self.reader)
        if patience is not None:
            self._silence = self._loop.call_later(patience, self._on_silence)
        self._client.connect(time.monotonic())
        self._settle()

    def send(self, data: Buffer) -> int:
        """Send a message."""
        sent = self._client.send(data)
        self._flush()
        return sent

    def close(self) -> None:
        """Say goodbye."""
        self._finish(None)

    def on_readable(self) -> None:
        """Take what lies in the socket."""
        error: Exception | None = None
        for _ in range(_DATAGRAMS):
            try:
                datagram = self._sock.recv(LARGEST_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as refused:  # ICMP: only the handshake believes it, it may be forged
                error = refused
                break
            self._client.receive_datagram(datagram, time.monotonic())
            self._forget_silence()
        if error is not None and not self._client.session.established:
            self._finish(error)
        else:
            self._settle()

    def _on_timer(self) -> None:
        self._timer = None
        self._client.handle_timeout(time.monotonic())
        self._settle()

    def _on_silence(self) -> None:
        self._finish(timed_out("nothing came from the server"))

    def _forget_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _settle(self) -> None:
        """Send what is to be sent, tell what happened, set the timer."""
        self._flush()
        for event in self._client.events():
            if isinstance(event, Connected):
                self._shaken(None)
            elif isinstance(event, Closed):
                self._finish(event.error)
                return
            elif self._connection is not None and (connection := self._connection()) is not None:
                connection._wake()
        self._set_timer()

    def _flush(self) -> None:
        for datagram in self._client.datagrams_to_send():
            send_or_lose(self._sock, datagram, None)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        seconds = self._client.timeout(time.monotonic())
        if seconds is not None:
            self._timer = self._loop.call_later(max(seconds, TICK), self._on_timer)

    def _shaken(self, error: Exception | None) -> None:
        if self.shaken.done():
            return
        if error is None:
            self.shaken.set_result(None)
        else:
            self.shaken.set_exception(error)

    def _finish(self, error: Exception | None) -> None:
        if self._sock.fileno() < 0:
            return
        if os.getpid() != self._pid:
            self._sock.close()  # the session, and the kernel's side of a selector, are the parent's
            return
        self._client.close()
        self._client.events()  # they are known here
        self._flush()
        self._let_go()
        if error is not None:
            error.__traceback__ = None  # its frames would keep the session alive
            self._shaken(error)
        connection = self._connection() if self._connection is not None else None
        if connection is not None:
            connection._end(error)

    def _let_go(self) -> None:
        _stop_reading(self._loop, self._sock)
        self._sock.close()
        if self._timer is not None:
            self._timer.cancel()
        self._forget_silence()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if "_sock" not in vars(self) or self._sock.fileno() < 0:
            return
        if os.getpid() != self._pid:
            self._sock.close()
            return
        # No goodbye: the collector may have freed what the session has in C before.
        _warn(f"unclosed DTLS connection to {self._peer}", ResourceWarning, stacklevel=1)
        here: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):
            here = asyncio.get_running_loop()
        if self._loop.is_running() and here is not self._loop:
            # The collector came by in another thread. Until its turn the loop keeps the socket.
            with contextlib.suppress(RuntimeError):  # closed in this very moment
                self._loop.call_soon_threadsafe(_abandon, self._loop, self._sock)
                return
        self._let_go()


def _abandon(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    _stop_reading(loop, sock)
    sock.close()
