"""What holds for every test: what it inherits, how long it may take, what it must leave behind."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Iterator

import pytest

import gnutls_cookie
from gnutls_cookie._library import lacks_fixes
from gnutls_cookie.handles import TABLE

# No test takes a quarter of this, not even under a sanitizer; what waits longer waits forever.
LIMIT_S = 600

# How long threads that a test left behind may keep the process once all tests are done.
GRACE_S = 120

_stderr = -1


def pytest_configure(config: pytest.Config) -> None:
    """Start as from a terminal, whatever was ignored or blocked where the run was started.

    nohup, `trap '' INT`, cron and job runners leave signals ignored, and children inherit that: a
    test that interrupts one would wait forever. A signal with a handler is at its default in them.
    """
    global _stderr
    # Programs are started by the thousand: without bytecode each compiles the package again, which
    # is half of its time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    _stderr = os.dup(2)  # the real one: during a test 2 is where pytest keeps what is printed
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python ignores those
        if signal.getsignal(number) is signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    if lacks_fixes():  # that a session warns of it is known
        known = f"ignore:libgnutls {gnutls_cookie.library_version()} lacks fixes:RuntimeWarning"
        config.addinivalue_line("filterwarnings", known)
        os.environ["PYTHONWARNINGS"] = f"{os.environ.get('PYTHONWARNINGS', '')},{known}".strip(",")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """A thread that nobody ends does not keep the process: it has GRACE_S to end."""
    sys.stdout.flush()  # the summary; the end that follows flushes nothing
    faulthandler.dump_traceback_later(GRACE_S, exit=True, file=_stderr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Fail a test that is not done after LIMIT_S. There is no limit for `long` and for a debugger.

    By a signal, not by a thread: from Python 3.12 on a fork beside a thread is warned of, and some
    tests fork.
    """
    if item.get_closest_marker("long") or item.config.getoption("usepdb"):
        return (yield)

    def give_up(*_: object) -> None:
        faulthandler.dump_traceback()
        pytest.fail(f"not done after {LIMIT_S} s")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S, LIMIT_S)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def pytest_report_header() -> str:
    """Say which libgnutls the tests judge."""
    return f"libgnutls {gnutls_cookie.library_version()}"


@pytest.fixture(autouse=True)
def _nothing_left_lent() -> Iterator[None]:
    """No test leaves an object lent to C."""
    yield
    assert len(TABLE) == 0
