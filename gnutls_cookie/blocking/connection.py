"""Connection: what a handler or a client has in hand, and who may wait at it."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gnutls_cookie._check import seconds_to_wait
from gnutls_cookie.base import ConnectionBase

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Connection", "Deadline"]


class Deadline:
    """The end of a wait.

    Args:
        timeout: as of receive().

    Raises:
        ValueError, TypeError: timeout is NaN, or not a number.
    """

    __slots__ = ("_given", "_when", "seconds")

    def __init__(self, timeout: float | None) -> None:
        self._given = timeout
        self.seconds = seconds_to_wait("timeout", timeout)  # None: forever
        self._when = None if self.seconds is None else time.monotonic() + self.seconds

    def left(self, what: str = "no message came") -> float | None:
        """The seconds that are left; None: forever.

        Raises:
            TimeoutError: none are; `what` did not happen.
        """
        if self._when is None:
            return None
        left = self._when - time.monotonic()
        if left <= 0:
            raise self.over(what)
        return left

    def over(self, what: str = "no message came") -> TimeoutError:
        """The error of a wait that was too long."""
        return TimeoutError(f"{what} within {self._given} s")


class Connection(ConnectionBase):
    """One side of a DTLS connection. Safe with threads.

    Attributes:
        address: the peer's, as the socket module gives it.
        session: the Session: version, cipher, peer_certificate, psk_identity and the rest of
            what was agreed on. Do not feed it.

    `for message in connection` gives the peer's messages until the connection ends; `with
    connection` closes it at the end of the block.
    """

    __slots__ = ()

    @abstractmethod
    def receive(self, timeout: float | None = None) -> bytes | None:
        """The next message of the peer; None once the connection has ended.

        Several threads may wait; each message goes to one of them.

        Args:
            timeout: seconds to wait at most; None, infinity and more than 10**9 wait forever, 0
                and less do not wait.

        Raises:
            TimeoutError: nothing came in time.
            GnuTLSError: the session failed.
            ValueError, TypeError: timeout is NaN, or not a number.
        """

    @abstractmethod
    def send(self, data: Buffer) -> int:
        """Send one message of 1..`data_mtu` bytes; as with UDP it may get lost.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is too long.
            ConnectionClosedError: the connection has ended; a ConnectionResetError.
            GnuTLSError: the session failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Say goodbye to the peer. More calls do nothing.

        In the child of a fork it closes what the child inherited, and the peer hears nothing: the
        connection is the parent's.
        """

    @abstractmethod
    def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until the connection has ended, whoever ended it. What comes meanwhile can still be
        received.

        Args:
            timeout: as of receive().

        Raises:
            TimeoutError: it has not ended in time.
            RuntimeError: the caller is a PSK lookup of the connection's server.
            ValueError, TypeError: timeout is NaN, or not a number.
        """

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the connection has not ended. Of a client: as far as receive() or wait_closed()
        has read."""

    def is_closing(self) -> bool:
        """Whether the connection has ended, as asyncio's transports call it."""
        return not self.is_open

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.receive, None)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
