"""Signals that come while a command is still being imported, before it can handle any.

Python answers Ctrl-C with a traceback wherever it is, and SIGHUP ends it. This is imported first of
the package, and does nothing unless the process was started as one of the package's commands. What
comes while Python itself starts, or the console script that pip writes, is out of its reach.
"""

import _signal as signal  # type: ignore[import-not-found]  # `signal` imports enum: a millisecond
import os
import sys

__all__ = ["done", "over"]


def _command() -> str | None:
    """The command that this process was started for; None: another program imports the package."""
    if not sys.argv:
        return None
    if sys.argv[0] == "-m":  # `python -m NAME` is importing NAME, or its package
        words = sys.orig_argv
        module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
        if module != ["gnutls_cookie"]:
            return None
    elif os.path.basename(sys.argv[0]) != "gnutls-cookie":
        return None
    return "".join(sys.argv[1:2])


def _begin() -> bool:
    command = _command()
    if command is None:
        return False
    if command == "serve":  # to be reloaded as soon as it can
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:  # not in the main thread: a program of the same name
        return False
    return True


def _check_health() -> None:
    """What has to be quick is done before the rest of the package is imported."""
    if _command() != "probe" or "--alive" not in sys.argv:
        return
    from . import _alive

    code = _alive.run(sys.argv[1:])
    if code is not None:
        raise SystemExit(code)


_begun = _begin()
_check_health()


def over() -> None:
    """Ctrl-C is a KeyboardInterrupt again."""
    if _begun and signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def done() -> None:
    """The command is at its end: Ctrl-C ends what Python still has to do, without a traceback."""
    if _begun:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
