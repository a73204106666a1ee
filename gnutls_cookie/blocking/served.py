"""A server's side of a connection: what a handler has in hand."""

from __future__ import annotations

import _thread
import queue
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING

from gnutls_cookie.errors import fresh
from gnutls_cookie.locks import News, is_main_thread
from gnutls_cookie.server import Connection as CoreConnection

from .connection import Connection, Deadline

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .driver import ServerDriver

__all__ = ["ServerConnection"]

_MOST_PUT_OFF = 64  # messages that are encrypted and sent together


class ServerConnection(Connection):
    """A server's side, with a handler."""

    __slots__ = ("_driver", "_error", "_handed", "_seen", "news")

    def __init__(self, core: CoreConnection, driver: ServerDriver) -> None:
        super().__init__(core, driver.endpoint)
        self._driver = driver
        self._error: Exception | None = None
        self._handed: list[bytes] = []  # messages that came while a thread waited
        self.news = News()  # told of messages and of the end
        self._seen = 0  # how often it was told as one of the threads woke last

    def receive(self, timeout: float | None = None) -> bytes | None:
        """As of Connection."""
        deadline = None if timeout is None else Deadline(timeout)
        core, driver, handed = self._core, self._driver, self._handed
        while True:
            seen = self._seen  # before the look for a message
            if handed:
                try:
                    return handed.pop(0)
                except IndexError:  # another thread has it
                    continue
            if core._first is not None or not (core._open and driver.is_open):
                message, is_open = driver.next(core)
                if message is not None:
                    return message
                if not (is_open or handed):
                    if self._error is not None:
                        raise fresh(self._error)
                    return None
                continue
            left = None if deadline is None else deadline.left()
            if get_ident() == driver.ident:
                driver.check_not_its_thread()
            if is_main_thread():
                # A signal handler could strike as it is woken, and keep the line waiting.
                self._seen = self.news.wait(seen, left)
                continue
            # What comes from here on is handed over, or there are news of it.
            core.receiver = self
            first = None
            if driver.is_relaying:
                if not driver.line and driver.lead(self, left):
                    core.receiver = None
                    continue
                first = driver.next_in_line()
            self._seen = self.news.wait(seen, left, first)
            core.receiver = None

    def on_message(self, message: bytes) -> None:
        """As of Receiver: a thread waits, or did so just now. The driver is to wake it, unless it
        is at the socket itself."""
        driver = self._driver
        self._core.receiver = None
        self._handed.append(message)
        if driver.leader is not self:
            driver.line.append(self)

    def wait_closed(self, timeout: float | None = None) -> None:
        """As of Connection."""
        self._driver.check_not_its_thread()
        deadline = Deadline(timeout)
        while True:
            seen = self._seen
            if not self.is_open:
                return
            left = deadline.left("the connection has not ended")
            first = None if is_main_thread() else self._driver.next_in_line()
            self._seen = self.news.wait(seen, left, first)

    def send(self, data: Buffer) -> int:
        """As of Connection."""
        core, driver = self._core, self._driver
        if (
            driver.is_relaying
            and (driver.line or not driver.leads)
            and type(data) is bytes
            and 0 < len(data) <= core._most
            and len(driver.put_off) < _MOST_PUT_OFF
        ):  # those of a line go together
            driver.put_off.append((core._id, data))
            if not self._driver.is_relaying:  # any more: nobody else may send it
                driver.flush()
            return len(data)
        return driver.send(core, data, self._error)

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
    def has_news(self) -> bool:
        """Whether receive() need not wait."""
        core = self._core
        return bool(self._handed) or core._first is not None or not core._open

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
