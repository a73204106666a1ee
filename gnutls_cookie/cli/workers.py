"""Processes that serve, and the one that watches them: started, started again, told, ended."""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import NoReturn

from .board import Board
from .console import reason
from .listening import Listening
from .systemd import Notifier

__all__ = ["Companion", "Reporter", "Signals", "Worker", "Workers"]

_log = logging.getLogger("gnutls_cookie")

_TRIES = 5  # failed starts of one worker in a row after which the server gives up
_NONE_SERVES_SECONDS = 60.0  # it does not give up earlier than this after the last worker served
_BACKOFF_SECONDS, _BACKOFF_MAX_SECONDS = 0.1, 5.0  # before the second start; doubled each time
_BACKOFF_SERVED_SECONDS = 2.0  # upper limit for a worker that had served
_AT_ONCE_SECONDS = 1.0  # a worker that ends earlier than this has failed at its start
_END_SECONDS = 15.0  # for workers to end after SIGTERM; a handler has 5 of them
_READY = struct.Struct("=i")  # the process id, which a worker writes once it serves


class Signals:
    """Signals that have arrived, and a descriptor that becomes readable when one does.

    asyncio loses signals when many arrive at once: each is a byte in a socket, and is dropped when
    the socket is full. Here the byte only wakes the loop; a set holds the signals.

    Args:
        numbers: the signals. They are unblocked, and their handlers are replaced for good.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._came: set[int] = set()
        self._waking, self._woken = socket.socketpair()
        self._waking.setblocking(False)
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        self._numbers = set(numbers)
        for number in self._numbers:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._woken.fileno()

    def take(self) -> set[int]:
        """The signals that have arrived since the last call."""
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        came, self._came = self._came, set()
        return came

    def close(self) -> None:
        """Stop handling them; they do nothing from now on.

        A handler in Python would not do: the interpreter's end puts SIG_DFL in its place.
        """
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        self._waking.close()
        self._woken.close()

    def _on_signal(self, number: int, _: object) -> None:
        self._came.add(number)


@dataclass
class Worker:
    """A worker process, and the processes that replace it.

    Attributes:
        number: from 0.
        socket: the sockets that it serves; they outlive the process.
        pid: of the process; None while there is none.
        serves: whether it has reported that it serves.
        started: when it was started; time.monotonic().
        due: when it is to be started again.
        failures: how often in a row it ended at its start, or could not be started.
        restarts: how often its process was replaced.
    """

    number: int
    socket: Listening
    pid: int | None = None
    serves: bool = False
    started: float = 0.0
    due: float = 0.0
    failures: int = 0
    restarts: int = 0


class Companion:
    """What the watching process does beside watching; it must not wait."""

    def events(self) -> dict[int, int]:
        """Descriptors, and what poll(2) is asked of each."""
        return {}

    def due(self) -> float:
        """When turn() is to be called at the latest; time.monotonic()."""
        return math.inf

    def turn(self, ready: dict[int, int]) -> None:
        """Do what is due, and what poll(2) said of descriptors."""

    def on_start(self, worker: Worker) -> None:
        """The process of a worker begins."""

    def on_end(self, worker: Worker) -> None:
        """The process of a worker has ended."""

    def close(self) -> None:
        """Close its descriptors: at the end, and in each worker."""


class Reporter:
    """Tells the watching process how a worker is, in the place of a Notifier.

    Attributes:
        watchdog_seconds: the worker counts as stuck if watchdog() is not called for half of it;
            None: it does not.
    """

    def __init__(
        self, board: Board, row: int, descriptor: int, watchdog_seconds: float | None
    ) -> None:
        self._board = board
        self._row = row
        self._descriptor = descriptor
        self._asked: int | None = None
        self.watchdog_seconds = watchdog_seconds

    def ready(self, _status: str) -> None:
        """It serves, for the first time or after reloading()."""
        if self._asked is not None:
            self._board.note_read(self._row, self._asked)
        with suppress(OSError):  # the other process has gone: the lifeline says so
            os.write(self._descriptor, _READY.pack(os.getpid()))

    def reloading(self) -> None:
        """It reads its files again; ready() says that this is done."""
        self._asked = self._board.asked

    def stopping(self) -> None:
        """It has begun to end."""

    def watchdog(self) -> None:
        """It is alive."""
        self._board.beat(self._row)


class Workers:
    """Starts a process for each socket and watches them until all have ended.

    A worker that dies is started again at once, or after a growing delay if it dies at its start.
    If one fails to start five times in a row, all are ended; once all have served, only if none
    has served for a minute.

    Args:
        sockets: those of each worker.
        serve: called in the new process as serve(worker, lifeline, reporter); returns its exit
            code. `lifeline` is a descriptor that is at end of file once this process is gone.
        reload: called in this process at SIGHUP; if it returns True, SIGHUP goes to the workers.
        announce: called once, when all workers serve.
        notifier: tells the service manager.
        board: a row for each worker.
        companions: what this process does besides.
    """

    def __init__(
        self,
        sockets: Iterable[Listening],
        serve: Callable[[Worker, int, Reporter], int],
        reload: Callable[[], bool],
        announce: Callable[[], None],
        notifier: Notifier | None = None,
        board: Board | None = None,
        companions: Sequence[Companion] = (),
    ) -> None:
        self._workers = [Worker(number, sock) for number, sock in enumerate(sockets)]
        self._notifier = Notifier({}) if notifier is None else notifier
        self._board = Board(len(self._workers)) if board is None else board
        self._companions = companions
        self._status = ""  # as the service manager was told
        self._reloading = False  # it was told, and waits for the end of that
        self._watchdog_due = math.inf
        self._stuck = False
        self._serve = serve
        self._reload = reload
        self._announce = announce
        self._announced = False
        self._last_served = 0.0  # when one was last known to serve; time.monotonic()
        self._ending: float | None = None  # when what has not ended is killed
        self._code = 0
        self._numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
        self._writers: dict[int, Callable[[], None]] = {}
        self._lifeline, self._held = os.pipe()
        self._ready, self._say_ready = os.pipe()
        os.set_blocking(self._ready, False)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT.

        Returns:
            The exit code: 0 after a signal, 1 if workers could not be started or ended.
        """
        with closing(Signals(self._numbers)) as signals:
            self._watch(signals)
        for descriptor in self._lifeline, self._held, self._ready, self._say_ready:
            os.close(descriptor)
        for one in self._companions:
            one.close()
        return self._code

    def _watch(self, signals: Signals) -> None:
        self._start_due()
        while self._ending is None or any(worker.pid is not None for worker in self._workers):
            ready = self._wait(signals)
            came = signals.take()
            if came & {signal.SIGTERM, signal.SIGINT}:
                self._end()
            if signal.SIGHUP in came and self._ending is None:
                self._read_again()
            self._note_ready()
            self._reap()
            self._start_due()
            for one in self._companions:
                one.turn(ready)
            self._notify()
            if self._ending is not None and time.monotonic() >= self._ending:
                self._kill()

    def watch_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back when a descriptor can be written to."""
        self._writers[descriptor] = callback

    def unwatch_writer(self, descriptor: int) -> None:
        """Do so no longer."""
        self._writers.pop(descriptor, None)

    # --- one turn ---------------------------------------------------------------------------------

    def _wait(self, signals: Signals) -> dict[int, int]:
        """Wait for a signal, a worker that serves, an output that is read, or the next timer.
        Returns what poll(2) said of descriptors."""
        if self._ending is not None:
            times = [self._ending]
        else:
            times = [worker.due for worker in self._workers if worker.pid is None]
        times += [one.due() for one in self._companions]
        due = min(times, default=math.inf)
        due = min(due, self._watchdog_due)
        wait = None if due == math.inf else max(0, int((due - time.monotonic()) * 1000)) + 1
        poll = select.poll()
        poll.register(signals.fileno(), select.POLLIN)
        poll.register(self._ready, select.POLLIN)
        for descriptor in self._writers:
            poll.register(descriptor, select.POLLOUT)
        for one in self._companions:
            for descriptor, events in one.events().items():
                poll.register(descriptor, events)
        ready = dict(poll.poll(wait))
        for descriptor in ready:
            callback = self._writers.get(descriptor)
            if callback is not None:
                callback()
        return ready

    def _read_again(self) -> None:
        """SIGHUP: have everything read again, here and in the workers."""
        if self._announced:
            self._notifier.reloading()
            self._reloading = True
        if self._reload():
            self._board.ask()
            self._tell(signal.SIGHUP)

    def _notify(self) -> None:
        """Tell the service manager what has changed, and that all are alive."""
        if not self._announced:
            return
        now = time.monotonic()
        if self._ending is None:
            serving = sum(worker.serves for worker in self._workers)
            status = f"{serving} of {len(self._workers)} workers serve"
            if self._reloading and all(
                worker.pid is None or self._board.has_read(worker.number)
                for worker in self._workers
            ):
                self._reloading = False
                self._notifier.ready(status)
            elif status != self._status:
                self._notifier.status(status)
            self._status = status
        if now >= self._watchdog_due:
            assert self._notifier.watchdog_seconds is not None
            half = self._notifier.watchdog_seconds / 2
            self._watchdog_due = now + half
            if self._all_turn(half):
                self._notifier.watchdog()

    def _all_turn(self, seconds: float) -> bool:
        """Whether no worker is stuck. One that is being replaced is not, while others serve."""
        stuck = [
            worker.number
            for worker in self._workers
            if worker.pid is not None and self._board.silent_seconds(worker.number) > seconds
        ]
        if stuck and not self._stuck:
            _log.error("worker %d is stuck: the service manager's watchdog is not told", stuck[0])
        self._stuck = bool(stuck)
        return not stuck and any(worker.pid is not None for worker in self._workers)

    def _note_ready(self) -> None:
        try:
            said = os.read(self._ready, 4096 * _READY.size)
        except BlockingIOError:
            return
        pids = {pid for (pid,) in _READY.iter_unpack(said)}
        for worker in self._workers:
            worker.serves |= worker.pid in pids
        if not self._announced and all(worker.serves for worker in self._workers):
            self._announced = True
            self._announce()
            self._status = f"{len(self._workers)} of {len(self._workers)} workers serve"
            self._notifier.ready(self._status)
            if self._notifier.watchdog_seconds is not None:
                self._watchdog_due = 0.0
        if pids:
            self._last_served = time.monotonic()

    def _reap(self) -> None:
        """Collect ended workers. There may be other children: those of the program before exec."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for worker in self._workers:
                if worker.pid == pid:
                    self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: Worker, code: int) -> None:
        served, worker.pid, worker.serves = worker.serves, None, False
        for one in self._companions:
            one.on_end(worker)
        if served:
            self._last_served = time.monotonic()
        if self._ending is not None:
            if code != 0:
                _log.warning("worker %d ended (%s)", worker.number, _how(code))
                self._code = 1
            return
        long = time.monotonic() - worker.started >= _AT_ONCE_SECONDS
        if served and long:
            worker.failures = 0
        # A worker that a signal ended is replaced at once, however young. One that failed at its
        # start counts as one that never served.
        self._retry(worker, f"ended ({_how(code)})", good=served and (long or code <= 0))

    def _retry(self, worker: Worker, what: str, *, good: bool) -> None:
        """Schedule the next start of a worker, or give up."""
        now = time.monotonic()
        if self._announced and any(one.serves for one in self._workers):
            self._last_served = now
        hopeless = not self._announced or now - self._last_served >= _NONE_SERVES_SECONDS
        if not good and worker.failures + 1 >= _TRIES and hopeless:
            tries = worker.failures + 1
            _log.error("worker %d %s, %d times in a row", worker.number, what, tries)
            self._code = 1
            self._end()
            return
        seconds = 0.0
        if worker.failures or not good:
            most = _BACKOFF_SERVED_SECONDS if good else _BACKOFF_MAX_SECONDS
            seconds = min(most, _BACKOFF_SECONDS * 2.0 ** min(worker.failures, 16))
        worker.failures += 1
        worker.due = now + seconds
        when = f" in {seconds:.1f} s" if seconds else ""
        _log.warning("worker %d %s, and is started again%s", worker.number, what, when)

    def _start_due(self) -> None:
        for worker in self._workers:
            if self._ending is None and worker.pid is None and worker.due <= time.monotonic():
                self._start(worker)

    def _start(self, worker: Worker) -> None:
        # No signal may reach the child before it has handlers of its own: they stay pending until
        # then, and what this process receives is passed on to the child afterwards.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        self._board.start(worker.number)
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)
            self._retry(worker, f"cannot be started ({reason(error)})", good=False)
            return
        if pid == 0:
            self._become(worker)
        worker.restarts += worker.started > 0
        worker.pid, worker.started = pid, time.monotonic()
        for one in self._companions:
            one.on_start(worker)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)

    def _become(self, worker: Worker) -> NoReturn:
        """Be the worker: serve, and end this process."""
        code = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._held)
            os.close(self._ready)
            self._notifier.close()
            for one in self._companions:
                one.close()
            for other in self._workers:
                if other is not worker:
                    other.socket.close()
            seconds = self._notifier.watchdog_seconds
            reporter = Reporter(self._board, worker.number, self._say_ready, seconds)
            code = self._serve(worker, self._lifeline, reporter)
        finally:
            os._exit(code)

    # --- to the end -------------------------------------------------------------------------------

    def _end(self) -> None:
        """Have all workers end."""
        if self._ending is None:
            self._ending = time.monotonic() + _END_SECONDS
            self._notifier.stopping()
        self._tell(signal.SIGTERM)

    def _kill(self) -> None:
        """Kill the workers that ignore SIGTERM: stopped ones, for example."""
        for worker in self._workers:
            if worker.pid is not None:
                _log.error("worker %d does not end, and is killed", worker.number)
        self._tell(signal.SIGKILL)
        self._code = 1
        self._ending = math.inf

    def _tell(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid is not None:
                os.kill(worker.pid, number)


def _how(code: int) -> str:
    """How a process ended, from os.waitstatus_to_exitcode()."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
