"""libgnutls' debug messages in Python's logging: whole, in order, from any thread, and off."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gnutls_cookie import debug_log
from tests.support.common import forking, python_in_silence
from tests.support.peers import echoes, established, pair, shake

NAME = "gnutls_cookie.gnutls"


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    yield
    debug_log(0)


def handshake_records(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    """What a handshake says at that level of libgnutls."""
    caplog.clear()
    debug_log(level)
    client, server = pair()
    with caplog.at_level(logging.DEBUG, NAME):
        shake(client, server)
        debug_log(0)
    return [record for record in caplog.records if record.name == NAME]


def test_messages_of_a_handshake_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Up to the level, oldest first, with the times at which they came."""
    before = time.time()
    records = handshake_records(caplog, 4)
    after = time.time()
    assert any("CLIENT HELLO" in record.getMessage() for record in records)
    assert {record.levelno for record in records} == {logging.DEBUG}
    levels = {record.__dict__["gnutls_level"] for record in records}
    assert 4 in levels
    assert max(levels) == 4
    times = [record.created for record in records]
    assert times == sorted(times)
    assert before - 0.01 <= times[0] <= times[-1] <= after + 0.01
    few = handshake_records(caplog, 2)
    assert 0 < len(few) < len(records)


def test_nothing_is_logged_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """Neither before nor after."""
    assert handshake_records(caplog, 0) == []
    assert handshake_records(caplog, 3) != []
    assert handshake_records(caplog, 0) == []


def test_messages_come_while_the_program_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Without any call that would fetch them."""
    with caplog.at_level(logging.DEBUG, NAME):
        debug_log(3)
        established()
        deadline = time.monotonic() + 20
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
        assert caplog.records


def test_messages_that_come_too_fast_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """What waits has a bound; the log says how many it lost. Sessions go on meanwhile."""

    class Slow(logging.Handler):
        """As a disk may be."""

        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.DEBUG and not seen:
                seen.append(record)
                goes_on.wait(60)

    seen: list[logging.LogRecord] = []
    goes_on = threading.Event()
    log, slow = logging.getLogger(NAME), Slow()
    log.addHandler(slow)
    try:
        with caplog.at_level(logging.DEBUG, NAME):
            debug_log(9)
            for _ in range(100):
                assert echoes(*established())
            goes_on.set()
            debug_log(0)
    finally:
        goes_on.set()
        log.removeHandler(slow)
    assert any("are lost" in record.getMessage() for record in caplog.records)
    assert max(len(record.getMessage()) for record in caplog.records) <= 500


def test_many_threads_may_speak_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Their messages are whole."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                assert echoes(*established())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    with caplog.at_level(logging.DEBUG, NAME):
        debug_log(3)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        debug_log(0)
    assert not failed
    whole = [r for r in caplog.records if r.levelno == logging.DEBUG]
    assert whole
    odd = [r.getMessage() for r in whole if not r.getMessage().isprintable()]
    assert odd == []


@pytest.mark.parametrize("level", [-1, 10000, 1.0, True, "1", None])
def test_unusable_levels_are_refused(level: object) -> None:
    """The error names the argument, and nothing is changed."""
    with pytest.raises((TypeError, ValueError), match="level must be"):
        debug_log(level)  # type: ignore[arg-type]


def test_level_may_be_changed_and_set_again() -> None:
    """One thread is there for all of it, and none afterwards."""
    for level in (1, 2, 3, 2):
        debug_log(level)
        assert len(readers()) == 1
    for _ in range(2):
        debug_log(0)
        assert not readers()


class Once(logging.Handler):
    """Calls a function at the first message."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self.calls = 0
        self._call = call

    def emit(self, record: logging.LogRecord) -> None:
        self.calls += 1
        self._call()


@contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    log = logging.getLogger(NAME)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        debug_log(0)
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


def readers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "gnutls-cookie debug log"]


def waits_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_handler_that_raises_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Messages go on to come, and the trouble is printed once a time."""

    def fail() -> None:
        raise ValueError("a handler of somebody")

    handler = Once(fail)
    with logging_to(handler):
        debug_log(3)
        for _ in range(2):
            before = handler.calls
            established()
            assert waits_for(lambda before=before: handler.calls > before)  # type: ignore[misc]
    assert "a handler of somebody" in capsys.readouterr().err


def test_handler_may_end_the_log() -> None:
    """In the thread that hands over, and in the program's own at the end."""
    for ask in (lambda: debug_log(0), lambda: debug_log(3)):
        handler = Once(ask)
        with logging_to(handler):
            debug_log(4)
            established()
            assert waits_for(lambda handler=handler: handler.calls > 5)  # type: ignore[misc]


def test_log_may_be_ended_where_its_thread_waits_for_the_caller() -> None:
    """As a signal handler does that came while the program held a handler's lock."""
    handler = Once(lambda: None)
    with logging_to(handler):
        debug_log(4)
        handler.acquire()
        try:
            established()
            time.sleep(0.2)
            debug_log(0)
        finally:
            handler.release()


def test_threads_may_begin_and_end_it_at_once() -> None:
    """No error, and no thread is left."""
    failed: list[BaseException] = []

    def flip() -> None:
        try:
            for _ in range(50):
                debug_log(1)
                debug_log(0)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=flip) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    debug_log(0)
    assert failed == []
    assert waits_for(lambda: not readers())


def test_what_waits_is_logged_at_the_end_of_the_program() -> None:
    """Without debug_log(0), too."""
    code = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(name)s %(message)s")
from gnutls_cookie import PSKCredentials, Session, debug_log
debug_log(3)
Session("client", PSKCredentials("a", b"b")).handshake()
"""
    assert f"{NAME} " in python_in_silence(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_child_of_a_fork_begins_without() -> None:
    """Its parent's thread is not there; it may ask for itself."""
    code = """
import logging, os, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(process)d %(message)s")
from gnutls_cookie import PSKCredentials, Session, debug_log
def speak():
    Session("client", PSKCredentials("a", b"b")).handshake()
debug_log(3)
child = os.fork()
if child == 0:
    speak()
    print("quiet", flush=True)
    debug_log(3)
    speak()
    debug_log(0)
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("child", child)
"""
    lines = python_in_silence(code, env=forking()).splitlines()
    child = lines[-1].split()[1]
    quiet = lines.index("quiet")
    assert not any(line.startswith(child) for line in lines[:quiet])
    assert any(line.startswith(child) for line in lines[quiet:])
