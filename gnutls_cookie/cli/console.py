"""What the commands share at the terminal: lines that never wait for their reader, one line for
what is wrong, and the three standard files where some are closed."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import select
import signal
import socket
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from gnutls_cookie import debug_log

__all__ = [
    "LineHandler",
    "Output",
    "complain",
    "debug_logging",
    "default_sigint",
    "end_by",
    "is_stream",
    "log_to",
    "one_line",
    "open_standard_files",
    "print_out",
    "reason",
]

_KEPT_BYTES = 1 << 18  # buffered for a slow reader; further lines are dropped
_DRAIN_SECONDS = 1.0
# Errors that may go away (a full disk); all others are final.
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EINTR}
_ATOMIC_BYTES = 512  # POSIX's minimum of PIPE_BUF: a write that does not block once poll() is ready


def open_standard_files() -> None:
    """Open /dev/null in the place of standard files that are closed.

    Otherwise the next socket or key file gets the number 0, 1 or 2, and is taken for a standard
    file. sys.stdin, sys.stdout and sys.stderr stay None, which says that they were closed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one


def one_line(text: str) -> str:
    """A text with line breaks and other control characters escaped, fit for a terminal."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text
    )


def reason(error: BaseException) -> str:
    """What an exception says, in one line; of an OSError without its number."""
    if isinstance(error, OSError) and error.strerror is not None:
        what = error.strerror
        name = error.filename
        if isinstance(name, bytes):
            name = os.fsdecode(name)
        return one_line(f"{name}: {what}" if name is not None else what)
    if isinstance(error, MemoryError):
        return "no memory"
    # getaddrinfo() begins by the codec idna, whose error had no `encoding` before Python 3.14.
    if isinstance(error, UnicodeError) and getattr(error, "encoding", "idna") == "idna":
        return "no name of a host has such a label (RFC 1035)"
    return one_line(str(error)) or type(error).__name__


def default_sigint() -> Any:
    """Have Ctrl-C end this process at once, unless it is ignored; returns the former handler."""
    former = signal.getsignal(signal.SIGINT)
    if former is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return former


def end_by(number: signal.Signals) -> NoReturn:
    """End this process by a signal, as one that does not handle it: its caller sees which."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def complain(program: str, text: str) -> None:
    """Print one line on stderr that says why a command fails; waits at most a second.

    Args:
        program: "gnutls-cookie serve", say.
        text: what is wrong.
    """
    line = f"{program}: {one_line(text)}\n"
    if sys.stderr is None:
        return
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    try:
        own = sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
        own = False
    if not own:  # sys.stderr was replaced
        with suppress(OSError, ValueError):
            print(line, end="", file=sys.stderr, flush=True)
        return
    output = Output(2)
    output.write(line)
    output.close()


def print_out(text: str) -> None:
    """Print what a command is there for; main() says in one line where that fails.

    Raises:
        OSError: stdout is closed, or cannot be written.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed")
    print(text, flush=True)


def is_stream(path: Path) -> bool:
    """Whether a file is a pipe or a device, whose reader sees all that is written."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


