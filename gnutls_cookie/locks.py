"""A lock that whatever a signal handler raises cannot leave held, nor a fork beside it.

CPython runs signal handlers between byte codes: as a function is entered, at jumps backwards, and
after a call of a C function. What a handler raises there (Ctrl-C does) can strike between the
`acquire()` of a lock and the `try:` that follows, and on Python 3.14 between `with lock:` and its
block: the lock is then held forever. So this one is owned by a number that is known beforehand, is
taken inside of the try block, and is given by one call into C, which ends before a handler runs and
does nothing where the number is not the owner:

    token = lock.token()
    try:
        lock.take(token)
        ...
    finally:
        lock.give(token)  # alone and first: nothing may run before it
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ._ffi import ffi, lib

__all__ = ["OwnedLock"]

_MAIN_WAIT_MS = 100  # in C at a time, in the one thread that runs signal handlers
_WAIT_MS = 10_000  # and in the others: nothing but their time ends their wait

_BOX = ffi.typeof("struct gcookie_lock **")

_now = time.monotonic


class OwnedLock:
    """A lock with a condition; see the module for the only way to take it.

    The child of a fork finds it free, unless the very thread that forked holds it: the other
    threads are not there. Safe without the GIL.

    Attributes:
        token: token() gives a number above 0 that was never given before, for one take().
        give: give(token) frees the lock where `token` is its owner, else does nothing.

    Raises:
        MemoryError: there is none.

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

    __slots__ = ("_await", "_news", "_notify", "_owner", "_take", "give", "token")

    def __init__(self) -> None:
        # The box outlives the lock that it holds (see _owned), and C looks into it each time.
        box = ffi.new(_BOX)
        if lib.gcookie_lock_new(box) < 0:
            raise MemoryError("no memory for a lock")
        self._owner = ffi.gc(box, lib.gcookie_lock_free)

        def call(function: Any) -> Any:
            bound = partial(function, box)
            vars(bound)["owner"] = self._owner  # for as long as anybody can call it
            return bound

        # Each a call into C without a frame of Python in between, on which the promise rests.
        self.token: Callable[[], int] = lib.gcookie_lock_token
        self.give: Callable[[int], None] = call(lib.gcookie_lock_give)
        self._take: Any = call(lib.gcookie_lock_take)
        self._news: Any = call(lib.gcookie_lock_news)
        self._await: Any = call(lib.gcookie_lock_await)
        self._notify: Any = call(lib.gcookie_lock_notify)

    def take(self, token: int, timeout: float | None = None) -> bool:
        """Make `token` the owner, as soon as nobody else is.

        Args:
            token: of token(), and not used before.
            timeout: seconds to wait at most; None: no limit; 0: not at all.

        Returns:
            Whether `token` is the owner now; False where the time is over.

        Raises:
            RuntimeError: this thread holds the lock already (a signal handler or a finalizer
                interrupted its own thread): it would wait for itself. Not with timeout 0.
        """
        taken = self._take(token, 0)
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
        """Give the lock, wait for the next notify(), and take it again.

        What is raised meanwhile (by a signal handler) comes out with the lock not held.

        Args:
            token: the owner.
            timeout: seconds to wait at most; None: no limit.

        Returns:
            Whether there was a notify(); False where the time is over. Held again either way.
        """
        deadline = None if timeout is None else _now() + timeout
        news = self._news()
        self.give(token)
        told = False
        while not told and (wait := _slice(deadline)) > 0:
            told = bool(self._await(news, wait))
        self.take(token)
        return told

    def notify(self) -> None:
        """Wake all that wait(). To be called by the owner, after the change that they wait for."""
        self._notify()

    def __repr__(self) -> str:
        return f"<OwnedLock at {id(self):#x}>"


def _slice(deadline: float | None) -> int:
    """Milliseconds to wait in C; 0 once the time is over."""
    main = threading.get_ident() == threading.main_thread().ident
    most = _MAIN_WAIT_MS if main else _WAIT_MS
    if deadline is None:
        return most
    left = deadline - _now()
    # Rounded up, so that the last wait is not one of many of 0 ms.
    return 0 if left <= 0 else most if left * 1000 >= most else int(left * 1000) + 1
