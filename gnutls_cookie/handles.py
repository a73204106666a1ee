"""Python objects lent to C by number, and the one place where C calls back into Python.

A gnutls_transport_ptr_t carries an integer, never a pointer to a Python object: a number that is
not lent (any more) is simply not found, where a stale pointer would crash or name another object.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ._ffi import ffi, lib

__all__ = ["LENT", "TABLE", "HandleTable", "Transport", "new_handle"]

_UINTPTR_MAX = 2 ** (8 * ffi.sizeof("uintptr_t")) - 1
_PSK_NO_SUCH_USER = 1  # lib/auth/psk_passwd.c: libgnutls then goes on with a random key


class Transport:
    """What C's callbacks reach through a lent handle. The defaults send and know nothing.

    Attributes:
        raised: what a callback raised; the call that lent the handle raises it again.
    """

    __slots__ = ("raised",)

    def __init__(self) -> None:
        self.raised: BaseException | None = None

    def push(self, data: bytes) -> int:
        """gnutls_push_func: the number of bytes sent, negative for a failure."""
        return -1

    def psk(self, identity: bytes) -> bytes | None:
        """gnutls_psk_server_credentials_function: the key of an identity; None for a stranger."""
        return None


class HandleTable:
    """Never-reused integers for Python objects lent to C.

    A number is given once in the life of a process, over all tables, so that a stale one can name
    no other object. Safe with threads, with and without the GIL, and over fork.

    Example:
        >>> table = HandleTable()
        >>> with table.lent("transport") as handle:
        ...     table.get(handle), len(table)
        ('transport', 1)
        >>> table.get(handle), len(table)
        (None, 0)
    """

    __slots__ = ("_objects",)

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}

    def __len__(self) -> int:
        """The number of objects lent at present."""
        return len(self._objects)

    def __contains__(self, handle: object) -> bool:
        return handle in self._objects

    def lend(self, value: object) -> int:
        """Keep `value` alive and give the handle (1..UINTPTR_MAX) that finds it until reclaim().

        Raises:
            OverflowError: every number that a C pointer can hold was given (32-bit machines, after
                four thousand million calls).
        """
        handle = new_handle()
        self._objects[handle] = value
        return handle

    def get(self, handle: int) -> Any:
        """The object lent as `handle`; None where there is none (any more)."""
        return self._objects.get(handle)

    def reclaim(self, handle: int) -> None:
        """End the loan; a handle that is not lent is left alone."""
        self._objects.pop(handle, None)

    @contextmanager
    def lent(self, value: object) -> Iterator[int]:
        """Lend `value` for the length of a with block."""
        handle = self.lend(value)
        try:
            yield handle
        finally:
            self.reclaim(handle)


def new_handle() -> int:
    """A number that was never given before and finds nothing yet.

    Raises:
        OverflowError: none is left.
    """
    with _lock:
        handle = next(_numbers)
    if handle > _UINTPTR_MAX:
        raise OverflowError("all handles were given")
    return handle


_numbers = itertools.count(1)
# Reentrant: a signal handler or a finalizer may lend while its own thread is lending.
_lock = threading.RLock()


def _fork_in_child() -> None:
    # A thread that is not in the child may have held the lock at the fork.
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork_in_child)

TABLE = HandleTable()
"""What this package lends; empty whenever no call into libgnutls is under way."""

LENT: dict[int, Any] = TABLE._objects
"""The dict of TABLE, for calls that a raising signal handler must not leave with a loan open.

CPython runs signal handlers as a function is entered and after a call. So the store stands inside
the try block, and the finally block is one call into C, which ends before a handler can run:

    handle = new_handle()
    try:
        LENT[handle] = value
        ...
    finally:
        LENT.pop(handle, None)
"""


# --- the callbacks --------------------------------------------------------------------------------
# Each body is a try block that stores whatever was raised (KeyboardInterrupt too) with the lent
# object and gives C its error. What strikes outside of that block (a signal handler that raises as
# the function is entered or left) reaches _outside, and is stored just the same.


def _outside(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    handle = trace.tb_frame.f_locals.get("handle") if trace is not None else None
    lent = _find(handle) if isinstance(handle, int) else None
    if lent is None:
        raise error  # nobody to give it to: cffi reports it
    lent.raised = error


def _find(handle: int) -> Transport | None:
    found: Transport | None = TABLE.get(handle)
    return found


@ffi.def_extern(error=-1, onerror=_outside)
def gc_py_push(handle: int, data: Any, size: int) -> int:
    lent = _find(handle)
    if lent is None:
        return -1
    try:
        return lent.push(ffi.buffer(data, size)[:])
    except BaseException as error:
        lent.raised = error
        return -1


@ffi.def_extern(error=-1, onerror=_outside)
def gc_py_psk(handle: int, username: Any, key: Any) -> int:
    lent = _find(handle)
    if lent is None:
        return -1
    try:
        secret = lent.psk(ffi.string(username))
        if secret is None:
            return _PSK_NO_SUCH_USER
        return int(lib.gc_datum_copy(key, secret, len(secret)))
    except BaseException as error:
        lent.raised = error
        return -1
