"""One socket of a server: the thread at it, and the threads of its handlers."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gnutls_cookie.endpoint import Endpoint
from gnutls_cookie.errors import GnuTLSError, connection_closed
from gnutls_cookie.locks import News, OwnedLock
from gnutls_cookie.log import LOG
from gnutls_cookie.server import Closed, Connected, Event
from gnutls_cookie.server import Connection as CoreConnection
from gnutls_cookie.session import Credentials
from gnutls_cookie.tickets import TicketKey

from .served import ServerConnection

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .threads import ServerThreads

__all__ = ["CLOSING_SECONDS", "ServerDriver"]

CLOSING_SECONDS = 1.0  # for goodbyes, beside the handlers' grace
_TURN_SECONDS = 0.1  # that a thread waits at its socket before it looks whether it is to stop
_RELAY_SECONDS = 0.001  # in which handlers that wait for messages alone should get on
_FEW = 8  # of them in that time: so slow are handlers that do something else
_MOST_LED = 5  # handlers in the line: with more of them it saves little
_LEAD_SECONDS = 0.001  # that a handler's thread waits at the socket
_NO_LEAD_SECONDS = 0.1  # after a handler that worked on while nobody was at the socket

_has_gil: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)


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
        self._returned = News()  # told of handlers that have
        self._work = work
        self._pid = os.getpid()
        self.ident: int | None = None  # of the thread at the socket
        self._lock = OwnedLock()  # of the sessions
        self._connections: dict[CoreConnection, ServerConnection] = {}  # those with a handler
        self.is_open = True  # whether sessions are served
        # Of threads that wait only one is woken at a time; it wakes the next one as it waits again.
        # All at once would wait for the GIL.
        self.line: deque[ServerConnection] = deque()
        self.is_relaying = False
        # Messages of send(), each with the number of its connection.
        self.put_off: deque[tuple[int, bytes]] = deque()
        self._relayed = News()  # told where nobody is in the line any more
        # Who has the baton takes turns at the socket. It lies here while handlers work, for the one
        # that waits again with nobody in the line.
        self._baton: deque[None] = deque()
        self.leader: ServerConnection | None = None  # whose thread has it
        self.leads = False  # whether messages come soon enough for that
        self._lead_after = 0.0  # time in seconds before which they do not, whatever comes
        self._steps = 0  # changes of threads, and turns of leaders, so far
        self._raised: BaseException | None = None  # by a turn of a leader
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
        self.ident = threading.get_ident()
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
            self.ident = None  # the system may give it to another thread
            self._work.end(error)

    def _turn(self) -> None:
        begun = time.monotonic()
        left = self.endpoint.due - begun
        if self.put_off:
            left = min(left, _RELAY_SECONDS)
        self.endpoint.wait(_TURN_SECONDS if left > _TURN_SECONDS else max(left, 0.0))
        now = self._take_turn()
        if not self._takes_turns:
            self._wake_all()
            return
        is_soon = self._lead_after <= now < begun + _LEAD_SECONDS
        self.leads = is_soon and len(self.line) < _MOST_LED
        if len(self.line) > (0 if self.leads else 1):
            self._relay()
        else:
            self._wake_all()

    def _take_turn(self) -> float:
        """Take what came, and tell those that it is for, but for those in the line. Returns the
        time in seconds."""
        token = self._lock.token()
        try:
            self._lock.take(token)
            now = time.monotonic()
            self._take_put_off()
            events = self.endpoint.turn(now)
            self._note(events)
        finally:
            self._lock.give(token)
        self._tell(events)
        return now

    def _lead_turn(self, left: float | None) -> bool:
        """The same after a wait, by one call of C. Whether something came.

        Args:
            left: seconds to wait at most; None: no limit.
        """
        wait = _LEAD_SECONDS if left is None else min(left, _LEAD_SECONDS)
        lock = self._lock
        token, now = lock.token(), time.monotonic()
        try:
            events = self.endpoint.lead(lock, token, int(wait * 1000) or 1, now)
            if events:
                self._note(events)
        finally:
            lock.give(token)
        if events:
            self._tell(events)
        return events is not None

    def _note(self, events: list[Event]) -> None:
        """What a turn gave, before anybody sees that a connection is no longer open."""
        for event in events:
            core = event.connection
            if isinstance(event, Connected):
                self._connections[core] = ServerConnection(core, self)
            elif isinstance(event, Closed) and core in self._connections:
                self._connections[core].on_closed(event.error)

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            connection = self._connections.get(event.connection)
            if connection is None:
                continue  # its handler has returned
            if isinstance(event, Connected):
                self._start_handler(connection)
            else:
                connection.tell()

    def _relay(self) -> None:
        """Let those in the line have their turns, and send what they send.

        Who is the last one may go on at the socket: lead(). Where handlers do not come back to wait
        soon, the others are woken all together, and the present thread goes on there.
        """
        line, relayed = self.line, self._relayed
        self.is_relaying = True
        self._baton.append(None)
        seen, first = relayed.seen(), self.next_in_line()
        while True:
            steps = self._steps
            seen, first = relayed.wait(seen, _RELAY_SECONDS, first), None
            if not self.is_relaying or self._raised is not None or self._work.is_to_end():
                break
            if self._baton and self._steps - steps < (_FEW if line else 1):
                self._lead_after = time.monotonic() + _NO_LEAD_SECONDS
                break
        self.is_relaying = False
        while True:
            try:
                self._baton.pop()
                break
            except IndexError:  # one is still at the socket
                seen = relayed.wait(seen, _RELAY_SECONDS)
        self._wake_all()
        if self._raised is not None:
            raise self._raised
        self.flush()

    def lead(self, connection: ServerConnection, left: float | None) -> bool:
        """Take a turn at the socket, in a thread that waits for messages while nobody is in the
        line: so those of one client change no thread.

        Args:
            connection: whose messages the thread waits for.
            left: seconds at most; None: no limit.

        Returns:
            Whether there is something for the connection.
        """
        # PSK lookups are called by the server's own thread alone.
        if not self.leads or self.endpoint.is_asking or os.getpid() != self._pid:
            return False
        try:
            self._baton.pop()
        except IndexError:
            return False  # another one does
        try:
            self.leader = connection
            self._steps += 1
            if self.put_off:
                self.flush()
            if not self._lead_turn(left):
                self.leads = False
                return False
            self.leads = len(self.line) < _MOST_LED
            return connection.has_news
        except BaseException as error:
            self._raised = error
            self.leads = False
            return False
        finally:
            self.leader = None
            self._baton.append(None)

    def flush(self) -> None:
        """Send what was put off."""
        token = self._lock.token()
        try:
            self._lock.take(token)
            if self.is_open:
                self._take_put_off()
                self.endpoint.flush()
        finally:
            self._lock.give(token)

    def _take_put_off(self) -> None:
        """With the lock held: before anything else is sent."""
        put_off = self.put_off
        if put_off:
            outbox = self.endpoint.outbox
            outbox.now = time.monotonic()
            while put_off:
                outbox.entries += put_off.popleft()

    def _wake_all(self) -> None:
        try:
            while True:
                self.line.popleft().tell()
        except IndexError:
            pass

    def next_in_line(self) -> News | None:
        """What a thread is to tell as it stops working: each time it does, whichever it is. Not in
        the main thread: a signal handler could strike before that."""
        if not self.is_relaying:
            return None
        self._steps += 1
        try:
            return self.line.popleft().news
        except IndexError:
            if not self._baton:
                return None  # one is at the socket
            self.is_relaying = False
            return self._relayed

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
            self.is_open = False
            for connection in self._connections.copy().values():
                connection.tell()
            self.endpoint.close()
        for thread in self._wait_for_handlers():
            LOG.warning("left behind: the handler in %s", thread.name)

    def _wait_for_handlers(self) -> set[threading.Thread]:
        """Give the handlers their time; returns the threads that are left."""
        returned, grace = self._returned, self._work.grace
        deadline = None if grace is None else time.monotonic() + grace
        threads = set(self.threads)
        while True:
            seen, left = returned.seen(), None
            if deadline is not None:
                left = deadline - time.monotonic()
            if not self.threads or (left is not None and left <= 0):
                break
            returned.wait(seen, left)
        remaining = set(self.threads)
        for thread in threads - remaining:
            thread.join(CLOSING_SECONDS)  # past its handler
        return remaining

    # --- the threads of handlers

    def _start_handler(self, connection: ServerConnection) -> None:
        thread = threading.Thread(
            target=self._run_handler,
            args=(connection,),
            daemon=True,
            name=f"connection of {connection.core._shown_address}",
        )
        self.threads.add(thread)
        try:
            thread.start()
        except Exception as error:  # the system gives no more threads: the others are served on
            self.leave_out(thread)
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
                self.leave_out(threading.current_thread())

    def leave_out(self, thread: threading.Thread) -> None:
        """Nobody is to wait for its handler."""
        self.threads.discard(thread)
        self._returned.tell()

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
        return core.is_open and self.is_open

    def send(self, core: CoreConnection, data: Buffer, error: Exception | None) -> int:
        """Send a message. What happened meanwhile is told by the server's own thread."""
        token = self._lock.token()
        try:
            self._lock.take(token)
            if not (core._open and self.is_open):
                raise connection_closed("the connection has ended", error)
            endpoint, now = self.endpoint, time.monotonic()
            if (
                type(data) is bytes
                and 0 < len(data) <= core._most
                and not (self.put_off or endpoint.outbox.entries)
            ):  # as a rule
                endpoint.send_at_once(core, data, now)
                return len(data)
            self._take_put_off()
            sent = endpoint.send(core, data, now)
            endpoint.flush()
            return sent
        finally:
            self._lock.give(token)

    def check_not_its_thread(self) -> None:
        """A PSK lookup runs in the thread at the socket, which would wait for itself.

        Raises:
            RuntimeError: the caller is such a lookup.
        """
        # In the child of a fork the system may give its number to another one.
        if threading.get_ident() == self.ident and os.getpid() == self._pid:
            raise RuntimeError("a PSK lookup cannot wait for the server that called it")

    def end(self, core: CoreConnection) -> None:
        """Say goodbye to a peer."""
        if os.getpid() != self._pid:
            return  # the child of a fork: the peer is the parent's
        token = self._lock.token()
        try:
            self._lock.take(token)
            if self.is_open:
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
