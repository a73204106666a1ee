"""The threads of a server: one at each socket with its sessions, and one for each handler."""

from __future__ import annotations

import _thread
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.errors import GnuTLSError, connection_closed, fresh
from gnutls_cookie.locks import News, OwnedLock, is_main_thread
from gnutls_cookie.log import LOG
from gnutls_cookie.server import Closed, Connected, Event
from gnutls_cookie.server import Connection as CoreConnection
from gnutls_cookie.session import Credentials
from gnutls_cookie.tickets import TicketKey

from .connection import Connection, Deadline

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Handler", "ServerDriver", "ServerThreads"]

_TURN_SECONDS = 0.1  # that a thread waits at its socket before it looks whether it is to stop
_RELAY_SECONDS = 0.001  # in which handlers that wait for messages alone should get on
_FEW = 8  # of them in that time: so slow are handlers that do something else
_MOST_RELAYS = 20  # such times, before the socket is looked at
_MOST_PUT_OFF = 64  # messages that are encrypted and sent together
_CLOSING_SECONDS = 1.0  # for goodbyes, beside the handlers' grace

_has_gil: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)

Handler = Callable[[Connection], object]


class ServerThreads:
    """A server at work: a thread at each socket, one for each handler, and those that wait.

    Attributes:
        drivers: one for each endpoint.
        handler: what is called for each connection.
        grace: seconds; None: for ever.
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
        """Whether the server has ended within so many seconds; None: for ever.

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
        seconds = None if self.grace is None else self.grace + _CLOSING_SECONDS
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
                self.note(driver.threads.discard, present)

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

    def note(self, change: Callable[[threading.Thread], None], thread: threading.Thread) -> None:
        """Add a handler's thread, or take it out."""
        token = self.news.token()
        try:
            self.news.take(token)
            change(thread)
            self.news.notify()
        finally:
            self.news.give(token)

    def is_to_end(self) -> bool:
        """Whether the server is to end."""
        return self.is_ending or (self.stop is not None and self.stop.is_set())


