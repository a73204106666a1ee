"""Protocol: callbacks in the place of a task, for servers where the packets count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gnutls_cookie.errors import GnuTLSError

from .connection import Connection

if TYPE_CHECKING:
    from gnutls_cookie.server import Connection as CoreConnection

    from .server import ServerDriver

__all__ = ["Protocol", "ProtocolConnection"]


class Protocol:
    """The callbacks of one connection; `protocol_factory` of start_server() makes one for each.

    They are called in the event loop, and must not wait. What one of them raises goes to the loop's
    exception handler and ends its own connection alone; but for SystemExit and KeyboardInterrupt.

    Example:
        >>> class Echo(Protocol):
        ...     def connected(self, connection):
        ...         self.connection = connection
        ...     def message_received(self, message):
        ...         self.connection.send_nowait(message)
    """

    __slots__ = ("__dict__",)

    def connected(self, connection: Connection) -> None:
        """The handshake is complete.

        Args:
            connection: to send_nowait() and close() by; its messages come to message_received().
        """

    def message_received(self, message: bytes) -> None:
        """A message of the peer has come. Not called after closed()."""

    def closed(self, error: Exception | None) -> None:
        """The connection has ended, whoever ended it. Called once, and last.

        Args:
            error: what the session failed with; None where it did not fail.
        """


class ProtocolConnection(Connection):
    """A connection that calls a Protocol.

    Attributes:
        protocol: what it calls.
    """

    __slots__ = ("protocol",)

    _driver: ServerDriver

    def __init__(self, core: CoreConnection, driver: ServerDriver, protocol: Protocol) -> None:
        super().__init__(core, driver)
        self.protocol = protocol
        core._passing = self  # until close(): then no message is handed over

    def on_connected(self) -> None:
        """The handshake is complete."""
        try:
            self.protocol.connected(self)
        except BaseException as error:
            self.on_error(error)

    def on_message(self, message: bytes) -> None:
        """Hand it over."""
        if self._core._passing is None:
            return
        try:
            self.protocol.message_received(message)
        except BaseException as error:
            self.on_error(error)

    def on_news(self, is_direct: bool) -> None:
        """Hand over what waits."""
        core = self._core
        while core._passing is not None and (message := core.receive()) is not None:
            self.on_message(message)

    def close(self) -> None:
        """As of Connection."""
        self._core._passing = None
        super().close()

    def on_closed(self, error: Exception | None, is_direct: bool) -> None:
        """The connection has ended."""
        if self._ended:
            return
        self._core._passing = None  # they hold one another
        super().on_closed(error, is_direct)
        try:
            self.protocol.closed(error)
        except BaseException as raised:
            self.on_error(raised)

    def on_error(self, error: BaseException) -> None:
        """What a callback raised ends this connection alone."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        # Where the connection failed under the callback that is counted, and no fault.
        if self.is_open or not isinstance(error, GnuTLSError):
            self._driver.report("unhandled exception in a connection's protocol", error, self)
        self.close()
