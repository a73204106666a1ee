"""SocketDriver: one socket in the event loop. It is told when the socket is readable and when a
timer is due, and tells connections what happened. Server and client say the rest.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gnutls_cookie.client_endpoint import ClientEndpoint
from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.server import Closed, Connected, Event
from gnutls_cookie.server import Connection as CoreConnection
from gnutls_cookie.session import TICK

from .connection import Connection

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SocketDriver", "stop_reading"]

_TIMER_SECONDS = 3600.0  # at a time: uvloop takes no number without end

_monotonic = time.monotonic


class SocketDriver:
    """One socket in the event loop: readable, timer, events.

    Attributes:
        endpoint: the socket and its sessions.
        is_open: whether it is served.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint | ClientEndpoint
    ) -> None:
        self.endpoint = endpoint
        self.is_open = True
        self._loop = loop
        self._pid = os.getpid()
        self._events: deque[Event] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_settling = False  # whether _settle() is to be called in this turn of the loop

    # --- for connections --------------------------------------------------------------------------

    def send(self, core: CoreConnection, data: Buffer) -> int:
        """Send a message; once for all that the tasks of this turn send."""
        sent = self.endpoint.send(core, data, _monotonic())
        if not self._is_settling:
            self._is_settling = True
            self._loop.call_soon(self._settle)
        return sent

    def end(self, core: CoreConnection) -> None:
        """Say goodbye to a peer."""
        if self.is_open and os.getpid() == self._pid:
            self.endpoint.end(core)
            self._settle()

    def keep(self, connection: Connection | None) -> None:
        """Who waits at this connection is to be kept; None: nobody waits any more."""

    # --- said by server and client ----------------------------------------------------------------

    def _connection_of(self, core: CoreConnection) -> Connection | None:
        """The connection that is told what happens."""
        raise NotImplementedError

    def _on_connected(self, core: CoreConnection) -> None:
        """A handshake is complete."""
        raise NotImplementedError

    def _on_closed(self, core: CoreConnection, error: Exception | None) -> None:
        """A connection has ended."""
        raise NotImplementedError

    def _on_failure(self, error: OSError) -> None:
        """The socket itself is of no use any more."""
        raise NotImplementedError

    def _alarm(self) -> Callable[[], object]:
        """What the loop's timer calls."""
        return self.on_timer

    # --- what the loop calls ----------------------------------------------------------------------

    def on_readable(self) -> None:
        """Take what lies in the socket."""
        self._step(self.endpoint.turn)

    def on_timer(self) -> None:
        """Let the sessions do what is due."""
        self._timer = None
        self._step(self.endpoint.handle_timeout)

    def _settle(self) -> None:
        self._is_settling = False
        if self.is_open:
            self._step(self.endpoint.settle)

    # --- helpers ----------------------------------------------------------------------------------

    def _step(self, step: Callable[[float], list[Event]]) -> None:
        """Let the endpoint do something, tell what happened, and set the timer."""
        # Kept until each is dealt with: a handler that runs at once (asyncio.eager_task_factory)
        # may close its connection meanwhile, and may raise SystemExit.
        try:
            self._events += step(_monotonic())
        except OSError as error:
            self._on_failure(error)
            return
        except BaseException:  # KeyboardInterrupt in a PSK lookup: the others are served
            self._settle()
            raise
        try:
            while self._events:
                self._tell(self._events.popleft())
        finally:
            self._set_timer()

    def _tell(self, event: Event) -> None:
        core = event.connection
        if isinstance(event, Connected):
            self._on_connected(core)
        elif isinstance(event, Closed):
            self._on_closed(core, event.error)
        elif (connection := self._connection_of(core)) is not None:
            connection.wake()

    def _set_timer(self) -> None:
        """One that goes off too early does no harm, and is cheaper than one anew each time."""
        if not self.is_open or self._loop.is_closed():
            return
        seconds = self.endpoint.timeout(_monotonic())
        if seconds is None:
            return
        when = self._loop.time() + min(max(seconds, TICK), _TIMER_SECONDS)
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._alarm())

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def stop_reading(loop: asyncio.AbstractEventLoop, sock: Any) -> None:
    """Take a socket out of the loop, unless that is closed."""
    if not loop.is_closed():
        loop.remove_reader(sock.fileno())