class ServerDriver:
    """One socket of a server, with a thread at it and at the sessions.

    Attributes:
        endpoint: the socket and its sessions.
        name: of the thread.
        threads: those of its handlers.
    """

    def __init__(self, endpoint: Endpoint, work: ServerThreads) -> None:
        self.endpoint = endpoint
        self.name = f"server of {endpoint.sock.getsockname()}"
        self.threads: set[threading.Thread] = set()
        self._work = work
        self._pid = os.getpid()
        self._ident: int | None = None  # of the thread at the socket
        self._lock = OwnedLock()  # of the sessions
        self._connections: dict[CoreConnection, ServerConnection] = {}  # those with a handler
        self._is_open = True  # whether sessions are served
        # Of threads that wait only one is woken at a time; it wakes the next one as it waits again.
        # All at once would wait for the GIL.
        self.line: deque[ServerConnection] = deque()
        self._is_relaying = False
        self._put_off: deque[tuple[CoreConnection, bytes]] = deque()  # messages of send()
        self._relayed = News()  # told where nobody is in the line any more
        self._wait_seconds = 0.0  # at the socket
        self._takes_turns = _has_gil()
        self._duty: queue.SimpleQueue[None] = queue.SimpleQueue()  # whoever takes it closes
        self._duty.put(None)

    # --- the thread at the socket

    def begin(self, thread: threading.Thread) -> None:
        """Start the thread at the socket."""
        try:
            thread.start()
        except BaseException as error:
            if self.takes_duty():
                self.endpoint.close()
                self._work.end(error)

    def takes_duty(self) -> bool:
        """Whether the caller is to close the endpoint: nobody has been told so before."""
        try:
            self._duty.get_nowait()
        except queue.Empty:
            return False
        return True

    def run(self) -> None:
        """Serve until the end, and then close."""
        if not self.takes_duty():
            return
        self._ident = threading.get_ident()
        error: BaseException | None = None
        try:
            while not self._work.is_to_end():
                self._turn()
        except BaseException as raised:
            error = raised
        try:
            self._finish()
        except BaseException as raised:
            error = error or raised
        finally:
            self._ident = None  # the system may give it to another thread
            self._work.end(error)

    def _turn(self) -> None:
        # In this order: who ends the relay has put off his messages before.
        is_short = self._is_relaying or self._put_off
        self.endpoint.wait(_RELAY_SECONDS if is_short else self._wait_seconds)
        token = self._lock.token()
        try:
            self._lock.take(token)
            now = time.monotonic()
            self._take_put_off()
            events = self.endpoint.turn(now)
            for event in events:  # before anybody sees that a connection is no longer open
                self._note(event)
            timer = self.endpoint.timeout(now)
            self._wait_seconds = _TURN_SECONDS if timer is None else min(timer, _TURN_SECONDS)
        finally:
            self._lock.give(token)
        for event in events:
            connection = self._connections.get(event.connection)
            if connection is None:
                continue  # its handler has returned
            if isinstance(event, Connected):
                self._start_handler(connection)
            else:
                connection.tell()
        if self._is_relaying or (self._takes_turns and len(self.line) > 1):
            self._relay()
        elif self.line:
            self._wake_all()

    def _relay(self) -> None:
        """Let those in the line have their turns, and send what they send.

        Where they do not come back to wait soon, the others are woken all together.
        """
        line, relayed = self.line, self._relayed
        for _ in range(_MOST_RELAYS):
            seen = relayed.seen()
            first = None if self._is_relaying or not line else line.popleft().news
            self._is_relaying = True
            left = len(line)
            is_over = relayed.wait(seen, _RELAY_SECONDS, first)
            if not is_over and left - len(line) < _FEW:
                is_over = True
                self._wake_all()
            if is_over and not line:
                self._is_relaying = False
                break
        self._flush()

    def _flush(self) -> None:
        token = self._lock.token()
        try:
            self._lock.take(token)
            if self._is_open:
                self._take_put_off()
                self.endpoint.flush()
        finally:
            self._lock.give(token)

    def _take_put_off(self) -> None:
        """With the lock held: before anything else is sent."""
        put_off = self._put_off
        while put_off:
            core, message = put_off.popleft()
            if core.is_open:
                with suppress(GnuTLSError):  # it ends: lost, as on the network
                    self.endpoint.send(core, message, time.monotonic())

    def _wake_all(self) -> None:
        self._is_relaying = False
        try:
            while True:
                self.line.popleft().tell()
        except IndexError:
            pass

    def next_in_line(self) -> News | None:
        """What a thread is to tell as it stops working: each time it does, whichever it is."""
        # In the main thread a signal handler could strike before that.
        if not self._is_relaying or is_main_thread():
            return None
        try:
            return self.line.popleft().news
        except IndexError:
            self._is_relaying = False
            return self._relayed

    def _note(self, event: Event) -> None:
        core = event.connection
        if isinstance(event, Connected):
            self._connections[core] = ServerConnection(core, self)
        elif isinstance(event, Closed) and core in self._connections:
            self._connections[core].on_closed(event.error)

    def _finish(self) -> None:
        """Say goodbye to all, close, and wait for the handlers."""
        token = self._lock.token()
        try:
            self._lock.take(token)
            self._take_put_off()
            self.endpoint.end_all()
            self.endpoint.settle(time.monotonic())
        finally:
            self._lock.give(token)
            self._is_open = False
            for connection in self._connections.copy().values():
                connection.tell()
            self.endpoint.close()
        for thread in self._wait_for_handlers():
            LOG.warning("left behind: the handler in %s", thread.name)

    def _wait_for_handlers(self) -> set[threading.Thread]:
        """Give the handlers their time; returns the threads that are left."""
        news, grace = self._work.news, self._work.grace
        deadline = None if grace is None else time.monotonic() + grace
        threads = set(self.threads)
        token = news.token()
        try:
            news.take(token)
            while self.threads:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                news.wait(token, left)
            remaining = set(self.threads)
        finally:
            news.give(token)
        for thread in threads - remaining:
            thread.join(_CLOSING_SECONDS)  # past its handler
        return remaining

    # --- the threads of handlers

    def _start_handler(self, connection: ServerConnection) -> None:
        thread = threading.Thread(
            target=self._run_handler,
            args=(connection,),
            daemon=True,
            name=f"connection of {connection.address}",
        )
        self._work.note(self.threads.add, thread)
        try:
            thread.start()
        except Exception as error:  # the system gives no more threads: the others are served on
            self._work.note(self.threads.discard, thread)
            self.forget(connection)
            connection.close()
            self.endpoint.trouble(
                "no thread for its handler", connection.address, error, time.monotonic()
            )

    def _run_handler(self, connection: ServerConnection) -> None:
        try:
            self._work.handler(connection)
        except SystemExit:
            pass  # ends a thread without a word, as everywhere
        except BaseException as error:
            # Where the connection failed under the handler that is counted, and no fault.
            if not (isinstance(error, GnuTLSError) and not connection.is_open):
                LOG.exception("unhandled exception in the handler of %s", connection.address)
        finally:
            try:
                connection.close()
            finally:
                self.forget(connection)
                if (news := self.next_in_line()) is not None:
                    news.tell()
                self._work.note(self.threads.discard, threading.current_thread())

    def forget(self, connection: ServerConnection) -> None:
        """Its handler has returned: nobody is to be told of it."""
        self._connections.pop(connection.core, None)

    # --- for connections and the server's owner, in any thread

    def next(self, core: CoreConnection) -> tuple[bytes | None, bool]:
        """The next message that waits, and whether the connection is open."""
        token = self._lock.token()
        try:
            self._lock.take(token)
            return core.receive(), self.serves(core)
        finally:
            self._lock.give(token)

    def serves(self, core: CoreConnection) -> bool:
        """Whether the connection is open."""
        return core.is_open and self._is_open

    def send(self, core: CoreConnection, data: Buffer, error: Exception | None) -> int:
        """Send a message. What happened meanwhile is told by the server's own thread."""
        if (
            self._is_relaying
            and type(data) is bytes
            and 0 < len(data) <= core.sendable
            and self._is_open
            and len(self._put_off) < _MOST_PUT_OFF
        ):
            return self._send_later(core, data)
        token = self._lock.token()
        try:
            self._lock.take(token)
            if not self.serves(core):
                raise connection_closed("the connection has ended", error)
            self._take_put_off()
            sent = self.endpoint.send(core, data, time.monotonic())
            self.endpoint.flush()
            return sent
        finally:
            self._lock.give(token)

    def _send_later(self, core: CoreConnection, data: bytes) -> int:
        """Those of a line go together."""
        self._put_off.append((core, data))
        if not self._is_relaying:  # any more: nobody else may send it
            self._flush()
        return len(data)

    def check_not_its_thread(self) -> None:
        """A PSK lookup runs in the thread at the socket, which would wait for itself.

        Raises:
            RuntimeError: the caller is such a lookup.
        """
        if threading.get_ident() == self._ident:
            raise RuntimeError("a PSK lookup cannot wait for the server that called it")

    def end(self, core: CoreConnection) -> None:
        """Say goodbye to a peer."""
        if os.getpid() != self._pid:
            return  # the child of a fork: the peer is the parent's
        token = self._lock.token()
        try:
            self._lock.take(token)
            if self._is_open:
                self._take_put_off()
                self.endpoint.end(core)
                self.endpoint.flush()
        finally:
            self._lock.give(token)

    def set_credentials(
        self,
        credentials: Credentials | Sequence[Credentials],
        tickets: bool | TicketKey | None,
    ) -> None:
        """Give new sessions other credentials and tickets."""
        token = self._lock.token()
        try:
            self._lock.take(token)
            self.endpoint.set_credentials(credentials, tickets)
        finally:
            self._lock.give(token)


