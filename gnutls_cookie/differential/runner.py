"""The child in which a target in Python runs: reads batches of cases, leaves the answers in memory.

The bench sends a batch over a socket. The answers go into memory that both share, one by one, and
a counter with them: whatever becomes of this process, the bench knows which case it was at, and has
the answers to those before it. A byte over the socket says that a batch is done. Where the bench
wants to be guided, what a case has reached stands behind its answer, after a zero byte.
"""

from __future__ import annotations

import faulthandler
import json
import marshal
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import warden
from .cases import Case
from .outcomes import (
    Target,
    TargetDied,
    TargetHangs,
    Unusable,
    described,
    one_line,
)
from .python_target import import_target
from .reached import Reached

__all__ = ["COUNT", "FIRST_ANSWER", "LENGTH", "ROOM", "SIZE", "SOCKET_GONE", "main", "run_target"]

LENGTH = struct.Struct("=I")  # of a batch, in bytes, over the socket; of an answer in memory
COUNT = struct.Struct("=q")  # answers there are, at the start of the memory
FIRST_ANSWER = 16  # where they begin
SIZE = 4 << 20  # bytes of the memory
SOCKET_GONE = 71  # exit code where the target has closed the socket
ROOM = 1 << 19  # more than the largest answer: 65535 bytes as a Python literal, and some text


def run_target(
    make: Callable[[], Target], verbose: bool = False, guided: bool = False
) -> Callable[[list[int]], None]:
    """What a child of the warden does: descriptors are its socket and the shared memory."""

    def run(descriptors: list[int]) -> None:
        channel, memory, *ready = descriptors
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        try:
            os.dup2(2, 1)  # what a target prints is not to be mixed with the bench's report
        except OSError:
            os.dup2(0, 1)
        if not verbose:
            faulthandler.disable()  # a crash is reported once, not at each smaller case
        shared = mmap.mmap(memory, SIZE)
        os.close(memory)
        for one in ready:
            os.close(one)
        _serve(make, socket.socket(fileno=channel), shared, verbose, guided)

    return run


def _serve(
    make: Callable[[], Target],
    channel: socket.socket,
    shared: mmap.mmap,
    verbose: bool,
    guided: bool,
) -> NoReturn:
    own = os.getpid()
    try:
        target, hello = _made(make, verbose)
        if os.getpid() != own:
            os._exit(0)
        reached = Reached(target) if target is not None and guided else None
        channel.sendall(json.dumps(hello).encode() + b"\n")
        with channel.makefile("rb") as reading:
            while target is not None:
                head = reading.read(LENGTH.size)
                if len(head) < LENGTH.size:
                    break
                batch = marshal.loads(reading.read(LENGTH.unpack(head)[0]))
                _answer_all(target, batch, shared, own, reached)
                channel.sendall(b".")
    except BaseException as error:
        # Not in a call of the target: one of its threads, timers or handlers.
        try:
            channel.sendall(b"!" + _described(error).encode() + b"\n")
        except OSError:
            os._exit(SOCKET_GONE)
        os._exit(70)
    os._exit(0)  # no atexit, no threads


def _made(make: Callable[[], Target], verbose: bool) -> tuple[Target | None, dict[str, object]]:
    try:
        target = make()
    except Unusable as error:
        if verbose and error.__cause__ is not None:
            sys.excepthook(type(error.__cause__), error.__cause__, error.__cause__.__traceback__)
        return None, {"unusable": str(error)}
    return target, {"operations": list(target.operations), "one_key": target.one_key}


def _answer_all(
    target: Target,
    batch: list[tuple[object, ...]],
    shared: mmap.mmap,
    own: int,
    reached: Reached | None,
) -> None:
    """Answer as many as there is room for, one at least."""
    COUNT.pack_into(shared, 0, 0)
    at, last = FIRST_ANSWER, SIZE - ROOM
    put_length, put_count, getpid = LENGTH.pack_into, COUNT.pack_into, os.getpid
    answered = target.answer if reached is None else reached.answer
    for number, case in enumerate(map(Case._make, batch), 1):
        try:
            outcome = answered(case)
        except TargetDied as error:
            outcome = ("died", str(error))
        except TargetHangs as error:
            outcome = ("hangs", str(error))
        except BaseException as error:
            outcome = ("raised", _described(error))
        if getpid() != own:
            os._exit(0)  # a child that the target has made, and that came back out of the call
        answer = repr(outcome).encode()
        if reached is not None and (news := reached.news()):
            answer += b"\0" + news
        start = at + LENGTH.size
        put_length(shared, at, len(answer))
        at = start + len(answer)
        shared[start:at] = answer
        put_count(shared, 0, number)
        if at > last:
            return


def _described(error: BaseException) -> str:
    try:
        return described(error)
    except BaseException as other:  # its text raises what no text should
        return one_line(f"{type(error).__name__}, whose text raises {type(other).__name__}")


def main(
    control: int, memory_mib: int, text: str, folders: list[str], verbose: bool, guided: bool
) -> NoReturn:
    """The warden of a module: it has all of the bench in it, and nothing of the target."""

    def make() -> Target:
        sys.path[:] = folders
        sys.argv[:] = ["gnutls-cookie diff"]
        return import_target(text)

    held = socket.socket(fileno=control)
    held.set_inheritable(False)
    if memory_mib:
        memory_mib += _own_mib()
    warden.serve(held, run_target(make, verbose, guided), memory_mib)


def _own_mib() -> int:
    """The address space that this process has already; without the GIL Python reserves a GiB."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return 0
    return (pages * os.sysconf("SC_PAGE_SIZE") >> 20) + 1