class Output:
    """Writes lines to a descriptor without waiting for its reader.

    Lines that cannot be written at once are buffered, up to 256 KiB; further lines are dropped, and
    so is all output once the reader is gone. Nothing is raised.

    Args:
        descriptor: where to write; None for nowhere.

    Attributes:
        dropped: lines that were dropped.
        failed: the last error of writing; None where there was none.
        as_json: whether lines of the log are JSON, an object a line.
    """

    def __init__(self, descriptor: int | None) -> None:
        self.as_json = False
        self.dropped = 0
        self.failed: OSError | None = None
        self._lines: deque[bytes] = deque()
        self._kept = 0  # bytes in them
        self._blocked = False
        self._own: int | None = None  # a descriptor made here
        self._socket: socket.socket | None = None
        self._descriptor = descriptor
        self._watched = False
        self._watch: Callable[[int, Callable[[], None]], object] | None = None
        self._unwatch: Callable[[int], object] | None = None
        if descriptor is None:
            return
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            self._descriptor = None
            return
        self._waits = not stat.S_ISREG(mode)
        if stat.S_ISSOCK(mode):  # the journal of systemd, for one
            self._socket = socket.socket(fileno=os.dup(descriptor))
            self._descriptor = self._socket.fileno()
        elif self._waits:
            # O_NONBLOCK on the descriptor itself would affect all that share it, such as the shell.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            with suppress(OSError):
                self._own = os.open(f"/proc/self/fd/{descriptor}", flags)
                self._descriptor = self._own

    def write(self, text: str) -> None:
        """Write one or more lines; each ends with a line break."""
        if self._descriptor is None:
            return
        line = text.encode("utf-8", "backslashreplace")
        if self._kept + len(line) > _KEPT_BYTES:
            self.dropped += 1
            return
        self._lines.append(line)
        self._kept += len(line)
        self.flush()

    def flush(self) -> None:
        """Write buffered lines, as far as the reader takes them."""
        self._blocked = False
        while self._lines and self._descriptor is not None:
            line = self._lines.popleft()
            self._kept -= len(line)
            rest = line
            try:
                rest = line[self._put(line) :]
            except BlockingIOError:
                self._blocked = True
            except OSError as error:
                self.failed = error
                if error.errno not in _PASSING:
                    self.dropped += 1 + len(self._lines)
                    self._lines.clear()
                    self._kept = 0
                    break
            if rest:
                self._lines.appendleft(rest)
                self._kept += len(rest)
                if len(rest) == len(line):
                    break
        self._set_watch(self._blocked)

    def close(self) -> None:
        """Wait at most a second for buffered lines to be written; later lines are dropped."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        self.flush()
        while self._blocked and self._descriptor is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._poll(left)
            self.flush()
        self._set_watch(False)
        self._descriptor = None
        if self._socket is not None:
            self._socket.close()
        if self._own is not None:
            os.close(self._own)
            self._own = None

    def watch_with(
        self,
        watch: Callable[[int, Callable[[], None]], object],
        unwatch: Callable[[int], object],
    ) -> None:
        """Use an event loop's add_writer() and remove_writer() to wait for the reader."""
        self._watch, self._unwatch, self._watched = watch, unwatch, False
        self.flush()

    def forget(self) -> None:
        """Drop buffered lines, after a fork: the other process has them too."""
        self._lines.clear()
        self._kept = 0
        self._watch = self._unwatch = None

    def _set_watch(self, wanted: bool) -> None:
        descriptor = self._descriptor
        if descriptor is None or self._watch is None or self._unwatch is None:
            return
        if wanted == self._watched:
            return
        self._watched = wanted
        with suppress(OSError, RuntimeError):  # not watchable, or the loop is closed
            if wanted:
                self._watch(descriptor, self.flush)
            else:
                self._unwatch(descriptor)

    def _put(self, line: bytes) -> int:
        assert self._descriptor is not None
        if self._socket is not None:
            return self._socket.send(line, socket.MSG_DONTWAIT)
        if self._own is None and self._waits:
            if not self._poll(0):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            line = line[:_ATOMIC_BYTES]
        return os.write(self._descriptor, line)

    def _poll(self, seconds: float) -> bool:
        assert self._descriptor is not None
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))


def log_to(output: Output, level: int, tracebacks: bool) -> None:
    """Have the process's log go to `output`, a line a record."""
    logging.basicConfig(level=level, handlers=[LineHandler(output, tracebacks)])


@contextmanager
def debug_logging(
    level: int, output: Output, on_loop: Callable[..., object] | None = None
) -> Iterator[None]:
    """Have libgnutls' messages go to the log for a with block.

    Args:
        level: up to which; 0: none.
        output: where they go.
        on_loop: calls a function in the thread whose output it is, since a thread of its own gives
            the messages; None: any may write.
    """
    if level == 0:
        yield
        return
    logger, handler = logging.getLogger("gnutls_cookie.gnutls"), LineHandler(output, False)
    if on_loop is not None:
        handler = _HandlerOnLoop(output, on_loop)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    debug_log(level)
    try:
        yield
    finally:
        debug_log(0)
        logger.removeHandler(handler)


class LineHandler(logging.Handler):
    """A record of the log as one line; of an exception its traceback too, if that is wanted."""

    def __init__(self, output: Output, tracebacks: bool) -> None:
        super().__init__()
        self._output = output
        self._tracebacks = tracebacks

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError) as error:  # arguments that do not fit
            text = f"{record.msg!r}: {error}"
        raised = record.exc_info[1] if record.exc_info else None
        if raised is not None:
            text = f"{text}: {type(raised).__name__}: {reason(raised)}"
        trace = ""
        if raised is not None and self._tracebacks and record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info) + "\n"
        if self._output.as_json:
            said = {"time": record.created, "level": record.levelname, "message": text}
            self._output.write(json.dumps(said | ({"traceback": trace} if trace else {})) + "\n")
        else:
            self._output.write(f"{record.levelname} {one_line(text)}\n{trace}")


class _HandlerOnLoop(LineHandler):
    """The same for records of another thread than the one whose output it is."""

    def __init__(self, output: Output, on_loop: Callable[..., object]) -> None:
        super().__init__(output, False)
        self._on_loop = on_loop

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written."""
        with suppress(RuntimeError):  # the loop is closed
            self._on_loop(super().emit, record)
