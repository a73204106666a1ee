"""Stands between the bench and a target: starts it, says how it ended, and ends all it has started.

A program of its own that imports nothing of the package; also run in a fork. What a target starts,
daemons too, comes to this process once its parent has ended (PR_SET_CHILD_SUBREAPER), so it can all
be found. Where the bench ends, by SIGKILL too, its end of the control socket closes, and that is
the order to end everything.

The control socket carries lines. From the bench: "start", with descriptors for the target; "kill".
To the bench: "ready"; "started" or "error NUMBER"; "ended CODE", negative for a signal; "killed".
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

__all__ = ["main", "run_program", "serve"]

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_LOOK_SECONDS = 0.5  # between two looks for a parent that has gone, and for zombies
_LOOK_WITHOUT_PIDFD_SECONDS = 0.02
_KILL_SECONDS = 5.0  # what cannot be killed (a setuid program) is left after so long

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def serve(
    control: socket.socket, target: Callable[[list[int]], None], memory_mib: int = 0
) -> NoReturn:
    """Obey the bench for as long as it is there.

    Args:
        control: the warden's end of the socket.
        target: what a child does, with the descriptors that came for it; an OSError that it raises
            is told to the bench. It closes the last of them when it can no longer fail.
        memory_mib: address space of the target in MiB; 0: no limit.
    """
    parent = os.getppid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    warden = _Warden(control, target, memory_mib)
    code = 1
    try:
        warden.tell("ready")
        while os.getppid() == parent and warden.turn():
            pass
        code = 0
    except OSError:
        pass  # the bench is gone
    finally:
        warden.end_all()
        os._exit(code)


class _Warden:
    def __init__(
        self, control: socket.socket, target: Callable[[list[int]], None], memory_mib: int
    ) -> None:
        self._control = control
        self._target = target
        self._memory = memory_mib << 20
        self._pid = 0  # of the target; 0: none is running
        self._pidfd = -1

    def tell(self, line: str) -> None:
        self._control.sendall(line.encode() + b"\n")

    def turn(self) -> bool:
        """Wait for the bench or the target; false where the bench is gone."""
        poll = select.poll()  # select() takes no descriptors above 1023
        poll.register(self._control, select.POLLIN)
        wait = _LOOK_SECONDS
        if self._pidfd >= 0:
            poll.register(self._pidfd, select.POLLIN)
        elif self._pid:
            wait = _LOOK_WITHOUT_PIDFD_SECONDS
        readable = [descriptor for descriptor, _ in poll.poll(wait * 1000)]
        if self._pid:
            self._look_at_target()
        else:
            _reap()
        if self._control.fileno() not in readable:
            return True
        line, descriptors, _, _ = socket.recv_fds(self._control, 64, 8)
        if line == b"start\n":
            self._start(descriptors)
        elif line == b"kill\n":
            self.end_all()
            self.tell("killed")
        return line != b""

    def _start(self, descriptors: list[int]) -> None:
        self.end_all()
        for one in descriptors:
            os.set_inheritable(one, False)
        failed, failing = os.pipe()
        warden = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(failed)
            self._be_the_target(descriptors, failing, warden)
        self._pid = pid
        self._open_pidfd()
        os.close(failing)
        for one in descriptors:
            os.close(one)
        number = os.read(failed, 16)
        os.close(failed)
        if number:
            self.end_all()
            self.tell(f"error {number.decode()}")
        else:
            self.tell("started")

    def _be_the_target(self, descriptors: list[int], failing: int, warden: int) -> NoReturn:
        code = 70
        try:
            self._control.close()
            os.setsid()
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            for number in (*_IGNORED, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            _limit(resource.RLIMIT_CORE, 0)
            if self._memory:
                _limit(resource.RLIMIT_AS, self._memory)
            if os.getppid() == warden:  # else it was too late for PDEATHSIG
                self._target([*descriptors, failing])
                code = 0
        except OSError as error:
            os.write(failing, str(error.errno).encode())
        finally:
            os._exit(code)

    def _open_pidfd(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self._pid)
        except (AttributeError, OSError):
            self._pidfd = -1  # an old kernel: looked at every now and then

    def _look_at_target(self) -> None:
        """Tell the bench where it has ended. Its children end before it is reaped: see _kill()."""
        try:
            found = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            found = None
            self._gone()
        if found is not None:
            exited = found.si_code == os.CLD_EXITED
            self.end_all()
            self.tell(f"ended {found.si_status if exited else -found.si_status}")

    def end_all(self) -> None:
        """End the target and all that has come of it."""
        if self._pid:
            _kill(-self._pid)  # its group; nobody else can have that number before it is reaped
            _kill(self._pid)
        deadline = time.monotonic() + _KILL_SECONDS
        while _reap() and time.monotonic() < deadline:
            # Direct children alone: nobody but this process can reap them, so that no number can
            # have gone to a stranger. Theirs come here when they have ended.
            for pid in _children():
                _kill(pid)
            time.sleep(0.001)
        self._gone()

    def _gone(self) -> None:
        self._pid = 0
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _reap() -> bool:
    """Reap whatever has ended; whether there are children left."""
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def _children() -> list[int]:
    """The children of this process."""
    own = os.getpid()
    found = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    stat = file.read()
            except OSError:
                continue
            # "PID (NAME) STATE PPID": the name may hold anything.
            if int(stat[stat.rindex(b")") + 2 :].split()[1]) == own:
                found.append(int(name))
    return found


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _limit(what: int, size: int) -> None:
    with suppress(OSError, ValueError):  # a lower one is there already
        resource.setrlimit(what, (size, size))


def _prctl(option: int, value: int) -> None:
    """prctl(2) where there is one; elsewhere the process group has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def run_program(words: list[str]) -> Callable[[list[int]], None]:
    """What a child does to become a program: descriptors are its stdin and stdout."""

    def run(descriptors: list[int]) -> None:
        reading, writing, *_ = descriptors
        os.dup2(reading, 0)
        os.dup2(writing, 1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execvp(words[0], words)

    return run


def main() -> NoReturn:
    """`warden.py CONTROL MEMORY_MIB WORD...`: the warden of a program."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    serve(control, run_program(sys.argv[3:]), int(sys.argv[2]))


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        os._exit(error.errno or errno.EIO)
