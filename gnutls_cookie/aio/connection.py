"""Connection: what a handler or a client of asyncio has in hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING

from gnutls_cookie.base import ConnectionBase
from gnutls_cookie.errors import connection_closed, fresh

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from gnutls_cookie.server import Connection as CoreConnection

    from .driver import SocketDriver
    from .waiter import Waiter

__all__ = ["Connection"]

_SENDS = 16  # by a task that does nothing but send, before others have their turn


class Connection(ConnectionBase):
    """One side of a DTLS connection; for one task that reads, and any number that write.

    Attributes:
        address: the peer's, as the socket module gives it.
        session: the Session: version, cipher, peer_certificate, psk_identity and the rest of
            what was agreed on. Do not feed it.

    `async for message in connection` gives the peer's messages until the connection ends;
    `async with connection` closes it at the end of the block.
    """

    __slots__ = ("_driver", "_ended", "_error", "_others", "_sends", "_waiter")

    def __init__(self, core: CoreConnection, driver: SocketDriver) -> None:
        super().__init__(core, driver.endpoint)
        self._driver = driver
        self._waiter: Waiter | None = None  # of the first task that waits, and of the next ones
        self._others: list[Waiter] | None = None  # of those that wait beside it
        self._sends = 0  # since a task of this connection last let the others go on
        self._ended = False
        self._error: Exception | None = None

    async def receive(self) -> bytes | None:
        """The next message of the peer; None once the connection has ended.

        Raises:
            GnuTLSError: the session failed.
        """
        while (message := self._core.receive()) is None:
            if self._ended:
                if self._error is not None:
                    raise fresh(self._error)
                return None
            await self._news()
        return message

    async def send(self, data: Buffer) -> int:
        """Send one message of 1..`data_mtu` bytes; as with UDP it may get lost.

        Lets other tasks go on now and then, so that one that does nothing but send leaves them
        their turn.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is too long.
            ConnectionClosedError: the connection has ended; a ConnectionResetError.
            GnuTLSError: the session failed.
        """
        core, driver = self._core, self._driver
        if driver.is_settling and type(data) is bytes and 0 < (size := len(data)) <= core._most:
            driver.outbox.entries += (core._id, data)  # send_nowait(), without a call: as there
            sent = size
        else:
            sent = self.send_nowait(data)
        self._sends += 1
        if self._sends >= _SENDS:
            self._sends = 0
            await asyncio.sleep(0)
        return sent

    def send_nowait(self, data: Buffer) -> int:
        """The same as send(), for callbacks: nothing waits, and no other task has its turn.

        Returns:
            The number of bytes sent: all.

        Raises:
            LargePacketError: data is too long.
            ConnectionClosedError: the connection has ended; a ConnectionResetError.
            GnuTLSError: the session failed.
        """
        core, driver = self._core, self._driver
        if driver.is_settling and type(data) is bytes and 0 < (size := len(data)) <= core._most:
            # As a rule, and without a call: what Serving.send() would do.
            driver.outbox.entries += (core._id, data)
            return size
        if self._ended:
            raise connection_closed("the connection has ended", self._error)
        return driver.send(core, data)

    def close(self) -> None:
        """Say goodbye to the peer. Messages that came before can still be received.

        In the child of a fork it closes what the child inherited, and the peer hears nothing: the
        connection is the parent's.
        """
        self._driver.end(self._core)

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, whoever ended it."""
        while not self._ended:
            await self._news()

    @property
    def is_open(self) -> bool:
        """Whether the connection has not ended."""
        return not self._ended and self._core.is_open

    def is_closing(self) -> bool:
        """Whether the connection has ended, as asyncio's transports call it."""
        return not self.is_open

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        core = self._core
        while (message := core._first) is None:  # receive(), without one more coroutine
            if self._ended:
                if self._error is not None:
                    raise fresh(self._error)
                raise StopAsyncIteration
            await self._news()
        if core._rest is None:
            core._first = None  # its receive(), without a call
        else:
            core.receive()
        return message

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    # --- for the driver ---------------------------------------------------------------------------

    def wait_by(self, waiter: Waiter) -> None:
        """Let the first task that waits wait for this one."""
        self._waiter = waiter

    def on_message(self, message: bytes) -> None:
        """A message has come, none waits, and no task runs: one that waits for it goes on."""
        core, waiter = self._core, self._waiter
        core._first = message  # as in its _queue(), without a call
        if waiter is None or self._others is not None:
            self.on_news(is_direct=True)
        elif waiter.callback is not None:
            if (steps := waiter.steps) is None:
                waiter.wake(is_direct=True)
            else:
                steps.step(waiter)

    def on_news(self, is_direct: bool) -> None:
        """Let the tasks go on that wait for a message or for the end.

        Args:
            is_direct: at once. Only where no task runs, in a callback of the loop.
        """
        waiter = self._waiter
        if self._others is not None:
            others, self._others = self._others, None
            for other in (waiter, *others):
                if other is not None:
                    other.wake(is_direct)
        elif waiter is not None:
            waiter.wake(is_direct)

    def on_closed(self, error: Exception | None, is_direct: bool) -> None:
        """The connection has ended."""
        if not self._ended:
            self._ended = True
            self._error = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                Connection.on_news(self, is_direct)

    def _news(self) -> Awaitable[None]:
        """Wait until the next message, or the end."""
        self._sends = 0
        waiter = self._waiter
        if waiter is None:
            waiter = self._waiter = self._driver.new_waiter()
        elif not waiter.is_free:
            waiter = self._driver.new_waiter()
            # Those that were cancelled have nothing to wake.
            self._others = [one for one in self._others or () if not one.is_free]
            self._others.append(waiter)
        return waiter.wait()
