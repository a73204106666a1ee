"""libgnutls' debug messages in Python's logging."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import traceback
from typing import Any

from ._check import integer
from ._ffi import ffi, lib
from .errors import check

__all__ = ["debug_log"]

_LOG = logging.getLogger("gnutls_cookie.gnutls")
_LEVEL_MOST = 9999  # as gnutls-cli has it
_PAUSE_SECONDS = 0.05
_END_SECONDS = 1.0  # that the thread has to end in: one of its handlers may wait for the caller


class _State(threading.local):
    hands_over = False  # whether this thread does so: a handler may call debug_log()


_STATE = _State()
# The thread that hands messages over; one that is not here any more ends by itself. No lock: a
# signal handler may call debug_log(), whatever its thread holds.
_READERS: dict[str, threading.Thread] = {}


def debug_log(level: int) -> None:
    """Hand libgnutls' debug messages to the logger "gnutls_cookie.gnutls", as DEBUG.

    For all sessions of the process, and for who else uses libgnutls in it. A thread hands them over
    within a tenth of a second; each record has the time of its message and, as `gnutls_level`, its
    level. Messages of more than 500 bytes are cut. Up to 1024 wait; how many more there were is
    said. What a handler or a filter raises is printed, as logging does, and ends nothing. The
    child of a fork begins without.

    Args:
        level: 0: none, and what waits is handed over before this returns. 1: errors; 2 and 3: how
            libgnutls came by them; 4: handshakes; 5: records; up to 9999. **From 9 on there are
            keys among them.**

    Raises:
        ValueError, TypeError: it is not an int in 0..9999.

    Stands on gnutls_global_set_log_function and gnutls_global_set_log_level: an application that
    calls these itself takes the messages away.
    """
    integer("level", level, 0, _LEVEL_MOST)
    check(lib.gcookie_debug_level(level))
    if level == 0:
        _stop()
    elif "reader" not in _READERS:
        reader = threading.Thread(target=_read, name="gnutls-cookie debug log", daemon=True)
        if _READERS.setdefault("reader", reader) is reader:
            try:
                reader.start()
            except BaseException:
                _READERS.pop("reader", None)
                raise


def _stop() -> None:
    reader = _READERS.pop("reader", None)
    _hand_over()
    if reader is None or reader is threading.current_thread():
        return
    end = time.monotonic() + _END_SECONDS
    while reader.is_alive() and time.monotonic() < end:
        time.sleep(0.001)


def _read() -> None:
    while _READERS.get("reader") is threading.current_thread():
        time.sleep(_PAUSE_SECONDS)
        _hand_over()


def _hand_over() -> None:
    if _STATE.hands_over:  # the call that is under way will do it
        return
    _STATE.hands_over = True
    has_failed = False
    line = ffi.new("struct gcookie_debug_line *")
    try:
        while lib.gcookie_debug_take(line):
            try:
                _log(line)
            except Exception:  # of a handler or a filter that is not as logging's own
                if logging.raiseExceptions and not has_failed:
                    traceback.print_exc()
                has_failed = True
        lost = lib.gcookie_debug_lost()
        if lost:
            _LOG.warning("%d debug messages of libgnutls came too fast, and are lost", lost)
    finally:
        _STATE.hands_over = False


def _log(line: Any) -> None:
    if _LOG.isEnabledFor(logging.DEBUG):
        text = bytes(ffi.buffer(line.text, line.size)).decode("utf-8", "backslashreplace")
        record = _LOG.makeRecord(
            _LOG.name, logging.DEBUG, "libgnutls", 0, text, (), None,
            extra={"gnutls_level": line.level},
        )  # fmt: skip
        record.created = line.time
        record.msecs = line.time % 1 * 1000
        _LOG.handle(record)


def _forget() -> None:
    """In the child of a fork, where the thread is gone."""
    _READERS.clear()
    lib.gcookie_debug_forget()


def _end() -> None:
    if _READERS:
        debug_log(0)


os.register_at_fork(after_in_child=_forget)
atexit.register(_end)
