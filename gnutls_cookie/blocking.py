"""DTLS servers and clients for plain scripts: a thread a connection, calls that wait."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .address import SocketAddress
from .endpoint import LARGEST_DATAGRAM, Endpoint, bound, gate_for, send_or_lose
from .errors import GnuTLSError
from .keys import KeyRing
from .server import Closed, Connected, MessageReady, Server
from .server import Connection as Served
from .session import TICK, Credentials, Session

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Connection", "connect", "serve"]

_log = logging.getLogger("gnutls_cookie")

_PATIENCE = 0.5  # seconds that a wait lasts at most before it looks whether the server is stopped

Handler = Callable[["Connection"], object]


class Connection:
    """One side of a DTLS connection. Safe with threads.

    Attributes:
        address: the peer's, as the socket module gives it.
        session: the Session: version, cipher, peer_certificate, psk_identity, data_mtu. Do not
            feed it.

    `for message in connection` gives the peer's messages until the connection ends; `with
    connection` closes it at the end of the block.
    """

    def __init__(
        self,
        address: SocketAddress,
        session: Session,
        receive: Callable[[float | None], bytes | None],
        send: Callable[[Buffer], int],
        close: Callable[[], None],
    ) -> None:
        self.address = address
        self.session = session
        self._receive = receive
        self._send = send
        self._close = close

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The next message of the peer; None once the connection has ended.

        Args:
            timeout: seconds to wait at most; None waits for ever.

        Raises:
            TimeoutError: nothing came in time.
            GnuTLSError: the session failed.
        """
        return self._receive(timeout)

    def send(self, data: Buffer) -> int:
        """Send one message of 1..`session.data_mtu` bytes; as with UDP it may get lost.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is too long.
            GnuTLSError: the connection has ended.
        """
        return self._send(data)

    def close(self) -> None:
        """Say goodbye to the peer. More calls do nothing."""
        self._close()

    def __iter__(self) -> Iterator[bytes]:
        while (message := self.receive()) is not None:
            yield message

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Connection {self.address} {self.session!r}>"


# --- server ---------------------------------------------------------------------------------------


def serve(
    handler: Handler,
    host: str | None = None,
    port: int = 0,
    *,
    credentials: Credentials | Sequence[Credentials],
    keys: KeyRing | Buffer | None = None,
    sock: socket.socket | None = None,
    stop: threading.Event | None = None,
    started: Callable[[SocketAddress], object] | None = None,
    grace: float = 5.0,
    **limits: Any,
) -> None:
    """Serve until `stop` is set or an exception (Ctrl-C, say) ends it; then say goodbye to all.

    Args:
        handler: called as handler(connection) in a thread of its own for each client whose
            handshake is complete; its connection is closed when it returns.
        host: what to bind to; the first address that it resolves to is taken.
        port: 0..65535.
        credentials: as for a Session.
        keys: the cookie key or a KeyRing; None makes a random one.
        sock: a bound UDP socket in place of host and port; it is closed in the end.
        stop: ends the server, within half a second.
        started: called once, with the socket's own address, when clients are served.
        grace: seconds that handlers have to return in the end; then they are left behind.
        limits: what Server takes besides: priority, verify_peer, mtu, max_sessions,
            handshake_timeout, idle_timeout, max_queue, retransmit_timeout.

    Raises:
        OSError: the address cannot be bound.
        ValueError, TypeError: an argument is out of range or of another type.
    """
    if (sock is None) == (host is None):
        raise ValueError("either host (and port) or sock is needed")
    gate = gate_for(keys)
    server = Server(credentials, **limits)
    if sock is None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
        sock = bound(found[:1])[0]
    _Serving(handler, Endpoint(sock, gate, server)).run(stop, started, grace)


class _Serving:
    """A server at work. One lock guards its sessions; handlers wait on it for their messages."""

    def __init__(self, handler: Handler, endpoint: Endpoint) -> None:
        self._handler = handler
        self._endpoint = endpoint
        self._server = endpoint.server
        self._changed = threading.Condition()
        self._errors: dict[Served, Exception | None] = {}
        self._threads: set[threading.Thread] = set()
        self._open = True

    def run(
        self,
        stop: threading.Event | None,
        started: Callable[[SocketAddress], object] | None,
        grace: float,
    ) -> None:
        try:
            if started is not None:
                started(self._endpoint.sock.getsockname())
            while stop is None or not stop.is_set():
                with self._changed:
                    timer = self._server.timeout(time.monotonic())
                wait = _PATIENCE if timer is None else min(timer, _PATIENCE)
                arrivals = self._endpoint.poll(wait)
                with self._changed:
                    now = time.monotonic()
                    self._endpoint.receive(arrivals, now)
                    self._server.handle_timeout(now)
                    self._settle()
        finally:
            with self._changed:
                self._server.close_all()
                self._settle()
                self._open = False
                self._endpoint.close()
                threads = set(self._threads)
                self._changed.wait_for(lambda: not self._threads, grace)
                left = set(self._threads)
            # Not those that are left: Ctrl-C may have come while one was about to start, and such a
            # thread cannot be joined. The others are past their handler.
            for thread in threads - left:
                thread.join()
            for thread in left:
                _log.warning("left behind: the handler in %s", thread.name)

    def _settle(self) -> None:
        """Send what is to be sent and tell what happened; with the lock held."""
        events = self._endpoint.settle()
        for event in events:
            if isinstance(event, Connected):
                self._errors[event.connection] = None
                self._start(event.connection)
            elif isinstance(event, Closed) and event.connection in self._errors:
                self._errors[event.connection] = event.error
        if any(isinstance(event, (MessageReady, Closed)) for event in events):
            self._changed.notify_all()

    def _start(self, served: Served) -> None:
        def receive(timeout: float | None) -> bytes | None:
            deadline = None if timeout is None else time.monotonic() + timeout
            with self._changed:
                while (message := served.receive()) is None:
                    if not served.is_open:
                        error = self._errors.get(served)
                        if error is not None:
                            raise error.with_traceback(None)  # not with those of former calls
                        return None
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError(f"no message came within {timeout} s")
                    self._changed.wait(left)
                return message

        def send(data: Buffer) -> int:
            with self._changed:
                sent = self._server.send(served, data, time.monotonic())
                self._settle()
                return sent

        def close() -> None:
            with self._changed:
                if self._open:
                    self._server.close(served)
                    self._settle()

        connection = Connection(served.address, served.session, receive, send, close)
        thread = threading.Thread(
            target=self._run_handler,
            args=(served, connection),
            daemon=True,
            name=f"connection of {served.address}",
        )
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads: the others are served on
            _log.exception("no thread for the handler of %s", connection.address)
            self._threads.discard(thread)
            self._errors.pop(served, None)
            self._server.close(served)

    def _run_handler(self, served: Served, connection: Connection) -> None:
        try:
            self._handler(connection)
        except Exception as error:
            if isinstance(error, GnuTLSError) and not served.is_open:
                return  # the connection failed under the handler: counted
            _log.exception("unhandled exception in the handler of %s", connection.address)
        finally:
            connection.close()
            with self._changed:
                self._errors.pop(served, None)
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()


# --- client ---------------------------------------------------------------------------------------


def connect(
    host: str,
    port: int,
    *,
    credentials: Credentials | Sequence[Credentials],
    server_name: str | None = None,
    **options: Any,
) -> Connection:
    """Connect to a DTLS server and complete the handshake.

    Args:
        host: name or IP address; the first address that it resolves to is taken.
        port: 1..65535.
        credentials: as for a Session.
        server_name: the name in the server's certificate; None takes `host`.
        options: what Session takes besides: priority, verify_peer, mtu, retransmit_timeout,
            handshake_timeout.

    Raises:
        TimedOutError: the server did not complete the handshake in time.
        ConnectionRefusedError: nobody listens at the address.
        GnuTLSError: the handshake failed.
        OSError: the name is not known, and so on.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    session = Session("client", credentials, server_name=server_name or host, **options)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.connect(address)
        peer: SocketAddress = sock.getpeername()
        client = _Client(sock, session)
        client.shake()
    except BaseException:
        session.close()
        sock.close()
        raise
    return Connection(peer, session, client.receive, client.send, client.close)


class _Client:
    """A client's socket and session. One thread at a time waits at the socket; any may send."""

    def __init__(self, sock: socket.socket, session: Session) -> None:
        self._sock = sock
        self._session = session
        self._guard = threading.Lock()  # of the session
        self._reader = threading.Lock()  # who has it waits at the socket
        self._open = True

    def shake(self) -> None:
        session = self._session
        try:
            while not session.handshake():
                self._flush()
                timer = session.timeout()
                self._sock.settimeout(_PATIENCE if timer is None else max(timer, TICK))
                with contextlib.suppress(TimeoutError):
                    session.receive_datagram(self._sock.recv(LARGEST_DATAGRAM))
        finally:
            self._flush()  # the last flight, or the alert that says why there is none

    def receive(self, timeout: float | None) -> bytes | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._reader.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise TimeoutError(f"no message came within {timeout} s")
        try:
            while True:
                with self._guard:
                    if not self._open:
                        return None
                    message = self._read()
                    if message is not None or self._session.peer_closed:
                        return message
                left = _PATIENCE if deadline is None else max(0.0, deadline - time.monotonic())
                datagram = self._wait(min(left, _PATIENCE))
                if datagram is not None:
                    with self._guard:
                        self._session.receive_datagram(datagram)
                elif left <= 0:
                    raise TimeoutError(f"no message came within {timeout} s")
        finally:
            self._reader.release()

    def _read(self) -> bytes | None:
        try:
            return self._session.receive()
        finally:
            self._flush()  # an answer to the peer's goodbye, or an alert

    def _wait(self, seconds: float) -> bytes | None:
        """The next datagram of the socket; None where none came, or it was closed meanwhile."""
        try:
            self._sock.settimeout(seconds)
            return self._sock.recv(LARGEST_DATAGRAM)
        except OSError:
            # The time is over; or ICMP says nobody listens: it may be forged, or a restart.
            return None

    def send(self, data: Buffer) -> int:
        with self._guard:
            sent = self._session.send(data)
            self._flush()
            return sent

    def close(self) -> None:
        with self._guard:
            if not self._open:
                return
            self._open = False
            self._session.close()
            self._flush()
            self._sock.close()

    def _flush(self) -> None:
        for datagram in self._session.datagrams_to_send():
            send_or_lose(self._sock, datagram, None)
