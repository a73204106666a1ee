"""The bench's side of a target's process: starts it, asks it, sees it end or hang, and ends it.

A Warden (warden.py) starts the target and ends it with all that has come of it. A Batched target is
one in Python, which answers many cases at a time (runner.py).
"""

from __future__ import annotations

import ast
import contextlib
import json
import marshal
import math
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gnutls_cookie._check import integer, seconds

from . import warden
from .cases import VECTOR_OPERATIONS, Case
from .outcomes import Outcome, Target, Unusable, one_line
from .runner import COUNT, FIRST_ANSWER, LENGTH, SIZE, SOCKET_GONE, run_target

__all__ = ["Batched", "Forked", "Warden", "forked_warden", "module_warden", "program_warden"]

_READY_SECONDS = 60.0  # for an interpreter to start, on a machine that has much to do
_ORDER_SECONDS = 10.0  # for the warden to do as it is told; killing takes it 5 at most
_STATUS_SECONDS = 1.0  # for the word of how a target ended, once its socket is closed
_HELLO_SIZE_MAX = 1 << 16
_PART_SECONDS = 0.25  # after which the bench looks at the answers that there are

TIMEOUT_MIN_SECONDS, TIMEOUT_MAX_SECONDS = 0.001, 86400.0
MEMORY_MAX_MIB = 1 << 20
_NOT_OURS: Outcome = ("wrong", "it wrote into the memory of the bench")

# A module of the user's stands where he does, but does not shadow ours or those of Python.
_START_MODULE = """
import json, sys
control, memory, text, ours, theirs, verbose, guided = json.loads(sys.argv[1])
sys.path[:] = ours
from gnutls_cookie.differential.runner import main
main(control, memory, text, theirs, verbose, guided)
"""

#: Ends of control sockets, which no other child of the bench may hold open.
_OPEN: weakref.WeakSet[socket.socket] = weakref.WeakSet()


class Warden:
    """The process between the bench and a target.

    Args:
        start: makes the process, with its end of the control socket; gives its pid.
    """

    def __init__(self, start: Callable[[socket.socket], int]) -> None:
        ours, theirs = socket.socketpair()
        _OPEN.add(ours)
        try:
            with theirs:
                pid = start(theirs)
        except BaseException:
            ours.close()
            raise
        self._control = ours
        self._rest = b""
        self._ended: str | None = None
        self.close = weakref.finalize(self, _let_go, ours, pid, os.getpid())
        try:
            if self._answer(_READY_SECONDS) != "ready":
                raise Unusable("cannot start a process for the target")
        except BaseException:
            self.close()
            raise

    def start(self, *descriptors: int) -> int:
        """Start the target anew, where it is running still too; 0 or what errno was."""
        try:
            socket.send_fds(self._control, [b"start\n"], descriptors)
            answer = self._answer(_ORDER_SECONDS)
        except OSError:
            answer = ""
        word, _, number = answer.partition(" ")
        if word not in ("started", "error"):
            self.close()
            raise Unusable("the process that watches over the target is gone")
        self._ended = None  # what was told before was about the one before
        return int(number) if number else 0

    def kill(self) -> None:
        """End the target and all that has come of it."""
        try:
            self._control.sendall(b"kill\n")
            if self._answer(_ORDER_SECONDS) == "killed":
                return
        except OSError:
            pass
        except BaseException:
            self.close()
            raise
        self.close()

    @property
    def alive(self) -> bool:
        """Whether it can be told anything."""
        return bool(self.close.alive)

    def ended(self, wait: float = _STATUS_SECONDS) -> str:
        """How the target has ended; "" where it has not, nor does in the seconds of `wait`."""
        if self._ended is None:
            try:
                self._answer(wait, until_ended=True)
            except OSError:
                return "the process that watches over it was killed"
        return self._ended or ""

    def _answer(self, seconds: float, until_ended: bool = False) -> str:
        """The next line that is not about the end of the target; "" where none comes in time."""
        deadline = time.monotonic() + seconds
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                word, _, number = line.decode().partition(" ")
                if word != "ended":
                    return line.decode()
                self._ended = _how(int(number))
            if until_ended and self._ended is not None:
                return ""
            left = deadline - time.monotonic()
            if left <= 0 or not _readable(self._control, left):
                return ""
            received = self._control.recv(4096)
            if not received:
                raise ConnectionResetError
            self._rest += received


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _let_go(control: socket.socket, pid: int, owner: int) -> None:
    """Close the control socket, which ends everything, and see to it that it does."""
    control.close()
    if os.getpid() != owner:
        return
    deadline = time.monotonic() + _ORDER_SECONDS
    try:
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
    except (ChildProcessError, ProcessLookupError):
        pass


