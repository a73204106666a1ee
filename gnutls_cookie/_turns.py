"""What calls of a server's core gave, taken over: each thing once, whatever is raised meanwhile.

CPython runs signal handlers as a function is entered, after a call and where a loop goes back. What
one raises may so strike between C's return and the end of this. A turn therefore is noted before
the call, and stays until all of it was taken over; where that broke off, the next call goes on. A
step works out first what it needs, and then takes effect, by statements that call nothing: all of
them are run or none.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._agreed import failure as session_failure
from ._connection import (
    Closed,
    CloseReason,
    Connected,
    Connection,
    Event,
    HandshakeFailure,
    MessageReady,
    ServerCounters,
)
from ._ffi import ffi, lib
from ._paths import address_text, source_text

if TYPE_CHECKING:
    from .address import SocketAddress

__all__ = ["REASONS", "Noted", "Turns"]

_FAILURES_LIMIT: int = lib.GCOOKIE_FAILURES  # that wait for failures(); the oldest give way
REASONS = tuple(CloseReason)  # in the order of enum gcookie_close_reason

_TURN = ffi.typeof("struct gcookie_turn *")
_WIRE = ffi.typeof("struct gcookie_wire **")
_EVENT_SIZE = ffi.sizeof("struct gcookie_event")  # bytes
_CLOSED: int = lib.GCOOKIE_CLOSED
_CONNECTED: int = lib.GCOOKIE_CONNECTED
_WORKING: int = lib.GCOOKIE_TURN_WORKING
_DONE: int = lib.GCOOKIE_TURN_DONE
_PACKAGE = __name__.partition(".")[0]

_Part = tuple[Connection | None, Any, int]  # an event: see Noted.rest

_new_turn = ffi.new_allocator(should_clear_after_alloc=False)

# The counts of a turn, from the first to the last one, are pointers and numbers of one size: they
# are read at once.
_FIELDS = (
    "events",
    "event_count",
    "message_count",
    "closed_count",
    "text",
    "text_size",
    "outgoing_count",
    "forgotten_count",
)
_PLACES = [
    ffi.offsetof("struct gcookie_turn", field) // ffi.sizeof("size_t")
    for field in (*_FIELDS, "failure_count")
]
_COUNTS = slice(_PLACES[0], _PLACES[-1] + 1)
(
    _MEMORY_AT,
    _EVENTS_AT,
    _MESSAGES_AT,
    _CLOSED_AT,
    _LETTERS_AT,
    _TEXT_AT,
    _OUTGOING_AT,
    _FORGOTTEN_AT,
    _FAILURES_AT,
) = (place - _PLACES[0] for place in _PLACES)


class Noted:
    """What a call gives, and what of its events, datagrams and failures was not taken over yet.

    Attributes:
        turn: the struct gcookie_turn, which has nothing to tell of at first; wiped when it is
            freed.
        rows: its events, four numbers for each, where they stood last.
        rows_at: the address of that place.
        letters: the messages, one behind the other, where they stood last.
        letters_at: the address of that place.
        text: the messages, copied.
        rest: the events that were not taken over: a connection, and where a message for it begins
            and ends in the text; or None, an event's place and numbers, and 0. None where nobody
            has looked yet.
        held: the one that is being taken over; None: none is.
        outgoing, failures: how many of these were taken over.
    """

    __slots__ = (
        "counts",
        "failures",
        "held",
        "letters",
        "letters_at",
        "outgoing",
        "rest",
        "rows",
        "rows_at",
        "text",
        "turn",
    )

    def __init__(self) -> None:
        turn = _new_turn(_TURN)
        lib.gcookie_turn_init(turn)
        self.turn = ffi.gc(turn, lib.gcookie_turn_clear)
        self.counts = memoryview(ffi.buffer(self.turn)).cast("P")[_COUNTS]
        self.rows_at = self.letters_at = 0
        self.rows = self.counts
        self.letters = b""
        self.text = b""
        self.rest: Iterator[_Part] | None = None
        self.held: _Part | None = None
        self.outgoing = 0
        self.failures = 0

    def look(self, counts: list[int]) -> None:
        """Set rows and letters, where something stands elsewhere than the last time."""
        if counts[_MEMORY_AT] != self.rows_at or counts[_EVENTS_AT] > len(self.rows) // 4:
            memory = ffi.buffer(self.turn.events, counts[_EVENTS_AT] * _EVENT_SIZE)
            self.rows_at, self.rows = counts[_MEMORY_AT], memoryview(memory).cast("q")
        if counts[_LETTERS_AT] != self.letters_at or counts[_TEXT_AT] > len(self.letters):
            self.letters_at = counts[_LETTERS_AT]
            self.letters = ffi.buffer(self.turn.text, counts[_TEXT_AT])

    def reset(self) -> None:
        """All was taken over: it may be used again."""
        lib.gcookie_turn_reset(self.turn)
        self.text = b""
        self.rest = None
        self.outgoing = self.failures = 0


class Turns:
    """The turns of one server that were not taken over yet, and what the others gave.

    Args:
        max_queue: messages that wait in a connection.
        max_queue_bytes: bytes of them; one message always has room.
        error_of: what the lookup of a failed handshake raised: of its number, and whether C knows
            that it did.
        server: the server in C: its box and the box's owner.

    Attributes:
        connections: those that are there, by their number in C.
        events, failures, forgotten, outgoing: what Server's methods of these names give.
        counters: messages that a full queue did not take are counted there, and the last error.
        noted: turns that were not taken over yet, in order.
    """

    def __init__(
        self,
        max_queue: int,
        max_queue_bytes: int,
        error_of: Callable[[int, int], Exception | None],
        server: tuple[Any, Any],
    ) -> None:
        self.connections: dict[int, Connection] = {}
        self.events: list[Event] = []
        self.failures: deque[HandshakeFailure] = deque(maxlen=_FAILURES_LIMIT)
        self.forgotten: set[SocketAddress] = set()
        self.outgoing: list[tuple[bytes, SocketAddress, str | None]] = []
        self.counters = ServerCounters()
        self._max_queue = max_queue
        self._max_queue_bytes = max_queue_bytes
        self._error_of = error_of
        self._mtu = 0  # of the last connection
        self.noted: dict[Noted, None] = {}
        # What a connection keeps while it is open: a turn that nobody took over may have its end,
        # and with it the hold on its session.
        self._server = (*server, self.noted)

    def new(self) -> Any:
        """What a call gives, noted; wiped when it is freed."""
        noted = Noted()
        self.noted[noted] = None
        return noted.turn

    def take_over(self, at_once: bool = False) -> None:
        """Take over all that calls gave, in order.

        Args:
            at_once: whether receivers get their messages at once: where no task runs that waits
                for one. Else those wait, as where there is no receiver.
        """
        for noted in [*self.noted]:
            state = lib.gcookie_turn_state(noted.turn)
            if state == _WORKING:  # another thread's, or around a lookup
                continue
            if state == _DONE:
                self._take(noted, at_once)
            self.noted.pop(noted, None)

    def take_over_one(self, noted: Noted, has_news: int) -> None:
        """The same at once, after the call that `noted` is of.

        Args:
            has_news: whether it gave anything but messages.
        """
        if has_news or len(self.noted) > 1:
            self.take_over(at_once=True)
            return
        counts = noted.counts.tolist()
        if counts[_EVENTS_AT] == 1:  # a lone message, as where little comes
            noted.look(counts)
            connection = self.connections.get(noted.rows[0])
            message = noted.letters[: counts[_TEXT_AT]]
            if (
                connection is not None
                and connection._first is None
                and (receiver := connection.receiver) is not None
                and noted.rest is None  # else a signal handler has called this server
                and noted in self.noted
            ):
                del self.noted[noted]
                receiver.on_message(message)
                return
        if counts[_EVENTS_AT]:
            self._take_events(noted, counts, at_once=True)
        self.noted.pop(noted, None)

    # --- helpers ----------------------------------------------------------------------------------

    def _take(self, noted: Noted, at_once: bool) -> None:
        counts = noted.counts.tolist()
        if counts[_EVENTS_AT]:
            self._take_events(noted, counts, at_once)
        if counts[_OUTGOING_AT]:
            self._take_outgoing(noted)
        if counts[_FORGOTTEN_AT]:
            turn = noted.turn
            for at in range(turn.forgotten_count):
                self.forgotten.add(address_text(ffi.addressof(turn.forgotten[at])))
        if counts[_FAILURES_AT]:
            self._take_failures(noted)

    def _take_events(self, noted: Noted, counts: list[int], at_once: bool) -> None:
        rest = noted.rest
        if rest is None:
            rest = self._read(noted, counts)
            if noted.rest is None:  # else a signal handler has called this server
                noted.rest = rest
            rest = noted.rest
        if noted.held is not None:
            self._take_held(noted, at_once)
        # A signal handler or a receiver may call this server, which then goes on with the rest.
        text = noted.text
        for connection, start, end in rest:
            if connection is not None and connection._first is None and at_once:
                if (passing := connection._passing) is not None:
                    try:
                        passing.protocol.message_received(text[start:end])
                    except BaseException as error:
                        passing.on_error(error)
                    continue
                if (receiver := connection.receiver) is not None:
                    receiver.on_message(text[start:end])
                    continue
            noted.held = connection, start, end  # before anything is called
            self._take_held(noted, at_once)

    def _read(self, noted: Noted, counts: list[int]) -> Iterator[_Part]:
        """The events of a turn, as of Noted.rest."""
        noted.look(counts)
        count, text_size, view = counts[_EVENTS_AT], counts[_TEXT_AT], noted.rows
        noted.text = noted.letters[:text_size]
        if count == counts[_MESSAGES_AT]:  # the usual turn
            # Each message begins where the last one ends.
            starts = view[3 : 4 * count : 4].tolist()
            connections = map(self.connections.get, view[: 4 * count : 4].tolist())
            return zip(connections, starts, [*starts[1:], text_size], strict=True)
        numbers = iter(view[: 4 * count].tolist())
        rows = [*zip(itertools.count(), numbers, numbers, numbers, numbers, strict=False)]
        if counts[_CLOSED_AT]:  # before a receiver takes a connection for open that is not
            for _, number, kind, _, _ in rows:
                if kind == _CLOSED and (connection := self.connections.get(number)) is not None:
                    connection._open = False
                    connection._most = 0
        return zip(itertools.repeat(None), rows, itertools.repeat(0), strict=False)

    def _take_held(self, noted: Noted, at_once: bool) -> None:
        """Take over the event that is held. One that there is no use for is left out."""
        held = noted.held
        if held is None:
            return
        connection, what, end = held
        if type(what) is int:
            if connection is None:  # the last message was answered by its end
                noted.held = None
            else:
                self._queue(noted, held, connection, noted.text[what:end])
            return
        at, number, kind, value, detail = what
        connection = self.connections.get(number)
        if kind == _CONNECTED:
            self._mtu = value = self._mtu if value == self._mtu else value  # one int for all
            connection = Connection(None, self._server, detail, number, value)
            connected = Connected(connection)
            if noted.held is held:
                self.connections[number] = connection
                self.events += (connected,)
                noted.held = None
        elif connection is None:  # there was no memory to tell of it
            noted.held = None
        elif kind == _CLOSED:
            hold = _hold_of(noted.turn, at)
            error = None
            if REASONS[value] is CloseReason.FAILED:
                wire = hold[0][0]
                error = session_failure(wire.error, wire.error_detail)
            closed = Closed(connection, REASONS[value], error)
            self._note(error)
            if noted.held is held:
                if number in self.connections:
                    del self.connections[number]
                    if connection._hold is None:
                        connection._hold = hold
                    connection._server = None  # after that: see its session
                    connection._open = False
                    connection._most = 0
                    connection._ready = None  # they hold one another
                    self.events += (closed,)
                noted.held = None
        else:
            message = noted.text[detail : detail + value]
            if connection._first is None and at_once and connection.receiver is not None:
                receiver = connection.receiver
                if noted.held is held:
                    noted.held = None
                    receiver.on_message(message)
            else:
                self._queue(noted, held, connection, message)

    def _queue(self, noted: Noted, held: _Part, connection: Connection, message: bytes) -> None:
        """Let a message wait, if it is the event that is held."""
        size, rest = len(message), connection._rest
        if connection._first is None:
            ready = connection._ready  # one for all of its messages
            if ready is None:
                ready = MessageReady(connection)
            if noted.held is held:
                connection._first = message
                connection._ready = ready
                self.events += (ready,)
                noted.held = None
            return
        waiting = 1 if rest is None else 1 + len(rest)
        waiting_bytes = len(connection._first) + connection._rest_bytes
        if waiting < self._max_queue and waiting_bytes + size <= self._max_queue_bytes:
            queue = deque() if rest is None else rest
            if noted.held is held:
                connection._rest = queue
                queue += (message,)
                connection._rest_bytes += size
                noted.held = None
        elif noted.held is held:
            self.counters.messages_dropped += 1
            noted.held = None

    def _take_outgoing(self, noted: Noted) -> None:
        turn = noted.turn
        for at in range(noted.outgoing, turn.outgoing_count):
            one = turn.outgoing[at]
            connection = self.connections.get(one.id)
            if connection is None:
                way = (
                    address_text(ffi.addressof(one.path, "address")),
                    source_text(ffi.addressof(one.path, "source")),
                )
            else:
                way = connection.address, connection.local
            datagram = (ffi.buffer(turn.seat.out + one.at, one.size)[:], *way)
            if noted.outgoing == at:
                self.outgoing += (datagram,)
                noted.outgoing = at + 1

    def _take_failures(self, noted: Noted) -> None:
        turn = noted.turn
        count = turn.failure_count
        for at in range(max(noted.failures, count - _FAILURES_LIMIT), count):
            one = turn.failures[at % _FAILURES_LIMIT]
            error = self._error_of(one.id, one.lookup_failed)
            if error is None and one.error and not one.lookup_failed:
                error = session_failure(one.error, one.error_detail)
            address = address_text(ffi.addressof(one, "address"))
            failure = HandshakeFailure(address, REASONS[one.reason], error)
            self._note(error)
            if noted.failures <= at:
                self.failures += (failure,)
                noted.failures = at + 1

    def _note(self, error: Exception | None) -> None:
        if error is None:
            return
        # Frames of ours would keep the session alive as long as the error; those of a lookup stay.
        trace = error.__traceback__
        while trace is not None and _is_ours(trace):
            trace = trace.tb_next
        error.__traceback__ = trace
        self.counters.last_error = error


def _hold_of(turn: Any, at: int) -> tuple[Any, Any]:
    """A hold on the session of a CLOSED event, as new_session() gives one."""
    box = ffi.new(_WIRE)
    owner = ffi.gc(box, lib.gcookie_wire_release)
    lib.gcookie_turn_hold_wire(turn, at, box)
    return box, owner


def _is_ours(trace: TracebackType) -> bool:
    return str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE
