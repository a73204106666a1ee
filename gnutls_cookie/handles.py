"""Python objects lent to C by number, and the one place where C calls back into Python.

A gnutls_transport_ptr_t carries an integer, never a pointer to a Python object: a number that is
not lent (any more) is simply not found, where a stale pointer would crash or name another object.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ._ffi import ffi, lib

__all__ = ["LENT", "TABLE", "HandleTable", "Transport", "new_handle"]

_NEXT_HANDLE = lib.gcookie_next_handle
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

    A number is given once in the life of a process, over all tables and all of its interpreters, so
    that a stale one can name no other object: C counts them, by one atomic instruction. Safe with
    threads, with and without the GIL, with signal handlers that raise, and over fork.

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
        handle = new_handle()
        try:
            self._objects[handle] = value
            yield handle
        finally:
            self._objects.pop(handle, None)


def new_handle() -> int:
    """A number that was never given before and finds nothing yet.

    Raises:
        OverflowError: none is left.
    """
    handle = _counted()
    if handle == 0:
        raise OverflowError("all handles were given")
    return handle


def _counted() -> int:
    # A function of its own for its depth: see LENT.
    handle: int = _NEXT_HANDLE()
    return handle


# One for each interpreter, and where no import can lose it: C calls the functions below that were
# defined last, which find what an earlier import of the package has lent, if its modules were
# removed from sys.modules since.
LENT: dict[int, Any] = vars(sys).setdefault("_gnutls_cookie_lent", {})
"""The dict of TABLE, for calls that a raising signal handler must not leave with a loan open.

CPython runs signal handlers as a function is entered and after a call. So the store stands inside
the try block, and the finally block is one call into C, which ends before a handler can run:

    handle = new_handle()
    try:
        LENT[handle] = value
        ...
    finally:
        LENT.pop(handle, None)

new_handle() is three calls deep. Where there is room on the stack for it there is for C's call and
the callback (which CPython 3.11 counts twice), so that a RecursionError comes out here, and not
where nobody sees it.
"""

TABLE = HandleTable()
"""What this package lends; empty whenever no call into libgnutls is under way."""

TABLE._objects = LENT


# --- the callbacks --------------------------------------------------------------------------------
# Each body is a try block that stores whatever was raised (KeyboardInterrupt too) with the lent
# object and gives C its error. What strikes outside of that block (a signal handler that raises as
# the function is entered or left) reaches _outside, and is stored just the same. Outside of the try
# blocks nothing is called: at the end of the stack that would fail.


def _outside(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    try:
        LENT[trace.tb_frame.f_locals["handle"]].raised = error  # type: ignore[union-attr]
    except (AttributeError, KeyError):
        raise error from None  # nobody to give it to: cffi reports it


@ffi.def_extern(error=-1, onerror=_outside)
def gcookie_py_push(handle: int, data: Any, size: int) -> int:
    try:
        lent: Transport = LENT[handle]
    except KeyError:
        return -1
    try:
        return lent.push(ffi.buffer(data, size)[:])
    except BaseException as error:
        lent.raised = error
        return -1


@ffi.def_extern(error=-1, onerror=_outside)
def gcookie_py_psk(handle: int, username: Any, size: int, key: Any) -> int:
    try:
        lent: Transport = LENT[handle]
    except KeyError:
        return -1
    try:
        secret = lent.psk(ffi.buffer(username, size)[:] if size else b"")
        if secret is None:
            return _PSK_NO_SUCH_USER
        return int(lib.gcookie_datum_copy(key, secret, len(secret)))
    except BaseException as error:
        lent.raised = error
        return -1
