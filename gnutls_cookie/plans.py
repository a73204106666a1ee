"""What start_server(), serve() and connect() are asked for: judged in one place for both adapters.

Names are resolved by the adapters: one of them must not wait.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._check import check_callable, flag, seconds_to_wait
from .client import Client
from .client_endpoint import ClientEndpoint
from .endpoint import Endpoint, gate_for, refuse_one_secret
from .gate import CookieGate
from .keys import KeyRing
from .listener import family_of
from .options import ClientOptions, ServerOptions, check_names
from .server import Server
from .session import Credentials
from .sockets import Attempts, bound, host_and_port, server_name_for

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ClientPlan", "ServerPlan"]

_HANDSHAKE_SECONDS = 60.0  # of connect(), unless it is told otherwise


class ServerPlan:
    """A server that is asked for.

    Args:
        function: its name is in errors.
        handlers: what is called for each client, by the names of the arguments; exactly one of
            them is not None.
        host, port, sock, reuse_port, keys, grace, credentials, limits: as of start_server().

    Attributes:
        host, port: what to bind to; host is None where `sock` was given.
        grace: seconds; None: forever.

    Raises:
        ValueError, TypeError: an argument is out of range or of another type.
    """

    def __init__(
        self,
        function: str,
        handlers: Mapping[str, Callable[..., object] | None],
        host: str | None,
        port: int,
        sock: socket.socket | Sequence[socket.socket] | None,
        reuse_port: bool,
        keys: CookieGate | KeyRing | Buffer | None,
        grace: float | None,
        credentials: Credentials | Sequence[Credentials],
        limits: ServerOptions,
    ) -> None:
        check_names(function, limits, ServerOptions)
        given = {name: one for name, one in handlers.items() if one is not None}
        if len(given) != 1:
            first = next(iter(handlers))
            if given:
                raise TypeError(f"only one of {' and '.join(given)} may be given")
            raise TypeError(f"{first} must be callable, not NoneType")
        ((name, handler),) = given.items()
        check_callable(name, handler)
        if (sock is None) == (host is None):
            raise ValueError("either host (and port) or sock is needed")
        if host is not None:
            host_and_port(host, port)
        self._socks = None if sock is None else _listed(sock)
        self.host = host
        self.port = port
        self.grace = seconds_to_wait("grace", grace)
        self._reuse_port = flag("reuse_port", reuse_port)
        self._gate = gate_for(keys)
        self._credentials = credentials
        self._limits = limits
        refuse_one_secret(self._gate.keys, limits.get("tickets"))
        Server(credentials, **limits)  # what is wrong with them is said before anything is bound

    def endpoints(self, found: Sequence[Any]) -> list[Endpoint]:
        """An Endpoint for each address that getaddrinfo found, or for each of the given sockets.

        Raises:
            OSError: an address cannot be bound; then none is.
            ValueError: a given socket is not a bound UDP socket; all of them stay open.
        """
        sockets = bound(found, self._reuse_port) if self._socks is None else self._socks
        try:
            endpoints = [
                Endpoint(sock, self._gate, self._credentials, **self._limits) for sock in sockets
            ]
            for sock in sockets:
                sock.setblocking(False)
        except BaseException:
            if self._socks is None:
                for sock in sockets:
                    sock.close()
            raise
        return endpoints


def _listed(sock: socket.socket | Sequence[socket.socket]) -> list[socket.socket]:
    listed = list(sock) if isinstance(sock, Sequence) else [sock]
    if not listed:
        raise ValueError("sock must be a socket or several, not none")
    for one in listed:
        family_of(one)
    return listed


class ClientPlan:
    """A connection that is asked for.

    Args:
        host, port, credentials, server_name, local_address, options: as of connect().

    Attributes:
        host, port: to be resolved.
        local: (ip, port) to bind to, or None.

    Raises:
        ValueError, TypeError: an argument is out of range or of another type.
    """

    def __init__(
        self,
        host: str,
        port: int,
        credentials: Credentials | Sequence[Credentials],
        server_name: str | None,
        local_address: tuple[str, int] | None,
        options: ClientOptions,
    ) -> None:
        check_names("connect", options, ClientOptions)
        host_and_port(host, port, 1)
        if local_address is not None:
            if not isinstance(local_address, tuple) or len(local_address) < 2:
                raise TypeError("local_address must be a tuple (ip, port)")
            host_and_port(*local_address[:2], prefix="local_address: ")
        self.host = host
        self.port = port
        self.local = None if local_address is None else local_address[:2]
        self._credentials = credentials
        self._name = server_name_for(host, server_name)
        self._options: ClientOptions = {"handshake_timeout": _HANDSHAKE_SECONDS, **options}
        # Made now, so that what is wrong with them is said before a name is resolved.
        self._first: Client | None = self._client(self._options["handshake_timeout"])

    def attempts(self, found: Sequence[Any], now: float) -> Attempts:
        """The addresses that getaddrinfo found for host and port, to be tried in turn."""
        return Attempts(found, self._options["handshake_timeout"], now)

    def endpoint(self, attempts: Attempts, here: Sequence[Any], now: float) -> ClientEndpoint:
        """A socket connected to the address whose turn it is, and a session that has not begun.

        Args:
            attempts: of attempts().
            here: what getaddrinfo found for `local`, of the family of the address; or nothing.
            now: the time.

        Raises:
            OSError: there is no such socket.
        """
        family, kind, protocol, _, address = attempts.info
        patience = attempts.patience(now)
        client, self._first = self._first, None
        if client is None:
            client = self._client(attempts.seconds(now))
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            if here:
                sock.bind(here[0][4])
            sock.connect(address)
            return ClientEndpoint(sock, client, None if patience is None else now + patience)
        except BaseException:
            sock.close()
            raise

    def _client(self, handshake_timeout: float) -> Client:
        options: ClientOptions = {**self._options, "handshake_timeout": handshake_timeout}
        return Client(self._credentials, server_name=self._name, **options)
