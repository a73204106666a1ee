"""A lock that neither an exception from a signal handler nor a concurrent fork can leave held.

CPython runs signal handlers between byte codes: on entry to a function, at backward jumps, and
after a call of a C function. An exception from a handler (KeyboardInterrupt, say) can therefore
arrive between `acquire()` and the `try:` that follows, and on Python 3.14 between `with lock:` and
its block. The lock would stay held forever. The owner of an OwnedLock is a number that is known
before the lock is taken. The lock is taken inside the try block, and released by one call into C,
which ends before a handler can run and does nothing if the number is not the owner:

    token = lock.token()
    try:
        lock.take(token)
        ...
    finally:
        lock.give(token)  # alone and first: nothing may run before it
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any

from ._ffi import ffi, lib

__all__ = ["News", "OwnedLock", "is_main_thread"]

_MAIN_WAIT_MS = 100  # longest wait in C in the main thread, which runs the signal handlers
_WAIT_MS = 10_000  # longest wait in C in the other threads, where there is a timeout
_WAIT_ON: int = lib.GCOOKIE_WAIT_ON

_BOX = ffi.typeof("struct gcookie_lock **")
_NO_BOX = ffi.NULL
_main_ident = threading.main_thread().ident

_now = time.monotonic
_change_places = lib.gcookie_lock_notify_and_await


class OwnedLock:
    """A lock with a condition; see the module for the only way to take it.

    In the child of a fork it is free, unless the thread that forked holds it: the other threads do
    not exist there. Safe without the GIL.

    Attributes:
        box: the lock in C, as C takes it.
        token: token() returns a new number above 0, to be used for one take().
        give: give(token) releases the lock if `token` is its owner; otherwise it does nothing.

    Raises:
        MemoryError: no memory for the lock.

    Example:
        >>> lock = OwnedLock()
        >>> token = lock.token()
        >>> try:
        ...     taken = lock.take(token)
        ... finally:
        ...     lock.give(token)
        >>> taken
        True
    """

    __slots__ = ("_await", "_news", "_notify", "_owner", "_take", "box", "give", "token")

    def __init__(self) -> None:
        # The box outlives the lock that it holds (see _owned), and C looks into it each time.
        box = ffi.new(_BOX)
        if lib.gcookie_lock_new(box) < 0:
            raise MemoryError("no memory for a lock")
        self.box = box
        self._owner = ffi.gc(box, lib.gcookie_lock_free)

        def call(function: Any) -> Any:
            bound = partial(function, box)
            vars(bound)["owner"] = self._owner  # for as long as anybody can call it
            return bound

        # Each is a call into C with no Python frame in between: a handler could run in one.
        self.token: Callable[[], int] = lib.gcookie_lock_token
        self.give: Callable[[int], None] = call(lib.gcookie_lock_give)
        self._take: Any = call(lib.gcookie_lock_take)
        self._news: Any = call(lib.gcookie_lock_news)
        self._await: Any = call(lib.gcookie_lock_await)
        self._notify: Any = call(lib.gcookie_lock_notify)

    def take(self, token: int, timeout: float | None = None) -> bool:
        """Make `token` the owner as soon as the lock is free.

        Args:
            token: from token(), not used before.
            timeout: seconds to wait at most; None: no limit; 0: do not wait.

        Returns:
            Whether `token` is the owner now; False after the timeout.

        Raises:
            RuntimeError: this thread holds the lock already (a signal handler or a finalizer
                interrupted it) and would wait for itself. Not with timeout 0.
        """
        taken = self._take(token, 0)
        if taken == 1:  # as a rule
            return True
        if timeout == 0 and taken == -errno.EDEADLK:
            return False
        if taken == 0 and timeout != 0:
            deadline = None if timeout is None else _now() + timeout
            while taken == 0 and (wait := _slice(deadline)) > 0:
                taken = self._take(token, wait)
        if taken == -errno.EDEADLK:
            raise RuntimeError("this thread holds the lock already")
        if taken == -errno.EBADF:
            raise ReferenceError("the garbage collector has freed this lock")
        if taken < 0:
            raise ValueError("token must be of token()")
        return bool(taken)

    def wait(self, token: int, timeout: float | None = None) -> bool:
        """Release the lock, wait for the next notify(), and take the lock again.

        If a signal handler raises meanwhile, the lock is not held when the exception comes out.

        Args:
            token: the owner.
            timeout: seconds to wait at most; None: no limit.

        Returns:
            Whether there was a notify(); False after the timeout. The lock is held either way.
        """
        deadline = None if timeout is None else _now() + timeout
        news = self._news()
        self.give(token)
        told = False
        while not told and (wait := _slice(deadline)) > 0:
            told = self._await(news, wait) != news
        self.take(token)
        return told

    def notify(self) -> None:
        """Wake all threads in wait(). The owner calls it after the change that they wait for."""
        self._notify()

    def __repr__(self) -> str:
        return f"<OwnedLock at {id(self):#x}>"


class News:
    """What threads wait for without a lock: they read seen(), look for what they want, and wait()
    where it is not there. What is told between the two ends the wait at once.

    A signal handler that raises leaves nothing held, and a fork nothing that is waited for.

    Attributes:
        seen: seen() returns how often it was told.
        tell: tell() wakes all threads in wait().

    Raises:
        MemoryError: no memory for it.
    """

    __slots__ = ("_await", "_box", "_owner", "seen", "tell")

    def __init__(self) -> None:
        box = ffi.new(_BOX)
        if lib.gcookie_lock_new(box) < 0:
            raise MemoryError("no memory for a lock")
        self._box = box
        self._owner = ffi.gc(box, lib.gcookie_lock_free)
        self.seen: Callable[[], int] = partial(lib.gcookie_lock_news, box)
        self.tell: Callable[[], None] = partial(lib.gcookie_lock_notify, box)

    def wait(self, seen: int, timeout: float | None = None, first: News | None = None) -> int:
        """Wait until it was told more often than `seen` times.

        Args:
            seen: what seen() or a wait() before returned.
            timeout: seconds to wait at most; None: no limit.
            first: is told before, by the same call into C: so two threads change places.

        Returns:
            How often it was told so far: `seen` after the timeout.
        """
        box = _NO_BOX if first is None else first._box
        told: int
        if timeout is None and get_ident() != _main_ident:  # as a rule, in as few steps
            told = _change_places(box, self._box, seen, _WAIT_ON)
            if told != seen:
                return told
            box = _NO_BOX
        deadline = None if timeout is None else _now() + timeout
        wait_ms = _slice(deadline)
        while True:
            told = _change_places(box, self._box, seen, wait_ms)
            if told != seen or (wait_ms := _slice(deadline)) == 0:
                return told
            box = _NO_BOX


def is_main_thread() -> bool:
    """Whether the caller's thread is the one that runs signal handlers."""
    return get_ident() == _main_ident


def _note_main_thread() -> None:
    global _main_ident
    _main_ident = threading.main_thread().ident


if hasattr(os, "register_at_fork"):
    # The thread that forked is the main one of the child; threading has noted that before.
    os.register_at_fork(after_in_child=_note_main_thread)


def _slice(deadline: float | None) -> int:
    """Milliseconds to wait in C; 0 once the time is over."""
    most = _MAIN_WAIT_MS if get_ident() == _main_ident else _WAIT_MS
    if deadline is None:
        return most
    left = deadline - _now()
    # Rounded up, so that the last wait is not one of many of 0 ms.
    return 0 if left <= 0 else most if left * 1000 >= most else int(left * 1000) + 1
