"""The threads of a server: one at each socket with its sessions, one for each handler, and those
that wait for the end."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable, Sequence

from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.locks import OwnedLock
from gnutls_cookie.log import LOG

from .connection import Connection
from .driver import CLOSING_SECONDS, ServerDriver

__all__ = ["Handler", "ServerThreads"]

Handler = Callable[[Connection], object]


class ServerThreads:
    """A server at work: a thread at each socket, one for each handler, and those that wait.

    Attributes:
        drivers: one for each endpoint.
        handler: what is called for each connection.
        grace: seconds; None: forever.
        stop: ends the server where it is set.
        is_started: whether start() was called.
        is_ending: set to end the server.
        is_over: whether it has ended.
        error: what ended it, if something went wrong.
        news: held to change what others wait for, and told of it.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], handler: Handler, grace: float | None
    ) -> None:
        self.handler = handler
        self.grace = grace
        self.stop: threading.Event | None = None
        self.is_started = False
        self.is_ending = False
        self.is_over = False
        self.error: BaseException | None = None
        self.news = OwnedLock()
        self.drivers = [ServerDriver(endpoint, self) for endpoint in endpoints]
        self._left = len(endpoints)  # drivers that have not ended

    # --- in any thread, also where a signal handler may raise at any moment

    def start(self) -> None:
        """Start a thread at each socket, unless that was done before."""
        if self.is_started:
            return
        self.is_started = True
        for driver in self.drivers:
            thread = threading.Thread(target=driver.run, daemon=True, name=driver.name)
            # Not thread.start() here: it takes locks of its own, which an exception of a signal
            # handler could leave held.
            _thread.start_new_thread(driver.begin, (thread,))

    def wait(self, seconds: float | None) -> bool:
        """Whether the server has ended within so many seconds; None: forever.

        Raises:
            RuntimeError: the caller is a PSK lookup of this server.
        """
        for driver in self.drivers:
            driver.check_not_its_thread()
        deadline = None if seconds is None else time.monotonic() + seconds
        token = self.news.token()
        try:
            self.news.take(token)
            while not self.is_over:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self.news.wait(token, left)
            return True
        finally:
            self.news.give(token)

    def finish(self) -> None:
        """Wait for the end, after is_ending was set.

        Raises:
            BaseException: what had ended the server before.
        """
        self.leave_out_present_thread()
        self.close_what_never_ran()
        seconds = None if self.grace is None else self.grace + CLOSING_SECONDS
        if not self.wait(seconds):
            LOG.warning("left behind: the %s", " and the ".join(one.name for one in self.drivers))

    def close_what_never_ran(self) -> None:
        """Close the sockets whose threads have not come to serve; after is_ending was set."""
        for driver in self.drivers:
            if driver.takes_duty():
                driver.endpoint.close()
                self.end(None)

    def leave_out_present_thread(self) -> None:
        """A handler waits for all the others, and not for itself."""
        present = threading.current_thread()
        for driver in self.drivers:
            if present in driver.threads:
                driver.leave_out(present)

    # --- in the threads of the server

    def end(self, error: BaseException | None) -> None:
        """One driver has ended; what went wrong ends the others, too."""
        token = self.news.token()
        try:
            self.news.take(token)
            self._left -= 1
            if error is not None:
                self.error = self.error or error
                self.is_ending = True
            self.is_over = self._left == 0
            self.news.notify()
        finally:
            self.news.give(token)

    def is_to_end(self) -> bool:
        """Whether the server is to end."""
        return self.is_ending or (self.stop is not None and self.stop.is_set())
