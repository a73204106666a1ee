"""connect(): a client whose calls wait."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Unpack

from gnutls_cookie.client import Client
from gnutls_cookie.client_endpoint import ClientEndpoint
from gnutls_cookie.errors import connection_closed, fresh
from gnutls_cookie.locks import OwnedLock
from gnutls_cookie.options import ClientOptions
from gnutls_cookie.plans import ClientPlan
from gnutls_cookie.session import Credentials
from gnutls_cookie.sockets import resolved

from .connection import Connection, Deadline

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["connect"]

_WAIT_SECONDS = 0.5  # at the socket, before a client looks whether it was closed


def connect(
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

    A connection that is never closed is closed when nobody has it any more, without a goodbye and
    with a ResourceWarning.

    Args:
        host: name or IP address.
        port: 1..65535.
        credentials: as for a Session.
        server_name: the name in the server's certificate; None takes `host`.
        local_address: (ip, port) to bind to; port 0 lets the system choose.
        options: every other argument of Client, by name: priority, verify_peer, alpn, resume,
            idle_timeout, handshake_timeout (of all addresses together) ...

    Raises:
        TimedOutError: the server did not complete the handshake in time.
        ConnectionRefusedError: nobody listens at the address.
        GnuTLSError: the handshake failed.
        OSError: the name is not known, and so on. Where several addresses were tried, the text says
            what each of them gave.
        ValueError, TypeError: an argument is out of range or of another type.
    """
    plan = ClientPlan(host, port, credentials, server_name, local_address, options)
    attempts = plan.attempts(resolved(plan.host, plan.port), time.monotonic())
    while True:
        try:
            here = []
            if plan.local is not None:
                here = resolved(*plan.local, family=attempts.info[0])
            return _shaken(plan.endpoint(attempts, here, time.monotonic()))
        except Exception as error:
            attempts.failed(error, time.monotonic())


def _shaken(endpoint: ClientEndpoint) -> ClientConnection:
    """The connection of an endpoint, after its handshake."""
    client = endpoint.client
    try:
        endpoint.connect(time.monotonic())
        while True:
            endpoint.settle(time.monotonic())  # the last flight, or the alert that says why not
            if client.session.established:  # whatever came behind it: receive() tells
                return ClientConnection(endpoint)
            if client.error is not None:
                raise fresh(client.error)
            left = endpoint.timeout(time.monotonic())
            endpoint.wait(_WAIT_SECONDS if left is None else left)
            endpoint.turn(time.monotonic())
    except BaseException:
        endpoint.end(client)
        endpoint.flush()
        endpoint.close()
        raise
    finally:
        del endpoint, client  # which a traceback would keep, as long as the error is kept


class ClientConnection(Connection):
    """A client's side. One thread at a time waits at the socket; any may send."""

    __slots__ = ("_guard", "_is_open", "_pid", "_reader")

    _core: Client
    _endpoint: ClientEndpoint

    def __init__(self, endpoint: ClientEndpoint) -> None:
        super().__init__(endpoint.client, endpoint)
        self._pid = os.getpid()
        self._guard = OwnedLock()  # of the session
        self._reader = OwnedLock()  # who has it waits at the socket
        self._is_open = True

    def receive(self, timeout: float | None = None) -> bytes | None:
        """As of Connection."""
        deadline = Deadline(timeout)
        token = self._reader.token()
        try:
            if not self._reader.take(token, deadline.seconds):
                raise deadline.over()
            while True:
                message, wait = self._next()
                if message is not None or wait is None:
                    return message
                left = deadline.left()
                self._endpoint.wait(wait if left is None else min(wait, left))
        finally:
            self._reader.give(token)

    def wait_closed(self, timeout: float | None = None) -> None:
        """As of Connection."""
        what = "the connection has not ended"
        deadline = Deadline(timeout)
        token = self._reader.token()
        try:
            if not self._reader.take(token, deadline.seconds):
                raise deadline.over(what)
            while (wait := self._turn()) is not None:
                left = deadline.left(what)
                self._endpoint.wait(wait if left is None else min(wait, left))
        finally:
            self._reader.give(token)

    def send(self, data: Buffer) -> int:
        """As of Connection."""
        token = self._guard.token()
        try:
            self._guard.take(token)
            if not self._is_open:
                raise connection_closed("the connection has ended", self._core.error)
            return self._endpoint.send(self._core, data, time.monotonic())
        finally:
            self._guard.give(token)

    def close(self) -> None:
        """As of Connection."""
        if os.getpid() != self._pid:
            self._endpoint.close()  # the child of a fork: the session is the parent's
            return
        token = self._guard.token()
        try:
            self._guard.take(token)
            if self._is_open:
                self._endpoint.end(self._core)
                self._endpoint.flush()
                self._is_open = False
            self._endpoint.close()  # also where a signal handler has ended a close() before this
        finally:
            self._guard.give(token)

    @property
    def is_open(self) -> bool:
        """As of Connection."""
        return self._is_open and self._core.is_open

    def _next(self) -> tuple[bytes | None, float | None]:
        """The next message at hand; where there is none, the seconds to wait for one: None if
        there will be none.
        """
        token = self._guard.token()
        try:
            self._guard.take(token)
            if not self._is_open:
                return None, None
            wait: float | None = 0.0
            message = self._core.receive()
            if message is None:
                wait = self._take_turn()
                message = self._core.receive()
            if message is None and self._core.error is not None:
                raise fresh(self._core.error)
            return message, wait
        finally:
            self._guard.give(token)

    def _turn(self) -> float | None:
        """The seconds to wait at the socket; None where the connection has ended."""
        token = self._guard.token()
        try:
            self._guard.take(token)
            return self._take_turn() if self._is_open else None
        finally:
            self._guard.give(token)

    def _take_turn(self) -> float | None:
        """Take what lies in the socket. To be called with the guard held."""
        now = time.monotonic()
        self._endpoint.turn(now)
        if not self._core.is_open:
            return None
        left = self._endpoint.timeout(now)
        return _WAIT_SECONDS if left is None else min(left, _WAIT_SECONDS)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not hasattr(self, "_is_open") or self._endpoint.sock.fileno() < 0:
            return  # never made, or closed
        # No goodbye: the collector may have freed what session and locks have in C before.
        if os.getpid() == self._pid:
            _warn(f"unclosed DTLS connection to {self.address}", ResourceWarning, stacklevel=1)
        self._endpoint.close()
