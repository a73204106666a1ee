"""serve() and start_server(): servers whose handlers run in threads."""

from __future__ import annotations

import os
import socket
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from gnutls_cookie.address import SocketAddress
from gnutls_cookie.base import ServerBase
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.gate import CookieGate
from gnutls_cookie.keys import KeyRing
from gnutls_cookie.options import ServerOptions
from gnutls_cookie.plans import ServerPlan
from gnutls_cookie.session import Credentials
from gnutls_cookie.sockets import resolved

from .driver import ServerDriver
from .threads import Handler, ServerThreads

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["DTLSServer", "Handler", "serve", "start_server"]


def serve(
    handler: Handler,
    host: str | None = None,
    port: int = 0,
    *,
    credentials: Credentials | Sequence[Credentials],
    keys: CookieGate | KeyRing | Buffer | None = None,
    sock: socket.socket | Sequence[socket.socket] | None = None,
    reuse_port: bool = False,
    stop: threading.Event | None = None,
    started: Callable[[SocketAddress], object] | None = None,
    grace: float = 5.0,
    **limits: Unpack[ServerOptions],
) -> None:
    """Serve until `stop` is set or an exception (Ctrl-C, say) ends it; then say goodbye to all.

    start_server() in one call: its arguments, and two more.

    Args:
        stop: ends the server, within half a second.
        started: called once, with the first socket's own address, when clients are served.

    Raises:
        OSError: the name is not known, the address cannot be bound, or a socket failed.
        ValueError, TypeError: an argument is out of range or of another type.
    """
    plan = ServerPlan(
        "serve", {"handler": handler}, host, port, sock, reuse_port, keys, grace,
        credentials, limits,
    )  # fmt: skip
    if stop is not None and not callable(getattr(stop, "is_set", None)):
        raise TypeError(f"stop must be a threading.Event, not {type(stop).__name__}")
    if started is not None and not callable(started):
        raise TypeError(f"started must be callable, not {type(started).__name__}")
    work = ServerThreads(_bound(plan), handler, plan.grace)
    work.stop = stop
    try:
        if started is not None:
            started(work.drivers[0].endpoint.sock.getsockname())
        work.start()
        work.wait(None)
    finally:
        # No signal handler runs before this is stored: from here on the server ends, whatever
        # becomes of the present thread.
        work.is_ending = True
        work.finish()
    if work.error is not None:
        raise work.error


def start_server(
    handler: Handler,
    host: str | None = None,
    port: int = 0,
    *,
    credentials: Credentials | Sequence[Credentials],
    keys: CookieGate | KeyRing | Buffer | None = None,
    sock: socket.socket | Sequence[socket.socket] | None = None,
    reuse_port: bool = False,
    grace: float = 5.0,
    **limits: Unpack[ServerOptions],
) -> DTLSServer:
    """Start a DTLS server that challenges strangers and gives verified clients to `handler`.

    Args:
        handler: called as handler(connection) in a thread of its own for each client whose
            handshake is complete; its connection is closed when it returns. What it raises is
            logged, but for SystemExit, and ends its own connection alone.
        host: what to bind to, resolved; one socket for each address. An address that this machine
            does not have is left out where another one can be bound.
        port: 0..65535; 0 lets the system choose.
        credentials: as for a Session. A PSK lookup is called in a thread of the server's own.
        keys: the cookie key, a KeyRing, or a CookieGate that several servers share (in any threads;
            its counters are then of all); None makes a random key.
        sock: a bound UDP socket, or several, in place of host and port (from systemd, say); they
            are made non-blocking, and closed with the server.
        reuse_port: set SO_REUSEPORT, for several processes or servers on one port.
        grace: seconds that handlers have to return once the server is closed; then they are
            abandoned. Infinity waits forever.
        limits: every other argument of Server, by name: priority, verify_peer, alpn, tickets,
            max_sessions, idle_timeout ... They hold for each socket.

    A server that is never closed ends when nobody has it any more, with a ResourceWarning.

    Handshakes that fail are logged by the logger "gnutls_cookie" (INFO), what a PSK lookup raises
    too (ERROR, with its traceback): some lines a second at most, and how many more there were.

    Raises:
        OSError: the name is not known, or the address cannot be bound.
        ValueError, TypeError: an argument is out of range or of another type.

    Example:
        >>> def echo(connection):
        ...     for message in connection:
        ...         connection.send(message)
        >>> def main(credentials):
        ...     with start_server(echo, "::1", 5684, credentials=credentials) as server:
        ...         server.serve_forever()
    """
    plan = ServerPlan(
        "start_server", {"handler": handler}, host, port, sock, reuse_port, keys, grace,
        credentials, limits,
    )  # fmt: skip
    server = DTLSServer(_bound(plan), handler, plan.grace)
    try:
        server.start_serving()
    except BaseException:
        server.close()
        raise
    return server