def program_warden(words: list[str], memory_mib: int) -> Warden:
    """A warden of a program; what it starts takes stdin and stdout."""

    def start(control: socket.socket) -> int:
        script = str(Path(warden.__file__).resolve())
        return _spawned(
            ["-I", "-S", script, str(control.fileno()), str(memory_mib), *words], control
        )

    return Warden(start)


def module_warden(text: str, memory_mib: int, verbose: bool, guided: bool) -> Warden:
    """A warden of a module; what it starts takes a socket and shared memory."""

    def start(control: socket.socket) -> int:
        ours = [os.fsdecode(one) for one in sys.path]
        theirs = ours.copy()
        with contextlib.suppress(OSError):  # a folder that has been removed
            cwd = os.getcwd()
            if cwd not in theirs and "" not in theirs:
                theirs.insert(0, cwd)
        given = json.dumps([control.fileno(), memory_mib, text, ours, theirs, verbose, guided])
        return _spawned(["-P", "-c", _START_MODULE, given], control)

    return Warden(start)


def _spawned(arguments: list[str], control: socket.socket) -> int:
    if not sys.executable:
        raise Unusable("sys.executable does not say where Python is")
    try:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[control.fileno()],
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise Unusable(f"cannot start a process for the target: {error}") from None
    process.returncode = 0  # _let_go() waits for it, and nobody else
    return process.pid


def forked_warden(target: Target, guided: bool) -> Warden:
    """A warden of an object of this process, in a fork of it."""

    def start(control: socket.socket) -> int:
        with warnings.catch_warnings():
            # From 3.12 on a fork beside threads is warned of, and pytest-xdist has some. A child
            # that waits for a lock of theirs is a target that hangs, and is told as such.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                for one in list(_OPEN):
                    one.close()
                warden.serve(control, run_target(lambda: target, guided=guided))
            finally:
                os._exit(70)
        return pid

    return Warden(start)


def check_limits(timeout: float, memory: int = 0) -> None:
    """What a target may take: seconds, and MiB of address space.

    Raises:
        TypeError, ValueError: one is of another type, or out of range.
    """
    seconds("timeout", timeout, TIMEOUT_MIN_SECONDS, TIMEOUT_MAX_SECONDS)
    integer("memory", memory, 0, MEMORY_MAX_MIB)


