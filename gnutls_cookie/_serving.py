"""One call of C for a turn of a served socket: native/serve.c, between a listener and a server."""

from __future__ import annotations

import errno
import math
import os
import time
from array import array
from typing import TYPE_CHECKING, Any

from ._check import bytes_copy
from ._ffi import ffi, lib
from ._turns import Noted
from .handles import TABLE
from .listener import CookieListener
from .locks import OwnedLock
from .server import Connection, Server

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Outbox", "Serving"]

_WAIT_MS = 50  # longest wait in C; then close(), or a signal that another thread took, is seen
_WORK_MS = 5  # longest work in C while datagrams keep coming; an event loop waits for it
_NEWS: int = lib.GCOOKIE_SERVE_NEWS
_ASKS: int = lib.GCOOKIE_SERVE_ASKS  # the highest bit
_NONE: int = lib.GCOOKIE_SERVE_NONE
_BUSY = (lib.GCOOKIE_BUSY, -errno.EBUSY)
_NUMBERS = "L" if array("L").itemsize == 8 else "Q"  # arrays take longer to make with "Q"
_IDS, _SIZES = ffi.typeof("uint64_t[]"), ffi.typeof("uint32_t[]")
_DUE_AT = ffi.offsetof("struct gcookie_serve", "due") // ffi.sizeof("double")


class Outbox:
    """Messages that the next flush() of a Serving encrypts and sends.

    Attributes:
        entries: for each the number of its connection in C, and then its bytes. Added by one
            statement without a call, which no signal handler can part.
        now: the time in seconds of the last one.
    """

    __slots__ = ("entries", "now")

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.now = 0.0


