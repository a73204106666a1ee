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
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import NoReturn

from .console import reason

__all__ = ["Signals", "Worker", "Workers"]

_log = logging.getLogger("gnutls_cookie")

_TRIES = 5  # to start a worker, in a row, before all is given up
_PATIENCE_SECONDS = 60.0  # without any worker that serves, before that, once all of them did
_BACKOFF_SECONDS, _BACKOFF_MAX_SECONDS = 0.1, 5.0  # before the second try; doubled for each
_BACKOFF_SERVED_SECONDS = 2.0  # the same for one that did serve
_LONG_SECONDS = 1.0  # who has lived so long has not died at once
_END_SECONDS = 15.0  # for workers to say goodbye; a handler has 5 of them
_READY = struct.Struct("=i")  # what a worker writes once it serves: its process id


class Signals:
    """Signals that came, and a descriptor that is readable when one has.

    asyncio's own way loses signals when many come at once: each is a byte in a socket, and those
    that find it full are gone. Here the byte only wakes, and a set remembers.

    Args:
        numbers: which ones. They are unblocked, and a handler of before is replaced for good.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._came: set[int] = set()
        self._waking, self._woken = socket.socketpair()
        self._waking.setblocking(False)
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        numbers = set(numbers)
        for number in numbers:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._woken.fileno()

    def take(self) -> set[int]:
        """Which signals came since the last time."""
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        came, self._came = self._came, set()
        return came

    def close(self) -> None:
        """Stop handling them; they do nothing from now on."""
        signal.set_wakeup_fd(-1)
        self._waking.close()
        self._woken.close()

    def _on_signal(self, number: int, _: object) -> None:
        self._came.add(number)


@dataclass
class Worker:
    """One of the processes, and those that take its place after it.

    Attributes:
        number: from 0.
        socket: what it serves; it outlives the process.
        pid: of the process; None while there is none.
        serves: whether it has said so.
        started: when it was started; time.monotonic().
        due: when it is to be started again.
        failures: how often in a row it died at once, or could not be started.
    """

    number: int
    socket: socket.socket
    pid: int | None = None
    serves: bool = False
    started: float = 0.0
    due: float = 0.0
    failures: int = 0


class Workers:
    """Starts a process for each socket and watches them until all have ended.

    A worker that dies is started again: at once, or later and later where it dies at once. Where
    one fails to start five times in a row, all are ended; once they served, only if none of them
    has served for a minute.

    Args:
        sockets: what they serve.
        serve: called in the new process, as serve(worker, lifeline, ready): returns its exit code.
            `lifeline` is a descriptor that is at its end once this process is gone; ready() is to
            be called when clients are served.
        reload: called here at SIGHUP; where it returns True, the workers are told too.
        announce: called once, when all workers serve.
    """

    def __init__(
        self,
        sockets: Iterable[socket.socket],
        serve: Callable[[Worker, int, Callable[[], None]], int],
        reload: Callable[[], bool],
        announce: Callable[[], None],
    ) -> None:
        self._workers = [Worker(number, sock) for number, sock in enumerate(sockets)]
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
            The exit code: 0 after a signal, 1 where workers could not be started or not be ended.
        """
        with closing(Signals(self._numbers)) as signals:
            self._watch(signals)
        for descriptor in self._lifeline, self._held, self._ready, self._say_ready:
            os.close(descriptor)
        return self._code

    def _watch(self, signals: Signals) -> None:
        self._start_due()
        while self._ending is None or any(worker.pid is not None for worker in self._workers):
            self._wait(signals)
            came = signals.take()
            if came & {signal.SIGTERM, signal.SIGINT}:
                self._end()
            if signal.SIGHUP in came and self._ending is None and self._reload():
                self._tell(signal.SIGHUP)
            self._note_ready()
            self._reap()
            self._start_due()
            if self._ending is not None and time.monotonic() >= self._ending:
                self._kill()

    def watch_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back when a descriptor can be written to."""
        self._writers[descriptor] = callback

    def unwatch_writer(self, descriptor: int) -> None:
        """Do so no longer."""
        self._writers.pop(descriptor, None)

    # --- one turn ---------------------------------------------------------------------------------

    def _wait(self, signals: Signals) -> None:
        """Until a signal comes, a worker serves, an output is read, or something is due."""
        if self._ending is not None:
            times = [self._ending]
        else:
            times = [worker.due for worker in self._workers if worker.pid is None]
        due = min(times, default=math.inf)
        wait = None if due == math.inf else max(0, int((due - time.monotonic()) * 1000)) + 1
        poll = select.poll()
        poll.register(signals.fileno(), select.POLLIN)
        poll.register(self._ready, select.POLLIN)
        for descriptor in self._writers:
            poll.register(descriptor, select.POLLOUT)
        for descriptor, _ in poll.poll(wait):
            callback = self._writers.get(descriptor)
            if callback is not None:
                callback()

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
        if pids:
            self._last_served = time.monotonic()

    def _reap(self) -> None:
        """See who has ended. Other children there may be too: of who became this process."""
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
        if served:
            self._last_served = time.monotonic()
        if self._ending is not None:
            if code != 0:
                _log.warning("worker %d ended (%s)", worker.number, _how(code))
                self._code = 1
            return
        long = time.monotonic() - worker.started >= _LONG_SECONDS
        if served and long:
            worker.failures = 0
        # One that was ended is missed, however young. One that failed at once is no better than one
        # that never served.
        self._retry(worker, f"ended ({_how(code)})", good=served and (long or code <= 0))

    def _retry(self, worker: Worker, what: str, *, good: bool) -> None:
        """Have a worker started again, or give up."""
        now = time.monotonic()
        if self._announced and any(one.serves for one in self._workers):
            self._last_served = now
        hopeless = not self._announced or now - self._last_served >= _PATIENCE_SECONDS
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
        # No signal may come to the child before it has handlers of its own: what comes to it until
        # then waits, and what comes to this process is told to the child afterwards.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)
            self._retry(worker, f"cannot be started ({reason(error)})", good=False)
            return
        if pid == 0:
            self._become(worker)
        worker.pid, worker.started = pid, time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)

    def _become(self, worker: Worker) -> NoReturn:
        """Be the worker: serve, and end this process."""
        code = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._held)
            os.close(self._ready)
            for other in self._workers:
                if other is not worker:
                    other.socket.close()

            def ready() -> None:
                os.write(self._say_ready, _READY.pack(os.getpid()))
                os.close(self._say_ready)

            code = self._serve(worker, self._lifeline, ready)
        finally:
            os._exit(code)

    # --- to the end -------------------------------------------------------------------------------

    def _end(self) -> None:
        """Have all workers end."""
        if self._ending is None:
            self._ending = time.monotonic() + _END_SECONDS
        self._tell(signal.SIGTERM)

    def _kill(self) -> None:
        """End those that take no notice of SIGTERM: stopped ones, say."""
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