class Batched:
    """A target in Python, in a process of its own, asked for many cases at a time.

    Args:
        make: makes its warden; the argument is whether what the target reaches is to be told.
        timeout: seconds for one case, and for the start; 0.001 to 86400.

    Raises:
        Unusable: it does not start.
        TypeError, ValueError: the timeout is of another type, or out of range.
    """

    def __init__(self, make: Callable[[bool], Warden], timeout: float) -> None:
        check_limits(timeout)
        self.name = ""
        self.timeout = timeout
        self.settle = 0.0  # as of ExecTarget: there cannot be two answers here
        self.operations: tuple[str, ...] = ()
        self.one_key = False
        self._make = make
        self._warden: Warden | None = None
        self._channel: socket.socket | None = None
        self._memory = _shared_memory()
        self._shared = mmap.mmap(self._memory, SIZE)
        self._asked = self._given = (
            0  # cases of the batch, and answers that were given to the bench
        )
        self._at = FIRST_ANSWER  # where the next one stands
        self._failed: Outcome | None = None
        self._busy = False
        self._moved = (
            0,
            0.0,
        )  # how many answers there were when one was last seen to come, and when
        self.fresh = False
        self._guided = False
        #: What cases have reached that nothing in this process had before, by their number in the
        #: batch; the reader takes it out.
        self.news: dict[int, bytes] = {}

    def guide(self) -> None:
        """Have the target tell what it reaches, from its next start on."""
        if not self._guided:
            self._guided = True
            self.close()

    @property
    def running(self) -> bool:
        """Whether there is a process that remembers what it was asked."""
        return self._channel is not None

    @property
    def busy(self) -> bool:
        """Whether it works on cases that it was asked for: collect() has more answers to give."""
        return self._busy

    def renew(self) -> None:
        """Start the target anew: what comes next is the first that it is asked."""
        if not self.fresh:
            self._start()

    def post(self, batch: Sequence[Case]) -> None:
        """Ask for cases; it works on them while the bench does other things."""
        if self._channel is None or self._busy:
            self._start()
        assert self._channel is not None
        self.fresh = False
        self._asked, self._given, self._at = len(batch), 0, FIRST_ANSWER
        self._failed = None
        self.news.clear()
        self._busy = True
        self._moved = (0, time.monotonic())
        COUNT.pack_into(self._shared, 0, 0)
        data = marshal.dumps([tuple(case) for case in batch])
        self._channel.settimeout(self.timeout)
        try:
            self._channel.sendall(LENGTH.pack(len(data)) + data)
        except TimeoutError:
            self._failed = ("hangs", f"read no case in {self.timeout:g} s")
        except OSError:
            self._failed = self._death()
        except BaseException:
            self.close()  # a part of it may be on its way
            raise

    def collect(self, expected: Sequence[Outcome]) -> list[Outcome]:
        """The answers to the next of the cases asked for, as many as there are after a while.

        There is one at least. The last may be ("died", how) or ("hangs", how): then the process has
        ended. Where it is not busy() then, it has not answered the rest, and is to be asked again.

        Args:
            expected: the likely answers, which are quickly recognised.
        """
        try:
            end = self._failed or self._wait()
            first = self._given
            answers = self._answers(expected)
        except BaseException:
            self.close()
            raise
        if end is None and not answers:
            end = _NOT_OURS
        if end is not None:
            self.stop()
            # A process that ended after the last answer ended in that case, as far as can be told.
            answers[self._asked - 1 - first :] = [end]
        return answers

    def finish(self) -> Outcome | None:
        """What is wrong after the last answer: nothing that could be seen here."""
        return None

    def answer(self, case: Case) -> Outcome:
        """The answer to one case."""
        self.post([case])
        return self.collect(())[0]

    def close(self) -> None:
        """End the process, and the warden too."""
        self._disconnect()
        held, self._warden = self._warden, None
        if held is not None:
            held.close()

    def _start(self) -> None:
        self._disconnect()
        if self._warden is None or not self._warden.alive:
            self._warden = self._make(self._guided)
        ours, theirs = socket.socketpair()
        self._channel = ours
        with theirs:
            COUNT.pack_into(self._shared, 0, 0)
            number = self._warden.start(theirs.fileno(), self._memory)
        if number:
            raise Unusable(f"cannot start the target: {os.strerror(number)}")
        hello = self._hello()
        why = hello.get("unusable")
        if why is not None:
            self.stop()
            raise Unusable(str(why))
        self.operations = tuple(
            one for one in VECTOR_OPERATIONS if one in hello.get("operations", ())
        )
        self.one_key = hello.get("one_key") is True
        self.fresh = True

    def _hello(self) -> dict[str, Any]:
        assert self._channel is not None
        deadline = time.monotonic() + self.timeout
        line = b""
        why = ""
        while not line.endswith(b"\n") and not why:
            left = deadline - time.monotonic()
            if left <= 0 or not _readable(self._channel, left):
                why = f"the import did not end in {self.timeout:g} s"
                break
            received = _received(self._channel)
            line += received
            if not received or len(line) > _HELLO_SIZE_MAX:
                why = f"the import ended its process: {self._death()[1]}"
        try:
            found = json.loads(line) if not why else {"unusable": why}
            return found if isinstance(found, dict) else {"unusable": "the import went wrong"}
        except ValueError:
            words = line.decode(errors="replace").removeprefix("!").strip()
            return {"unusable": f"the import went wrong: {one_line(words)}"}
        finally:
            if why:
                self.stop()

    def _wait(self) -> Outcome | None:
        """Wait until a batch is done or some of it is (None), or how it came to its end."""
        assert self._channel is not None
        begun = time.monotonic()
        while not _readable(self._channel, min(self.timeout / 8, _PART_SECONDS)):
            (count,) = COUNT.unpack_from(self._shared, 0)
            now = time.monotonic()
            if count != self._moved[0]:
                self._moved = (count, now)
            elif now - self._moved[1] >= self.timeout:
                return ("hangs", f"no answer in {self.timeout:g} s")
            if count > self._given and now - begun >= _PART_SECONDS:
                return None
        self._busy = False
        received = _received(self._channel)
        if received == b".":
            return None
        return self._death(received)

    def _death(self, words: bytes = b"") -> Outcome:
        assert self._warden is not None
        how = self._warden.ended()
        if words.startswith(b"!"):  # the last words of runner.py
            said = one_line(words[1:].decode(errors="replace").strip())
            return ("died", f"{said}, outside of a call")
        if how in ("", f"exit code {SOCKET_GONE}"):
            how = "it closed the socket of the bench"
        return ("died", how)

    def _answers(self, expected: Sequence[Outcome]) -> list[Outcome]:
        """What stands in the shared memory, in which the target may have written anything."""
        shared = self._shared
        (count,) = COUNT.unpack_from(shared, 0)
        at = self._at
        found: list[Outcome] = []
        for number in range(min(count, self._asked) - self._given):
            start = at + LENGTH.size
            if start > SIZE:
                break
            end = start + LENGTH.unpack_from(shared, at)[0]
            if end > SIZE:
                break
            answer, told, news = shared[start:end].partition(b"\0")
            at = end
            if told:
                self.news[self._given + number] = news
            if number < len(expected) and answer == repr(expected[number]).encode():
                found.append(expected[number])
            else:
                found.append(_parsed(answer))
        self._at = at
        self._given += len(found)
        return found

    def stop(self) -> None:
        """End the process; the warden stays, for the next."""
        self._disconnect()
        if self._warden is not None:
            self._warden.kill()

    def _disconnect(self) -> None:
        self.fresh = self._busy = False
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # half made, or at the end of the interpreter
            self._disconnect()
            self._shared.close()
            os.close(self._memory)


class Forked(Batched):
    """An object of this process, run in a fork.

    Args:
        target: what answers; its own state is as it is now, each time that it is started anew.
        timeout: seconds for one case.
    """

    def __init__(self, target: Target, timeout: float) -> None:
        super().__init__(lambda guided: forked_warden(target, guided), timeout)
        self.name = target.name
        self.operations = target.operations
        self.one_key = target.one_key


def _readable(reading: socket.socket, seconds: float) -> bool:
    """Whether something can be read in time. By poll(), which takes descriptors above 1023 too."""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    return bool(poll.poll(math.ceil(seconds * 1000)))


def _received(channel: socket.socket) -> bytes:
    try:
        return channel.recv(4096)
    except OSError:
        return b""


def _parsed(answer: bytes) -> Outcome:
    try:
        found = ast.literal_eval(answer.decode())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, tuple) or not found or not isinstance(found[0], str):
        return _NOT_OURS
    return found


def _shared_memory() -> int:
    """A descriptor of SIZE bytes without a name."""
    try:
        descriptor = os.memfd_create("gnutls-cookie diff")
    except (AttributeError, OSError):
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, SIZE)
    return descriptor
