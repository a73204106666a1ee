"""DTLS servers and clients for plain scripts: a thread a connection, calls that wait.

Python runs signal handlers in the main thread alone, and what they raise (Ctrl-C does) may strike
between any two steps there. So a server's sessions are worked on by threads of its own, while
serve() only waits for them; and what a main thread may hold, it holds by an OwnedLock.

Not for gevent's monkey.patch_all(): the waits are in C, where it does not see them. There a
greenlet drives a Server, with CookieListener.poll(0) after gevent.socket.wait_read().
"""

from __future__ import annotations

import _thread
import contextlib
import os
import queue
import select
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from ._check import seconds_to_wait
from ._owned import not_copied
from .address import SocketAddress
from .client import Client
from .endpoint import Endpoint, gate_for
from .errors import GnuTLSError, connection_closed, fresh, timed_out
from .keys import KeyRing
from .locks import OwnedLock
from .log import LOG
from .options import ClientOptions, ServerOptions, check_names
from .server import Closed, Connected
from .server import Connection as Served
from .session import TICK, Credentials, Session
from .sockets import (
    LARGEST_DATAGRAM,
    NOT_HERE,
    Attempts,
    bound,
    host_and_port,
    send_or_lose,
    server_name_for,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Connection", "connect", "serve"]

_LOOK_SECONDS = 0.5  # that a client waits at its socket before it looks whether it was closed
_TURN_SECONDS = 0.1  # that a server waits at its socket before it looks whether it is to stop
_CLOSING_SECONDS = 1.0  # for goodbyes, beside the handlers' grace

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

    __reduce__ = not_copied

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

        Several threads may wait; each message goes to one of them.

        Args:
            timeout: seconds to wait at most; None, infinity and more than 10**9 wait for ever, 0
                and less do not wait.

        Raises:
            TimeoutError: nothing came in time.
            GnuTLSError: the session failed.
            ValueError, TypeError: timeout is NaN, or not a number.
        """
        return self._receive(timeout)

    def send(self, data: Buffer) -> int:
        """Send one message of 1..`session.data_mtu` bytes; as with UDP it may get lost.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is too long.
            ConnectionClosedError: the connection has ended; a ConnectionResetError.
            GnuTLSError: the session failed.
        """
        return self._send(data)

    def close(self) -> None:
        """Say goodbye to the peer. More calls do nothing.

        In the child of a fork it closes what the child inherited, and the peer hears nothing: the
        connection is the parent's.
        """
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
    **limits: Unpack[ServerOptions],
) -> None:
    """Serve until `stop` is set or an exception (Ctrl-C, say) ends it; then say goodbye to all.

    Handshakes that fail are logged by the logger "gnutls_cookie" (INFO), what a PSK lookup raises
    too (ERROR, with its traceback): some lines a second at most, and how many more there were.

    Args:
        handler: called as handler(connection) in a thread of its own for each client whose
            handshake is complete; its connection is closed when it returns. What it raises is
            logged, but for SystemExit, and ends its own connection alone.
        host: what to bind to; of the addresses that it resolves to, the first one that this machine
            has is taken.
        port: 0..65535.
        credentials: as for a Session. A PSK lookup is called in a thread of the server's own.
        keys: the cookie key or a KeyRing; None makes a random one.
        sock: a bound UDP socket in place of host and port; it is closed in the end.
        stop: ends the server, within half a second.
        started: called once, with the socket's own address, when clients are served.
        grace: seconds that handlers have to return in the end; then they are left behind. Infinity
            waits for ever.
        limits: what Server takes besides: priority, verify_peer, mtu, max_sessions,
            handshake_timeout, idle_timeout, max_queue, max_queue_bytes, retransmit_timeout.

    Raises:
        OSError: the address cannot be bound.
        ValueError, TypeError: an argument is out of range or of another type.
    """
    check_names("serve", limits, ServerOptions)
    if not callable(handler):
        raise TypeError(f"handler must be callable, not {type(handler).__name__}")
    if stop is not None and not callable(getattr(stop, "is_set", None)):
        raise TypeError(f"stop must be a threading.Event, not {type(stop).__name__}")
    if (sock is None) == (host is None):
        raise ValueError("either host (and port) or sock is needed")
    if host is not None:
        host_and_port(host, port)
    patience = seconds_to_wait("grace", grace)
    gate = gate_for(keys)
    given = sock is not None
    if sock is None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
        sock = _bound_to_first(found)
    try:
        endpoint = Endpoint(sock, gate, credentials, **limits)
    except BaseException:
        if not given:
            sock.close()
        raise
    _Serving(handler, endpoint, stop, patience).run(started)


def _bound_to_first(found: Sequence[Any]) -> socket.socket:
    """A socket at the first address that this machine has."""
    *others, last = found
    for info in others:
        try:
            return bound([info])[0]
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
    return bound([last])[0]


class _Serving:
    """A server at work: one thread at the socket and the sessions, one for each handler, and the
    caller's, which waits."""

    def __init__(
        self,
        handler: Handler,
        endpoint: Endpoint,
        stop: threading.Event | None,
        grace: float | None,
    ) -> None:
        self._handler = handler
        self._endpoint = endpoint
        self._stop = stop
        self._grace = grace
        self._pid = os.getpid()
        self._lock = OwnedLock()  # of the sessions
        self._handlers: dict[Served, _Handled] = {}
        self._open = True  # whether sessions are served
        self._ending = False  # whether they are to be no longer
        self._wait = 0.0  # seconds, at the socket
        self._news = OwnedLock()  # of what follows; told when it changes
        self._threads: set[threading.Thread] = set()
        self._over = False
        self._error: BaseException | None = None
        self._duty: queue.SimpleQueue[None] = queue.SimpleQueue()  # whoever takes it closes

    def run(self, started: Callable[[SocketAddress], object] | None) -> None:
        """Serve until it ends, whatever ends it."""
        self._duty.put(None)
        name = f"server of {self._endpoint.sock.getsockname()}"
        thread = threading.Thread(target=self._serve, daemon=True, name=name)
        try:
            if started is not None:
                started(self._endpoint.sock.getsockname())
            # Not thread.start() here: it takes locks of its own, which an exception of a signal
            # handler could leave held.
            _thread.start_new_thread(self._begin, (thread,))
            self._wait_until_over(None)
        finally:
            # No signal handler runs before this is stored: from here on the server ends, whatever
            # becomes of the present thread.
            self._ending = True
            if self._takes_duty():
                self._endpoint.close()  # it never came to serve
            elif not self._wait_until_over(self._grace, _CLOSING_SECONDS):
                LOG.warning("left behind: the %s", name)
        if self._error is not None:
            raise self._error

    def _begin(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except BaseException as error:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        token = self._news.token()
        try:
            self._news.take(token)
            self._error = error
            self._over = True
            self._news.notify()
        finally:
            self._news.give(token)

    def _wait_until_over(self, seconds: float | None, more: float = 0.0) -> bool:
        """Whether the server has ended within so many seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds + more
        token = self._news.token()
        try:
            self._news.take(token)
            while not self._over:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._news.wait(token, left)
            return True
        finally:
            self._news.give(token)

    def _takes_duty(self) -> bool:
        try:
            self._duty.get_nowait()
        except queue.Empty:
            return False
        return True

    # --- the server's own thread

    def _serve(self) -> None:
        if not self._takes_duty():
            return
        error: BaseException | None = None
        try:
            while not (self._ending or (self._stop is not None and self._stop.is_set())):
                self._turn()
        except BaseException as raised:
            error = raised
        try:
            self._finish()
        except BaseException as raised:
            error = error or raised
        finally:
            self._end(error)

    def _turn(self) -> None:
        self._endpoint.wait(self._wait)
        token = self._lock.token()
        try:
            self._lock.take(token)
            now = time.monotonic()
            events = self._endpoint.turn(now)
            for event in events:  # before anybody sees that a connection is no longer open
                if isinstance(event, Connected):
                    self._handlers[event.connection] = _Handled(self, event.connection)
                elif isinstance(event, Closed) and event.connection in self._handlers:
                    self._handlers[event.connection].error = event.error
            timer = self._endpoint.timeout(now)
            self._wait = _TURN_SECONDS if timer is None else min(timer, _TURN_SECONDS)
        finally:
            self._lock.give(token)
        for event in events:
            handled = self._handlers.get(event.connection)
            if handled is None:
                continue  # its handler has returned
            if isinstance(event, Connected):
                self._start(handled)
            else:
                handled.tell()

    def _start(self, handled: _Handled) -> None:
        address = handled.served.address
        thread = threading.Thread(
            target=self._run_handler,
            args=(handled,),
            daemon=True,
            name=f"connection of {address}",
        )
        self._note(self._threads.add, thread)
        try:
            thread.start()
        except Exception as error:  # the system gives no more threads: the others are served on
            self._note(self._threads.discard, thread)
            self._handlers.pop(handled.served, None)
            handled.close()
            self._endpoint.trouble("no thread for its handler", address, error, time.monotonic())

    def _run_handler(self, handled: _Handled) -> None:
        connection = handled.connection()
        try:
            self._handler(connection)
        except SystemExit:
            pass  # ends a thread without a word, as everywhere
        except BaseException as error:
            # Where the connection failed under the handler that is counted, and no fault.
            if not (isinstance(error, GnuTLSError) and not handled.served.is_open):
                LOG.exception("unhandled exception in the handler of %s", connection.address)
        finally:
            try:
                connection.close()
            finally:
                self._handlers.pop(handled.served, None)
                self._note(self._threads.discard, threading.current_thread())

    def _note(self, change: Callable[[threading.Thread], None], thread: threading.Thread) -> None:
        token = self._news.token()
        try:
            self._news.take(token)
            change(thread)
            self._news.notify()
        finally:
            self._news.give(token)

    def _finish(self) -> None:
        """Say goodbye to all, close, and wait for the handlers."""
        token = self._lock.token()
        try:
            self._lock.take(token)
            self._endpoint.end_all()
            self._endpoint.settle(time.monotonic())
        finally:
            self._lock.give(token)
            self._open = False
            for handled in self._handlers.copy().values():
                handled.tell()
            self._endpoint.close()
        for thread in self._wait_for_handlers():
            LOG.warning("left behind: the handler in %s", thread.name)

    def _wait_for_handlers(self) -> set[threading.Thread]:
        """Give the handlers their time; returns the threads that are left."""
        deadline = None if self._grace is None else time.monotonic() + self._grace
        threads = set(self._threads)
        token = self._news.token()
        try:
            self._news.take(token)
            while self._threads:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._news.wait(token, left)
            remaining = set(self._threads)
        finally:
            self._news.give(token)
        for thread in threads - remaining:
            thread.join(_CLOSING_SECONDS)  # past its handler
        return remaining

    # --- for connections, from any thread

    def receive(self, served: Served) -> tuple[bytes | None, bool]:
        """The next message that waits, and whether the connection is open."""
        token = self._lock.token()
        try:
            self._lock.take(token)
            return served.receive(), served.is_open and self._open
        finally:
            self._lock.give(token)

    def send(self, served: Served, data: Buffer, error: Exception | None) -> int:
        """Send a message. What happened meanwhile is told by the server's own thread."""
        token = self._lock.token()
        try:
            self._lock.take(token)
            if not served.is_open or not self._open:
                raise connection_closed("the connection has ended", error)
            sent = self._endpoint.send(served, data, time.monotonic())
            self._endpoint.flush()
            return sent
        finally:
            self._lock.give(token)

    def close(self, served: Served) -> None:
        """Say goodbye to a peer."""
        if os.getpid() != self._pid:
            return  # the child of a fork: the peer is the parent's
        token = self._lock.token()
        try:
            self._lock.take(token)
            if self._open:
                self._endpoint.end(served)
                self._endpoint.flush()
        finally:
            self._lock.give(token)


class _Handled:
    """A connection that has a handler: what its Connection calls.

    Attributes:
        served: the server's side of it.
        error: what it failed with.
    """

    def __init__(self, serving: _Serving, served: Served) -> None:
        self._serving = serving
        self.served = served
        self.error: Exception | None = None
        self._news = OwnedLock()  # who receives waits here; told of messages and of the end

    def connection(self) -> Connection:
        """What the handler is given."""
        served = self.served
        return Connection(served.address, served.session, self._receive, self._send, self.close)

    def tell(self) -> None:
        """Wake who waits."""
        token = self._news.token()
        try:
            self._news.take(token)
            self._news.notify()
        finally:
            self._news.give(token)

    def _receive(self, timeout: float | None) -> bytes | None:
        seconds = seconds_to_wait("timeout", timeout)
        deadline = None if seconds is None else time.monotonic() + seconds
        token = self._news.token()
        try:
            self._news.take(token)
            while True:
                message, is_open = self._serving.receive(self.served)
                if message is not None:
                    return message
                if not is_open:
                    if self.error is not None:
                        raise fresh(self.error)
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no message came within {timeout} s")
                self._news.wait(token, left)
        finally:
            self._news.give(token)

    def _send(self, data: Buffer) -> int:
        return self._serving.send(self.served, data, self.error)

    def close(self) -> None:
        """Say goodbye, and let who waits see it."""
        if threading.get_ident() == threading.main_thread().ident:
            # What a signal handler raises would strike in the middle of it.
            _elsewhere(self._close)
        else:
            self._close()

    def _close(self) -> None:
        self._serving.close(self.served)
        self.tell()


def _elsewhere(function: Callable[[], None]) -> None:
    """Call it in a thread that runs no signal handlers."""
    answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def call() -> None:
        try:
            function()
        except BaseException as error:
            answers.put(error)
        else:
            answers.put(None)

    try:
        _thread.start_new_thread(call, ())
    except RuntimeError:  # the system gives no more threads
        call()
    error = answers.get()
    if error is not None:
        raise error


# --- client ---------------------------------------------------------------------------------------


def connect(
    host: str,
    port: int,
    *,
    credentials: Credentials | Sequence[Credentials],
    server_name: str | None = None,
    **options: Unpack[ClientOptions],
) -> Connection:
    """Connect to a DTLS server and complete the handshake.

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
        options: what Session takes besides: priority, verify_peer, mtu, retransmit_timeout,
            handshake_timeout (of all addresses together).

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
    options.setdefault("handshake_timeout", 60.0)
    name = server_name_for(host, server_name)
    core = Client(credentials, server_name=name, **options)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    attempts = Attempts(found, options["handshake_timeout"], time.monotonic())
    while True:
        try:
            patience = attempts.patience(time.monotonic())
            return _attempt(attempts.info, core, patience)
        except Exception as error:
            attempts.failed(error, time.monotonic())
        finally:
            del core  # which a traceback would keep
        options["handshake_timeout"] = attempts.seconds(time.monotonic())
        core = Client(credentials, server_name=name, **options)


def _attempt(info: Any, core: Client, patience: float | None) -> Connection:
    """Connect to one address; TimedOutError where nothing comes within `patience` seconds."""
    family, kind, protocol, _, address = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.connect(address)
        peer: SocketAddress = sock.getpeername()
        client = _Client(sock, core)
        client.shake(patience)
    except BaseException:
        core.close()
        sock.close()
        raise
    return Connection(peer, core.session, client.receive, client.send, client.close)


class _Client:
    """A client's socket. One thread at a time waits at it; any may send."""

    def __init__(self, sock: socket.socket, core: Client) -> None:
        self._sock = sock
        self._core = core
        self._peer = sock.getpeername()
        self._pid = os.getpid()
        self._guard = OwnedLock()  # of the session
        self._reader = OwnedLock()  # who has it waits at the socket
        self._open = True

    def shake(self, patience: float | None) -> None:
        """The handshake; give up where nothing has come after `patience` seconds."""
        core = self._core
        silent_until = None if patience is None else time.monotonic() + patience
        core.connect(time.monotonic())
        while True:
            self._flush()  # the next flight, the last one, or the alert that says why there is none
            if core.error is not None:
                raise fresh(core.error)
            if core.session.established:
                return
            now = time.monotonic()
            timer = core.timeout(now)
            wait = _LOOK_SECONDS if timer is None else max(timer, TICK)
            if silent_until is not None:
                if now >= silent_until:
                    raise timed_out("nothing came from the server")
                wait = min(wait, silent_until - now)
            if _readable(self._sock, wait):
                with contextlib.suppress(BlockingIOError):
                    datagram = self._sock.recv(LARGEST_DATAGRAM)
                    silent_until = None
                    core.receive_datagram(datagram, time.monotonic())
            else:
                core.handle_timeout(time.monotonic())

    def receive(self, timeout: float | None) -> bytes | None:
        """The next message of the peer."""
        seconds = seconds_to_wait("timeout", timeout)
        deadline = None if seconds is None else time.monotonic() + seconds
        token = self._reader.token()
        try:
            if not self._reader.take(token, seconds):
                raise TimeoutError(f"no message came within {timeout} s")
            while True:
                message, ended = self._next()
                if message is not None or ended:
                    return message
                left = None if deadline is None else deadline - time.monotonic()
                if not self._wait(left) and left is not None and left <= 0:
                    raise TimeoutError(f"no message came within {timeout} s")
        finally:
            self._reader.give(token)

    def _next(self) -> tuple[bytes | None, bool]:
        """The next message at hand, and whether there will be none."""
        token = self._guard.token()
        try:
            self._guard.take(token)
            if not self._open:
                return None, True
            message = self._core.receive()
            while message is None and self._core.is_open:
                try:
                    datagram = self._sock.recv(LARGEST_DATAGRAM)
                except OSError:
                    # Nothing is there; or ICMP says nobody listens: it may be forged, or a restart.
                    return None, False
                self._core.receive_datagram(datagram, time.monotonic())
                self._flush()  # an answer to the peer's goodbye, or an alert
                message = self._core.receive()
            if message is None and self._core.error is not None:
                raise fresh(self._core.error)
            return message, message is None
        finally:
            self._guard.give(token)

    def _wait(self, seconds: float | None) -> bool:
        """Whether there is something at the socket; in turns, for it may be closed meanwhile."""
        wait = _LOOK_SECONDS if seconds is None else min(max(seconds, 0.0), _LOOK_SECONDS)
        return _readable(self._sock, wait)

    def send(self, data: Buffer) -> int:
        """Send a message."""
        token = self._guard.token()
        try:
            self._guard.take(token)
            sent = self._core.send(data)
            self._flush()
            return sent
        finally:
            self._guard.give(token)

    def close(self) -> None:
        """Say goodbye."""
        if os.getpid() != self._pid:
            self._sock.close()  # the child of a fork: the session is the parent's
            return
        token = self._guard.token()
        try:
            self._guard.take(token)
            if self._open:
                self._core.close()
                self._flush()
                self._open = False
                self._sock.close()
        finally:
            self._guard.give(token)

    def _flush(self) -> None:
        self._core.events()  # its state says the same; they would keep it alive
        for datagram in self._core.datagrams_to_send():
            send_or_lose(self._sock, datagram, None)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if self._sock.fileno() < 0:
            return
        # No goodbye: the collector may have freed what session and locks have in C before.
        if os.getpid() == self._pid:
            _warn(f"unclosed DTLS connection to {self._peer}", ResourceWarning, stacklevel=1)
        self._sock.close()


def _readable(sock: socket.socket, seconds: float) -> bool:
    """Whether something comes within so many seconds; also where the socket was closed."""
    number = sock.fileno()
    if number < 0:
        return True
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(max(0, round(seconds * 1000 + 0.5))))