class ServerConnection(Connection):
    """A server's side, with a handler."""

    __slots__ = ("_driver", "_error", "_handed", "news")

    def __init__(self, core: CoreConnection, driver: ServerDriver) -> None:
        super().__init__(core, driver.endpoint)
        self._driver = driver
        self._error: Exception | None = None
        self._handed: deque[bytes] = deque()  # messages that came while a thread waited
        self.news = News()  # told of messages and of the end

    def receive(self, timeout: float | None = None) -> bytes | None:
        """As of Connection."""
        deadline = None if timeout is None else Deadline(timeout)
        core, news, driver, handed = self._core, self.news, self._driver, self._handed
        while True:
            seen = news.seen()
            if handed:
                with suppress(IndexError):  # another thread has it
                    return handed.popleft()
            if core.has_messages or not driver.serves(core):
                message, is_open = driver.next(core)
                if message is not None:
                    return message
                if not (is_open or handed):
                    if self._error is not None:
                        raise fresh(self._error)
                    return None
                continue
            left = None if deadline is None else deadline.left()
            driver.check_not_its_thread()
            # What comes from here on is handed over, or there are news of it. Not in the main
            # thread: a signal handler could strike as it is woken, and keep the line waiting.
            core.receiver = None if is_main_thread() else self
            news.wait(seen, left, driver.next_in_line())
            core.receiver = None

    def on_message(self, message: bytes) -> None:
        """As of Receiver: a thread waits, or did so just now. The driver is to wake it."""
        self._core.receiver = None
        self._handed.append(message)
        self._driver.line.append(self)

    def wait_closed(self, timeout: float | None = None) -> None:
        """As of Connection."""
        self._driver.check_not_its_thread()
        deadline = Deadline(timeout)
        while True:
            seen = self.news.seen()
            if not self.is_open:
                return
            left = deadline.left("the connection has not ended")
            self.news.wait(seen, left, self._driver.next_in_line())

    def send(self, data: Buffer) -> int:
        """As of Connection."""
        return self._driver.send(self._core, data, self._error)

    def close(self) -> None:
        """As of Connection."""
        if is_main_thread():
            # What a signal handler raises would strike in the middle of it.
            _elsewhere(self._close)
        else:
            self._close()

    @property
    def is_open(self) -> bool:
        """As of Connection."""
        return self._driver.serves(self._core)

    # --- for the driver

    @property
    def core(self) -> CoreConnection:
        """The session's side of it."""
        return self._core

    def on_closed(self, error: Exception | None) -> None:
        """It has ended; tell() is to follow."""
        self._error = error

    def tell(self) -> None:
        """Wake who waits."""
        self.news.tell()

    def _close(self) -> None:
        self._driver.end(self._core)
        self.tell()


def _elsewhere(function: Callable[[], None]) -> None:
    """Call it in a thread that runs no signal handlers."""
    answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def call() -> None:
        try:
            function()
        except BaseException as error:
            answers.put(error)
        else:
            answers.put(None)

    try:
        _thread.start_new_thread(call, ())
    except RuntimeError:  # the system gives no more threads
        call()
    error = answers.get()
    if error is not None:
        raise error