class Serving:
    """A listener and a server that work as one. Not thread-safe, except that wait() may run
    concurrently with the other methods.

    Args:
        listener: of the socket; its poll() is not called any more.
        server: the sessions of this socket alone.

    Attributes:
        is_busy: whether C is at work in turn(), or asks for a pre-shared key.
        asks: whether the next turn may ask for a pre-shared key.
        outbox: what send() has put off. A caller that knows better than send() may add to it.
        due: after a turn, the time at which the next one is wanted; infinity: no timer runs.
            Minus infinity: the turn has not done all.
    """

    def __init__(self, listener: CookieListener, server: Server) -> None:
        self.is_busy = False
        self._listener = listener
        self._fileno = listener._sock.fileno  # without a frame of Python
        self._gate = listener.gate
        self._server = server
        self._turns, self._lookups = server._turns, server._lookups
        self._native = ffi.gc(ffi.new("struct gcookie_serve *"), lib.gcookie_serve_clear)
        # C finds them empty once a finalizer has freed what they held.
        self._boxes = listener._opened()[1], server._box
        self._native.udp_box, self._native.server_box = self._boxes
        self.asks = False
        self._doubles = memoryview(ffi.buffer(self._native)).cast("d")
        self.due = math.inf
        self.outbox = Outbox()
        self._spare = [Noted(), Noted()]  # that are empty
        self._led: Noted | None = None  # of lead(), where it is empty
        native, _owner = listener._opened()
        lib.gcookie_udp_admit_all(native)
        server._native.tells_forgotten = 0

    def wait(self, timeout: float | None) -> None:
        """Wait until there is something for turn(), at most so many seconds; None: forever.

        Strangers are answered meanwhile, in C and without the GIL.

        Raises:
            OSError: the socket is closed or shut down.
            ValueError: the listener is closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _WAIT_MS if deadline is None else int((deadline - time.monotonic()) * 1000) + 1
            wait = max(0, min(left, _WAIT_MS))
            udp, gate = self._opened(), self._listener.gate
            found = lib.gcookie_serve_wait(
                self._native,
                self._listener.fileno(),
                gate.native_keys(time.time()),
                gate.native_counters,
                wait,
                _WORK_MS,
            )
            del udp
            self._check(found)
            if found > 0 or (deadline is not None and time.monotonic() >= deadline):
                return
            if self._listener.closed:  # meanwhile, by another thread
                return

    def turn(self, out: int, now: float) -> bool:
        """Take what came, let the sessions work on it and on what their timers want, and send.

        Args:
            out: the descriptor to send by.
            now: the time in seconds.

        Returns:
            Whether the server has something to tell.

        Raises:
            OSError: the socket is closed or shut down.
            BaseException: what a PSK lookup raised beyond Exception.
        """
        gate, turns, spare = self._gate, self._turns, self._spare
        udp = self._listener._native  # as of _opened(); C finds out whether it is closed
        noted = spare.pop() if spare else Noted()
        turns.noted[noted] = None
        keys = gate.native_keys(time.time())
        native, fd, counters, turn = self._native, self._fileno(), gate.native_counters, noted.turn
        # Clients' ClientKeyExchange asks for a key, and no turn both begins a session and reads
        # what comes after the server's hello: what a client says before that breaks RFC 5246 7.3,
        # and fails.
        asks, self.asks = self.asks and self._lookups.by_settings, True
        self.is_busy = True
        try:
            if asks:
                code = TABLE.lending(
                    *(self._lookups, lib.gcookie_serve_turn, native, fd, out, keys, counters),
                    *(_WORK_MS, turn, now),
                )
            else:
                code = lib.gcookie_serve_turn(
                    native, fd, out, keys, counters, _WORK_MS, turn, now, 0
                )
        finally:
            self.is_busy = False
        del udp
        if code < 0:
            self._check(code)
        self.asks = code >= _ASKS
        self.due = self._doubles[_DUE_AT]
        has_news = code & _NEWS
        turns.take_over_one(noted, has_news)
        if asks:
            self._lookups.raise_what_is_left()
        if not turns.noted:
            noted.reset()
            spare.append(noted)
        return bool(has_news or turns.events or turns.outgoing)

    def lead(self, lock: OwnedLock, token: int, wait_ms: int, now: float) -> bool | None:
        """wait() and turn() by one call, for a thread that no signal handler strikes, while nobody
        else calls these and `asks` is not set. The lock is taken in between.

        Args:
            lock, token: as of OwnedLock.take(). The lock is held afterwards where something came.
            wait_ms: milliseconds to wait at most.
            now: the time before, in seconds.

        Returns:
            As of turn(); None: nothing came.

        Raises:
            OSError: the socket is closed or shut down.
        """
        gate, turns, noted = self._gate, self._turns, self._led or Noted()
        udp, fd, keys = self._listener._native, self._fileno(), gate.native_keys(time.time())
        native, counters, turn, box = self._native, gate.native_counters, noted.turn, lock.box
        code = lib.gcookie_lead(
            native, box, token, fd, fd, keys, counters, wait_ms, _WORK_MS, turn, now
        )
        del udp
        if code == _NONE:
            self._led = noted
            return None
        self._led = None
        turns.noted[noted] = None  # a turn that failed may have something to tell all the same
        if code < 0:
            self._check(code)
        self.asks = code >= _ASKS
        self.due = self._doubles[_DUE_AT]
        has_news = code & _NEWS
        turns.take_over_one(noted, has_news)
        if not turns.noted:
            noted.reset()
            self._led = noted
        return bool(has_news or turns.events or turns.outgoing)

    @property
    def send_errors(self) -> int:
        """Datagrams that the kernel did not take."""
        return int(self._native.send_errors)

    @property
    def has_more(self) -> bool:
        """Whether a turn has left something that no descriptor tells of."""
        return bool(self._native.has_more)

    def send(self, connection: Connection, data: Buffer, now: float) -> int:
        """Send a message by the next flush(). Raises as Server.send()."""
        if type(data) is not bytes:
            data = bytes_copy("data", data)
        if not (0 < len(data) <= connection._most or self._server._takes(connection, data)):
            return self._server.send(connection, data, now)
        outbox = self.outbox
        outbox.now = now
        outbox.entries += (connection._id, data)
        return len(data)

    def send_at_once(self, connection: Connection, data: bytes, now: float) -> None:
        """Encrypt and send a message of 1..`connection.sendable` bytes, while none is put off."""
        noted = self._spare.pop() if self._spare else Noted()
        code = lib.gcookie_serve_send_one(
            self._native, self._fileno(), noted.turn, connection._id, data, len(data), now
        )
        self._spare.append(noted)
        if code != 0:
            self._check(code)

    def flush(self, out: int) -> None:
        """Encrypt and send the messages of send()."""
        outbox = self.outbox
        if not outbox.entries:
            return
        entries, outbox.entries = outbox.entries, []
        noted = self._spare.pop() if self._spare else Noted()
        turn, now = noted.turn, outbox.now
        if len(entries) == 2:
            number, data = entries
            code = lib.gcookie_serve_send_one(self._native, out, turn, number, data, len(data), now)
        else:
            numbers = array(_NUMBERS, entries[::2])
            messages = entries[1::2]
            sizes = array("I", map(len, messages))
            data = b"".join(messages)
            code = lib.gcookie_serve_send(
                self._native,
                out,
                turn,
                ffi.from_buffer(_IDS, numbers),
                ffi.from_buffer(_SIZES, sizes),
                len(numbers),
                data,
                len(data),
                now,
            )
        self._spare.append(noted)
        if code != 0:
            if code in _BUSY:  # they wait for the next flush
                outbox.entries[:0] = entries
            self._check(code)

    # --- helpers ----------------------------------------------------------------------------------

    def _opened(self) -> Any:
        """What is to be kept for the length of a call of C, so that close() does not free it."""
        udp = self._listener._native
        if udp is None:
            raise ValueError("the listener is closed")
        return udp

    def _check(self, code: int) -> None:
        if code in _BUSY:
            raise RuntimeError("another call of this server is under way")
        if code == -errno.EBADF:  # or freed, and this is a finalizer
            self._listener._opened()
            assert self._server._native
        if code < 0:
            raise OSError(-code, os.strerror(-code))
