"""DTLS servers and clients for asyncio, in the manner of its own start_server()."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from .address import SocketAddress
from .endpoint import LARGEST_DATAGRAM, Counters, Endpoint, bound, gate_for, send_or_lose, total
from .errors import GnuTLSError
from .gate import CookieGate
from .keys import KeyRing
from .server import Closed, Connected, MessageReady, Server
from .server import Connection as Served
from .session import TICK, Credentials, Session

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Connection", "DTLSServer", "connect", "start_server"]

_DATAGRAMS = 64
_SENDS = 16  # by a task that does nothing but send, before others have their turn
_MESSAGES = 256  # that wait in a client; a further one is dropped, as UDP does

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

    async def receive(self) -> bytes | None:
        """The next message of the peer; None once the connection has ended.

        Raises:
            GnuTLSError: the session failed.
        """
        while (message := self._take()) is None:
            if self._ended.is_set():
                if self._error is not None:
                    raise self._error
                return None
            self._sends = 0
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:  # cancelled
                    self._waiters.remove(waiter)
        return message

    async def send(self, data: Buffer) -> int:
        """Send one message of 1..`session.data_mtu` bytes; as with UDP it may get lost.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is too long.
            GnuTLSError: the connection has ended.
        """
        sent = self._send(data)
        self._sends += 1
        if self._sends >= _SENDS:
            self._sends = 0
            await asyncio.sleep(0)
        return sent

    def close(self) -> None:
        """Say goodbye to the peer. Messages that came before can still be received."""
        self._close()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, whoever ended it."""
        await self._ended.wait()

    @property
    def is_open(self) -> bool:
        """Whether the connection has not ended."""
        return not self._ended.is_set()

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

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _end(self, error: Exception | None) -> None:
        if not self._ended.is_set():
            self._error = error
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
    **limits: Any,
) -> DTLSServer:
    """Start a DTLS server that challenges strangers and gives verified clients to `handler`.

    Args:
        handler: called as handler(connection) for each client whose handshake is complete; it runs
            as a task, and its connection is closed when it returns.
        host: what to bind to, resolved; one socket for each address.
        port: 0..65535; 0 lets the system choose.
        credentials: as for a Session.
        keys: the cookie key or a KeyRing; None makes a random one.
        sock: a bound UDP socket in place of host and port (from systemd, say); it is made
            non-blocking, and closed with the server.
        reuse_port: set SO_REUSEPORT, for several processes on one port.
        grace: seconds that handlers have to return once the server is closed; then they are
            cancelled.
        limits: what Server takes besides: priority, verify_peer, mtu, max_sessions,
            handshake_timeout, idle_timeout, max_queue, retransmit_timeout. They hold for each
            socket.

    Raises:
        OSError: the name is not known, or the address cannot be bound.
        ValueError, TypeError: an argument is out of range or of another type.

    Example:
        An echo server:

        >>> async def echo(connection):
        ...     async for message in connection:
        ...         await connection.send(message)
        >>> async def main(credentials):
        ...     async with await start_server(echo, "::1", 5684, credentials=credentials) as server:
        ...         await server.serve_forever()
    """
    if (sock is None) == (host is None):
        raise ValueError("either host (and port) or sock is needed")
    gate = gate_for(keys)
    if sock is not None:
        sockets = [sock]
    else:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )
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

    def __init__(
        self,
        handler: Handler,
        sockets: Sequence[socket.socket],
        gate: CookieGate,
        grace: float,
        credentials: Credentials | Sequence[Credentials],
        limits: dict[str, Any],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._gate = gate
        self._handler = handler
        self._grace = grace
        self._tasks: set[asyncio.Task[object]] = set()
        self._closed = asyncio.Event()
        self._served = [
            _Served(self, Endpoint(sock, gate, Server(credentials, **limits))) for sock in sockets
        ]
        for served in self._served:
            served.start()

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
        return self._gate.keys

    @keys.setter
    def keys(self, keys: KeyRing) -> None:
        self._gate.keys = keys

    def set_credentials(self, credentials: Credentials | Sequence[Credentials]) -> None:
        """Give new sessions other credentials; those that there are keep theirs.

        Raises:
            ValueError, TypeError, GnuTLSError: as of Session; then nothing is changed.
        """
        for served in self._served:  # the first one judges them: all have the same options
            served.endpoint.server.credentials = credentials

    def close(self) -> None:
        """Say goodbye to every peer, and stop. Handlers see the end of their connection."""
        if self._closed.is_set():
            return
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
            await asyncio.wait(tasks, timeout=max(self._grace, TICK))

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
        sessions = sum(len(served.endpoint.server) for served in self._served)
        return f"<DTLSServer on {self.address}, {sessions} sessions>"

    def _start_handler(self, connection: Connection) -> None:
        task = self._loop.create_task(self._run_handler(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_handler(self, connection: Connection) -> None:
        try:
            await self._handler(connection)
        except GnuTLSError as error:
            if connection.is_open:  # else the connection failed under the handler: counted
                self._tell("unhandled error in a connection's handler", error, connection)
        except Exception as error:
            self._tell("unhandled exception in a connection's handler", error, connection)
        finally:
            connection.close()

    def _tell(self, message: str, error: Exception, what: object) -> None:
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
        self._timer: asyncio.TimerHandle | None = None
        self._open = True
        self._settling = False  # whether _settle() is to be called in this turn of the loop

    def start(self) -> None:
        self.endpoint.sock.setblocking(False)
        self._loop.add_reader(self.endpoint.sock.fileno(), self._on_readable)

    def close(self) -> None:
        if not self._open:
            return
        self._loop.remove_reader(self.endpoint.sock.fileno())
        self.endpoint.server.close_all()
        self._settle()
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        self.endpoint.close()

    def _on_readable(self) -> None:
        try:
            arrivals = self.endpoint.poll(0)
        except OSError as error:  # the socket itself is of no use any more
            self._owner._tell("a socket of a DTLS server failed", error, self.endpoint.sock)
            self._owner.close()
            return
        self.endpoint.receive(arrivals, time.monotonic())
        self._settle()

    def _on_timer(self) -> None:
        self._timer = None
        self.endpoint.server.handle_timeout(time.monotonic())
        self._settle()

    def _settle(self) -> None:
        """Send what is to be sent, tell what happened, set the timer."""
        self._settling = False
        if not self._open:
            return
        for event in self.endpoint.settle():
            if isinstance(event, Connected):
                self._connect(event.connection)
                continue
            # None: a handler that ran at once (asyncio.eager_task_factory) has closed it meanwhile.
            connection = self._connections.get(event.connection)
            if connection is not None and isinstance(event, MessageReady):
                connection._wake()
            elif connection is not None and isinstance(event, Closed):
                del self._connections[event.connection]
                connection._end(event.error)
        self._set_timer()

    def _connect(self, served: Served) -> None:
        server = self.endpoint.server

        def send(data: Buffer) -> int:
            sent = server.send(served, data, time.monotonic())
            if not self._settling:  # once for all that the tasks of this turn send
                self._settling = True
                self._loop.call_soon(self._settle)
            return sent

        def close() -> None:
            if self._open:
                server.close(served)
                self._settle()

        connection = Connection(served.address, served.session, served.receive, send, close)
        self._connections[served] = connection
        self._owner._start_handler(connection)

    def _set_timer(self) -> None:
        """One that goes off too early does no harm, and is cheaper than one anew each time."""
        seconds = self.endpoint.server.timeout(time.monotonic())
        if seconds is None or not self._open:
            return
        when = self._loop.time() + seconds
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
    **options: Any,
) -> Connection:
    """Connect to a DTLS server and complete the handshake.

    Args:
        host: name or IP address; the first address that it resolves to is taken.
        port: 1..65535.
        credentials: as for a Session.
        server_name: the name in the server's certificate; None takes `host`.
        local_address: (ip, port) to bind to.
        options: what Session takes besides: priority, verify_peer, mtu, retransmit_timeout,
            handshake_timeout.

    Raises:
        TimedOutError: the server did not complete the handshake in time.
        ConnectionRefusedError: nobody listens at the address.
        GnuTLSError: the handshake failed.
        OSError: the name is not known, and so on.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    session = Session("client", credentials, server_name=server_name or host, **options)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        if local_address is not None:
            sock.bind(local_address)
        sock.connect(address)
        peer: SocketAddress = sock.getpeername()
    except BaseException:
        sock.close()
        raise
    client = _Client(loop, sock, session)
    connection = Connection(peer, session, client.take, client.send, client.close)
    try:
        client.start(connection)
        await client.shaken
    except BaseException:
        client.close()
        raise
    finally:
        del client  # its future holds the exception, whose traceback holds this frame
    return connection


class _Client:
    """A client's socket, session and timer."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, session: Session
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._session = session
        self._messages: deque[bytes] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._connection: Connection | None = None
        self.shaken: asyncio.Future[None] = loop.create_future()

    def start(self, connection: Connection) -> None:
        self._connection = connection
        self._loop.add_reader(self._sock.fileno(), self._on_readable)
        self._advance()

    def take(self) -> bytes | None:
        return self._messages.popleft() if self._messages else None

    def send(self, data: Buffer) -> int:
        sent = self._session.send(data)
        self._flush()
        return sent

    def close(self) -> None:
        self._finish(None)

    def _on_readable(self) -> None:
        error: Exception | None = None
        for _ in range(_DATAGRAMS):
            try:
                datagram = self._sock.recv(LARGEST_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as refused:  # ICMP: only the handshake believes it, it may be forged
                error = refused
                break
            self._session.receive_datagram(datagram)
        if error is not None and not self._session.established:
            self._finish(error)
        else:
            self._advance()

    def _on_timer(self) -> None:
        self._timer = None
        self._advance()

    def _advance(self) -> None:
        """Let the session work on what it was given."""
        session = self._session
        try:
            if session.handshake():
                self._take_messages()
        except GnuTLSError as error:
            self._finish(error)
            return
        self._flush()
        if session.established and not self.shaken.done():
            self.shaken.set_result(None)
        if session.peer_closed:
            self._finish(None)
        else:
            self._set_timer()

    def _take_messages(self) -> None:
        """Read at once what came: only so is the peer's goodbye seen where nobody reads."""
        before = len(self._messages)
        while (message := self._session.receive()) is not None:
            if len(self._messages) < _MESSAGES:
                self._messages.append(message)
        if len(self._messages) > before and self._connection is not None:
            self._connection._wake()

    def _flush(self) -> None:
        for datagram in self._session.datagrams_to_send():
            send_or_lose(self._sock, datagram, None)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        seconds = self._session.timeout()
        if seconds is not None:
            self._timer = self._loop.call_later(max(seconds, TICK), self._on_timer)

    def _finish(self, error: Exception | None) -> None:
        connection, self._connection = self._connection, None  # no cycle stays behind
        if self._sock.fileno() < 0:
            return
        self._session.close()
        self._flush()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        if self._timer is not None:
            self._timer.cancel()
        if error is not None:
            error.__traceback__ = None  # its frames would keep the session alive
        if error is not None and not self.shaken.done():
            self.shaken.set_exception(error)
        if connection is not None:
            connection._end(error)
