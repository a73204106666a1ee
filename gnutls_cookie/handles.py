"""Python objects lent to C by number, and the one place where C calls back into Python.

A gnutls_transport_ptr_t carries an integer, never a pointer to a Python object: a number that is
not lent (any more) is not found; a stale pointer would crash, or find another object.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ._check import check_callable, integer
from ._ffi import ffi, lib
from ._owned import not_copied

__all__ = ["TABLE", "HandleTable", "Transport"]

_NEXT_HANDLE = lib.gcookie_next_handle
_CALLS_BELOW = 2  # Python calls between lending() and C's counter; see lending()
_PSK_NO_SUCH_USER = 1  # lib/auth/psk_passwd.c: libgnutls then goes on with a random key


class Transport:
    """What C's callbacks reach through a lent handle. The defaults send nothing and know no key.

    Attributes:
        raised: what a callback raised; raise_again() raises it after the call.
    """

    __slots__ = ("raised",)

    def __init__(self) -> None:
        self.raised: BaseException | None = None

    def raise_again(self) -> None:
        """Raise what a callback raised, if one did, as itself."""
        raised, self.raised = self.raised, None
        if raised is not None:
            # The frames of the traceback know this object and `raised`: without the two
            # assignments they would keep one another alive until the next garbage collection.
            try:
                raise raised
            finally:
                del raised

    def push(self, data: bytes) -> int:
        """gnutls_push_func: the number of bytes sent, negative for a failure."""
        return -1

    def psk(self, identity: bytes) -> bytes | None:
        """gnutls_psk_server_credentials_function: the key of an identity; None if there is none."""
        return None


class HandleTable:
    """Never-reused integers for Python objects lent to C.

    C counts the numbers by one atomic instruction, for all tables and all interpreters of the
    process: a stale number cannot name another object. Safe with threads, with and without the GIL,
    with signal handlers that raise, and over fork.

    Example:
        >>> table = HandleTable()
        >>> with table.lent("transport") as handle:
        ...     table.get(handle), len(table)
        ('transport', 1)
        >>> table.get(handle), len(table)
        (None, 0)
    """

    __slots__ = ("_objects",)
    __reduce__ = not_copied

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}

    def __len__(self) -> int:
        """The number of objects lent at present."""
        return len(self._objects)

    def __contains__(self, handle: object) -> bool:
        return handle in self._objects

    def lend(self, value: object) -> int:
        """Keep `value` alive and return the handle (1..UINTPTR_MAX) that finds it until reclaim().

        Raises:
            OverflowError: all numbers that a C pointer can hold were given (on 32-bit machines,
                after four thousand million calls).
        """
        handle = _new_handle()
        self._objects[handle] = value
        return handle

    def get(self, handle: int) -> Any:
        """The object lent as `handle`; None if it is not lent.

        Raises:
            TypeError: handle is not an int.
        """
        integer("handle", handle)
        return self._objects.get(handle)

    def reclaim(self, handle: int) -> None:
        """End the loan; a handle that is not lent is left alone.

        Raises:
            TypeError: handle is not an int.
        """
        integer("handle", handle)
        self._objects.pop(handle, None)

    def lending(self, value: object, function: Any, *arguments: Any) -> Any:
        """Return `function(*arguments, handle)`, with `value` lent for the length of the call.

        No signal handler that raises can leave the loan open. CPython runs signal handlers as a
        function is entered and after a call: so the store stands inside the try block, and the
        finally block is one call into C, which ends before a handler can run.

        C's counter is called several Python calls below this one. Where the stack has room for
        them it also has room for `function` and for C's callback (which CPython 3.11 counts twice):
        a RecursionError comes out here, and not in the callback, where nobody would see it.

        Raises:
            TypeError: function is not callable.
        """
        if not callable(function):
            check_callable("function", function)
        handle = _new_handle()
        try:
            self._objects[handle] = value
            return function(*arguments, handle)
        finally:
            self._objects.pop(handle, None)

    @contextmanager
    def lent(self, value: object) -> Iterator[int]:
        """Lend `value` for the length of a with block."""
        handle = _new_handle()
        try:
            self._objects[handle] = value
            yield handle
        finally:
            self._objects.pop(handle, None)


def _new_handle() -> int:
    handle = _counted(_CALLS_BELOW)
    if handle == 0:
        raise OverflowError("all handles were given")
    return handle


def _counted(calls: int) -> int:
    handle: int = _NEXT_HANDLE() if calls == 0 else _counted(calls - 1)
    return handle


TABLE = HandleTable()
"""What this package lends; empty while no call into libgnutls is under way."""

# C calls the functions below that were defined last. They must also find what an earlier import of
# the package lent, whose modules were removed from sys.modules since: so the objects of TABLE, one
# dict for each interpreter, are kept where no import replaces them.
_LENT: dict[int, Any] = vars(sys).setdefault("_gnutls_cookie_lent", TABLE._objects)
TABLE._objects = _LENT


# --- the callbacks --------------------------------------------------------------------------------
# Each body is a try block that stores whatever was raised (KeyboardInterrupt too) with the lent
# object, and returns C's error. What is raised outside of that block (by a signal handler, as the
# function is entered or left) reaches _outside, which stores it as well. Nothing is called outside
# of the try blocks: at the end of the stack a call would fail.


def _outside(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    try:
        _LENT[trace.tb_frame.f_locals["handle"]].raised = error  # type: ignore[union-attr]
    except (AttributeError, KeyError):
        raise error from None  # not lent: cffi reports it


@ffi.def_extern(error=-1, onerror=_outside)
def gcookie_py_push(handle: int, data: Any, size: int) -> int:
    try:
        lent: Transport = _LENT[handle]
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
        lent: Transport = _LENT[handle]
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
