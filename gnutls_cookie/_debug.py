"""libgnutls' debug messages in Python's logging."""

from __future__ import annotations

import atexit
import logging
import os
import threading

from ._check import integer
from ._ffi import ffi, lib
from .errors import check

__all__ = ["debug_log"]

_LOG = logging.getLogger("gnutls_cookie.gnutls")
_LEVEL_MOST = 9999  # as gnutls-cli has it
_PAUSE_SECONDS = 0.05
_READER: list[threading.Thread] = []  # at most one of them; it hands messages over
_END = threading.Event()


def debug_log(level: int) -> None:
    """Hand libgnutls' debug messages to the logger "gnutls_cookie.gnutls", as DEBUG.

    For all sessions of the process, and for who else uses libgnutls in it. A thread hands them over
    within a tenth of a second; each record has the time of its message and, as `gnutls_level`, its
    level. Messages of more than 500 bytes are cut. Up to 1024 wait; how many more there were is
    said. The child of a fork begins without.

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
    elif not _READER:
        _END.clear()
        reader = threading.Thread(target=_read, name="gnutls-cookie debug log", daemon=True)
        _READER.append(reader)
        reader.start()


def _stop() -> None:
    _END.set()
    while _READER:
        reader = _READER.pop()
        if reader is not threading.current_thread():
            reader.join()
    _hand_over()


def _read() -> None:
    while not _END.wait(_PAUSE_SECONDS):
        _hand_over()


def _hand_over() -> None:
    line = ffi.new("struct gcookie_debug_line *")
    while lib.gcookie_debug_take(line):
        text = bytes(ffi.buffer(line.text, line.size)).decode("utf-8", "backslashreplace")
        if _LOG.isEnabledFor(logging.DEBUG):
            record = _LOG.makeRecord(
                _LOG.name, logging.DEBUG, "libgnutls", 0, text, (), None,
                extra={"gnutls_level": line.level},
            )  # fmt: skip
            record.created = line.time
            record.msecs = line.time % 1 * 1000
            _LOG.handle(record)
    lost = lib.gcookie_debug_lost()
    if lost:
        _LOG.warning("%d debug messages of libgnutls came too fast, and are lost", lost)


def _forget() -> None:
    """In the child of a fork, where the thread is gone."""
    _READER.clear()
    lib.gcookie_debug_forget()


def _end() -> None:
    if _READER:
        debug_log(0)


os.register_at_fork(after_in_child=_forget)
atexit.register(_end)
