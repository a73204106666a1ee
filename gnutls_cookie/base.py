"""What connections and servers of aio and blocking have in common, and how handlers are judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._owned import not_copied
from .address import SocketAddress
from .client_endpoint import ClientEndpoint
from .endpoint import Counters, Endpoint, total
from .keys import KeyRing
from .server import Connection
from .session import Credentials, Session
from .tickets import TicketKey

__all__ = ["ConnectionBase", "ServerBase"]

_OF_SESSION = {
    "alpn",
    "cipher",
    "peer_certificates",
    "peer_names",
    "peer_public_key",
    "psk_identity",
    "resumed",
    "server_name",
    "srtp_profile",
    "version",
}


class ConnectionBase:
    """One side of a DTLS connection, whatever drives it.

    Attributes:
        address: the peer's, as the socket module gives it.
        session: the Session: version, cipher, peer_certificate, psk_identity and the rest of
            what was agreed on. Do not feed it.
    """

    # A user may keep something of his own with it: __dict__ is made when that is done.
    __slots__ = ("__dict__", "__weakref__", "_core", "_endpoint")
    __reduce__ = not_copied

    def __init__(self, core: Connection, endpoint: Endpoint | ClientEndpoint) -> None:
        self._core = core
        self._endpoint = endpoint

    @property
    def address(self) -> SocketAddress:
        return self._core.address  # of a server's: made when it is asked for

    @property
    def session(self) -> Session:
        return self._core.session  # made when it is asked for

    @property
    def data_mtu(self) -> int:
        """Bytes of the largest message that can be sent.

        What fits one datagram (the MTU), or what the peer takes where that is less. The same as
        `session.data_mtu`, and nothing to ask for with each message.
        """
        return self._core.data_mtu

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What asyncio's transports tell by this name.

        Args:
            name: "peername" (`address`), "sockname", "socket" (of a server: that of all its
                peers), "session", "version", "cipher", "peercert" (DER), and of the Session
                "peer_certificates", "peer_names", "peer_public_key", "psk_identity",
                "server_name", "alpn", "resumed", "srtp_profile".
            default: what is returned for any other name, and for what there is not.
        """
        found: Any = None
        if name == "peername":
            found = self.address
        elif name == "socket":
            found = self._endpoint.sock
        elif name == "sockname":
            sock = self._endpoint.sock
            found = sock.getsockname() if sock.fileno() >= 0 else None
        elif name == "session":
            found = self.session
        elif name == "peercert":
            found = self.session.peer_certificate
        elif name in _OF_SESSION:
            found = getattr(self.session, name)
        return default if found is None else found

    def __repr__(self) -> str:
        return f"<Connection {self.address} {self.session!r}>"


class ServerBase:
    """A running server with one or several sockets, whatever drives it."""

    __reduce__ = not_copied

    _endpoints: Sequence[Endpoint]

    @property
    def sockets(self) -> tuple[Any, ...]:
        """The sockets that are served."""
        return tuple(endpoint.sock for endpoint in self._endpoints)

    @property
    def address(self) -> SocketAddress:
        """The first socket's own address; it stays when the server is closed."""
        return self._endpoints[0].address

    @property
    def counters(self) -> Counters:
        """What happened so far, at all sockets together."""
        return total(self._endpoints)

    @property
    def keys(self) -> KeyRing:
        """The KeyRing in use. Another one may be set: a client in mid-exchange is then challenged
        once more, and that is all."""
        return self._endpoints[0].keys

    @keys.setter
    def keys(self, keys: KeyRing) -> None:
        self._endpoints[0].keys = keys  # they share a gate

    def set_credentials(
        self,
        credentials: Credentials | Sequence[Credentials],
        tickets: bool | TicketKey | None = None,
    ) -> None:
        """Give new sessions other credentials, and other tickets; those that there are keep theirs.

        Args:
            credentials: as for a Session.
            tickets: as for a Server; None: as before, but that a random key is replaced.

        Raises:
            ValueError, TypeError, GnuTLSError: as of Session; then nothing is changed.
        """
        for socket in self._served:  # the first one judges them: all have the same options
            socket.set_credentials(credentials, tickets)

    @property
    def _served(self) -> Sequence[Any]:
        """What set_credentials() is for, one for each socket."""
        return self._endpoints

    @property
    def _is_closed(self) -> bool:
        raise NotImplementedError

    def __repr__(self) -> str:
        if self._is_closed:
            return "<DTLSServer closed>"
        sessions = sum(len(endpoint) for endpoint in self._endpoints)
        return f"<DTLSServer on {self.address}, {sessions} sessions>"