def _bound(plan: ServerPlan) -> list[Endpoint]:
    found: list[Any] = []
    if plan.host is not None:
        found = resolved(plan.host, plan.port, flags=socket.AI_PASSIVE)
    return plan.endpoints(found)


class DTLSServer(ServerBase):
    """A running server, as start_server() gives it. Safe with threads. `with server` closes it at
    the end."""

    def __init__(
        self, endpoints: Sequence[Endpoint], handler: Handler, grace: float | None
    ) -> None:
        self._endpoints = endpoints
        self._pid = os.getpid()
        self._work = ServerThreads(endpoints, handler, grace)

    def is_serving(self) -> bool:
        """Whether clients are answered."""
        return self._work.is_started and not self._is_closed

    def start_serving(self) -> None:
        """Answer clients, if that was not begun before.

        Raises:
            RuntimeError: the server is closed.
        """
        if self._is_closed:
            raise RuntimeError("the server is closed")
        self._work.start()

    def close(self) -> None:
        """Say goodbye to every peer, and stop. Handlers see the end of their connection. It comes
        back at once, and all is done within half a second.

        In the child of a fork it closes what the child inherited, and peers hear nothing.
        """
        if os.getpid() != self._pid:
            for endpoint in self._endpoints:
                endpoint.sock.close()
            return
        self._work.is_ending = True
        self._work.close_what_never_ran()

    def wait_closed(self) -> None:
        """Wait until the server is closed and every handler has returned, or was abandoned after
        its `grace`. A handler that calls it waits for all the others.

        Raises:
            OSError: a socket failed, which closed the server.
            RuntimeError: the caller is a PSK lookup of this server.
        """
        self._work.leave_out_present_thread()
        self._work.wait(None)
        if self._work.error is not None:
            raise self._work.error

    def serve_forever(self) -> None:
        """Serve until the server is closed or an exception (Ctrl-C, say) comes; then close it.

        Raises:
            OSError: a socket failed, which closed the server.
        """
        work = self._work
        try:
            work.start()
            work.wait(None)
        finally:
            work.is_ending = True  # before any signal handler can run
            work.finish()
        if work.error is not None:
            raise work.error

    def __enter__(self) -> DTLSServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._work.is_ending = True
        self._work.finish()
        if self._work.error is not None:
            raise self._work.error

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if "_work" not in vars(self) or self._is_closed:
            return
        if os.getpid() != self._pid:
            for endpoint in self._endpoints:
                endpoint.sock.close()
            return
        # Its threads say goodbye. Nothing of C is called here: the collector may have freed it.
        self._work.is_ending = True
        _warn(f"unclosed DTLS server on {self.sockets}", ResourceWarning, stacklevel=1)
        if not self._work.is_started:
            for sock in self.sockets:
                sock.close()

    @property
    def _served(self) -> Sequence[ServerDriver]:
        return self._work.drivers  # which have a lock

    @property
    def _is_closed(self) -> bool:
        return self._work.is_ending or self._work.is_over
