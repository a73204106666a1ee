"""SocketDriver: one socket in the event loop. It is told when the socket is readable and when a
timer is due, and tells connections what happened. Server and client say the rest.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from gnutls_cookie.client_endpoint import ClientEndpoint
from gnutls_cookie.endpoint import Endpoint, Outbox
from gnutls_cookie.errors import GnuTLSError, connection_closed
from gnutls_cookie.server import Connection as CoreConnection
from gnutls_cookie.server import Event

from .waiter import Waiter
from .watch import Watch

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SocketDriver"]

_TIMER_SECONDS = 3600.0  # at a time: uvloop takes no number without end

_monotonic = time.monotonic


class SocketDriver:
    """One socket in the event loop: readable, timer, events.

    Attributes:
        endpoint: the socket and its sessions.
        is_open: whether it is served.
        is_settling: whether what is sent now goes out in this turn of the loop.
        loop: the event loop.
        outbox: the endpoint's, where connections put what they send while that is so.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint | ClientEndpoint
    ) -> None:
        self.endpoint = endpoint
        self.is_open = True
        self.is_settling = False
        self.loop = loop
        self.outbox = endpoint.outbox if isinstance(endpoint, Endpoint) else Outbox()
        self._has_sent = False  # whether something else than the outbox has is to be sent
        self._pid = os.getpid()
        self._watch = Watch(loop, endpoint.sock)
        self._events: deque[Event] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf  # by time.monotonic(); infinity: there is no timer

    # --- for connections --------------------------------------------------------------------------

    def send(self, core: CoreConnection, data: Buffer) -> int:
        """Send a message; once for all that the tasks of this turn send."""
        try:
            sent = self.endpoint.send(core, data, _monotonic())
        except GnuTLSError:
            if core.is_open:
                raise
            raise connection_closed("the connection has ended") from None  # its Closed is to come
        if not self.is_settling:
            self.is_settling = True
            self.loop.call_soon(self._settle)
        self._has_sent = True
        return sent

    def end(self, core: CoreConnection) -> None:
        """Say goodbye to a peer."""
        if self.is_open and os.getpid() == self._pid:
            self.endpoint.end(core)
            self._step(self.endpoint.settle, is_direct=False)  # its caller may be a task

    def new_waiter(self) -> Waiter:
        """What a task is to wait for."""
        return Waiter(self.loop)

    # --- said by server and client ----------------------------------------------------------------

    def _tell(self, event: Event, is_direct: bool) -> None:
        """Let a connection know what happened.

        Args:
            event: of the endpoint.
            is_direct: whether tasks that wait may go on at once.
        """
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
        self._timer_due = math.inf
        self._step(self.endpoint.handle_timeout)

    def _settle(self) -> None:
        self.is_settling = False
        if self.is_open:
            self._step(self.endpoint.settle)

    # --- helpers ----------------------------------------------------------------------------------

    def _step(self, step: Callable[[float], list[Event]], is_direct: bool = True) -> None:
        """Let the endpoint do something, tell what happened, send the answers, set the timer.

        Args:
            step: of the endpoint.
            is_direct: whether tasks that wait go on at once: where the loop is the caller.
        """
        was_settling, self.is_settling = self.is_settling, True
        # Kept until each is dealt with: a handler that runs at once may close its connection
        # meanwhile, and may raise SystemExit.
        events, outbox = self._events, self.outbox
        outbox.now = _monotonic()
        is_done = False
        try:
            events += step(outbox.now)
            while not is_done:
                while events:
                    self._tell(events.popleft(), is_direct)
                is_done = not (self.is_open and (outbox.entries or self._has_sent))
                if not is_done:
                    self._has_sent = False
                    events += self.endpoint.settle(_monotonic())
        except OSError as error:
            is_done = True
            self._on_failure(error)
        except BaseException as error:
            endpoint = self.endpoint
            is_exit = isinstance(error, (KeyboardInterrupt, SystemExit))
            if is_exit or isinstance(endpoint, ClientEndpoint):
                raise  # these end the loop, as of every callback
            # Of a PSK lookup. The loop would tell its exception handler, as often as clients like.
            endpoint.trouble("raised by a lookup", None, error, _monotonic())
        finally:
            self.is_settling = was_settling
            if not is_done and self.is_open:  # the others are served
                self.is_settling = True
                self.loop.call_soon(self._settle)
            if self.endpoint.due < self._timer_due:
                self._set_timer()

    def _set_timer(self) -> None:
        """One that goes off too early does no harm, and is cheaper than one anew each time."""
        if not self.is_open or self.loop.is_closed():
            return
        now = _monotonic()
        seconds = self.endpoint.timeout(now)
        if seconds is None:
            return
        due = now + min(seconds, _TIMER_SECONDS)
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self.loop.call_at(self.loop.time() + due - now, self._alarm())

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_due = math.inf
